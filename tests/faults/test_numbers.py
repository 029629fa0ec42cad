"""Numbers that are none, and groups that say nothing: they never reach a weight, and each is told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from agentgrpo.chat import Chat
from agentgrpo.config.run import load_config
from agentgrpo.engines.scripted import ScriptedEngine
from agentgrpo.errors import ConfigError, RunError
from agentgrpo.learner import step as learner_step
from agentgrpo.learner.batch import Row
from agentgrpo.learner.filters import FilterReason
from agentgrpo.learner.loss import token_loss
from agentgrpo.learner.policy import LoraPolicy
from agentgrpo.learner.step import Learner
from agentgrpo.types import Boundary, Generation, Group, Policy, Sampling, Span, StopReason, Trajectory
from tests.faults.conftest import Ledger
from tests.learner.episodes import episode, group, groups, learner, policy, weights
from tests.rollout.stages import play

NOT_NUMBERS = (math.nan, math.inf, -math.inf)
ALGORITHMS: dict[str, dict[str, Any]] = {
    "clip": {},
    "grpo": {"algorithm": "grpo"},
    "reinforce": {"loss_type": "reinforce"},
    "cispo": {"loss_type": "cispo", "importance_level": "sequence"},
    "mask": {"loss_type": "mask", "importance_level": "turn", "beta": 0.1, "kl_estimator": "k2"},
}


def with_logprob(trajectory: Trajectory, value: float) -> Trajectory:
    """Return the episode with one sampled token's logprob replaced."""

    def changed(span: Span) -> Span:
        return span if span.logprobs is None else replace(span, logprobs=(value, *span.logprobs[1:]))

    return replace(trajectory, spans=tuple(map(changed, trajectory.spans)))


