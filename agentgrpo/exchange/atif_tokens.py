"""Token ids in ATIF: each step of the agent holds the prompt the engine saw and what was sampled, with its logprobs.

The tree of spans is kept beside it, by sizes, so that every token comes back into its place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from agentgrpo.exchange.atif import Metrics
from agentgrpo.exchange.atif_extra import SpanExtra, TokensExtra, own, under_key
from agentgrpo.rollout.record import Recorder
from agentgrpo.store.rows import StoredEpisode
from agentgrpo.types import EpisodeKey, Generation, JsonObject, Policy, Span, Trajectory, Turn

Learned: TypeAlias = Mapping[str, Mapping[int, Sequence[float]]]  # by name, then by span: one for each of its tokens

LEARNED = ("learner_logprobs", "entropies")  # what the learner says of sampled tokens
_NOBODY = EpisodeKey(phase="train", step=0, task_id="", sample=0)
_TURN = Turn(action={"content": "", "tool_calls": []}, messages=(), reward=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """What a document says about tokens: the metrics of each turn (None: text only), and the table of spans."""

    metrics: tuple[JsonObject | None, ...]
    spans: tuple[JsonObject, ...]

    @property
    def prompt_total(self) -> int:
        return sum(metrics["prompt_tokens"] for metrics in self.metrics if metrics)


def to_tokens(stored: StoredEpisode) -> Tokens:
    """Return the tokens of an episode as a document holds them. What is not finite throughout is left out."""
    trajectory = stored.trajectory
    learned = {
        "learner_logprobs": stored.learner_logprobs_of_spans() if _is_finite(stored.learner_logprobs) else {},
        "entropies": stored.entropies_of_spans() if _is_finite(stored.entropies) else {},
    }
    spoken = _first_sampled(trajectory)
    metrics = []
    held: set[int] = set()
    for turn in range(len(trajectory.turns)):
        index = spoken.get(turn)
        path = [] if index is None else trajectory.path(index)
        metrics.append(_metrics(trajectory, path, learned) if path else None)
        held.update(path)
    said = {spoken[turn] for turn in range(len(trajectory.turns)) if turn in spoken}
    rows = [_row(i, span, held, said, learned) for i, span in enumerate(trajectory.spans)]
    return Tokens(metrics=tuple(metrics), spans=tuple(rows))


def _first_sampled(trajectory: Trajectory) -> dict[int, int]:
    found: dict[int, int] = {}
    for index, span in enumerate(trajectory.spans):
        if span.sampled:
            found.setdefault(span.turn, index)
    return found


def _metrics(trajectory: Trajectory, path: Sequence[int], learned: Learned) -> JsonObject:
    *prompt, index = path
    ids = [token for i in prompt for token in trajectory.spans[i].token_ids]
    span = trajectory.spans[index]
    extra = under_key(spans=list(path), **{name: _list(learned[name].get(index)) for name in LEARNED})
    counts = {"prompt_tokens": len(ids), "completion_tokens": len(span.token_ids)}
    logprobs = {"logprobs": _list(span.logprobs)} if _is_finite(span.logprobs) else {}
    return counts | {"prompt_token_ids": ids, "completion_token_ids": list(span.token_ids), **logprobs, "extra": extra}


def _row(index: int, span: Span, held: set[int], said: set[int], learned: Learned) -> JsonObject:
    row: JsonObject = {"parent": span.parent, "turn": span.turn, "sampled": span.sampled, "tokens": len(span.token_ids)}
    more = {
        "policy_version": span.policy_version,
        "token_ids": None if index in held else list(span.token_ids),
        "logprobs": _list(span.logprobs) if index not in said and _is_finite(span.logprobs) else None,
    }
    more |= {name: None if index in said else _list(learned[name].get(index)) for name in LEARNED}
    return row | {name: value for name, value in more.items() if value is not None}


def read_tokens(rows: Sequence[SpanExtra], metrics: Sequence[Metrics | None]) -> tuple[tuple[Span, ...], Learned]:
    """Return the spans, and what the learner says of those it says something of.

    Raises:
        ValueError: the table of spans and the steps do not go together.
    """
    ids: dict[int, list[int]] = {}
    logprobs: dict[int, list[float]] = {}
    learned: dict[str, dict[int, list[float]]] = {name: {} for name in LEARNED}
    for said in metrics:
        tokens = None if said is None else own(said.extra)
        if said is not None and tokens is not None:
            _take(rows, said, TokensExtra.model_validate(tokens), ids, logprobs, learned)
    for index, row in enumerate(rows):
        ids.update({} if row.token_ids is None else {index: row.token_ids})
        logprobs.update({} if row.logprobs is None else {index: row.logprobs})
        _note(learned, index, row)
        _check(index, row, ids.get(index), logprobs.get(index))
    spans = tuple(_span(row, ids[index], logprobs.get(index)) for index, row in enumerate(rows))
    return spans, learned


def _note(learned: Mapping[str, dict[int, list[float]]], index: int, said: SpanExtra | TokensExtra) -> None:
    for name in LEARNED:
        values = getattr(said, name)
        if values is not None:
            learned[name][index] = values


def _take(
    rows: Sequence[SpanExtra],
    said: Metrics,
    tokens: TokensExtra,
    ids: dict[int, list[int]],
    logprobs: dict[int, list[float]],
    learned: Mapping[str, dict[int, list[float]]],
) -> None:
    """Cut a step's prompt and completion into spans."""
    prompt, completion, path = said.prompt_token_ids or [], said.completion_token_ids or [], tokens.spans
    if not path or not all(0 <= index < len(rows) for index in path):
        raise ValueError(f"metrics name the spans {path}, expected numbers of the {len(rows)} spans of this episode")
    everything, start = [*prompt, *completion], 0
    for index in path:
        end = start + rows[index].tokens
        ids[index] = everything[start:end]
        start = end
    if start != len(everything) or rows[path[-1]].tokens != len(completion):
        raise ValueError(
            f"a step holds {len(prompt)} + {len(completion)} tokens, but its spans {path} have "
            f"{start - rows[path[-1]].tokens} + {rows[path[-1]].tokens}"
        )
    if said.logprobs is not None:
        logprobs[path[-1]] = said.logprobs
    _note(learned, path[-1], tokens)


