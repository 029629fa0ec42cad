"""An episode as an ATIF document: nothing of it is lost, and every other reader understands most of it.

What the format has no place for stands in its `extra` members (`atif_extra`). It knows neither files nor runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from agentgrpo.exchange.atif import VERSION, Document
from agentgrpo.exchange.atif_extra import FORMAT, KEY, number, objects, under_key
from agentgrpo.exchange.atif_read import IMPORTED, action_of, imported_of, messages_of, observed
from agentgrpo.exchange.atif_tokens import Tokens, to_tokens
from agentgrpo.exchange.plain import dump, moment, plain
from agentgrpo.store.rows import EpisodeRow, StoredEpisode
from agentgrpo.types import JsonObject, Message, Trajectory, Turn

_SOURCES = {"system": "system", "developer": "system", "user": "user", "assistant": "agent"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The run an episode is of."""

    name: str
    model_name: str | None = None
    parent_of: Callable[[EpisodeRow], str | None] = lambda row: None  # the text of its parent's key, if that is there


def to_atif(stored: StoredEpisode, origin: Origin) -> JsonObject:
    """Return the document of an episode, valid and plain."""
    trajectory, tokens = stored.trajectory, to_tokens(stored)
    imported = imported_of(trajectory)
    parent = imported.get("parent", _parent(stored, origin))
    steps, owners = _steps(trajectory, tokens, copied=parent["turns"] if parent else 0)
    document = {
        "schema_version": VERSION,
        "session_id": imported.get("session_id", origin.name),
        "trajectory_id": imported.get("trajectory_id", f"{origin.name}/{trajectory.key}"),
        "agent": _agent(trajectory, imported, origin),
        "steps": steps,
        "notes": imported.get("notes"),
        "final_metrics": _final(trajectory, tokens, len(steps)),
        "continued_trajectory_ref": imported.get("continued_trajectory_ref"),
        "extra": {KEY: _episode(stored, parent, tokens)},
    }
    written: JsonObject = plain({name: value for name, value in document.items() if value is not None})
    _keep_the_rest(written, owners)
    return written


def _agent(trajectory: Trajectory, imported: JsonObject, origin: Origin) -> JsonObject:
    agent = {
        "name": trajectory.policy.name,
        "version": imported.get("agent_version", str(trajectory.policy.version)),
        "model_name": imported.get("model_name", origin.model_name),
        "tool_definitions": list(trajectory.tools) or None,
    }
    return {name: value for name, value in agent.items() if value is not None}


def _final(trajectory: Trajectory, tokens: Tokens, steps: int) -> JsonObject:
    endpoint = trajectory.info.get("endpoint") if trajectory.is_text else None
    counted = endpoint if isinstance(endpoint, dict) else {}
    known = not trajectory.is_text
    totals = {
        "total_prompt_tokens": tokens.prompt_total if known else counted.get("prompt_tokens"),
        "total_completion_tokens": trajectory.sampled_count if known else counted.get("completion_tokens"),
        "total_steps": steps,
    }
    return {name: value for name, value in totals.items() if isinstance(value, int)}


def _episode(stored: StoredEpisode, parent: JsonObject | None, tokens: Tokens) -> JsonObject:
    trajectory, row, key = stored.trajectory, stored.row, stored.trajectory.key
    failure = trajectory.failure
    told = {
        "format": FORMAT,
        "key": {name: getattr(key, name) for name in ("phase", "step", "task_id", "sample", "attempt")},
        "env_id": trajectory.env_id,
        "seed": trajectory.seed,
        "policy_version": trajectory.policy.version,
        "stop_reason": trajectory.stop_reason,
        "reward": number(trajectory.reward),
        "success": row.success,
        "reward_terms": {name: number(value) for name, value in trajectory.reward_terms.items()},
        "failure": failure and {"boundary": failure.boundary, "cause": failure.cause},
        "advantage": row.advantage,
        "filter_reason": row.filter_reason,
        "forks": trajectory.forks,
        "parent": parent,
        "started_at": trajectory.started_at,
        "seconds": trajectory.seconds,
        "info": {name: value for name, value in trajectory.info.items() if name != IMPORTED},
        "spans": list(tokens.spans),
    }
    return {name: value for name, value in told.items() if value is not None}


def _parent(stored: StoredEpisode, origin: Origin) -> JsonObject | None:
    parent = stored.trajectory.parent
    if parent is None:
        return None
    known = origin.parent_of(stored.row)
    return ({} if known is None else {"trajectory_id": f"{origin.name}/{known}"}) | {"turns": parent.turns}


