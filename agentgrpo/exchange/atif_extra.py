"""What agentgrpo writes into the `extra` members of an ATIF document, so that nothing of an episode is lost.

All of it stands under the key `agentgrpo`; other readers pass over it. Numbers JSON does not have are written as text.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from agentgrpo.exchange.atif import TokenIds
from agentgrpo.exchange.plain import plain
from agentgrpo.types import Boundary, FinishReason, Json, JsonObject, Phase, StopReason

KEY = "agentgrpo"
FORMAT: Literal[1] = 1

Numbers: TypeAlias = list[float] | None
Count: TypeAlias = Annotated[int, Field(ge=0, lt=2**63)]  # what a run's file can hold
Moment: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class KeyExtra(_Model):
    """What identifies an episode within its run."""

    phase: Phase
    step: Count
    task_id: str
    sample: Count
    attempt: Count = 0


class FailureExtra(_Model):
    """What broke."""

    boundary: Boundary
    cause: str


class ParentExtra(_Model):
    """Where a fork comes from."""

    trajectory_id: str | None = None
    turns: Count


class SpanExtra(_Model):
    """A span of the token tree. Ids and logprobs stand here only where no step holds them."""

    parent: int
    turn: Count
    sampled: bool
    tokens: Count
    policy_version: Count | None = None
    token_ids: TokenIds | None = None
    logprobs: Numbers = None
    learner_logprobs: Numbers = None
    entropies: Numbers = None


class EpisodeExtra(_Model):
    """Of the document."""

    format: Literal[1]
    key: KeyExtra
    env_id: str
    seed: int
    policy_version: Count
    stop_reason: StopReason
    reward: float | None = None
    success: bool | None = None
    reward_terms: dict[str, float] = {}
    failure: FailureExtra | None = None
    advantage: float | None = None
    filter_reason: str | None = None
    forks: Count = 0
    parent: ParentExtra | None = None
    started_at: Moment = 0.0
    seconds: Moment = 0.0
    info: dict[str, Any] = {}
    spans: list[SpanExtra] = []


class TurnExtra(_Model):
    """Of a step with which the agent took a turn. `action` and `messages` are there where the format says less."""

    turn: Count
    reward: float
    state_hash: str | None = None
    state_diff: list[dict[str, Any]] | None = None
    generate_seconds: float = 0.0
    env_seconds: float = 0.0
    finish_reason: FinishReason = "stop"
    tools: list[dict[str, Any]] | None = None
    action: dict[str, Any] | None = None
    messages: list[dict[str, Any]] | None = None


class MessageExtra(_Model):
    """Of any other step: the message as it is, where the format says less; no message at all in a placeholder."""

    message: dict[str, Any] | None = None
    placeholder: bool = False


class ResultExtra(_Model):
    """Of what a tool answered."""

    name: str | None = None
    is_error: bool | None = None


class CallExtra(_Model):
    """Of a call nobody could read."""

    raw: str
    error: dict[str, str]
    name: str | None = None


class TokensExtra(_Model):
    """Of a step's metrics: which spans its prompt and completion are, and the learner's view of the latter."""

    spans: list[int]
    learner_logprobs: Numbers = None
    entropies: Numbers = None  # nats


def under_key(**values: Any) -> JsonObject:
    """Return an `extra` member that holds these values, unknown ones left out."""
    return {KEY: {name: value for name, value in values.items() if value is not None}}


def own(extra: JsonObject | None) -> JsonObject | None:
    """Return what agentgrpo wrote into an `extra` member, if it did."""
    value = (extra or {}).get(KEY)
    return value if isinstance(value, dict) else None


def number(value: float | None) -> Json:
    """Return a number for JSON, which has no NaN and no infinities: those as text, which reads back."""
    if value is None or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def objects(values: Any) -> list[JsonObject] | None:
    """Return plain objects, or None where nothing is known."""
    return None if values is None else [plain(value) for value in values]
