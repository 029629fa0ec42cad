"""A virtual file system: directories and text files as rows of a database, with the commands of a shell.

It does not know tasks or rewards. It does not know the host either: nothing here opens a file, so no path leads to one.
A command that is refused raises ToolError and changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from agentgrpo.errors import ToolError
from agentgrpo.tools.appstate import AppState, Row
from agentgrpo.tools.paths import MAX_NAME, join, name_of, normalize, parent_of
from agentgrpo.types import JsonObject

MODES = ("rw", "ro")
MAX_NODES = 1000  # files and directories
MAX_TEXT = 20_000  # characters of a file
MAX_TOTAL = 400_000  # characters of all files: a snapshot stays small enough to fork in a millisecond
_BELOW = "(id > ? AND id < ?)"  # see _range
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


class FilesApp(AppState):
    """The file system: every public method from `ls` on is a command.

    Paths are taken in any form that `paths.normalize` knows; results hold normal forms. Texts are lines: a line break
    at the end of a text makes no difference. A read-only file can be read and copied, not changed, moved or removed.
    """

    schema = """
    CREATE TABLE nodes (id TEXT PRIMARY KEY, kind TEXT NOT NULL, text TEXT NOT NULL,
                        readonly INTEGER NOT NULL) WITHOUT ROWID;
    """

    def ls(self, path: str) -> list[str]:
        """List the names in a directory, in order; those of directories end with a slash."""
        folder = self._folder(path)
        start = len(join(folder, ""))
        rows = self.rows(f"SELECT id, kind FROM nodes WHERE {_BELOW} ORDER BY id", *_range(folder))
        return [
            row["id"][start:] + ("/" if row["kind"] == "dir" else "") for row in rows if "/" not in row["id"][start:]
        ]

    def find(self, path: str, name: str) -> list[str]:
        """Find everything below a directory that has a name; * in the name stands for any text."""
        if len(name) > MAX_NAME:
            raise ToolError(f"a name has at most {MAX_NAME} characters, this one has {len(name)}")
        folder, pieces = self._folder(path), name.split("*")
        rows = self.rows(f"SELECT id FROM nodes WHERE {_BELOW} ORDER BY id", *_range(folder))
        return [row["id"] for row in rows if _is_like(name_of(row["id"]), pieces)]

    def grep(self, path: str, text: str) -> list[JsonObject]:
        """Find the lines that hold a text, in a file or in all files below a directory."""
        if not text:
            raise ToolError("grep needs a text to look for")
        place = self._node(path)["id"]
        sql = f"SELECT id, text FROM nodes WHERE (id = ? OR {_BELOW}) AND INSTR(text, ?) ORDER BY id"
        rows = self.rows(sql, place, *_range(place), text)
        return [{"path": row["id"], "line": line} for row in rows for line in _lines(row["text"]) if text in line]

    def cat(self, path: str) -> list[str]:
        """Return the lines of a file."""
        return _lines(_file(self._node(path))["text"])

    def head(self, path: str, lines: int) -> list[str]:
        """Return the first lines of a file."""
        if lines < 1:
            raise ToolError("lines must be at least 1")
        return self.cat(path)[:lines]

    def wc(self, path: str) -> JsonObject:
        """Count the lines and words of a file."""
        text = _file(self._node(path))["text"]
        return {"lines": len(_lines(text)), "words": len(text.split())}

    def write(self, path: str, text: str) -> JsonObject:
        """Make a file, or replace what is in it."""
        place, text = normalize(path), _checked(text)
        row = self._find(place)
        if row is None:
            self._require_free(place)
            self._require_space(1, len(text))
            self.insert("nodes", [{"id": place, "kind": "file", "text": text, "readonly": 0}])
        else:
            self._set_text(_writable(_file(row)), text)
        return {"path": place, "lines": len(_lines(text))}

    def append(self, path: str, text: str) -> JsonObject:
        """Add lines at the end of a file."""
        row = _writable(_file(self._node(path)))
        text = _checked(f"{row['text']}\n{text}" if row["text"] else text)
        self._set_text(row, text)
        return {"path": row["id"], "lines": len(_lines(text))}

    def mkdir(self, path: str) -> JsonObject:
        """Make a directory in one that is there."""
        place = normalize(path)
        self._require_free(place)
        self._require_space(1, 0)
        self.insert("nodes", [{"id": place, "kind": "dir", "text": "", "readonly": 0}])
        return {"path": place}

    def mv(self, path: str, to: str) -> JsonObject:
        """Move or rename a file or directory; when `to` is a directory, into it."""
        node, target, rows = self._source_and_target(path, to)
        for row in rows:
            _writable(row)
        self.insert("nodes", _moved(rows, node["id"], target))
        self._remove(node["id"])
        return {"path": target}

    def cp(self, path: str, to: str) -> JsonObject:
        """Copy a file or directory; when `to` is a directory, into it. Copies are writable."""
        node, target, rows = self._source_and_target(path, to)
        self._require_space(len(rows), sum(len(row["text"]) for row in rows))
        self.insert("nodes", [row | {"readonly": 0} for row in _moved(rows, node["id"], target)])
        return {"path": target}

    def rm(self, path: str) -> JsonObject:
        """Remove a file, or a directory that is empty."""
        place = _writable(self._node(path))["id"]
        if place == "/" or self.row(f"SELECT id FROM nodes WHERE {_BELOW} LIMIT 1", *_range(place)) is not None:
            raise ToolError(f"only an empty directory can be removed, {_show(place)} is not")
        self._remove(place)
        return {"removed": place}

    def chmod(self, path: str, mode: str) -> JsonObject:
        """Make a file read-only (ro) or writable (rw)."""
        row = _file(self._node(path))
        if mode not in MODES:
            raise ToolError(f"mode must be one of {', '.join(MODES)}")
        self.change("UPDATE nodes SET readonly = ? WHERE id = ?", int(mode == "ro"), row["id"])
        return {"path": row["id"], "mode": mode}

    def _find(self, place: str) -> Row | None:
        if place == "/":
            return {"id": "/", "kind": "dir", "text": "", "readonly": 0}
        return self.row("SELECT * FROM nodes WHERE id = ?", place)

    def _node(self, path: str) -> Row:
        row = self._find(place := normalize(path))
        if row is None:
            raise ToolError(f"there is no {_show(place)}: ls shows what is in a directory")
        return row

    def _folder(self, path: str) -> str:
        row = self._node(path)
        if row["kind"] != "dir":
            raise ToolError(f"{_show(row['id'])} is a file, not a directory")
        return str(row["id"])

    def _source_and_target(self, path: str, to: str) -> tuple[Row, str, list[Row]]:
        """Return what is to be moved or copied, the path it gets, and its rows: itself and all below it."""
        node, target = self._node(path), normalize(to)
        there = self._find(target)
        if there is not None and there["kind"] == "dir":
            target = normalize(join(target, name_of(node["id"])))
        if node["id"] == "/" or f"{target}/".startswith(f"{node['id']}/"):
            raise ToolError(f"{_show(node['id'])} cannot go into or onto itself")
        self._require_free(target)
        rows = [node, *self.rows(f"SELECT * FROM nodes WHERE {_BELOW}", *_range(node["id"]))]
        for row in rows:
            normalize(target + row["id"][len(node["id"]) :])  # not too deep there
        return node, target, rows

    def _require_free(self, place: str) -> None:
        """Refuse a path that is taken, or that has no directory to be in."""
        if self._find(place) is not None:
            raise ToolError(f"{_show(place)} is there already")
        self._folder(parent_of(place))

    def _require_space(self, nodes: int, characters: int) -> None:
        """Refuse what the disk cannot hold in addition."""
        used = self.rows("SELECT COUNT(*) AS nodes, COALESCE(SUM(LENGTH(text)), 0) AS characters FROM nodes")[0]
        if used["nodes"] + nodes > MAX_NODES:
            raise ToolError(f"the disk is full: it holds at most {MAX_NODES} files and directories")
        if used["characters"] + characters > MAX_TOTAL:
            raise ToolError(f"the disk is full: all files together hold at most {MAX_TOTAL} characters")

    def _set_text(self, row: Row, text: str) -> None:
        self._require_space(0, len(text) - len(row["text"]))
        self.change("UPDATE nodes SET text = ? WHERE id = ?", text, row["id"])

    def _remove(self, place: str) -> None:
        self.change(f"DELETE FROM nodes WHERE id = ? OR {_BELOW}", place, *_range(place))


def _range(folder: str) -> tuple[str, str]:
    """Return between which ids everything below a folder is: those that start with its path and a slash."""
    first = join(folder, "")
    return first, first[:-1] + "0"  # the character after the slash


def _file(row: Row) -> Row:
    if row["kind"] != "file":
        raise ToolError(f"{_show(row['id'])} is a directory, not a file")
    return row


def _writable(row: Row) -> Row:
    if row["readonly"]:
        raise ToolError(f"{_show(row['id'])} is read-only: chmod it to rw first")
    return row


def _checked(text: str) -> str:
    """Return a text as a file holds it, without the last line break."""
    text = text.removesuffix("\n")
    if len(text) > MAX_TEXT:
        raise ToolError(f"a file holds at most {MAX_TEXT} characters, this would be {len(text)}")
    if _CONTROL.search(text):
        raise ToolError("a file holds text: of control characters only line breaks and tabs")
    return text


def _lines(text: str) -> list[str]:
    return text.split("\n") if text else []


def _moved(rows: Iterable[Row], place: str, target: str) -> list[Row]:
    return [row | {"id": target + row["id"][len(place) :]} for row in rows]


def _is_like(name: str, pieces: Sequence[str]) -> bool:
    """Whether a name holds these pieces in order, with anything between them; in time linear in the name per piece."""
    first, *others = pieces
    if not others:
        return name == first
    last = others.pop()
    if len(name) < len(first) + len(last) or not (name.startswith(first) and name.endswith(last)):
        return False
    at, end = len(first), len(name) - len(last)
    for piece in others:
        at = name.find(piece, at, end)
        if at < 0:
            return False
        at += len(piece)
    return True


def _show(path: str) -> str:
    return path if len(path) <= 80 else path[:38] + "..." + path[-39:]
