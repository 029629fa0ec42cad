"""Paths that try to get out of a virtual file system, and a probe that runs commands on them with the host shut off."""

from __future__ import annotations

import json
import random
import resource
import sys
from collections.abc import Callable, Iterator
from typing import Any

from agentgrpo.errors import ToolError
from agentgrpo.tools.files import FilesApp
from agentgrpo.tools.paths import normalize, parent_of
from agentgrpo.types import Json

HOST = ("/etc/passwd", "/proc/self/environ", "/proc/self/fd/0", "/dev/zero", "/tmp", "/root/.ssh/id_rsa", "C:\\Windows")
PLAIN = ("docs", "notes", "a", "b.txt", "..a", "a..", "...", "-rf", "*", "~", "$HOME", "%2e%2e", "%2f", "&&", "`id`")
ODD = (
    *("\0", "a\0b", "..\0", "\ud800", "\udfffx", "\n", "\r", "\t", "\x1b[2J", "\x7f", " ", " a", "a ", "\\", "..\\"),
    *(
        "\u202e",
        "\u200b",
        "\ufeff",
        "\u00a0",
        "\u2028",
        "\u0301",
        "e\u0301",
        "\u00e9",
        "\u212b",
        "\ufb01",
        "\U0001f600",
    ),
    *("\uff0e\uff0e", "\uff0e", "\u2024\u2024", "\u2025", "\u2026", "\uff0f", "\u2215", "\u2044", "\u29f8", "\u2571"),
    *("\u0430", "\u0391", "\u0660", "\u00b2", "'; DROP TABLE nodes;--", '"', "\u4e2d\u6587", "file:", "smb:", "x" * 61),
)
LONG = (
    "a" * 10_000,
    "../" * 3_333,
    "/" * 10_000,
    "a/" * 5_000,
    "\ud800" * 10_000,
    "\u0301" * 10_000,
    "\U0001f600" * 999,
)
SEPARATORS = ("/", "/", "/", "//", "/./", "/../", "\\", "", "\uff0f", "\u2215", "/\0/")


def hostile_paths(seed: int, count: int, extra: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield texts made to be taken for a path to somewhere else; `extra` are host paths that exist."""
    rng = random.Random(seed)
    host = (*HOST, *extra)
    for _ in range(count):
        kind = rng.random()
        if kind < 0.01:
            yield rng.choice(LONG) + rng.choice(ODD)
        elif kind < 0.3:
            yield "../" * rng.randrange(20) + rng.choice(("", "/", ".", "..")) + rng.choice(host)
        else:
            pools = (PLAIN, ODD, ("..", ".", ""), ("..",))
            parts = [rng.choice(rng.choice(pools)) for _ in range(rng.choice((1, 2, 3, 5, 9)))]
            yield rng.choice(("", "/", "//")) + "".join(part + rng.choice(SEPARATORS) for part in parts)


def commands(app: FilesApp, rng: random.Random, path: str, other: str) -> Callable[[], Json]:
    """Return one of the commands, on these paths."""
    return rng.choice(
        (
            lambda: app.ls(path),
            lambda: app.find(path, other),
            lambda: app.find("/", path),
            lambda: app.grep(path, "root"),
            lambda: app.grep("/", path),
            lambda: app.cat(path),
            lambda: app.head(path, len(other)),
            lambda: app.wc(path),
            lambda: app.write(path, other),
            lambda: app.write(path, "text"),
            lambda: app.append(path, other),
            lambda: app.mkdir(path),
            lambda: app.mv(path, other),
            lambda: app.mv("/docs/notes", path),
            lambda: app.cp(path, other),
            lambda: app.cp("/docs", path),
            lambda: app.rm(path),
            lambda: app.chmod(path, rng.choice(("ro", "rw", other))),
        )
    )


def flaws(app: FilesApp) -> list[str]:
    """Return what is wrong with a file system: ids that are no normal form, nodes without a folder, a wrong hash."""
    nodes = app.state()["nodes"]
    found = [path for path in nodes if normalize(path) != path or path == "/"]
    found += [path for path in nodes if parent_of(path) != "/" and nodes.get(parent_of(path), {}).get("kind") != "dir"]
    return found + ([] if app.state_hash() == app.content_hash() else ["hash"])


def probe(count: int, seed: int, canary_path: str, canary: str) -> None:
    """Run commands on hostile paths while no file can be opened, and print what happened as JSON.

    Two witnesses: Python's audit events tell of everything that would touch the host, and a limit of no open files
    makes the operating system refuse to open any, whoever asks, SQLite included.
    """
    events: list[str] = []
    armed = [False]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        is_own = event == "sqlite3.connect/handle" or (event, arguments) == ("sqlite3.connect", (":memory:",))
        if armed[0] and not is_own:
            events.append(f"{event} {arguments!r:.200}")

    sys.addaudithook(hook)
    app = FilesApp()
    app.mkdir("/docs")
    app.write("/docs/notes", "root of all")
    start = app.snapshot()
    rng, report = random.Random(seed), {"calls": 0, "refused": 0, "leaks": 0, "most": 0}
    faults: list[str] = []
    paths = list(hostile_paths(seed, count, (canary_path,)))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    armed[0] = True
    for number, path in enumerate(paths):
        other = paths[rng.randrange(len(paths))]
        report["calls"] += 1
        try:
            report["leaks"] += canary in json.dumps(commands(app, rng, path, other)())
        except ToolError as error:
            report["refused"] += 1
            report["leaks"] += canary in str(error)
        if number % 300 == 299 or number == count - 1:
            report["most"] = max(report["most"], len(app.state()["nodes"]))
            faults += flaws(app)
            app.restore(start)
    armed[0] = False
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(json.dumps(report | {"faults": faults, "events": sorted(set(events))}))
