"""Trajectories as bytes and back, exactly: JSON for what is readable, packed arrays for tokens.

It knows neither SQL nor files. Text is redacted on the way in; nothing else changes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from agentgrpo.store.packing import compress, decompress, pack_ints, pack_logprobs, unpack_ints, unpack_logprobs
from agentgrpo.store.redact import may_hold_keys, redact
from agentgrpo.types import (
    Boundary,
    EpisodeKey,
    Failure,
    Json,
    JsonObject,
    Message,
    Parent,
    Policy,
    Span,
    StopReason,
    Trajectory,
    Turn,
)

UNKNOWN_TOOL = "?"

_JSON = json.JSONEncoder(separators=(",", ":"), default=str, check_circular=False)
_READABLE = json.JSONEncoder(ensure_ascii=False, default=str)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """How often an episode called a tool, and how many of those calls failed."""

    name: str
    calls: int
    errors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """A trajectory in stored form."""

    record: bytes
    token_ids: bytes
    logprobs: bytes
    text: str  # what a search looks through
    cause: str | None  # of a failure
    tools: tuple[ToolUse, ...]


def encode(trajectory: Trajectory) -> Payload:
    """Return the stored form of a trajectory, known secrets redacted from its text."""
    record = _to_record(trajectory)
    text = _dump(record)
    if may_hold_keys(text):  # rarely: looking at every string by itself is a third of all the work
        record = redact(record)
        text = _dump(record)
    return Payload(
        record=compress(text.encode()),
        token_ids=pack_ints(chain.from_iterable(span.token_ids for span in trajectory.spans)),
        logprobs=pack_logprobs(chain.from_iterable(span.logprobs or () for span in trajectory.spans)),
        text="\n".join(_texts(record)),
        cause=record["failure"] and record["failure"][1],
        tools=tool_uses(record),
    )


def _dump(record: JsonObject) -> str:
    return _JSON.encode(record)  # ASCII: any str survives, lone surrogates too


def decode(record: bytes, token_ids: bytes, logprobs: bytes) -> Trajectory:
    """Return the trajectory that `encode` was given (with its text redacted)."""
    data = decode_record(record)
    ids, values = iter(unpack_ints(token_ids)), iter(unpack_logprobs(logprobs))
    return Trajectory(
        key=EpisodeKey(**data["key"]),
        env_id=data["env_id"],
        seed=data["seed"],
        policy=Policy(**data["policy"]),
        prompt=tuple(data["prompt"]),
        tools=tuple(data["tools"]),
        spans=tuple(_span(row, ids, values) for row in data["spans"]),
        turns=tuple(_turn(row) for row in data["turns"]),
        stop_reason=StopReason(data["stop_reason"]),
        reward=data["reward"],
        reward_terms=data["reward_terms"],
        failure=_failure(data["failure"]),
        forks=data["forks"],
        started_at=data["started_at"],
        seconds=data["seconds"],
        info=data["info"],
        parent=_parent(data.get("parent")),  # which older files do not have
    )


def decode_record(record: bytes) -> JsonObject:
    """Return a stored record as it was made: everything but the tokens."""
    return dict(json.loads(decompress(record)))


def as_stored(turn: Turn) -> Turn:
    """Return a turn as it is after it was stored and read again."""
    return _turn(plain(_turn_row(turn)))


def plain(value: Json) -> Json:
    """Return data as it is after it was stored and read again."""
    return json.loads(json.dumps(redact(value), default=str))


def _to_record(trajectory: Trajectory) -> JsonObject:
    key, policy, failure = trajectory.key, trajectory.policy, trajectory.failure
    return {
        "key": {name: getattr(key, name) for name in ("phase", "step", "task_id", "sample", "attempt")},
        "env_id": trajectory.env_id,
        "seed": trajectory.seed,
        "policy": {"name": policy.name, "version": policy.version},
        "prompt": trajectory.prompt,
        "tools": trajectory.tools,
        "turns": [_turn_row(turn) for turn in trajectory.turns],
        "stop_reason": trajectory.stop_reason,
        "reward": trajectory.reward,
        "reward_terms": dict(trajectory.reward_terms),
        "failure": failure and [failure.boundary, failure.cause],
        "forks": trajectory.forks,
        "started_at": trajectory.started_at,
        "seconds": trajectory.seconds,
        "info": trajectory.info,
        "spans": [_span_row(span) for span in trajectory.spans],
        "parent": trajectory.parent and [trajectory.parent.episode, trajectory.parent.turns],
    }


def _span_row(span: Span) -> list[Any]:
    size, known = len(span.token_ids), None if span.logprobs is None else len(span.logprobs)
    return [span.parent, size, span.sampled, known, span.policy_version, span.turn]


def _span(row: list[Any], ids: Iterator[int], logprobs: Iterator[float]) -> Span:
    parent, size, sampled, known, policy_version, turn = row
    return Span(
        parent=parent,
        token_ids=tuple(islice(ids, size)),
        sampled=sampled,
        logprobs=None if known is None else tuple(islice(logprobs, known)),
        policy_version=policy_version,
        turn=turn,
    )


def _turn_row(turn: Turn) -> JsonObject:
    tools = {} if turn.tools is None else {"tools": turn.tools}
    return tools | {
        "action": turn.action,
        "messages": turn.messages,
        "reward": turn.reward,
        "state_hash": turn.state_hash,
        "state_diff": turn.state_diff,
        "generate_seconds": turn.generate_seconds,
        "env_seconds": turn.env_seconds,
        "finish_reason": turn.finish_reason,
    }


def _turn(row: JsonObject) -> Turn:
    diff, tools = row["state_diff"], row.get("tools")
    tuples = {
        "messages": tuple(row["messages"]),
        "state_diff": None if diff is None else tuple(diff),
        "tools": None if tools is None else tuple(tools),
    }
    return Turn(**row | tuples)


def _parent(row: list[int] | None) -> Parent | None:
    return None if row is None else Parent(episode=row[0], turns=row[1])


def _failure(row: list[str] | None) -> Failure | None:
    return None if row is None else Failure(boundary=Boundary(row[0]), cause=row[1])


def _texts(record: JsonObject) -> Iterator[str]:
    """Yield what a person may search for: messages, calls, results, the cause of a failure."""
    for message in record["prompt"]:
        yield from _message_texts(message)
    for turn in record["turns"]:
        yield from _message_texts(turn["action"])
        for message in turn["messages"]:
            yield from _message_texts(message)
    if record["failure"]:
        yield record["failure"][1]


def _message_texts(message: Message) -> Iterator[str]:
    for part in ("content", "reasoning"):
        value = message.get(part)
        if value:
            yield value if isinstance(value, str) else _READABLE.encode(value)
    for call in message.get("tool_calls") or ():
        yield f"{call.get('name')} {_arguments(call)}"


def tool_uses(record: JsonObject) -> tuple[ToolUse, ...]:
    """Return which tools an episode called, by name.

    Names that the model made up count together as `UNKNOWN_TOOL`: there may be a new one in every episode.
    """
    offered = {str((tool.get("function") or tool).get("name")) for tool in record["tools"]}
    found: dict[str, tuple[int, int]] = {}
    for turn in record["turns"]:
        failed = [message.get("tool_call_id") for message in turn["messages"] if message.get("is_error")]
        for call in turn["action"]["tool_calls"]:
            is_error = call.get("id") in failed
            name = call.get("name")
            known = name if name and (name in offered or not is_error) else UNKNOWN_TOOL
            calls, errors = found.get(known, (0, 0))
            found[known] = (calls + 1, errors + is_error)
    return tuple(ToolUse(name=name, calls=calls, errors=errors) for name, (calls, errors) in sorted(found.items()))


def tools_of(record: bytes) -> str:
    """Return the tool uses of a stored record as JSON rows [name, calls, errors]; none where it cannot be read."""
    try:
        uses = tool_uses(json.loads(decompress(record)))
    except (ValueError, KeyError, TypeError, AttributeError):
        return "[]"
    return json.dumps([[use.name, use.calls, use.errors] for use in uses])


def _arguments(call: Mapping[str, Any]) -> str:
    return str(call["raw"]) if "raw" in call else _READABLE.encode(call.get("arguments"))
