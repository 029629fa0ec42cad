"""The worlds of the files environment: folders in folders and the files in them, from a seed and a closed vocabulary.

It does not know tasks. Every split uses the same words; what is new in a held-out world is how they combine in paths.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from agentgrpo.tools.files import FilesApp
from agentgrpo.types import JsonObject

# No word is part of another one: grep looks for text, wherever it stands.
# fmt: off
TOPS = (
    "docs", "work", "home", "data", "team", "office", "sales", "legal", "media", "shared", "public", "private", "field",
    "lab", "studio", "depot", "branch", "agency", "school", "clinic", "museum", "market", "harbor", "garden",
)
SUBS = (
    "north", "south", "east", "west", "spring", "summer", "autumn", "winter", "alpha", "beta", "gamma", "delta",
    "violet", "blue", "green", "amber", "early", "late", "inner", "outer", "upper", "lower", "near", "far",
)
KINDS = (
    "budget", "notes", "plan", "report", "invoice", "minutes", "agenda", "roster", "memo", "letter", "survey", "quote",
    "recipe", "guide", "outline", "schedule", "contract", "receipt", "ledger", "journal", "forecast", "roadmap",
    "catalog", "manual", "proposal", "index", "profile", "script", "speech", "permit", "policy",
    "order",
)
OWNERS = (
    "Ada", "Ben", "Carla", "Dora", "Emil", "Finn", "Gina", "Hugo", "Ida", "Jack", "Kate", "Leo", "Mia", "Noah", "Olga",
    "Paul", "Quinn", "Rita", "Sam", "Tina", "Uma", "Vera", "Will", "Zoe",
)
ITEMS = (
    "lamp", "chair", "table", "desk", "sofa", "rug", "vase", "clock", "mirror", "shelf", "kettle", "toaster", "mug",
    "plate", "bowl", "knife", "towel", "pillow", "blanket", "candle", "basket", "bench", "drawer", "ladder",
)
# fmt: on
STATUSES = ("draft", "review", "final")
STATUS_WEIGHTS = (5, 3, 3)
AMOUNTS = tuple(range(20, 310, 10))
HELDOUT_SEED = 1_000_000  # worlds from this seed on use the pairs kept for the held-out splits
_PERIOD = 4  # one pair in so many is held out
_TOPS, _FOLDERS, _NAMES = 3, 2, 8
_READONLY = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file of a world."""

    path: str
    owner: str
    status: str
    amount: int
    items: tuple[str, ...]
    is_readonly: bool

    @property
    def name(self) -> str:
        """Its name in its folder."""
        return self.path.rpartition("/")[2]

    @property
    def folder(self) -> str:
        """The folder it is in."""
        return self.path.rpartition("/")[0]

    @property
    def lines(self) -> list[str]:
        """What is in it."""
        head = [f"owner {self.owner}", f"status {self.status}", f"amount {self.amount}"]
        return head + [f"item {item}" for item in self.items]


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A folder of a world; its files are in the order of their names."""

    path: str
    files: tuple[File, ...]
    free_names: tuple[str, ...]  # no file under the same top-level folder has them

    @property
    def top(self) -> str:
        """The top-level folder it is in."""
        return self.path.rpartition("/")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A start state, as plain data."""

    folders: tuple[Folder, ...]
    free_folders: tuple[str, ...]  # could be made

    @property
    def files(self) -> list[File]:
        """All files."""
        return [file for folder in self.folders for file in folder.files]


def is_heldout_pair(top: str, word: str) -> bool:
    """Whether a top-level folder and a folder or file name below it are kept for the held-out splits."""
    pool = SUBS if word in SUBS else KINDS
    return (TOPS.index(top) + pool.index(word)) % _PERIOD == 0


@lru_cache(maxsize=512)
def make_world(seed: int) -> World:
    """Return the world of a seed. Pairs of names in paths of held-out worlds never occur in a training world."""
    rng, heldout = random.Random(seed), seed >= HELDOUT_SEED
    tops = rng.sample(TOPS[rng.randrange(_PERIOD) :: _PERIOD], _TOPS)  # the same names may stand below all of them
    pool = _words(rng, tops[0], KINDS, heldout=heldout)[:_NAMES]  # few, so that a name often occurs under two of them
    folders: list[Folder] = []
    free: list[str] = []
    for top in tops:
        subs, names = _words(rng, top, SUBS, heldout=heldout), rng.sample(pool, len(pool))
        sizes = [rng.choice((2, 3)) for _ in range(_FOLDERS)]
        free_names = tuple(names[sum(sizes) :])
        for sub, size in zip(subs, sizes, strict=False):
            own, names = names[:size], names[size:]
            folders.append(_folder(rng, f"/{top}/{sub}", sorted(own), free_names))
        free += [f"/{top}/{sub}" for sub in subs[_FOLDERS:]]
    return World(folders=tuple(folders), free_folders=tuple(free))


def _words(rng: random.Random, top: str, pool: tuple[str, ...], *, heldout: bool) -> list[str]:
    """Return the words of a pool that may stand below a top-level folder, shuffled."""
    allowed = _allowed(top, pool, heldout)
    return rng.sample(allowed, len(allowed))


@cache
def _allowed(top: str, pool: tuple[str, ...], heldout: bool) -> tuple[str, ...]:
    return tuple(word for word in pool if is_heldout_pair(top, word) == heldout)


def _folder(rng: random.Random, path: str, names: Sequence[str], free_names: tuple[str, ...]) -> Folder:
    owners = rng.sample(OWNERS, len(names))  # distinct, so that an owner's file in a folder is one file
    files = tuple(
        File(
            path=f"{path}/{name}",
            owner=owner,
            status=rng.choices(STATUSES, STATUS_WEIGHTS)[0],
            amount=rng.choice(AMOUNTS),
            items=tuple(rng.sample(ITEMS, rng.choice((0, 1, 2, 3)))),
            is_readonly=rng.random() < _READONLY,
        )
        for name, owner in zip(names, owners, strict=True)
    )
    return Folder(path=path, files=files, free_names=free_names)


def load_world(app: FilesApp, world: World) -> None:
    """Write a world into an empty app."""
    tops = dict.fromkeys(folder.top for folder in world.folders)
    app.insert("nodes", [_row(path) for path in (*tops, *(folder.path for folder in world.folders))])
    app.insert("nodes", [_row(file.path, "\n".join(file.lines), file.is_readonly) for file in world.files])


def _row(path: str, text: str | None = None, is_readonly: bool = False) -> JsonObject:
    kind = "dir" if text is None else "file"
    return {"id": path, "kind": kind, "text": text or "", "readonly": int(is_readonly)}
