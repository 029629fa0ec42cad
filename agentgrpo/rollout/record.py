"""The record of an episode while it runs: spans of tokens, turns of data. It knows neither engines nor environments."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agentgrpo.types import (
    EpisodeKey,
    Failure,
    Generation,
    Json,
    JsonObject,
    Message,
    Policy,
    Span,
    StopReason,
    Trajectory,
    Turn,
)


@dataclass(slots=True, kw_only=True)
class Recorder:
    """Collects an episode and freezes it into a `Trajectory`.

    Along the current path, the spans' tokens are at every moment exactly the prompt the engine saw or will see next.
    """

    key: EpisodeKey
    env_id: str
    seed: int
    policy: Policy
    prompt: tuple[Message, ...] = ()
    tools: tuple[JsonObject, ...] = ()
    spans: list[Span] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    reward: float | None = None
    reward_terms: dict[str, float] = field(default_factory=dict)
    forks: int = 0
    sampled_count: int = 0
    info: JsonObject = field(default_factory=dict)
    state: Json = None  # the environment's, at the end: for whatever scores the episode, not for the record
    started_at: float = field(default_factory=time.time)
    frozen: Trajectory | None = None  # once the episode has ended
    _tip: int = -1  # the span the next one follows
    _clock: float = field(default_factory=time.perf_counter)

    def begin(self) -> None:
        """Let its time begin: until now it waited for a place."""
        self.started_at, self._clock = time.time(), time.perf_counter()

    def start(self, messages: Sequence[Message], tools: Sequence[JsonObject], prompt_ids: Sequence[int]) -> None:
        """Note the first prompt."""
        self.prompt, self.tools = tuple(messages), tuple(tools)
        self._append(prompt_ids)

    def sampled(self, generation: Generation, policy_version: int | None = None) -> None:
        """Note what the model sampled; `policy_version` is that of another policy, if it was one."""
        self._append(
            generation.token_ids,
            sampled=True,
            logprobs=generation.logprobs,
            policy_version=self.policy.version if policy_version is None else policy_version,
        )
        self.sampled_count += len(generation.token_ids)

    def extend(self, new_ids: Sequence[int]) -> None:
        """Note the tokens that follow, up to the model's next turn."""
        self._append(new_ids)

    def fork(self, prompt_ids: Sequence[int]) -> None:
        """Note a prompt rendered anew: it follows the longest path of spans it begins with."""
        self._tip, used = self._matching_path(tuple(prompt_ids))
        self._append(prompt_ids[used:])
        self.forks += 1

    def freeze(self, stop_reason: StopReason, failure: Failure | None = None) -> Trajectory:
        """Return the record."""
        is_scored = failure is None and stop_reason not in (StopReason.FAILED, StopReason.CANCELLED)
        self.frozen = Trajectory(
            key=self.key,
            env_id=self.env_id,
            seed=self.seed,
            policy=self.policy,
            prompt=self.prompt,
            tools=self.tools,
            spans=tuple(self.spans),
            turns=tuple(self.turns),
            stop_reason=stop_reason,
            reward=self.reward if is_scored else None,
            reward_terms=dict(self.reward_terms) if is_scored else {},
            failure=failure,
            forks=self.forks,
            info=dict(self.info),
            started_at=self.started_at,
            seconds=time.perf_counter() - self._clock,
        )
        return self.frozen

    def score(self, reward: float, terms: Mapping[str, float]) -> None:
        """Note the episode's reward."""
        self.reward, self.reward_terms = float(reward), {k: float(v) for k, v in terms.items()}

    def _append(
        self,
        token_ids: Sequence[int],
        *,
        sampled: bool = False,
        logprobs: tuple[float, ...] | None = None,
        policy_version: int | None = None,
    ) -> None:
        span = Span(
            parent=self._tip,
            token_ids=tuple(token_ids),
            sampled=sampled,
            logprobs=logprobs,
            policy_version=policy_version,
            turn=len(self.turns),
        )
        self.spans.append(span)
        self._tip = len(self.spans) - 1

    def _matching_path(self, prompt_ids: tuple[int, ...]) -> tuple[int, int]:
        """Return (span, tokens) of the deepest path whose tokens begin `prompt_ids`, with at least one token left."""
        best, used = -1, 0
        ends: dict[int, int] = {-1: 0}
        for i, span in enumerate(self.spans):
            start = ends.get(span.parent)
            if start is None:
                continue
            end = start + len(span.token_ids)
            if prompt_ids[start:end] == span.token_ids and end < len(prompt_ids):
                ends[i] = end
                if end > used:
                    best, used = i, end
        return best, used
