"""What the package `bfcl-eval` holds for its multi-turn tasks: entries, right answers, tool descriptions, apps.

It does not run episodes, and never uses the package's executor, which evaluates text as Python and keeps apps in its
globals.
"""

from __future__ import annotations

import ast
import copy
import importlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from agentgrpo.errors import EnvError
from agentgrpo.types import Json, JsonObject

INSTALL = "pip install --no-deps bfcl-eval && pip install mpmath"
CATEGORIES = ("base", "miss_func", "miss_param", "long_context")
_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}
_CONFIG = "bfcl_eval.constants.executable_backend_config"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gold:
    """A right call."""

    name: str
    positional: tuple[Json, ...]
    named: Mapping[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One task: what the user says, turn by turn, and what had to be called in each."""

    id: str
    questions: tuple[str | None, ...]  # None: no words, but tools that were missing
    gold: tuple[tuple[Gold, ...], ...]
    apps: tuple[str, ...]
    config: JsonObject
    excluded: frozenset[str]
    missed: Mapping[int, frozenset[str]]  # tools that are offered only from this turn on

    @property
    def is_long(self) -> bool:
        """Whether the apps are filled with much that does not matter."""
        return "long_context" in self.id


@lru_cache(maxsize=1)
def entries() -> dict[str, Entry]:
    """Return the 800 tasks by id, in the package's order.

    Raises:
        EnvError: the package is not installed.
    """
    return {entry.id: entry for category in CATEGORIES for entry in _read_category(category)}


@lru_cache(maxsize=16)
def described(app: str) -> dict[str, tuple[str, JsonObject]]:
    """Return the description and JSON schema of each tool of an app."""
    file = importlib.import_module(_CONFIG).MULTI_TURN_FUNC_DOC_FILE_MAPPING[app]
    rows = _rows(_folder() / "multi_turn_func_doc" / file)
    return {row["name"]: (row["description"], _plain_schema(row["parameters"])) for row in rows}


def open_apps(entry: Entry) -> dict[str, Any]:
    """Return fresh apps of a task, by class, in the state it starts from."""
    config = importlib.import_module(_CONFIG)
    apps: dict[str, Any] = {}
    for name in entry.apps:
        apps[name] = getattr(importlib.import_module(config.CLASS_FILE_PATH_MAPPING[name]), name)()
        if name not in config.STATELESS_CLASSES:
            apps[name]._load_scenario(copy.deepcopy(entry.config.get(name, {})), long_context=entry.is_long)
    return apps


def _read_category(category: str) -> Iterator[Entry]:
    name = f"BFCL_v4_multi_turn_{category}.json"
    gold = {row["id"]: row["ground_truth"] for row in _rows(_folder() / "possible_answer" / name)}
    for row in _rows(_folder() / name):
        yield Entry(
            id=row["id"],
            questions=tuple(turn[0]["content"] if turn else None for turn in row["question"]),
            gold=tuple(tuple(map(_gold, turn)) for turn in gold[row["id"]]),
            apps=tuple(row["involved_classes"]),
            config=row["initial_config"],
            excluded=frozenset(row.get("excluded_function", ())),
            missed={int(turn): frozenset(names) for turn, names in row.get("missed_function", {}).items()},
        )


def _gold(text: str) -> Gold:
    """Read a right call; its arguments are literals, nothing is run."""
    call = ast.parse(text.strip(), mode="eval").body
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise EnvError(f"bfcl-eval has the right answer {text!r}, expected a call of a tool")
    named = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    return Gold(name=call.func.id, positional=tuple(map(ast.literal_eval, call.args)), named=named)


def _rows(path: Path) -> Iterator[JsonObject]:
    with path.open(encoding="utf-8") as lines:
        yield from (json.loads(line) for line in lines if line.strip())


def _folder() -> Path:
    found = find_spec("bfcl_eval")
    if found is None or found.origin is None:
        raise EnvError(f"the environment 'bfcl' needs the package bfcl-eval: {INSTALL}")
    return Path(found.origin).parent / "data"


def _plain_schema(schema: Json) -> Json:
    """Return a schema in the words of JSON schema."""
    if isinstance(schema, list):
        return [_plain_schema(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    flat = {key: _plain_schema(value) for key, value in schema.items()}
    return flat | ({"type": _TYPES.get(flat["type"], flat["type"])} if isinstance(flat.get("type"), str) else {})
