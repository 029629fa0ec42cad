"""The page's files: read once from the package, looked up by name, so that no path is ever made of a URL."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources

KINDS = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".html": "text/html"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """One file of the page."""

    body: bytes
    kind: str
    tag: str  # changes with the content

    @property
    def text(self) -> str:
        return self.body.decode("utf-8")


@cache
def front_page() -> str:
    """Return the page; it names its modules, so that a browser asks for all of them at once."""
    names = sorted(name for name in assets() if name.endswith(".js") and name != "export.js")
    links = "\n".join(f'<link rel="modulepreload" href="/static/{name}">' for name in names)
    return assets()["index.html"].text.replace("{{modules}}", links)


@cache
def assets() -> dict[str, Asset]:
    """Return every file of the page by its name."""
    found = {}
    for file in resources.files("agentgrpo.viewer").joinpath("static").iterdir():
        suffix = file.name[file.name.rfind(".") :]
        if suffix in KINDS:
            body = file.read_bytes()
            found[file.name] = Asset(body=body, kind=KINDS[suffix], tag=hashlib.sha256(body).hexdigest()[:16])
    return found
