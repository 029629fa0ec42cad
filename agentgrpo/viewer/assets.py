"""The page's files: read once from the package, looked up by name, so that no path is ever made of a URL.

Modules and styles are hand-written files that stand for themselves. They go out joined into one of each: a browser asks
for thirty small files a tenth of a second longer.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

KINDS = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".html": "text/html"}
SCRIPT, STYLE = "page.js", "page.css"  # what all modules and all styles go out as

_ENTRY = "app.js"
_STYLES = ("base.css", "screens.css", "episode.css")
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./([\w.]+)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export ", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """One file as it goes out."""

    body: bytes
    kind: str
    tag: str  # changes with the content

    @property
    def text(self) -> str:
        return self.body.decode("utf-8")


@cache
def assets() -> dict[str, Asset]:
    """Return every file by its name: what a page asks for, and the files that it is made of."""
    static = resources.files("agentgrpo.viewer").joinpath("static")
    names = [file.name for file in static.iterdir() if Path(file.name).suffix in KINDS]
    texts = {name: _text(name) for name in names} | {SCRIPT: script(_ENTRY), STYLE: styles()}
    return {name: _asset(text, KINDS[Path(name).suffix]) for name, text in texts.items()}


@cache
def script(entry: str) -> str:
    """Return a module and all it imports as one: after each other, without imports and exports.

    The modules give no two things the same name at the top, so none hides another; a test holds that.
    """
    ordered: list[str] = []
    _visit(entry, ordered)
    return "\n".join(_EXPORT.sub("", _IMPORT.sub("", _text(name))) for name in ordered)


@cache
def styles() -> str:
    """Return all styles, in the order in which they build on each other."""
    return "\n".join(map(_text, _STYLES))


def _visit(name: str, ordered: list[str]) -> None:
    for needed in _IMPORT.findall(_text(name)):
        if needed not in ordered:
            _visit(needed, ordered)
    if name not in ordered:
        ordered.append(name)


def _asset(text: str, kind: str) -> Asset:
    body = text.encode("utf-8")
    return Asset(body=body, kind=kind, tag=hashlib.sha256(body).hexdigest()[:16])


def _text(name: str) -> str:
    return resources.files("agentgrpo.viewer").joinpath("static", name).read_text(encoding="utf-8")
