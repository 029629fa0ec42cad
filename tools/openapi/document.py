"""OpenAPI documents: reading one, and finding the operations an author names.

It never fetches anything, and ignores `servers`: where requests go, the author's client says, not the document.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from agentgrpo.errors import EnvError, first_line, nearest
from agentgrpo.tools.http.order import METHODS
from agentgrpo.tools.openapi.schemas import lookup
from agentgrpo.types import Json, JsonObject

Source: TypeAlias = str | Path | Mapping[str, Any]
MAX_NAME = 64  # of a tool, in characters: what OpenAI's API takes
_MOST_LISTED = 20
_NOT_NAME = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An operation as it stands in the document. `key` is its operationId, or "GET /path" where it has none."""

    key: str
    method: str
    path: str
    item: JsonObject  # of its path: it may have parameters
    raw: JsonObject

    @property
    def route(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def name(self) -> str:
        """A tool's name made from the operation's."""
        text = self.key if self.key != self.route else f"{self.method.lower()}_{self.path.strip('/')}"
        return _NOT_NAME.sub("_", text).strip("_")[:MAX_NAME]


def load_document(source: Source) -> JsonObject:
    """Return an OpenAPI 3 document.

    Args:
        source: The document itself, or a file of JSON or YAML.

    Raises:
        EnvError: it cannot be read, or is none.
    """
    document = dict(source) if isinstance(source, Mapping) else _read(Path(source))
    version = document.get("openapi") or document.get("swagger")
    if not str(document.get("openapi")).startswith("3."):
        raise EnvError(f"the document says version {version}; expected OpenAPI 3.0 or 3.1: convert it first")
    return document


def select(document: JsonObject, include: Sequence[str] | Mapping[str, str]) -> list[tuple[str, Found]]:
    """Return the operations an author named, each with the name of its tool.

    Args:
        document: What `load_document` returned.
        include: operationIds, or "GET /path"; a mapping gives each the name of its tool.

    Raises:
        EnvError: an operation does not exist, or two tools would have one name.
    """
    known: dict[str, list[Found]] = {}
    for found in _operations(document):
        for key in {found.route, found.key}:
            known.setdefault(key, []).append(found)
    keys = sorted({found.key for several in known.values() for found in several})
    if not include:
        raise EnvError(f"include names no operation; the document has {_listed(keys)}")
    if isinstance(include, str):
        raise EnvError(f"include takes a list of operations, got the text {include!r}: write [{include!r}]")
    selected: dict[str, Found] = {}
    for wanted in include:
        if wanted not in known:
            raise EnvError(f"the document has no operation {wanted!r}.{nearest(wanted, known)} It has {_listed(keys)}")
        if len(known[wanted]) > 1:
            routes = " and ".join(found.route for found in known[wanted])
            raise EnvError(f"the document has {wanted!r} more than once: call them {routes}")
        (found,) = known[wanted]
        name = include[wanted] if isinstance(include, Mapping) else found.name
        if name in selected:
            raise EnvError(f"two tools would be called '{name}': give names, include={{'{wanted}': 'a_name', ...}}")
        selected[name] = found
    return list(selected.items())


def resolved(document: JsonObject, value: Json) -> JsonObject:
    """Return an object of the document, following the reference it may be.

    Raises:
        EnvError: it is none, or a chain of references.
    """
    if isinstance(value, dict) and isinstance(value.get("$ref"), str):
        value = lookup(document, value["$ref"])
    if not isinstance(value, dict) or "$ref" in value:
        raise EnvError(f"the document has {str(value)[:60]!r} where an object was expected")
    return value


def _operations(document: JsonObject) -> Iterator[Found]:
    paths = document.get("paths", {})
    if not isinstance(paths, dict):
        raise EnvError("the document's 'paths' is no object")
    for path, value in paths.items():
        item = resolved(document, value)
        for method in sorted(METHODS):
            raw = item.get(method.lower())
            if isinstance(raw, dict):
                key = str(raw.get("operationId") or f"{method} {path}")
                yield Found(key=key, method=method, path=path, item=item, raw=raw)


def _read(path: Path) -> JsonObject:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EnvError(f"cannot read the OpenAPI document {path}: {first_line(error)}") from error
    document = _parsed_yaml(text, path) if path.suffix in (".yaml", ".yml") else _parsed_json(text, path)
    if not isinstance(document, dict):
        raise EnvError(f"{path} holds no object, expected an OpenAPI document")
    return document


def _parsed_json(text: str, path: Path) -> Json:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise EnvError(f"{path} is not JSON: {first_line(error)}. A YAML document is called .yaml or .yml") from error


def _parsed_yaml(text: str, path: Path) -> Json:
    try:
        import yaml  # type: ignore[import-untyped]
    except ImportError as error:
        raise EnvError(f"{path} is YAML: pip install pyyaml, or give the document as JSON") from error
    try:
        # By way of JSON: dates become text, and the keys of `responses` too.
        return json.loads(json.dumps(yaml.safe_load(text), default=str))
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise EnvError(f"{path} cannot be read as YAML: {first_line(error)}") from error


def _listed(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - _MOST_LISTED} more" if len(keys) > _MOST_LISTED else ""
    return (", ".join(keys[:_MOST_LISTED]) or "none") + more
