"""Part 9: how long a run takes, by stage. Pure functions of what was measured; where it cannot be known, a range."""

from __future__ import annotations

from dataclasses import dataclass

from agentgrpo.config.run import Config, SftConfig
from agentgrpo.doctor.subject import Shape, StepCost, WarmStart

_CORPUS = 800  # demonstrations whose text the tokenizer is fitted to
_UNKNOWN = (0.5, 1.5)  # how much episodes may shorten or lengthen when nothing shows what an able agent needs


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What one stage of a run takes, in seconds: at least and at most."""

    name: str
    low: float
    high: float

    @property
    def middle(self) -> float:
        return (self.low + self.high) / 2


def stages(
    config: Config, step: StepCost, *, warm: WarmStart | None, expert: Shape | None, heldout: int, start: float
) -> list[Stage]:
    """Return the stages of a run that begins with the model that is there, or with none."""
    found = [Stage(name="start", low=start, high=start)]
    if warm is not None and config.warm_start is not None:
        sft = config.warm_start.sft
        found.append(_known("warm start: demonstrations", demonstrations_seconds(sft, warm)))
        found.append(_known("warm start: training", sft.steps * warm.step_seconds))
    change = change_of_episodes(step.shape, expert)
    found.append(rollouts(config, step, change))
    found.append(learning(config, step, change))
    found.append(evaluations(config, step, change, heldout))
    return [stage for stage in found if stage.high > 0]


def demonstrations_seconds(sft: SftConfig, warm: WarmStart) -> float:
    """Return the seconds of playing and tokenizing demonstrations, and of fitting the tokenizer to them."""
    first = round(sft.steps * sft.perfect_fraction)
    played = 1 + (sft.steps > first)  # perfect ones are always played: the tokenizer is fitted to them
    tokenized = (first > 0) + (sft.steps > first)
    each = played * warm.demonstration_seconds + tokenized * warm.tokenize_seconds
    return sft.episodes * each + warm.fit_seconds * min(_CORPUS, sft.episodes) / max(warm.count, 1)


def change_of_episodes(now: Shape, expert: Shape | None) -> tuple[float, float]:
    """Return how much longer an episode may be (1: as measured) over the run, least and most.

    An agent that learns comes closer to what an oracle needs; on its way it may stay as it is.
    """
    if expert is None:
        return _UNKNOWN
    ratio = (expert.sampled / max(now.sampled, 1.0) + expert.turns / max(now.turns, 1.0)) / 2
    return min(1.0, ratio), max(1.0, ratio)


def rollouts(config: Config, step: StepCost, change: tuple[float, float]) -> Stage:
    """Return the stage of all train steps' episodes; where only some groups were measured, a wider range."""
    count = config.train.steps
    low, high = step_rollout(config, step)
    return Stage(name="rollouts", low=count * low * change[0], high=count * high * change[1])


def step_rollout(config: Config, step: StepCost) -> tuple[float, float]:
    """Return the seconds of a step's rollout: as measured, or from no to full slowing down by the others."""
    wanted = config.rollout.tasks_per_step * config.rollout.group_size
    if step.is_whole:
        return step.rollout_seconds, step.rollout_seconds
    waves = -(-wanted // min(config.rollout.concurrency, config.engine.max_sequences))
    return step.rollout_seconds * waves, step.rollout_seconds * wanted / step.episodes


def learning(config: Config, step: StepCost, change: tuple[float, float]) -> Stage:
    """Return the stage of all optimizer steps: from hardly any (groups become flat) to as many as measured."""
    wanted = config.rollout.tasks_per_step * config.rollout.group_size
    whole = step.learn_seconds * wanted / step.episodes
    count, publish = config.train.steps, config.train.steps * step.publish_seconds
    least = 0.2 if config.learner.drop_zero_variance else 1.0
    return Stage(
        name="learning", low=count * whole * least * change[0] + publish, high=count * whole * change[1] + publish
    )


def evaluations(config: Config, step: StepCost, change: tuple[float, float], heldout: int) -> Stage:
    """Return the stage of all evaluations: before, during, after."""
    episodes = evaluated(config, heldout)
    low, high = step_rollout(config, step)
    each = config.rollout.tasks_per_step * config.rollout.group_size
    return Stage(name="evaluations", low=episodes * low / each * change[0], high=episodes * high / each * change[1])


def evaluated(config: Config, heldout: int) -> int:
    """Return the episodes of all evaluations."""
    whole = min(config.eval.tasks or heldout, heldout)
    looks = (config.train.steps - 1) // config.eval.every if config.eval.every and config.train.steps else 0
    ends = 2 if config.train.steps else 1
    return (ends * whole + looks * min(config.eval.tasks_between, heldout)) * config.eval.samples


def episodes(config: Config, heldout: int) -> int:
    """Return the episodes of a run, failed attempts not counted."""
    return config.train.steps * config.rollout.tasks_per_step * config.rollout.group_size + evaluated(config, heldout)


def total(found: list[Stage], max_hours: float | None) -> tuple[float, float, float]:
    """Return the seconds of all stages, least, middle and most; a limit in the config ends the training."""
    sums = (sum(s.low for s in found), sum(s.middle for s in found), sum(s.high for s in found))
    if max_hours is None:
        return sums
    low, middle, high = (min(seconds, max_hours * 3600) for seconds in sums)
    return low, middle, high


def say(seconds: float) -> str:
    """Return a duration as people say it."""
    if seconds < 99:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _known(name: str, seconds: float) -> Stage:
    return Stage(name=name, low=seconds, high=seconds)
