"""ATIF documents as episodes: our own come back as they were, others as far as the format tells.

It knows neither files nor runs. What a document does not tell (a reward, a seed) stays unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentgrpo.exchange.atif import ContentPart, Document, Metrics, Step
from agentgrpo.exchange.atif import ToolCall as Call
from agentgrpo.exchange.atif_extra import (
    CallExtra,
    EpisodeExtra,
    MessageExtra,
    ParentExtra,
    ResultExtra,
    TurnExtra,
    own,
)
from agentgrpo.exchange.atif_tokens import LEARNED, read_tokens, spans_of_prompts
from agentgrpo.exchange.episode import Imported, ending_of, tells_error
from agentgrpo.store.episodes import TrainingRow
from agentgrpo.types import (
    EpisodeKey,
    Failure,
    JsonObject,
    Message,
    Policy,
    Span,
    Trajectory,
    Turn,
)

IMPORTED = "imported"  # in an episode's info: what only the document it came from knew

_Turn = tuple[Step, list[Step]]  # with the steps up to the next one


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A document taken apart: what came before the agent's first turn, then its turns."""

    prompt: tuple[Step, ...]
    turns: tuple[_Turn, ...]

    @classmethod
    def of(cls, document: Document) -> Parts:
        """Take a document apart.

        Raises:
            ValueError: its order is none an episode has.
        """
        is_own = own(document.extra) is not None
        prompt: list[Step] = []
        turns: list[_Turn] = []
        for step in document.steps:
            if _is_turn(step, is_own):
                turns.append((step, []))
            elif turns:
                turns[-1][1].append(step)
            else:
                prompt.append(step)
        return cls(prompt=tuple(prompt), turns=tuple(turns))


def _is_turn(step: Step, is_own: bool) -> bool:
    if is_own:
        return "turn" in (own(step.extra) or {})
    return step.source == "agent" and not step.is_copied_context


def read_atif(data: JsonObject, *, keeps_tokens: bool) -> Imported:
    """Return the episode of a document.

    Args:
        data: The document.
        keeps_tokens: Whether to keep the token ids of a document that is not our own: they mean something only to
            one who knows the tokenizer.

    Raises:
        ValueError: it is no valid document, or holds what an episode cannot (pydantic's own is one too).
    """
    document = Document.model_validate(data)
    told = own(document.extra)
    if told is not None:
        return _read_own(document, EpisodeExtra.model_validate(told), Parts.of(document))
    return _read_other(document, Parts.of(document), keeps_tokens=keeps_tokens)


def _read_own(document: Document, told: EpisodeExtra, parts: Parts) -> Imported:
    spans, learned = read_tokens(told.spans, [step.metrics for step, _ in parts.turns])
    trajectory = Trajectory(
        key=EpisodeKey(**told.key.model_dump()),
        env_id=told.env_id,
        seed=told.seed,
        policy=Policy(name=document.agent.name, version=told.policy_version),
        prompt=tuple(message for step in parts.prompt for message in messages_of(step)),
        tools=tuple(document.agent.tool_definitions or ()),
        spans=spans,
        turns=tuple(_own_turn(step, following) for step, following in parts.turns),
        stop_reason=told.stop_reason,
        reward=told.reward,
        reward_terms=told.reward_terms,
        failure=None if told.failure is None else Failure(**told.failure.model_dump()),
        forks=told.forks,
        started_at=told.started_at,
        seconds=told.seconds,
        info=told.info | {IMPORTED: _imported(document, told.parent)},
    )
    logprobs, entropies = (_in_training_order(trajectory, name, learned[name]) for name in LEARNED)
    training = TrainingRow(
        key=trajectory.key,
        advantage=told.advantage,
        filter_reason=told.filter_reason,
        logprobs=logprobs,
        entropies=entropies,
    )
    is_trained = (told.advantage, told.filter_reason, logprobs, entropies) != (None, None, None, None)
    return Imported(
        trajectory=trajectory,
        training=training if is_trained else None,
        trajectory_id=document.trajectory_id,
        parent=told.parent,
    )


def _in_training_order(trajectory: Trajectory, name: str, learner: Mapping[int, Sequence[float]]) -> list[float] | None:
    if not learner:
        return None
    order = list(dict.fromkeys(i for leaf in trajectory.leaves() for i in trajectory.path(leaf)))
    sampled = [i for i in order if trajectory.spans[i].sampled]
    missing = [i for i in sampled if len(learner.get(i, ())) != len(trajectory.spans[i].token_ids)]
    if missing:
        raise ValueError(f"{name} of spans {missing} are not one for each of their tokens")
    return [value for i in sampled for value in learner[i]]


def _own_turn(step: Step, following: Sequence[Step]) -> Turn:
    told = TurnExtra.model_validate(own(step.extra))
    messages = [*observed(step), *(message for after in following for message in messages_of(after))]
    return Turn(
        action=action_of(step) if told.action is None else told.action,
        messages=tuple(messages if told.messages is None else told.messages),
        reward=told.reward,
        state_hash=told.state_hash,
        state_diff=None if told.state_diff is None else tuple(told.state_diff),
        generate_seconds=told.generate_seconds,
        env_seconds=told.env_seconds,
        finish_reason=told.finish_reason,
        tools=None if told.tools is None else tuple(told.tools),
    )


