"""The nouns of agentgrpo: plain data, no behaviour beyond what follows from the data itself.

This module knows neither torch nor any engine, so the store and the viewer can read records without them.
`None` means unknown, never zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, TypeAlias

Json: TypeAlias = Any
JsonObject: TypeAlias = dict[str, Any]
Message: TypeAlias = dict[str, Any]  # OpenAI-style: role, content, tool_calls, tool_call_id
FinishReason: TypeAlias = Literal["stop", "length", "cancelled"]
Phase: TypeAlias = Literal["train", "eval", "fork"]  # a fork is never trained

ROLES = ("system", "developer", "user", "assistant", "tool")  # of a message


class StopReason(StrEnum):
    """Why an episode ended."""

    DONE = "done"  # the environment said terminated
    ANSWERED = "answered"  # a message without calls
    MAX_TURNS = "max_turns"
    MAX_TOKENS = "max_tokens"  # the episode's token budget
    CONTEXT_FULL = "context_full"  # the next prompt would not fit
    DEADLINE = "deadline"
    FAILED = "failed"  # infrastructure broke: see Trajectory.failure
    CANCELLED = "cancelled"

    @property
    def is_truncated(self) -> bool:
        """Whether a limit, not the agent or the environment, ended the episode."""
        return self in (StopReason.MAX_TURNS, StopReason.MAX_TOKENS, StopReason.CONTEXT_FULL, StopReason.DEADLINE)


class Boundary(StrEnum):
    """Which side of the system an episode failed on."""

    TOOL = "tool"
    ENV = "env"
    ENGINE = "engine"
    PARSE = "parse"
    REWARD = "reward"  # the reward named in the config: the episode ended well and has no score
    JUDGE = "judge"  # likewise


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A named policy at one version; an episode belongs to exactly one."""

    name: str = "policy"
    version: int = 0

    def __str__(self) -> str:
        return f"{self.name}-v{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How one generation is sampled. `temperature=0` is greedy; `top_k=0` and `top_p=1` are off."""

    max_tokens: int
    seed: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop_token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What an engine returned: sampled ids (the stop token included) and the logprob of each.

    `logprobs` are those of the distribution sampled from, rounded to multiples of 2**-16.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A LoRA adapter in memory: peft's tensor names and config, ready to be saved or loaded by an engine."""

    tensors: Mapping[str, Any]  # name -> torch.Tensor
    config: JsonObject
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One row of a training or held-out set."""

    id: str
    row: JsonObject
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeKey:
    """What identifies an episode within a run. `step` of an evaluation is the train step it was made at."""

    phase: Phase
    step: int
    task_id: str
    sample: int
    attempt: int = 0

    def __str__(self) -> str:
        retry = f".{self.attempt}" if self.attempt else ""
        return f"{self.phase}/{self.step}/{self.task_id}/{self.sample}{retry}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call the model wrote that could be parsed."""

    id: str
    name: str
    arguments: JsonObject

    def to_message(self) -> JsonObject:
        """Return the canonical JSON of this call, as it stands in an action."""
        return {"id": self.id, "name": self.name, "arguments": self.arguments}


@dataclass(frozen=True, slots=True, kw_only=True)
class BadCall:
    """A call the model wrote that could not be parsed; what was wrong goes back to the model."""

    id: str
    raw: str
    error_type: str
    error_message: str
    name: str | None = None

    def to_message(self) -> JsonObject:
        """Return the canonical JSON of this call: `error` takes the place of `arguments`."""
        error = {"type": self.error_type, "message": self.error_message}
        return {"id": self.id, "name": self.name, "raw": self.raw, "error": error}


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRecord:
    """A call and what came of it."""

    name: str  # "" when it could not be read
    arguments: JsonObject | None  # None: they could not be read
    result: str
    error: str | None = None  # the kind of error the model was told; None: the tool ran