def frozen(made: Learner) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return copies of the weights and of everything the optimizer remembers."""
    state = made.optimizer.state_dict()["state"]
    moments = [value.clone() for values in state.values() for value in values.values()]
    return weights(made.policy), moments


def same(before: tuple[torch.Tensor, list[torch.Tensor]], after: tuple[torch.Tensor, list[torch.Tensor]]) -> bool:
    """Return whether they are equal bit for bit."""
    return torch.equal(before[0], after[0]) and all(torch.equal(a, b) for a, b in zip(before[1], after[1], strict=True))


def primed(model: PreTrainedModel, **config: Any) -> Learner:
    """Return a learner whose optimizer has moments to lose."""
    made = learner(policy(model), **config)
    made.step(groups())
    return made


def finite(made: LoraPolicy) -> bool:
    return bool(torch.isfinite(weights(made)).all())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_loss_that_is_no_number_changes_nothing(
    model: PreTrainedModel, ledger: Ledger, algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    injected = survived = 0
    for value in NOT_NUMBERS:
        made = primed(model, **ALGORITHMS[algorithm])
        before = frozen(made)

        def broken(*args: Any, value: float = value, **options: Any) -> Any:
            loss, clipped = token_loss(*args, **options)
            return loss * value, clipped

        monkeypatch.setattr(learner_step, "token_loss", broken)
        done = made.step(groups())
        monkeypatch.setattr(learner_step, "token_loss", token_loss)
        injected += 1
        survived += same(before, frozen(made)) and (made.skipped, done.metrics["skipped_steps"]) == (1, 1.0)
        assert done.note is not None
        assert "no number" in done.note
        made.step(groups())  # and goes on from there
        assert finite(made.policy)
        assert not torch.equal(before[0], weights(made.policy))
    ledger.record(f"loss is no number ({algorithm})", injected=injected, survived=survived)


def test_a_gradient_that_is_no_number_changes_nothing(model: PreTrainedModel, ledger: Ledger) -> None:
    survived = 0
    for value in NOT_NUMBERS:
        made = primed(model)
        before = frozen(made)
        hook = made.policy.parameters()[0].register_hook(lambda grad, value=value: torch.full_like(grad, value))
        made.step(groups())
        hook.remove()
        survived += same(before, frozen(made)) and made.skipped == 1
    ledger.record("gradient is no number", injected=len(NOT_NUMBERS), survived=survived)


def test_logprobs_far_apart_do_not_overflow(model: PreTrainedModel, ledger: Ledger) -> None:
    injected = survived = 0
    for config in ALGORITHMS.values():
        for value in (-1e4, -1e30, 0.0, *NOT_NUMBERS):  # exp(1e4) is no number
            made = primed(model, **config)
            first = group(1, [1.0, 0.0, 0.5, 0.0], task="a")
            odd = Group(task=first.task, trajectories=tuple(with_logprob(t, value) for t in first.trajectories))
            made.step([odd])
            injected += 1
            survived += finite(made.policy) and (made.skipped == 0 or not math.isfinite(value))
    ledger.record("logprobs far apart or no numbers", injected=injected, survived=survived)


def test_too_many_in_a_row_stop_the_run(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    made = learner(policy(model))
    before = frozen(made)
    monkeypatch.setattr(learner_step, "token_loss", lambda logprobs, *_, **__: (logprobs * math.nan, logprobs > 1))
    for _ in range(4):
        made.step(groups())
    with pytest.raises(RunError, match=r"5 optimizer steps in a row .* Lower learner.learning_rate \(now 0.001\)"):
        made.step(groups())
    assert same(before, frozen(made))


def breaking(learner_: Learner, monkeypatch: pytest.MonkeyPatch, *, broken: Sequence[bool]) -> None:
    """Let the loss of the minibatches where `broken` says so be no number."""
    optimize, todo = learner_._optimize, iter(broken)

    def maybe(*args: Any) -> dict[str, float]:
        factor = math.nan if next(todo) else 1.0
        monkeypatch.setattr(learner_step, "token_loss", lambda *a, **k: (token_loss(*a, **k)[0] * factor, a[0] > 1))
        return optimize(*args)

    monkeypatch.setattr(learner_, "_optimize", maybe)


def test_a_good_minibatch_does_not_hide_a_bad_one(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    made = learner(policy(model), minibatches=2)
    breaking(made, monkeypatch, broken=[True, False, False, False])
    note = made.step(groups()).note or ""
    assert note.startswith("1 optimizer steps left out: the loss or the gradient is no number; engine and learner dis")
    assert made.step(groups()).note is None


def test_too_many_in_a_row_stop_the_run_within_a_step(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    made = learner(policy(model), minibatches=6)
    breaking(made, monkeypatch, broken=[True] * 5 + [False])
    with pytest.raises(RunError, match="5 optimizer steps in a row"):
        made.step([group(i, [0.0, 1.0], task=str(i)) for i in range(6)])


async def test_an_engines_logprob_that_is_no_number_is_its_failure(tiny_chat: Chat, ledger: Ledger) -> None:
    survived = 0
    odd = [((0.0, value), f"a logprob of {value} for token 2 of 2") for value in NOT_NUMBERS]
    for logprobs, cause in [*odd, ((0.0,), "2 tokens and 1 logprobs")]:
        ended = await play(tiny_chat, Odd(reply=lambda *_: [], logprobs=logprobs))
        assert ended.failure is not None
        survived += ended.failure.boundary is Boundary.ENGINE and cause in ended.failure.cause
    ledger.record("engine gives no numbers", injected=len(NOT_NUMBERS) + 1, survived=survived)


@dataclass(slots=True, kw_only=True)
class Odd(ScriptedEngine):
    """Samples two tokens with these logprobs."""

    logprobs: tuple[float, ...]

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, policy: Policy, *, session: str = ""
    ) -> Generation:
        return Generation(token_ids=(1, 2), logprobs=self.logprobs, finish_reason="stop")


def degenerate() -> dict[str, tuple[list[Group], dict[FilterReason, int]]]:
    """Return groups with nothing to learn from, and the reason each of their episodes is given."""
    reason = FilterReason

    def of(*trajectories: Trajectory) -> list[Group]:
        return [Group(task=group(1, [0.0]).task, trajectories=trajectories)]

    def ended(sample: int, reward: float, stop: StopReason = StopReason.DONE, turns: int = 1) -> Trajectory:
        return episode(sample, range(30), reward, sample=sample, turns=turns, stop_reason=stop)

    cut = StopReason.MAX_TOKENS
    return {
        "equal": ([group(1, [0.5] * 4)], {reason.ZERO_VARIANCE: 4}),
        "equal, not exactly representable": ([group(1, [0.1 + 0.2] * 3)], {reason.ZERO_VARIANCE: 3}),
        "no episode": (of(), {}),
        "one survivor": (of(ended(0, 1.0)), {reason.TOO_FEW_SURVIVORS: 1}),
        "all truncated": (of(ended(0, 1.0, cut), ended(1, 0.0, cut)), {reason.TRUNCATED: 2}),
        "nothing sampled": (of(ended(0, 1.0, turns=0), ended(1, 0.0, turns=0)), {reason.NOTHING_SAMPLED: 2}),
        "rewards are no numbers": (of(ended(0, math.nan), ended(1, math.inf)), {reason.NON_FINITE_REWARD: 2}),
        "one reward is a number": (
            of(ended(0, math.nan), ended(1, 1.0)),
            {reason.NON_FINITE_REWARD: 1, reason.TOO_FEW_SURVIVORS: 1},
        ),
        "no group at all": ([], {}),
    }


@pytest.mark.parametrize("scale", ["none", "group", "batch"])
def test_groups_that_say_nothing_change_nothing_and_say_why(model: PreTrainedModel, ledger: Ledger, scale: str) -> None:
    survived = 0
    for name, (given, expected) in degenerate().items():
        made = primed(model, scale_rewards=scale)
        before = frozen(made)
        done = made.step(given)
        reasons = {r: sum(d.reason is r for d in done.decisions) for r in FilterReason}
        assert {r: n for r, n in reasons.items() if n} == expected, name
        assert (done.metrics["trained_tokens"], done.metrics["empty_step"]) == (0, 1.0)
        assert done.note is not None
        assert done.note.startswith("nothing to learn from: of "), name
        survived += same(before, frozen(made)) and made.skipped == 0
    ledger.record(f"group without signal (scale_rewards = {scale})", injected=len(degenerate()), survived=survived)


def test_what_is_sampled_trains_beside_what_is_not(model: PreTrainedModel) -> None:
    made = primed(model)
    before = weights(made.policy)
    mixed = [episode(i, range(30), float(i), sample=i, turns=i) for i in range(4)]  # the first sampled nothing
    done = made.step([Group(task=group(1, [0.0]).task, trajectories=tuple(mixed))])
    assert [d.reason for d in done.decisions] == [FilterReason.NOTHING_SAMPLED, None, None, None]
    assert done.note is None
    assert done.metrics["trained_episodes"] == 3
    assert finite(made.policy)
    assert not torch.equal(before, weights(made.policy))


@pytest.mark.parametrize(
    ("rewards", "words"), [([0.0] * 2, "too hard"), ([1.0] * 2, "too easy"), ([0.0, 0.0, 1.0, 1.0], "as a whole")]
)
def test_after_some_steps_without_signal_it_says_what_to_do(
    model: PreTrainedModel, rewards: Sequence[float], words: str
) -> None:
    made = learner(policy(model))
    flat = [group(i, [r, r], task=str(i)) for i, r in enumerate(rewards)]
    notes = [result.note or "" for result in [made.step(flat) for _ in range(10)]]
    assert [words in note for note in notes] == [n % 5 == 0 for n in range(1, 11)]
    assert "10 train steps in a row; success is" in notes[-1]


@pytest.mark.parametrize(("minibatches", "units"), [(m, u) for m in range(1, 7) for u in range(1, 8)])
def test_there_are_as_many_optimizer_steps_as_asked_for(
    model: PreTrainedModel, minibatches: int, units: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = learner(policy(model), minibatches=minibatches)
    rows: list[int] = []

    def optimize(batch: list[Row], *_: object) -> dict[str, float]:
        rows.append(len(batch))
        return stats | dict.fromkeys(names, 0.0)

    stats = {"tokens": 1.0, "episodes": 1.0, "loss": 0.0}
    names = ("grad_norm", "entropy", "kl", "clip_fraction", "effective_sample_size")
    monkeypatch.setattr(made, "_optimize", optimize)
    made.step([group(i, [0.0, 1.0], task=str(i)) for i in range(units)])
    assert len(rows) == min(minibatches, units)
    assert sum(rows) == 2 * units
    assert max(rows) - min(rows) <= 2


@pytest.mark.parametrize("key", ["learning_rate", "weight_decay", "max_grad_norm"])
def test_settings_that_could_overflow_a_weight_are_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=f"learner.{key}"):
        load_config({"learner": {key: 1e30}})


def test_the_largest_settings_allowed_keep_every_weight_a_number(model: PreTrainedModel) -> None:
    made = learner(policy(model), learning_rate=1.0, weight_decay=1.0, max_grad_norm=1e9)
    for _ in range(4):
        made.step(groups())
    assert finite(made.policy)
