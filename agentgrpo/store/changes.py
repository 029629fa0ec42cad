"""What an episode changed in its world, from the JSON Patches of its turns: where, what was there, what is there now.

It knows no environment: a change counts as unexpected only against what successful episodes of the same task changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from agentgrpo.jsonpointer import below, parts
from agentgrpo.types import Json, JsonObject


class Unknown:
    """The type of `UNKNOWN`."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN = Unknown()  # a value nobody recorded: not the same as null


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One operation of a patch. `old` and `new` are UNKNOWN where the patch does not say."""

    kind: str  # add, replace, remove, move, copy
    pointer: str  # as written: "/orders/4821/status"
    old: Json | Unknown = UNKNOWN
    new: Json | Unknown = UNKNOWN
    origin: str | None = None  # of move and copy

    @property
    def path(self) -> tuple[str, ...]:
        """The names along the way, unescaped (RFC 6901)."""
        return tuple(parts(self.pointer)) if self.pointer.startswith("/") else (self.pointer,)

    @property
    def effect(self) -> str:
        """What is so afterwards, as text that can be compared."""
        new = None if isinstance(self.new, Unknown) else self.new
        kind = "remove" if self.kind == "remove" else "set"
        return json.dumps([kind, self.pointer, new, self.origin], sort_keys=True, default=str)


class Ledger:
    """Remembers what earlier patches wrote, so that a later one can say what it replaces."""

    def __init__(self) -> None:
        self._known: dict[str, Json] = {}

    def read(self, patch: Iterable[JsonObject]) -> Iterator[Change]:
        """Yield the changes of a patch; its `test` operations say what was there before."""
        for operation in patch:
            kind, pointer = str(operation.get("op")), str(operation.get("path", ""))
            if kind == "test":
                self._learn(pointer, operation.get("value"))
                continue
            old = operation.get("old", UNKNOWN if kind == "add" else self._known.get(pointer, UNKNOWN))
            has_value = kind in ("add", "replace")
            new = operation.get("value") if has_value else UNKNOWN
            origin = None if kind in ("add", "replace", "remove") else str(operation.get("from", ""))
            yield Change(kind=kind, pointer=pointer, old=old, new=new, origin=origin)
            self._forget(pointer)
            if has_value:
                self._learn(pointer, operation.get("value"))

    def _learn(self, pointer: str, value: Json) -> None:
        self._known[pointer] = value
        if isinstance(value, dict):
            for name, item in value.items():
                self._learn(below(pointer, name), item)

    def _forget(self, pointer: str) -> None:
        self._known = {p: v for p, v in self._known.items() if p != pointer and not p.startswith(f"{pointer}/")}


def changes_of(patches: Iterable[Sequence[JsonObject] | None]) -> list[list[Change] | None]:
    """Return the changes of every turn; None for a turn whose environment told nothing."""
    ledger = Ledger()
    return [None if patch is None else list(ledger.read(patch)) for patch in patches]


def net(turns: Iterable[Sequence[Change] | None]) -> dict[str, Change]:
    """Return what an episode changed in the end, by pointer: the last change of each."""
    return {change.pointer: change for changes in turns for change in changes or ()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """How an episode's changes compare with those of successful episodes of its task."""

    compared: int  # how many of those there were
    unexpected: frozenset[str]  # effects that none of them had
    missing: tuple[Change, ...]  # changes that all of them made and this episode did not


def judge(turns: Sequence[Sequence[Change] | None], others: Sequence[Sequence[Sequence[Change] | None]]) -> Judgement:
    """Compare an episode's changes with those of successful episodes of the same task; without any, nothing stands out.

    Args:
        turns: Its changes per turn.
        others: Those of the successful episodes.
    """
    if not others:
        return Judgement(compared=0, unexpected=frozenset(), missing=())
    finals = [net(other) for other in others]
    # What a success did on its way and undid again is no surprise either.
    usual = {change.effect for other in others for changes in other for change in changes or ()}
    mine = {change.effect for change in net(turns).values()}
    shared = [c for c in finals[0].values() if all(c.effect in {x.effect for x in f.values()} for f in finals[1:])]
    return Judgement(
        compared=len(others),
        unexpected=frozenset(c.effect for changes in turns for c in changes or () if c.effect not in usual),
        missing=tuple(change for change in shared if change.effect not in mine),
    )
