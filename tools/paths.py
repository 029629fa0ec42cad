"""Paths of a virtual file system: one function gives any text its normal form, or refuses it.

It does not know which paths exist, and it never looks at the host's file system: a path here is only text.
"""

from __future__ import annotations

import unicodedata

from agentgrpo.errors import ToolError

MAX_PATH = 1000  # characters of a path as it is given
MAX_NAME = 60
MAX_DEPTH = 12  # names in a path; so a normal form has at most 732 characters and is itself a path


def normalize(path: str) -> str:
    """Return the normal form of a path: absolute, without `.`, `..`, empty names or a slash at the end.

    Relative paths start at the root, and the root is its own parent, so that no path leads out of it. `..` takes back
    the name before it whether that exists or not. Names are in Unicode's form NFC.

    Raises:
        ToolError: the path is too long or too deep, or one of its names is not allowed.
    """
    if len(path) > MAX_PATH:
        raise ToolError(f"a path has at most {MAX_PATH} characters, this one has {len(path)}")
    names: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del names[-1:]
        elif part not in ("", "."):
            names.append(_name(part))
    if len(names) > MAX_DEPTH:
        raise ToolError(f"a path has at most {MAX_DEPTH} names, this one has {len(names)}")
    return "/" + "/".join(names)


def join(folder: str, name: str) -> str:
    """Return the path of a name in a folder; both are in normal form."""
    return f"/{name}" if folder == "/" else f"{folder}/{name}"


def parent_of(path: str) -> str:
    """Return the folder of a path in normal form."""
    return path.rpartition("/")[0] or "/"


def name_of(path: str) -> str:
    """Return the last name of a path in normal form; empty for the root."""
    return path.rpartition("/")[2]


def _name(part: str) -> str:
    name = part if part.isascii() else unicodedata.normalize("NFC", part)
    if len(name) > MAX_NAME:
        raise ToolError(f"a name in a path has at most {MAX_NAME} characters, this one has {len(name)}")
    if not all(map(_is_allowed, name)):
        raise ToolError("a name in a path holds letters, digits, spaces and - . _ and the like, no \\ and no symbols")
    # Characters that stand for others would give one name two spellings, and `..` a third: a full-width full stop.
    if not name.isascii() and (unicodedata.normalize("NFKC", name) != name or _kind(name[0]) == "M"):
        raise ToolError("a name in a path must not look like another: write plain letters, digits and dots")
    if name != name.strip(" "):
        raise ToolError("a name in a path neither starts nor ends with a space")
    return name


def _is_allowed(character: str) -> bool:
    if character.isascii():
        return character.isprintable() and character != "\\"
    return _kind(character) in ("L", "M") or character.isdecimal()


def _kind(character: str) -> str:
    return unicodedata.category(character)[0]
