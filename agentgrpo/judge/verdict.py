"""A judge's answer, read strictly: what is not of the form asked for, and nothing besides, is no verdict.

It knows text and numbers, not what was judged.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from agentgrpo.calls import Flaw, flaw, loads
from agentgrpo.tooling import one_line
from agentgrpo.types import Json, JsonObject

SCORE_FORM = '{"reason": "one or two sentences", "score": 0.0 to 1.0}'
RANKING_FORM = '{"reason": "one or two sentences", "ranking": [[2], [1, 3]]}'
LONGEST_REASON = 1000  # characters kept

_THOUGHTS = re.compile(r"\s*<think>.*?</think>", re.DOTALL)  # of servers that leave them in the answer
_FENCE = re.compile(r"```(?:json)?\s*\n(.*)\n\s*```", re.DOTALL)


class Malformed(ValueError):
    """An answer is not what was asked for; the message says how, for the judge to read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a judge found: a score in [0, 1], and why."""

    score: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """What a judge found of several: places from best to worst, numbers from 1; who shares a place is equally good."""

    places: tuple[tuple[int, ...], ...]
    reason: str


def read_score(text: str) -> Verdict:
    """Return the verdict in an answer.

    Raises:
        Malformed: there is none.
    """
    answer = _read(text, "score", SCORE_FORM)
    score = answer["score"]
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
        raise Malformed(f"score is {_show(score)}, expected a number from 0 to 1")
    return Verdict(score=float(score), reason=_reason(answer))


def read_ranking(text: str, count: int) -> Ranking:
    """Return the ranking of `count` attempts in an answer: each of them exactly once.

    Raises:
        Malformed: there is none.
    """
    answer = _read(text, "ranking", RANKING_FORM)
    places = answer["ranking"]
    if not isinstance(places, list):
        raise Malformed(f"ranking is {_show(places)}, expected a list of lists of numbers")
    # A number that shares its place with nobody is often written without its list: that can only be meant one way.
    groups = [place if isinstance(place, list) else [place] for place in places]
    named = [number for group in groups for number in group]
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in named) or not all(groups):
        raise Malformed(f"ranking is {_show(places)}, expected a list of lists of the attempts' numbers")
    if sorted(named) != list(range(1, count + 1)):
        raise Malformed(
            f"ranking has the attempts {_show(sorted(named))}, expected each from 1 to {count} exactly once"
        )
    return Ranking(places=tuple(map(tuple, groups)), reason=_reason(answer))


def rank_rewards(places: Sequence[Sequence[int]], sizes: Sequence[int]) -> list[float]:
    """Return the reward of each attempt: the share of the others it beats, a tie counting half.

    `(worse + (equal - 1) / 2) / (G - 1)`: 1 for a sole best, 0 for a sole worst, 0.5 for all when all are equal. The
    mean over a group is always 0.5.

    Args:
        places: From best to worst, numbers from 1.
        sizes: How many episodes each attempt stands for (those that are the same to the letter are shown once).

    Raises:
        ValueError: they stand for fewer than two episodes, which cannot be ranked.
    """
    total = sum(sizes)
    if total < 2:
        raise ValueError(f"{total} episodes cannot be ranked")
    rewards, worse = [0.0] * len(sizes), total
    for place in places:
        equal = sum(sizes[number - 1] for number in place)
        worse -= equal
        for number in place:
            rewards[number - 1] = (worse + (equal - 1) / 2) / (total - 1)
    return rewards


def _read(text: str, key: str, form: str) -> JsonObject:
    plain = _THOUGHTS.sub("", text, count=1).strip() if text.lstrip().startswith("<think>") else text.strip()
    fenced = _FENCE.fullmatch(plain)
    value = loads(fenced[1] if fenced else plain)
    problem = value if isinstance(value, Flaw) else flaw(value)
    if problem is not None:
        raise Malformed(f"{problem.message}; expected nothing but {form}")
    if not isinstance(value, dict) or value.keys() - {"reason"} != {key}:
        raise Malformed(f"got {_show(value)}, expected nothing but {form}")
    return value


def _reason(answer: JsonObject) -> str:
    reason = answer.get("reason", "")
    if not isinstance(reason, str):
        raise Malformed(f"reason is {_show(reason)}, expected a text")
    return reason[:LONGEST_REASON]


def _show(value: Json) -> str:
    return one_line(repr(value)[:300], 120)
