"""Recorded tokens made again: prompts rendered, answers parsed and spans joined as if the tools had answered the same.

No tool runs and no model is loaded: what is compared is the way from messages to tokens and back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from agentgrpo.chat import Chat
from agentgrpo.errors import ParseFailure
from agentgrpo.replay.compare import Divergence, Replayed
from agentgrpo.replay.said import as_generation, said_in, unfinished
from agentgrpo.rollout.record import Recorder
from agentgrpo.rollout.token_path import TokenPath
from agentgrpo.store.rows import StoredEpisode
from agentgrpo.types import Failure, Span, StopReason, Trajectory

CHECKED = ("prompts", "calls", "tokens", "masks")
_AROUND = 8  # tokens that are shown from the first one that differs
TEXT_ONLY = "a chat model behind an endpoint played it, as text"
_NO_OBSERVATIONS = "it was recorded before observations were kept as messages: run its environment instead"


def compare_tokens(stored: StoredEpisode, chat: Chat) -> Replayed:
    """Make an episode's tokens again from its messages and compare them with its record."""
    trajectory = stored.trajectory
    problem = _problem(trajectory)
    result = Replayed(episode=stored.row.id, key=trajectory.key, turns=len(trajectory.turns), problem=problem)
    if problem is not None:
        return result
    found = next(_differences(trajectory, retrace(trajectory, chat), chat), None)
    return replace(result, checked=CHECKED, divergence=found)


def retrace(trajectory: Trajectory, chat: Chat) -> Trajectory:
    """Return an episode with its actions parsed and its spans made again, or with the failure that came between."""
    recorder = Recorder(key=trajectory.key, env_id=trajectory.env_id, seed=trajectory.seed, policy=trajectory.policy)
    try:
        _retrace(trajectory, recorder, TokenPath(recorder, chat))
    except ParseFailure as error:
        return recorder.freeze(StopReason.FAILED, Failure(boundary=error.boundary, cause=str(error)))
    return recorder.freeze(trajectory.stop_reason)


def _retrace(trajectory: Trajectory, recorder: Recorder, path: TokenPath) -> None:
    tools, last = trajectory.tools, max(span.turn for span in trajectory.spans)
    path.begin(trajectory.prompt, tools)
    for given, turn in zip(said_in(trajectory), trajectory.turns, strict=True):
        action = turn.action
        if given.generation is not None:
            action = path.read(given.generation.token_ids).to_message()
            path.add_sampled(given.generation, given.policy_version)
        else:
            path.add_written(action)
        recorder.turns.append(replace(turn, action=action))
        tools = turn.tools or tools
        if last >= len(recorder.turns):  # another prompt followed
            path.listen(turn.action, turn.messages, tools)
    left = unfinished(trajectory)
    if left is not None:
        path.add_sampled(as_generation(left, "length"), left.policy_version)


def _problem(trajectory: Trajectory) -> str | None:
    if trajectory.is_text:
        return TEXT_ONLY
    if not trajectory.spans:
        return "no model played it, or it broke before its first prompt: it has no tokens to check"
    last = max(span.turn for span in trajectory.spans)
    return _NO_OBSERVATIONS if any(not turn.messages for turn in trajectory.turns[:last]) else None


def _differences(recorded: Trajectory, again: Trajectory, chat: Chat) -> Iterator[Divergence]:
    for expected, got in zip(recorded.spans, again.spans, strict=False):
        number = expected.turn + 1
        if (expected.token_ids, expected.parent, expected.turn) != (got.token_ids, got.parent, got.turn):
            known, found = _span(expected, got, chat), _span(got, expected, chat)
            yield Divergence(turn=number, what="tokens", expected=known, got=found)
        if expected.sampled != got.sampled:
            yield Divergence(turn=number, what="loss mask", expected=int(expected.sampled), got=int(got.sampled))
        if expected.sampled and expected.turn < min(len(recorded.turns), len(again.turns)):
            action, read = recorded.turns[expected.turn].action, again.turns[expected.turn].action
            if action != read:
                yield Divergence(turn=number, what="calls", expected=action, got=read)
    if again.failure is not None and recorded.failure is None:
        yield Divergence(turn=len(again.turns) + 1, what="rendering", expected="a prompt", got=again.failure.cause)
    elif again.failure is None and len(recorded.spans) != len(again.spans):
        yield Divergence(turn=len(again.turns), what="spans", expected=len(recorded.spans), got=len(again.spans))


def _span(span: Span, other: Span, chat: Chat) -> str:
    """Return the tokens of a span from the first on that another one does not have, with their text."""
    pairs = zip(span.token_ids, other.token_ids, strict=False)
    shared = min(len(span.token_ids), len(other.token_ids))
    first = next((i for i, (a, b) in enumerate(pairs) if a != b), shared)
    ids = span.token_ids[first : first + _AROUND]
    return f"token {first} of {len(span.token_ids)}, after span {span.parent}: {list(ids)} {chat.decode(ids)!r}"
