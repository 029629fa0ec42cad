"""Trajectories as bytes and back, exactly: JSON for what is readable, packed and compressed arrays for tokens.

It knows neither SQL nor files. Text is redacted on the way in; nothing else changes.
"""

from __future__ import annotations

import json
import math
import struct
import sys
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

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

LOGPROB_SCALE = 2.0**16  # engines round logprobs to multiples of 2**-16 (agentgrpo.engines.round_logprob)

UNKNOWN_TOOL = "?"

_LEVEL = 2  # of zlib: 4 takes a tenth to a quarter longer for 1 to 3 % less
_JSON = json.JSONEncoder(separators=(",", ":"), default=str)
_READABLE = json.JSONEncoder(ensure_ascii=False, default=str)
_MAGIC = 1.5 * 2.0**36  # a double this large counts in steps of 2**-16: the low half of its bits is that count
_PLANES = b"\x01"  # the first byte of packed integers since they lie in planes; before, it was zlib's own 0x78
_LIMIT = 2**31 - 1
_ENTROPY_SCALE = 16.0
_UNKNOWN = 255  # the code of an entropy that is no number
_ENTROPIES = (*((code / _ENTROPY_SCALE) ** 2 for code in range(_UNKNOWN)), math.nan)
_RANGE = 32767.0
_NAN = -(2**31)  # the one int32 that no logprob uses


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
        record=zlib.compress(text.encode(), _LEVEL),
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
    return dict(json.loads(zlib.decompress(record)))


def as_stored(turn: Turn) -> Turn:
    """Return a turn as it is after it was stored and read again."""
    return _turn(plain(_turn_row(turn)))


def plain(value: Json) -> Json:
    """Return data as it is after it was stored and read again."""
    return json.loads(json.dumps(redact(value), default=str))


def pack_ints(values: Iterable[int]) -> bytes:
    """Return int32 values, little-endian and compressed.

    All lowest bytes come first, then all second ones: smaller by a quarter and thrice as fast as in their order.
    """
    packed = array("i", list(values))  # a list: its length is known, which halves the time
    if sys.byteorder == "big":
        packed.byteswap()
    return _pack(packed.tobytes(), packed.itemsize, zlib.Z_DEFAULT_STRATEGY)


def _pack(data: bytes, width: int, strategy: int) -> bytes:
    """Return the lowest four bytes of each little-endian item in planes, compressed.

    The lowest bytes look like noise and the others do not: a code of its own for each saves a twentieth.
    """
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, strategy)
    lowest = packer.compress(data[::width]) + packer.flush(zlib.Z_BLOCK)
    others = packer.compress(b"".join(data[place::width] for place in range(1, 4)))
    return b"".join((_PLANES, lowest, others, packer.flush()))


def unpack_ints(data: bytes) -> array[int]:
    """Return the values `pack_ints` was given, now or when it left the bytes in their order."""
    if data[:1] == _PLANES:
        planes = zlib.decompress(data[1:])
        size = len(planes) // 4
        ordered = bytearray(len(planes))
        for place in range(4):
            ordered[place::4] = planes[place * size : (place + 1) * size]
    else:
        ordered = bytearray(zlib.decompress(data))
    values = array("i")
    values.frombytes(ordered)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def pack_logprobs(values: Iterable[float]) -> bytes:
    """Return logprobs, within +-32767, as whole multiples of 2**-16, compressed; NaN is kept, the infinite clipped."""
    known = list(values)
    if not math.isfinite(sum(known)) or max(known, default=0.0) > _RANGE or min(known, default=0.0) < -_RANGE:
        return pack_ints(_to_int(value) for value in known)  # out of range, or not a number: slower, and rare
    counted = struct.pack(f"<{len(known)}d", *[value + _MAGIC for value in known])
    return _pack(counted, 8, zlib.Z_RLE)  # numbers without a pattern: repetitions are sought in vain


def unpack_logprobs(data: bytes) -> list[float]:
    """Return the logprobs `pack_logprobs` was given, rounded to multiples of 2**-16."""
    return [math.nan if value == _NAN else value / LOGPROB_SCALE for value in unpack_ints(data)]


def pack_entropies(values: Iterable[float]) -> bytes:
    """Return entropies in nats as a byte each, compressed: finer near 0, where most are and where they differ.

    The byte is 16 times the root, so an entropy of 1 is known to 0.06, one of 0.1 to 0.02 and one of 0.01 to 0.007; no
    vocabulary is large enough for it to be clipped. NaN is kept.
    """
    codes = bytes(_entropy_code(value) for value in values)
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    return packer.compress(codes) + packer.flush()


def unpack_entropies(data: bytes) -> list[float]:
    """Return the entropies `pack_entropies` was given, as far as it keeps them."""
    return [_ENTROPIES[code] for code in zlib.decompress(data)]


def _entropy_code(value: float) -> int:
    if math.isnan(value):
        return _UNKNOWN
    return round(min(_UNKNOWN - 1.0, _ENTROPY_SCALE * math.sqrt(max(0.0, value))))


def _to_int(value: float) -> int:
    if math.isnan(value):
        return _NAN
    return round(max(-_LIMIT, min(_LIMIT, value * LOGPROB_SCALE)))


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
    calls: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    for turn in record["turns"]:
        failed = {message.get("tool_call_id") for message in turn["messages"] if message.get("is_error")}
        for call in turn["action"]["tool_calls"]:
            is_error = call.get("id") in failed
            name = call.get("name")
            known = name if name and (name in offered or not is_error) else UNKNOWN_TOOL
            calls[known] += 1
            errors[known] += is_error
    return tuple(ToolUse(name=name, calls=count, errors=errors[name]) for name, count in sorted(calls.items()))


def tools_of(record: bytes) -> str:
    """Return the tool uses of a stored record as JSON rows [name, calls, errors]; none where it cannot be read."""
    try:
        uses = tool_uses(json.loads(zlib.decompress(record)))
    except (zlib.error, ValueError, KeyError, TypeError, AttributeError):
        return "[]"
    return json.dumps([[use.name, use.calls, use.errors] for use in uses])


def _arguments(call: Mapping[str, Any]) -> str:
    return str(call["raw"]) if "raw" in call else _READABLE.encode(call.get("arguments"))
