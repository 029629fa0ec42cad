"""Episodes as an Inspect log: samples with messages, model and tool events, state changes, scores.

A group is one sample with an epoch for each of its episodes. Inspect's own package checks and writes the log; tokens,
masks and advantages, which it has no place for, stand in metadata.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from agentgrpo.errors import UserError
from agentgrpo.exchange.plain import dump, moment, plain
from agentgrpo.store.rows import StoredEpisode
from agentgrpo.types import Json, JsonObject, Message, StopReason, Trajectory, Turn

_LIMITS = {
    StopReason.MAX_TURNS: "turn",
    StopReason.MAX_TOKENS: "token",
    StopReason.CONTEXT_FULL: "context",
    StopReason.DEADLINE: "time",
}
_ROLES = {"developer": "system", "system": "system", "assistant": "assistant", "tool": "tool"}


def write_log(path: Path, name: str, episodes: Iterable[StoredEpisode], *, model: str | None) -> int:
    """Write a log and return how many samples it has; all of them are in memory until then.

    Raises:
        UserError: inspect-ai is not installed.
    """
    library = _library()
    samples = [_sample(stored, library) for stored in episodes]
    _tell_apart(samples)
    library.write(library.EvalLog.model_validate(_log(name, samples, model)), str(path), format="eval")
    return len(samples)


def _tell_apart(samples: Sequence[JsonObject]) -> None:
    """Give samples a name of their own, which Inspect makes a file of: two of one name would be one."""
    seen: set[tuple[str, int]] = set()
    for sample in samples:
        name = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in sample["id"])
        sample["id"] = name if (name, sample["epoch"]) not in seen else f"{name}#{sample['uuid']}"
        seen.add((sample["id"], sample["epoch"]))


def _library() -> SimpleNamespace:
    try:
        from inspect_ai.event import StateEvent
        from inspect_ai.log import EvalLog, write_eval_log
        from inspect_ai.tool import ToolInfo
    except ImportError as error:
        raise UserError(
            f"--format inspect needs Inspect's own package ({error}): pip install 'agentgrpo[inspect]'"
        ) from error
    return SimpleNamespace(EvalLog=EvalLog, write=write_eval_log, StateEvent=StateEvent, ToolInfo=ToolInfo)


def _log(name: str, samples: Sequence[JsonObject], model: str | None) -> JsonObject:
    started = min(sample["started_at"] for sample in samples)
    epochs = max(sample["epoch"] for sample in samples)
    # Logs of one id are taken for tries of one evaluation, of which only the last is listed.
    ids = [name, *(sample["uuid"] for sample in samples)]
    return {
        "version": 2,
        "status": "success",
        "eval": {
            "created": started,
            "task": name,
            "eval_id": _id("eval", *ids),
            "run_id": _id("run", *ids),
            "task_id": _id("task", *ids),
            # Times the epochs it is how many Inspect expects: groups of unequal size would count as unfinished.
            "dataset": {"name": name, "samples": -(-len(samples) // epochs)},
            "model": model or "unknown",
            "config": {"epochs": epochs},
            "metadata": {"written_by": "agentgrpo"},
        },
        "stats": {
            "started_at": started,
            "completed_at": max(sample["completed_at"] for sample in samples),
            "model_usage": _usage_of(samples),
        },
        "results": {
            "total_samples": len(samples),
            "completed_samples": sum(sample.get("error") is None for sample in samples),
            "scores": [_mean(score, samples) for score in _score_names(samples)],
        },
        "samples": list(samples),
    }


def _usage_of(samples: Sequence[JsonObject]) -> JsonObject:
    """Return the tokens of all samples, by model."""
    found: dict[str, Counter[str]] = {}
    for sample in samples:
        for name, usage in sample["model_usage"].items():
            found.setdefault(name, Counter()).update(usage)
    return {name: dict(counts) for name, counts in found.items()}


def _score_names(samples: Sequence[JsonObject]) -> list[str]:
    return list(dict.fromkeys(name for sample in samples for name in sample["scores"]))


def _mean(name: str, samples: Sequence[JsonObject]) -> JsonObject:
    values = [sample["scores"][name]["value"] for sample in samples if name in sample["scores"]]
    numbers = [float(value == "C") if isinstance(value, str) else value for value in values]
    metric = "accuracy" if name == "success" else "mean"
    found = {"name": metric, "value": sum(numbers) / len(numbers)}
    return {"name": name, "scorer": name, "scored_samples": len(numbers), "metrics": {metric: found}}


def _sample(stored: StoredEpisode, library: SimpleNamespace) -> JsonObject:
    trajectory, row = stored.trajectory, stored.row
    key = trajectory.key
    talk = _Talk(trajectory, library)
    events = list(talk.events())
    scores = plain(_scores(stored))
    ended = talk.now()
    events += [
        {"event": "score", "scorer": name, "score": score, **talk.at(trajectory.seconds)}
        for name, score in scores.items()
        if name not in trajectory.reward_terms  # Inspect shows no names there: what a reward is made of is said with it
    ]
    retry = f".{key.attempt}" if key.attempt else ""
    sample = {
        "id": f"{key.phase}/{key.step}/{key.task_id}{retry}",
        "epoch": key.sample + 1,
        "uuid": _id("sample", str(row.id), str(key)),
        "input": _asked_for(talk.prompt),
        "target": "",
        "messages": talk.messages,
        "output": talk.output,
        "scores": scores,
        "model_usage": talk.usage,
        "metadata": _metadata(stored),
        "events": events,
        "started_at": talk.at(0.0)["timestamp"],
        "completed_at": ended,
        "total_time": trajectory.seconds,
        "turn_count": len(trajectory.turns),
    }
    failure = trajectory.failure
    if failure is not None:
        sample["error"] = {"message": f"{failure.boundary}: {failure.cause}", "traceback": "", "traceback_ansi": ""}
    if trajectory.stop_reason in _LIMITS:
        reached = {"turn": row.turns, "token": row.sampled_tokens, "context": row.tokens, "time": row.seconds}
        kind = _LIMITS[trajectory.stop_reason]
        sample["limit"] = {"type": kind, "limit": reached[kind], "reason": trajectory.stop_reason}
    found: JsonObject = plain(sample)
    return found


def _scores(stored: StoredEpisode) -> JsonObject:
    """Return what was scored; a number that is none is left out."""
    success, trajectory = stored.row.success, stored.trajectory
    said = trajectory.turns[-1].action if trajectory.turns else {}
    answer = said["content"] if said and not said["tool_calls"] and isinstance(said["content"], str) else None
    told = {"answer": answer, "explanation": f"ended: {trajectory.stop_reason}"}
    verdict = {} if success is None else {"success": {"value": "C" if success else "I", **told}}
    numbers = {"reward": stored.row.reward, **trajectory.reward_terms}
    scores = {name: {"value": plain(value)} for name, value in numbers.items() if plain(value) is not None}
    if "reward" in scores and trajectory.reward_terms:
        made_of = ", ".join(f"{name} {value:g}" for name, value in trajectory.reward_terms.items())
        scores["reward"]["explanation"] = f"reward, of {made_of}"
    return verdict | scores


def _asked_for(prompt: Sequence[Message]) -> list[Message]:
    """Return what was asked, which Inspect lists a sample by, without what every episode is told."""
    return [message for message in prompt if message["role"] != "system"] or list(prompt)


def _metadata(stored: StoredEpisode) -> JsonObject:
    row, trajectory = stored.row, stored.trajectory
    return {
        "episode": str(row.key),
        "environment": row.env_id,
        "seed": trajectory.seed,
        "policy": str(trajectory.policy),
        "stop_reason": row.stop_reason,
        "advantage": row.advantage,
        "filter_reason": row.filter_reason,
        "forks": row.forks,
        "tokens": row.tokens,
        "sampled_tokens": row.sampled_tokens,
    }


class _Talk:
    """An episode told from its beginning: the messages so far, and what happened between them."""

    def __init__(self, trajectory: Trajectory, library: SimpleNamespace) -> None:
        self._trajectory, self._library = trajectory, library
        self._clock = 0.0
        self._stem = str(trajectory.key)
        self.messages: list[Message] = []
        self.output: JsonObject = {}
        self.usage: dict[str, dict[str, int]] = {}  # tokens so far, by model
        for message in trajectory.prompt:
            self._hear(message, {})
        self.prompt = list(self.messages)
        self._tools = self._known_tools(trajectory.tools)

    def at(self, seconds: float) -> JsonObject:
        """Return when something happened, so many seconds after the beginning."""
        started = self._trajectory.started_at
        return {"timestamp": moment(started + seconds) or moment(0.0), "working_start": seconds}

    def now(self) -> Json:
        return self.at(self._clock)["timestamp"]

    def events(self) -> Iterator[JsonObject]:
        """Yield what happened; `messages`, `output` and `usage` grow with it."""
        first = {"input": _asked_for(self.prompt), "id": self._stem, "target": ""}
        yield {"event": "sample_init", "sample": first, "state": {}, **self.at(0.0)}
        for index, turn in enumerate(self._trajectory.turns):
            yield self._asked(index, turn)
            yield from self._called(turn)
            yield from self._changed(turn)
            self._tools = self._tools if turn.tools is None else self._known_tools(turn.tools)

    def _asked(self, index: int, turn: Turn) -> JsonObject:
        said = self._said(turn.action)
        reason = "max_tokens" if turn.finish_reason == "length" else "tool_calls" if turn.call_count else "stop"
        usage, name = self._usage(index), self._trajectory.policy.name
        if usage is not None:
            self.usage = {name: dict(Counter(self.usage.get(name, {})) + Counter(usage))}
        self.output = {
            "model": name,
            "choices": [{"message": said, "stop_reason": reason}],
            "usage": usage,
            "time": turn.generate_seconds,
        }
        event = {"event": "model", "model": name, "input": list(self.messages), **self._begin()}
        self._clock += turn.generate_seconds
        self.messages.append(said)
        more = {"completed": self.now(), "metadata": self._tokens(index) | {"turn_reward": turn.reward}}
        return event | {"tools": self._tools, "tool_choice": "auto", "config": {}, "output": self.output} | more

    def _begin(self) -> JsonObject:
        return self.at(self._clock)

    def _said(self, action: JsonObject) -> Message:
        calls = [_call(call) for call in action["tool_calls"]]
        content: Json = plain(action["content"])
        if action.get("reasoning"):
            content = [{"type": "reasoning", "reasoning": action["reasoning"]}, {"type": "text", "text": content}]
        return {"role": "assistant", "id": self._next_id(), "content": content, "tool_calls": calls or None}

    def _called(self, turn: Turn) -> Iterator[JsonObject]:
        begun, calls = self._begin(), {call["id"]: call for call in turn.action["tool_calls"]}
        self._clock += turn.env_seconds
        for message in turn.messages:
            heard = self._hear(message, calls)
            if heard["role"] == "tool":
                call = _call(calls[heard["tool_call_id"]])
                event = {"event": "tool", "id": call["id"], "function": call["function"], "message_id": heard["id"]}
                told = {"arguments": call["arguments"], "result": heard["content"], "error": heard.get("error")}
                yield event | told | begun | {"completed": self.now()}

    def _changed(self, turn: Turn) -> Iterator[JsonObject]:
        diff = plain(turn.state_diff or ())
        if diff:
            try:
                self._library.StateEvent.model_validate({"changes": diff})
            except ValueError:  # no JSON Patch: shown as it is
                yield {"event": "info", "source": "state_diff", "data": diff, **self._begin()}
            else:
                yield {"event": "state", "changes": diff, **self._begin()}

    def _hear(self, message: Message, calls: JsonObject) -> Message:
        role, content = _ROLES.get(str(message.get("role")), "user"), _content(message.get("content"))
        heard: Message = {"role": role, "id": self._next_id(), "content": content}
        if role == "tool" and str(message.get("tool_call_id")) not in calls:
            heard["role"] = "user"
        elif role == "tool":
            heard |= {"tool_call_id": message["tool_call_id"], "function": _name(calls[message["tool_call_id"]])}
            if message.get("is_error"):
                heard["error"] = {"type": "unknown", "message": content if isinstance(content, str) else dump(content)}
        self.messages.append(heard)
        return heard

    def _next_id(self) -> str:
        return f"{self._stem}#{len(self.messages)}"

    def _usage(self, index: int) -> dict[str, int] | None:
        spans = self._trajectory.spans
        spoken = next((i for i, span in enumerate(spans) if span.sampled and span.turn == index), None)
        if spoken is None:
            return None
        sizes = [len(spans[i].token_ids) for i in self._trajectory.path(spoken)]
        return {"input_tokens": sum(sizes[:-1]), "output_tokens": sizes[-1], "total_tokens": sum(sizes)}

    def _tokens(self, index: int) -> JsonObject:
        for span in self._trajectory.spans:
            if span.sampled and span.turn == index:
                return {"completion_ids": span.token_ids, "rollout_logprobs": span.logprobs}
        return {}

    def _known_tools(self, tools: Sequence[JsonObject]) -> list[JsonObject]:
        return [self._tool(plain(tool)) for tool in tools]

    def _tool(self, tool: JsonObject) -> JsonObject:
        function = tool.get("function")
        function = function if isinstance(function, dict) else {}
        told = {"name": str(function.get("name") or "?"), "description": str(function.get("description") or "")}
        full = told | {"parameters": function.get("parameters") or {}}
        try:
            self._library.ToolInfo.model_validate(full)
        except ValueError:  # a schema Inspect's models do not know
            return told
        return full


def _call(call: JsonObject) -> JsonObject:
    told = {"id": call["id"], "function": _name(call), "type": "function"}
    if "error" in call:
        return told | {"arguments": {"unreadable": call["raw"]}, "parse_error": call["error"]["message"]}
    return told | {"arguments": call["arguments"]}


def _name(call: JsonObject) -> str:
    return str(call.get("name") or "unreadable")


def _content(content: Any) -> Json:
    if isinstance(content, list) and content and all(isinstance(part, dict) and "text" in part for part in content):
        return [{"type": "text", "text": str(part["text"])} for part in content]
    return content if isinstance(content, str) else "" if content is None else dump(plain(content))


def _id(*parts: str) -> str:
    """Return an id that is the same each time the same thing is written."""
    return sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()[:22]