def _steps(
    trajectory: Trajectory, tokens: Tokens, *, copied: int
) -> tuple[list[JsonObject], list[Message | Turn | None]]:
    """Return the steps, and beside each the message or the turn it stands for (None: a turn's further messages)."""
    steps: list[JsonObject] = []
    owners: list[Message | Turn | None] = []

    def add(step: JsonObject, owner: Message | Turn | None) -> None:
        steps.append({"step_id": len(steps) + 1, **step})
        owners.append(owner)

    for message in trajectory.prompt:
        add(_message_step(message), message)
    for index, turn in enumerate(trajectory.turns):
        add(_turn_step(index, turn, tokens.metrics[index], is_copied=index < copied), turn)
        for message in _others(turn):
            add(_message_step(message), None)
    if not steps:  # it broke before anything was said, and the format asks for a step
        add({"source": "system", "message": "", "extra": under_key(placeholder=True)}, None)
    started = moment(trajectory.started_at)
    if started is not None:
        steps[0] = {"step_id": 1, "timestamp": started, **steps[0]}
    return steps, owners


def _message_step(message: Message) -> JsonObject:
    role, content = str(message.get("role")), message.get("content")
    if role == "tool":  # nothing in this document made the call
        return {"source": "system", "message": "", "observation": {"results": [{"content": _content(content)}]}}
    step: JsonObject = {"source": _SOURCES.get(role, "user"), "message": _content(content)}
    return step | ({"is_copied_context": True} if role == "assistant" else {})


def _turn_step(index: int, turn: Turn, metrics: JsonObject | None, *, is_copied: bool) -> JsonObject:
    action = turn.action
    calls = [_call(call) for call in action["tool_calls"]]
    results = [_result(message) for message in _answers(turn)]
    step = {
        "source": "agent",
        "message": action["content"],
        "reasoning_content": action.get("reasoning"),
        "tool_calls": calls or None,
        "observation": {"results": results} if results else None,
        "metrics": metrics,
        "is_copied_context": is_copied or None,
        "llm_call_count": 1,
        "extra": under_key(
            turn=index,
            reward=number(turn.reward),
            state_hash=turn.state_hash,
            state_diff=objects(turn.state_diff),
            generate_seconds=turn.generate_seconds,
            env_seconds=turn.env_seconds,
            finish_reason=turn.finish_reason,
            tools=objects(turn.tools),
        ),
    }
    return {name: value for name, value in step.items() if value is not None}


def _call(call: JsonObject) -> JsonObject:
    known = {"tool_call_id": call["id"], "function_name": call.get("name") or "", "arguments": {}}
    if "error" in call:
        return known | {"extra": under_key(raw=call["raw"], error=call["error"], name=call.get("name"))}
    return known | {"arguments": call["arguments"]}


def _answers(turn: Turn) -> list[Message]:
    """Return what tools answered to the calls of this turn."""
    ids = {call["id"] for call in turn.action["tool_calls"]}
    return [m for m in turn.messages if m.get("role") == "tool" and str(m.get("tool_call_id")) in ids]


def _others(turn: Turn) -> list[Message]:
    answers = _answers(turn)
    return [message for message in turn.messages if not any(message is answer for answer in answers)]


def _result(message: Message) -> JsonObject:
    told = {name: message.get(name) for name in ("name", "is_error")}
    is_told = isinstance(told["name"], str | None) and isinstance(told["is_error"], bool | None)
    extra = under_key(**told) if is_told else {KEY: {}}
    result = {"source_call_id": str(message["tool_call_id"]), "content": _content(message.get("content"))}
    return result | ({"extra": extra} if extra[KEY] else {})


def _content(content: Any) -> str | list[JsonObject]:
    """Return content as the format has it: a string, or parts of text."""
    if isinstance(content, list) and content and all(map(_is_text, content)):
        return content
    return content if isinstance(content, str) else "" if content is None else dump(plain(content))


def _is_text(part: Any) -> bool:
    return (
        isinstance(part, dict)
        and part.keys() == {"type", "text"}
        and part["type"] == "text"
        and isinstance(part["text"], str)
    )


def _keep_the_rest(document: JsonObject, owners: Sequence[Message | Turn | None]) -> None:
    """Put beside a step whatever reading it back would not give."""
    checked = Document.model_validate(document).steps
    for place, owner in enumerate(owners):
        step, data = checked[place], document["steps"][place]
        if isinstance(owner, Turn):
            extra, following = data["extra"][KEY], checked[place + 1 : place + 1 + len(_others(owner))]
            action, messages = plain(owner.action), plain(owner.messages)
            if action_of(step) != action:
                extra["action"] = action
            if [*observed(step), *_said(following)] != messages:
                extra["messages"] = messages
        elif owner is not None and messages_of(step) != [plain(owner)]:
            data["extra"] = under_key(message=plain(owner))


def _said(steps: Iterable[Any]) -> list[Message]:
    return [message for step in steps for message in messages_of(step)]