def _check(index: int, row: SpanExtra, ids: list[int] | None, logprobs: list[float] | None) -> None:
    if ids is None or len(ids) != row.tokens:
        raise ValueError(f"spans[{index}] has {row.tokens} tokens, but {'no' if ids is None else len(ids)} ids")
    if not -1 <= row.parent < index:
        raise ValueError(f"spans[{index}].parent is {row.parent}, expected an earlier span, or -1")
    if logprobs is not None and len(logprobs) != row.tokens:
        raise ValueError(f"spans[{index}] has {row.tokens} tokens, but {len(logprobs)} logprobs")


def _span(row: SpanExtra, ids: Sequence[int], logprobs: Sequence[float] | None) -> Span:
    return Span(
        parent=row.parent,
        token_ids=tuple(ids),
        sampled=row.sampled,
        logprobs=None if logprobs is None else tuple(logprobs),
        policy_version=row.policy_version,
        turn=row.turn,
    )


def spans_of_prompts(turns: Sequence[Metrics]) -> tuple[tuple[Span, ...], int]:
    """Return the tree of spans behind prompts and completions that say nothing about one, and how often it forks.

    Each prompt goes on from the longest path of spans it begins with, as when an episode is recorded.
    """
    recorder = Recorder(key=_NOBODY, env_id="", seed=0, policy=Policy())
    known: list[int] = []
    for said in turns:
        prompt, completion = list(said.prompt_token_ids or ()), tuple(said.completion_token_ids or ())
        if not recorder.spans:
            recorder.start((), (), prompt)
        elif prompt[: len(known)] == known:
            recorder.extend(prompt[len(known) :])
        else:
            recorder.fork(prompt)
        logprobs = tuple(said.logprobs) if said.logprobs is not None else ()
        recorder.sampled(Generation(token_ids=completion, logprobs=logprobs, finish_reason="stop"))
        recorder.turns.append(_TURN)  # so that the next span counts as the next turn's
        known = [*prompt, *completion]
    has_all = [len(span.logprobs or ()) == len(span.token_ids) for span in recorder.spans]
    spans = (
        s if all_known else replace(s, logprobs=None) for s, all_known in zip(recorder.spans, has_all, strict=True)
    )
    return tuple(spans), recorder.forks


def _list(values: Sequence[float] | None) -> list[float] | None:
    return None if values is None else list(values)


def _is_finite(values: Sequence[float] | None) -> bool:
    return values is not None and all(map(math.isfinite, values))
