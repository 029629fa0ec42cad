"""What differs between two spans of steps: which tools, kinds of task and endings, the likeliest cause first.

It is arithmetic on sums, and on the effects of tools' calls: a place to look at first, not a proof of cause.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal, TypeAlias

from agentgrpo.store.rows import FacetRow
from agentgrpo.types import JsonObject, Phase
from agentgrpo.viewer.effects import Effect, tool_effects
from agentgrpo.viewer.runs import OpenRun

FAINT = 0.02  # strength below which a shift is not worth a line
PLAIN = 0.1  # difference of a tool's own calls from which on it is a reason to look there
MOST_TOOLS = 6  # whose effects are looked at

Effects: TypeAlias = Mapping[str, tuple[Effect, Effect]]
Reason: TypeAlias = Literal["errors", "effect"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One value of a facet in one span of steps."""

    episodes: int = 0
    scored: int = 0
    successes: int = 0
    calls: int = 0
    errors: int = 0

    def __add__(self, other: Share) -> Share:
        return self._with(other, 1)

    def __sub__(self, other: Share) -> Share:
        return self._with(other, -1)

    def _with(self, other: Share, sign: int) -> Share:
        sums = {f.name: getattr(self, f.name) + sign * getattr(other, f.name) for f in fields(Share)}
        return Share(**sums)

    @property
    def success(self) -> float | None:
        return self.successes / self.scored if self.scored else None

    @property
    def error_rate(self) -> float | None:
        return self.errors / self.calls if self.calls else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """How one value of a facet differs between two spans of steps.

    `strength`, from 0 to 1, says how clearly; `direct`, how much of that is in a tool's own calls, not in the success
    of the episodes that call it; `reason` is what of them differs most.
    """

    facet: str
    value: str
    before: Share
    after: Share
    effects: tuple[Effect, Effect]
    strength: float
    direct: float
    reason: Reason | None


def shifts(
    before: Iterable[FacetRow], after: Iterable[FacetRow], effects: Effects | None = None, *, limit: int = 12
) -> list[Shift]:
    """Return what differs most between the episodes of two spans of steps, the likeliest cause first.

    Four things count: success of the episodes that have a value, both in itself and against all the others (what
    changed for everybody says nothing of this value); failed calls of a tool; how often its calls changed the state;
    how often a stop reason occurs at all. Tools that are called together share their episodes and so their success:
    the one whose own calls differ comes first.

    Args:
        before: Sums of the earlier span.
        after: Sums of the later one.
        effects: What the calls of some tools did in either span.
        limit: Most shifts to return.
    """
    first, second = _shares(before), _shares(after)
    whole = _whole_share(first), _whole_share(second)
    found = []
    for facet, value in first.keys() | second.keys():
        shares = first.get((facet, value), Share()), second.get((facet, value), Share())
        acted = (effects or {}).get(value, _NO_EFFECTS) if facet == "tool" else _NO_EFFECTS
        found.append(_shift(facet, value, shares, whole, acted))
    found.sort(key=lambda shift: (-shift.strength - shift.direct, shift.facet, shift.value))
    return [shift for shift in found if shift.strength > FAINT][:limit]


def suspects(before: Iterable[FacetRow], after: Iterable[FacetRow]) -> list[str]:
    """Return the tools whose calls are worth a look: those whose episodes' success differs most, some of them."""
    first, second = _shares(before), _shares(after)
    most = max((share.episodes for share in second.values()), default=1)
    differ = {
        value: abs(_change(first[facet, value], share) or 0.0) * (share.episodes / most) ** 0.5
        for (facet, value), share in second.items()
        if facet == "tool" and (facet, value) in first
    }
    return sorted((tool for tool in differ if differ[tool] > FAINT), key=lambda tool: (-differ[tool], tool))[
        :MOST_TOOLS
    ]


_NO_EFFECTS = Effect(), Effect()