def _read_other(document: Document, parts: Parts, *, keeps_tokens: bool) -> Imported:
    if not parts.turns:
        raise ValueError("no step of source agent: there is nothing to learn from and nothing to look at")
    _refuse(parts)
    turns = tuple(_other_turn(step, following) for step, following in parts.turns)
    spans, forks = _other_spans(parts) if keeps_tokens else ((), 0)
    info: JsonObject = {IMPORTED: _imported(document, None)}
    trajectory = Trajectory(
        key=EpisodeKey(phase="train", step=0, task_id=document.trajectory_id or document.session_id or "", sample=0),
        env_id="imported",
        seed=0,
        policy=Policy(name=document.agent.name),
        prompt=tuple(message for step in parts.prompt for message in messages_of(step)),
        tools=tuple(document.agent.tool_definitions or ()),
        spans=spans,
        turns=turns,
        stop_reason=ending_of(turns),
        reward=None,
        forks=forks,
        info=info if spans else info | {"endpoint": _endpoint(document)},
    )
    return Imported(trajectory=trajectory, trajectory_id=document.trajectory_id)


def _refuse(parts: Parts) -> None:
    """Refuse what an episode of ours would make something else of."""
    for step, following in parts.turns:
        if step.llm_call_count == 0:
            raise ValueError(f"step {step.step_id} was no model's (llm_call_count 0): it cannot be learned from")
        for after in following:
            if after.source == "agent":
                raise ValueError(f"step {after.step_id} is copied context after the agent's own turns, expected before")


def _other_turn(step: Step, following: Sequence[Step]) -> Turn:
    messages = [*observed(step), *(message for after in following for message in messages_of(after))]
    names = {call.tool_call_id: call.function_name for call in step.tool_calls or ()}
    return Turn(action=action_of(step), messages=tuple(_named(m, names) for m in messages), reward=0.0)


def _named(message: Message, names: dict[str, str]) -> Message:
    """Return what a tool answered with what is known of it: the tool's name, and whether it is an error as ours are."""
    if message["role"] != "tool":
        return message
    return message | {"name": names[message["tool_call_id"]], "is_error": tells_error(message["content"])}


def _other_spans(parts: Parts) -> tuple[tuple[Span, ...], int]:
    metrics = [step.metrics for step, _ in parts.turns]
    if not any(said and said.completion_token_ids for said in metrics):
        return (), 0
    known: list[Metrics] = []
    for (step, _), said in zip(parts.turns, metrics, strict=True):
        if said is None or not said.prompt_token_ids or not said.completion_token_ids:
            raise ValueError(f"step {step.step_id} has no token ids, but others have: expected all of them, or none")
        known.append(said)
    return spans_of_prompts(known)


def _endpoint(document: Document) -> JsonObject:
    totals = document.final_metrics
    return {
        "model": document.agent.model_name or document.agent.name,
        "prompt_tokens": totals and totals.total_prompt_tokens,
        "completion_tokens": totals and totals.total_completion_tokens,
    }


def _imported(document: Document, parent: ParentExtra | None) -> JsonObject:
    told = {
        "session_id": document.session_id,
        "trajectory_id": document.trajectory_id,
        "agent_version": document.agent.version,
        "model_name": document.agent.model_name,
        "notes": document.notes,
        "continued_trajectory_ref": document.continued_trajectory_ref,
        "parent": parent and parent.model_dump(exclude_none=True),
    }
    # session_id, trajectory_id and model_name also as None: an exporting run's own must not take their place.
    kept = ("session_id", "trajectory_id", "model_name")
    return {name: value for name, value in told.items() if value is not None or name in kept}


def imported_of(trajectory: Trajectory) -> JsonObject:
    """Return what only the document an episode came from knew; {} for one that was played here."""
    value = trajectory.info.get(IMPORTED)
    return value if isinstance(value, dict) else {}


def messages_of(step: Step) -> list[Message]:
    """Return the messages a step that is no turn stands for."""
    told = MessageExtra.model_validate(own(step.extra) or {})
    if told.placeholder:
        return []
    if told.message is not None:
        return [told.message]
    role = {"system": "system", "user": "user", "agent": "assistant"}[step.source]
    message: Message = {"role": role, "content": _content(step.message, step)}
    if step.tool_calls:
        message["tool_calls"] = [_wire_call(call) for call in step.tool_calls]
    results = observed(step)
    is_empty = results and step.source != "agent" and not step.message
    return results if is_empty else [message, *results]


def _wire_call(call: Call) -> JsonObject:
    function = {"name": call.function_name, "arguments": call.arguments}
    return {"id": call.tool_call_id, "type": "function", "function": function}


def observed(step: Step) -> list[Message]:
    """Return what came back in a step: answers of tools, or what the environment said by itself."""
    found: list[Message] = []
    for result in step.results:
        content = _content(result.content, step)
        if result.source_call_id is None:
            found.append({"role": "user", "content": content})
            continue
        told = ResultExtra.model_validate(own(result.extra) or {})
        message: Message = {"role": "tool", "tool_call_id": result.source_call_id, "content": content}
        found.append(message | told.model_dump(exclude_none=True))
    return found


def action_of(step: Step) -> JsonObject:
    """Return the action a turn's step stands for."""
    content = _content(step.message, step)
    text = content if isinstance(content, str) else "".join(part["text"] for part in content)
    action: JsonObject = {"content": text, "tool_calls": [_read_call(call) for call in step.tool_calls or ()]}
    return action | ({} if step.reasoning_content is None else {"reasoning": step.reasoning_content})


def _read_call(call: Call) -> JsonObject:
    unread = own(call.extra)
    if unread is None:
        return {"id": call.tool_call_id, "name": call.function_name, "arguments": call.arguments}
    told = CallExtra.model_validate(unread)
    return {"id": call.tool_call_id, "name": told.name, "raw": told.raw, "error": told.error}


def _content(content: str | list[ContentPart] | None, step: Step) -> Any:
    if not isinstance(content, list):
        return content or ""
    for part in content:
        if part.type != "text":
            raise ValueError(f"step {step.step_id} holds {part.type}: agentgrpo reads text alone")
    return [{"type": "text", "text": part.text} for part in content]