@dataclass(frozen=True, slots=True, kw_only=True)
class AssistantMessage:
    """One parsed model turn. `to_message` is the canonical action an environment receives."""

    content: str
    calls: tuple[ToolCall | BadCall, ...] = ()
    reasoning: str | None = None

    def to_message(self) -> JsonObject:
        """Return the canonical JSON message `{"content", "tool_calls"}` (and `reasoning` when there is any)."""
        message: JsonObject = {"content": self.content, "tool_calls": [c.to_message() for c in self.calls]}
        return message | ({"reasoning": self.reasoning} if self.reasoning else {})

    @classmethod
    def from_message(cls, message: JsonObject) -> AssistantMessage:
        """Return what `to_message` was called on."""
        calls = tuple(_call_of(call) for call in message["tool_calls"])
        return cls(content=message["content"], calls=calls, reasoning=message.get("reasoning"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The tokens one message (or one batch of observations) added to a trajectory.

    `parent` is the index of the span before it (-1: none). `logprobs` and `policy_version` are None unless `sampled`.
    """

    parent: int
    token_ids: tuple[int, ...]
    sampled: bool
    logprobs: tuple[float, ...] | None = None
    policy_version: int | None = None
    turn: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One model call and its tool results, as readable data."""

    action: JsonObject  # AssistantMessage.to_message()
    messages: tuple[Message, ...]  # what the environment answered: one per call, or a user message
    reward: float
    state_hash: str | None = None
    state_diff: tuple[JsonObject, ...] | None = None  # JSON Patch operations of this turn
    generate_seconds: float = 0.0
    env_seconds: float = 0.0
    finish_reason: FinishReason = "stop"
    tools: tuple[JsonObject, ...] | None = None  # offered from now on; None: the same as before

    @property
    def call_count(self) -> int:
        return len(self.action["tool_calls"])

    @property
    def error_count(self) -> int:
        """Number of calls whose result is an error."""
        return sum(bool(message.get("is_error")) for message in self.messages)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """Where a fork comes from: the row id of an episode of its run, and how many of its turns it took over."""

    episode: int
    turns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What broke, where."""

    boundary: Boundary
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequence:
    """One training row: a path through a trajectory's spans.

    All four have length T. `loss_mask` is 1 exactly on tokens that were sampled and that no earlier row trains;
    `turns` numbers the turn a token belongs to; `rollout_logprobs` is 0.0 where nothing was sampled.
    """

    token_ids: tuple[int, ...]
    loss_mask: tuple[int, ...]
    rollout_logprobs: tuple[float, ...]
    turns: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """The record of an episode."""

    key: EpisodeKey
    env_id: str
    seed: int
    policy: Policy
    prompt: tuple[Message, ...]  # the messages before the first turn
    tools: tuple[JsonObject, ...]
    spans: tuple[Span, ...]
    turns: tuple[Turn, ...]
    stop_reason: StopReason
    reward: float | None  # None: never scored (failed, cancelled)
    reward_terms: Mapping[str, float] = field(default_factory=dict)
    failure: Failure | None = None
    forks: int = 0
    started_at: float = 0.0  # seconds since the epoch
    seconds: float = 0.0
    info: JsonObject = field(default_factory=dict)
    parent: Parent | None = None

    @property
    def is_scored(self) -> bool:
        return self.reward is not None

    @property
    def success(self) -> bool | None:
        """Whether the outcome (or, without an outcome term, the reward) reached 1; None when unscored."""
        if self.reward is None:
            return None
        return self.reward_terms.get("outcome", self.reward) >= 1.0 - 1e-9

    @property
    def is_text(self) -> bool:
        """Whether a chat endpoint played it: there are no token ids, so GRPO cannot train on it."""
        return "endpoint" in self.info

    @property
    def sampled_count(self) -> int:
        return sum(len(span.token_ids) for span in self.spans if span.sampled)

    @property
    def token_count(self) -> int:
        return sum(len(span.token_ids) for span in self.spans)

    @property
    def call_count(self) -> int:
        return sum(turn.call_count for turn in self.turns)

    @property
    def error_count(self) -> int:
        return sum(turn.error_count for turn in self.turns)

    def path(self, leaf: int) -> list[int]:
        """Return the span indices from the root to `leaf`."""
        indices = []
        while leaf >= 0:
            indices.append(leaf)
            leaf = self.spans[leaf].parent
        return indices[::-1]

    def leaves(self) -> list[int]:
        """Return the spans nothing follows, in order of creation."""
        parents = {span.parent for span in self.spans}
        return [i for i in range(len(self.spans)) if i not in parents]

    def sequences(self) -> list[Sequence]:
        """Return the training rows: one per leaf; a sampled span shared by several is trained in the first only."""
        trained: set[int] = set()
        rows = []
        for leaf in self.leaves():
            path = self.path(leaf)
            fresh = [i for i in path if self.spans[i].sampled and i not in trained]
            trained.update(fresh)
            if fresh:
                rows.append(_join([self.spans[i] for i in path], [i in fresh for i in path]))
        return rows


def _call_of(call: JsonObject) -> ToolCall | BadCall:
    if "error" not in call:
        return ToolCall(id=call["id"], name=call["name"], arguments=call["arguments"])
    error = call["error"]
    return BadCall(
        id=call["id"], raw=call["raw"], error_type=error["type"], error_message=error["message"], name=call["name"]
    )


def _join(spans: list[Span], is_trained: list[bool]) -> Sequence:
    token_ids: list[int] = []
    loss_mask: list[int] = []
    logprobs: list[float] = []
    turns: list[int] = []
    for span, trained in zip(spans, is_trained, strict=True):
        n = len(span.token_ids)
        token_ids += span.token_ids
        loss_mask += [int(trained)] * n
        logprobs += span.logprobs if span.logprobs is not None else (0.0,) * n
        turns += [span.turn] * n
    return Sequence(
        token_ids=tuple(token_ids), loss_mask=tuple(loss_mask), rollout_logprobs=tuple(logprobs), turns=tuple(turns)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The scored episodes of one task from the same start state, ordered by sample."""

    task: Task
    trajectories: tuple[Trajectory, ...]

    @property
    def rewards(self) -> list[float]:
        """Rewards in sample order, length G. Every trajectory of a group is scored."""
        return [t.reward for t in self.trajectories if t.reward is not None]
