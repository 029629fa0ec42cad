"""What a reward sees of a finished episode: data that is its own, to look at and not to change the record with.

It knows neither tokens nor the environment, which may be gone.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from agentgrpo.calls import error_type
from agentgrpo.types import CallRecord, Json, JsonObject, Message, StopReason, Trajectory, Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """A finished episode: what a reward named in the config is given.

    `reward` and `terms` are the environment's own, the terms unweighted; `state` is what its `state()` gave at the end,
    None where it has none.
    """

    task: JsonObject  # the row
    prompt: tuple[Message, ...]
    turns: tuple[Turn, ...]
    calls: tuple[CallRecord, ...]
    answer: str | None  # the last message, if it made no call
    stop_reason: StopReason
    reward: float
    terms: Mapping[str, float]
    state: Json = None

    @classmethod
    def of(cls, trajectory: Trajectory, task: JsonObject, state: Json = None) -> Episode:
        """Return the view of a scored trajectory, such as one read from a run.

        Args:
            trajectory: The record.
            task: The row of its task.
            state: The environment's final state.
        """
        turns = copy.deepcopy(trajectory.turns)
        last = turns[-1].action if turns else None
        return cls(
            task=copy.deepcopy(task),
            prompt=copy.deepcopy(trajectory.prompt),
            turns=turns,
            calls=tuple(call for turn in turns for call in _calls(turn)),
            answer=str(last["content"]) if last is not None and not last["tool_calls"] else None,
            stop_reason=trajectory.stop_reason,
            reward=trajectory.reward or 0.0,
            terms=dict(trajectory.reward_terms),
            state=state,
        )

    @property
    def messages(self) -> tuple[Message, ...]:
        """The whole conversation, in order; a call has a name and its arguments, or what could not be read."""
        return (*self.prompt, *(message for turn in self.turns for message in _messages(turn)))


def _messages(turn: Turn) -> Iterator[Message]:
    yield {"role": "assistant", **turn.action}
    yield from turn.messages


def _calls(turn: Turn) -> Iterator[CallRecord]:
    """Yield a turn's calls with their results: by place where there is one for each, else by id."""
    calls, by_id = turn.action["tool_calls"], {message.get("tool_call_id"): message for message in turn.messages}
    by_place = turn.messages if len(turn.messages) == len(calls) else ()
    for place, call in enumerate(calls):
        result = by_place[place] if by_place else by_id.get(call["id"], {})
        content = result.get("content") or ""
        told = content if isinstance(content, str) else json.dumps(content)
        if "error" in call:
            error: str | None = str(call["error"]["type"])
        else:
            error = error_type(told) if result.get("is_error") else None
        yield CallRecord(
            name=str(call.get("name") or ""),
            arguments=None if "error" in call else call["arguments"],
            result=told,
            error=error,
        )