def _shift(
    facet: str, value: str, shares: tuple[Share, Share], whole: tuple[Share, Share], effects: tuple[Effect, Effect]
) -> Shift:
    part = [share.episodes / max(1, total.episodes) for share, total in zip(shares, whole, strict=True)]
    own, others = _change(*shares), _change(*(total - share for share, total in zip(shares, whole, strict=True)))
    change = _change(*whole) or 0.0
    apart = min(abs(own), abs(own - others)) * part[1] ** 0.5 if own is not None and others is not None else 0.0
    occurring = abs(part[1] - part[0]) if facet == "stop" else 0.0
    fewest = min(share.episodes for share in shares) if facet != "stop" else max(share.episodes for share in shares)
    failing, acting = (_failing(shares, is_fall=change <= 0), _acting(effects)) if facet == "tool" else (0.0, 0.0)
    if (own or 0.0) * change < 0:  # what went the other way is no cause
        failing = acting = 0.0
    direct = max(failing, acting) * part[1] ** 0.5
    return Shift(
        facet=facet,
        value=value,
        before=shares[0],
        after=shares[1],
        effects=effects,
        strength=max(apart, direct, occurring) * _weight(fewest),
        direct=direct * _weight(fewest),
        reason=None if max(failing, acting) < PLAIN else "errors" if failing >= acting else "effect",
    )


def _failing(shares: tuple[Share, Share], *, is_fall: bool) -> float:
    """Return by how much more calls fail where success fell, and less where it rose."""
    before, after = (share.error_rate or 0.0 for share in shares)
    return max(0.0, after - before if is_fall else before - after)


def _acting(effects: tuple[Effect, Effect]) -> float:
    before, after = effects
    if before.rate is None or after.rate is None:
        return 0.0
    return abs(after.rate - before.rate) * _weight(min(before.turns, after.turns))


def _weight(count: int) -> float:
    """Return how much a count says. Few say little: as if there were four more that show nothing."""
    return count / (count + 4)


def _change(before: Share, after: Share) -> float | None:
    if before.success is None or after.success is None:
        return None
    return after.success - before.success


def _whole_share(shares: Mapping[tuple[str, str], Share]) -> Share:
    """Return all episodes: each ends once."""
    total = Share()
    for (facet, _), share in shares.items():
        total = total + share if facet == "stop" else total
    return total


def _shares(rows: Iterable[FacetRow]) -> dict[tuple[str, str], Share]:
    sums: dict[tuple[str, str], Share] = defaultdict(Share)
    for row in rows:
        one = Share(
            episodes=row.episodes, scored=row.scored, successes=row.successes, calls=row.calls, errors=row.errors
        )
        sums[row.facet, row.value] += one
    return sums


def shift_data(run: OpenRun, phase: Phase, before: tuple[int, int], after: tuple[int, int]) -> JsonObject:
    """Return what differs between two spans of steps, and their success."""
    with run.reader() as reader:
        first, second = reader.facets(phase, *before), reader.facets(phase, *after)
        effects = tool_effects(reader, suspects(first, second), phase, before, after)
    return {
        "phase": phase,
        "before": {"steps": before, **_whole(first)},
        "after": {"steps": after, **_whole(second)},
        "shifts": [
            {
                "facet": shift.facet,
                "value": shift.value,
                "reason": shift.reason,
                "before": _share_data(shift.before, shift.effects[0]),
                "after": _share_data(shift.after, shift.effects[1]),
            }
            for shift in shifts(first, second, effects)
        ],
    }


def _share_data(share: Share, effect: Effect) -> JsonObject:
    return {
        "episodes": share.episodes,
        "success": share.success,
        "errors": share.error_rate,
        "calls": share.calls,
        "changed": effect.rate,
        "turns": effect.turns,
    }


def _whole(rows: Sequence[FacetRow]) -> JsonObject:
    total = _whole_share(_shares(rows))
    reward = sum(row.reward for row in rows if row.facet == "stop")
    return {
        "episodes": total.episodes,
        "success": total.success,
        "reward": reward / total.scored if total.scored else None,
    }
