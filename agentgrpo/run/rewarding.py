"""What scores a run's episodes besides their environment, found from its configuration before anything else is made.

It knows where verdicts and references are kept; how an episode is scored is in `rollout.scoring`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentgrpo.activity import Activity
from agentgrpo.config.judge import JudgeConfig
from agentgrpo.config.run import Config
from agentgrpo.endpoint.client import Endpoint, SettingNames
from agentgrpo.errors import ConfigError
from agentgrpo.judge.judge import Judge
from agentgrpo.rewards.named import NamedReward, load_reward
from agentgrpo.rollout.scoring import Keep, Scorer
from agentgrpo.store.record import hash_json, hash_source
from agentgrpo.store.verdicts import VerdictStore

_NAMES = SettingNames(url="judge.endpoint", model="judge.model", key="judge.api_key_env")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewarding:
    """The reward a config names, and its judge."""

    config: Config
    reward: NamedReward | None
    rubric: str | None  # of the judge; None: there is none

    @property
    def hashes(self) -> dict[str, str | None]:
        """What `run.json` says of them."""
        reward = {"reward_source": hash_source(self.reward.function)} if self.reward is not None else {}
        return reward | ({"judge_rubric": hash_json(self.rubric)} if self.rubric is not None else {})

    def references(self) -> dict[str, Any]:
        """Return the keys of a config that finds them again from any folder."""
        found: dict[str, Any] = {} if self.reward is None else {"reward": self.reward.reference}
        judge = self.config.judge
        if judge is not None and judge.rubric_file is not None:
            found["judge"] = judge.model_copy(update={"rubric_file": str(Path(judge.rubric_file).resolve())})
        return found

    def changes(self, then: dict[str, Any]) -> list[str]:
        """Return what is not as it was when a run's hashes were written."""
        names = {"reward_source": f"the code of the reward {self.config.reward}", "judge_rubric": "the judge's rubric"}
        return [f"{names[key]} was changed" for key, value in self.hashes.items() if then.get(key) != value]

    def without_judge(self) -> Scorer | None:
        """Return what scores by the named reward alone: for a look that is not to cost anything."""
        return None if self.reward is None else self.scorer()

    def scorer(
        self, judge: Judge | None = None, *, activity: Activity | None = None, keep: Keep | None = None
    ) -> Scorer:
        """Return what scores episodes; see `Scorer`."""
        weights = self.config.reward_weights if self.reward is not None else None  # else the environment has them
        seconds = self.config.rollout.tool_seconds
        return Scorer(self.reward, weights=weights, judge=judge, seconds=seconds, keep=keep, activity=activity)


def open_rewarding(config: Config) -> Rewarding | None:
    """Find the reward a config names and see that its judge can be asked; None when it has neither.

    Raises:
        ConfigError: the function or the rubric is not there, or the endpoint cannot be one.
    """
    if config.reward is None and config.judge is None:
        return None
    reward = None if config.reward is None else load_reward(config.reward)
    if config.judge is not None:
        _endpoint(config.judge)
    return Rewarding(config=config, reward=reward, rubric=_rubric(config.judge))


@contextmanager
def opened_scorer(
    rewarding: Rewarding | None, verdicts: Path, *, activity: Activity, keep: Keep | None = None
) -> Iterator[Scorer | None]:
    """Yield what scores episodes besides their environment; None when nothing does.

    Args:
        rewarding: What the configuration names.
        verdicts: The file of the judge's verdicts.
        activity: Of the run.
        keep: Stores the episodes of a group anew once they are ranked.
    """
    if rewarding is None:
        yield None
    elif rewarding.config.judge is None or rewarding.rubric is None:
        yield rewarding.scorer(activity=activity)
    else:
        config = rewarding.config.judge
        with VerdictStore(verdicts) as kept:
            judge = Judge(
                config, rewarding.rubric, _endpoint(config), kept, seed=rewarding.config.seed, activity=activity
            )
            yield rewarding.scorer(judge, activity=activity, keep=keep)


def _endpoint(config: JudgeConfig) -> Endpoint:
    return Endpoint(
        config.endpoint,
        config.model,
        api_key_env=config.api_key_env,
        concurrency=config.concurrency,
        attempt_seconds=config.seconds,
        names=_NAMES,
    )


def _rubric(config: JudgeConfig | None) -> str | None:
    if config is None or config.rubric_file is None:
        return None if config is None else config.rubric
    path = Path(config.rubric_file)
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"judge.rubric_file = '{path}' cannot be read as text: {error}") from error
    if not text:
        raise ConfigError(f"judge.rubric_file = '{path}' is empty: write in it what counts")
    return text
