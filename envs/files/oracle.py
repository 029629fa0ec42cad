"""The scripted keeper of the files: solves any task from the instruction's words and what the tools answer.

It never looks at the hidden state. Below quality 1 each decision is sometimes a guess, and guesses are the mistakes
people make in a shell: the wrong place, a copy for a move, an overwritten file, a job that is only said to be done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from agentgrpo.envs.attempt import Attempt, Script
from agentgrpo.types import Json

Selected: TypeAlias = Callable[[Attempt], Script[list[str]]]
Done: TypeAlias = Callable[[Attempt, list[str]], Script[str]]


def _by_path(attempt: Attempt) -> Script[list[str]]:
    yield from ()
    return [attempt.goal["path"]]


def _by_name(attempt: Attempt) -> Script[list[str]]:
    place = attempt.decide(attempt.goal["top"], ("/", attempt.goal["top"]))
    found: list[str] = yield from attempt.ask("find", path=place, name=attempt.goal["name"])
    return [attempt.guess(found)]


def _by_owner(attempt: Attempt) -> Script[list[str]]:
    place = attempt.decide(attempt.goal["folder"], ("/", attempt.goal["folder"]))
    found: list[dict[str, str]] = yield from attempt.ask("grep", path=place, text=attempt.goal["owner"])
    return [attempt.guess(found)["path"]]


def _listed(attempt: Attempt) -> Script[list[str]]:
    names: list[str] = yield from attempt.ask("ls", path=attempt.goal["folder"])
    return [f"{attempt.goal['folder']}/{name}" for name in names]


def _last(attempt: Attempt) -> Script[list[str]]:
    paths = yield from _listed(attempt)
    return [attempt.decide(paths[-1], paths)]


def _longest(attempt: Attempt) -> Script[list[str]]:
    paths = yield from _listed(attempt)
    counts = []
    for path in paths:
        counted: dict[str, int] = yield from attempt.ask("wc", path=path)
        counts.append(counted["lines"])
    return [attempt.decide(paths[counts.index(max(counts))], paths)]


def _drafts(attempt: Attempt) -> Script[list[str]]:
    found: list[dict[str, str]] = yield from attempt.ask("grep", path=attempt.goal["folder"], text="draft")
    paths = [match["path"] for match in found]
    return attempt.decide(paths, (paths, paths[:1]))


def _told(attempt: Attempt, answer: Json) -> str:
    return str(attempt.decide(answer, ("done",)))  # the careless forget to tell


def _status_of(attempt: Attempt, path: str) -> Script[str]:
    lines: list[str] = yield from attempt.ask("cat", path=path)
    return _value(lines, "status")


def _value(lines: Sequence[str], key: str) -> str:
    # Whatever file it was: a careless attempt may have opened one without that line.
    return next((line.removeprefix(f"{key} ") for line in lines if line.startswith(f"{key} ")), "done")


def _status(attempt: Attempt, paths: list[str]) -> Script[str]:
    status = yield from _status_of(attempt, paths[0])
    return _told(attempt, status)


def _lines(attempt: Attempt, paths: list[str]) -> Script[str]:
    counted: dict[str, int] = yield from attempt.ask("wc", path=paths[0])
    return str(attempt.decide(counted["lines"], (counted["lines"], counted["words"])))


def _first(attempt: Attempt, paths: list[str]) -> Script[str]:
    lines: list[str] = yield from attempt.ask("head", path=paths[0], lines=1)
    return _told(attempt, lines[0])


def _total(attempt: Attempt, paths: list[str]) -> Script[str]:
    amounts = []
    for path in paths:
        lines: list[str] = yield from attempt.ask("cat", path=path)
        amounts.append(int(_value(lines, "amount")))
    return str(attempt.decide(sum(amounts), (sum(amounts), amounts[-1])))


def _each(attempt: Attempt, tool: str, paths: Sequence[str], **arguments: str) -> Script[str]:
    for path in paths if attempt.is_careful() else ():  # the careless only say that it is done
        yield from attempt.ask(tool, path=path, **arguments)
    return "done"


def _delete(attempt: Attempt, paths: list[str]) -> Script[str]:
    return (yield from _each(attempt, "rm", paths))


def _move(attempt: Attempt, paths: list[str]) -> Script[str]:
    return (yield from _each(attempt, attempt.decide("mv", ("mv", "cp")), paths, to=attempt.goal["to"]))


def _copy(attempt: Attempt, paths: list[str]) -> Script[str]:
    return (yield from _each(attempt, attempt.decide("cp", ("mv", "cp")), paths, to=attempt.goal["to"]))


def _rename(attempt: Attempt, paths: list[str]) -> Script[str]:
    folder = paths[0].rpartition("/")[0]
    place = attempt.decide(folder, (folder, folder.rpartition("/")[0]))
    return (yield from _each(attempt, "mv", paths, to=f"{place}/{attempt.goal['new']}"))


def _move_new(attempt: Attempt, paths: list[str]) -> Script[str]:
    if attempt.is_careful():  # without the folder, mv takes its path for a new name
        yield from attempt.ask("mkdir", path=attempt.goal["to"])
    return (yield from _move(attempt, paths))


def _delete_or_move(attempt: Attempt, paths: list[str]) -> Script[str]:
    status = yield from _status_of(attempt, paths[0])
    act = attempt.decide(_delete if status == "draft" else _move, (_delete, _move))
    return (yield from act(attempt, paths))


def _lock(attempt: Attempt, paths: list[str]) -> Script[str]:
    return (yield from _each(attempt, "chmod", paths, mode=attempt.decide("ro", ("ro", "rw"))))


def _append(attempt: Attempt, paths: list[str]) -> Script[str]:
    tool = attempt.decide("append", ("append", "write"))
    return (yield from _each(attempt, tool, paths, text=f"item {attempt.goal['item']}"))


def _append_locked(attempt: Attempt, paths: list[str]) -> Script[str]:
    yield from attempt.ask("chmod", path=paths[0], mode="rw")
    yield from attempt.ask("append", path=paths[0], text=f"item {attempt.goal['item']}")
    return (yield from _each(attempt, "chmod", paths, mode="ro"))


def _note(attempt: Attempt, paths: list[str]) -> Script[str]:
    status = yield from _status_of(attempt, paths[0])
    return (yield from _each(attempt, "write", [attempt.goal["to"]], text=_told(attempt, status)))


SELECT: Mapping[str, Selected] = {
    "path": _by_path,
    "name": _by_name,
    "owner": _by_owner,
    "last": _last,
    "longest": _longest,
    "drafts": _drafts,
}
ACT: Mapping[str, Done] = {
    "status": _status,
    "lines": _lines,
    "first": _first,
    "total": _total,
    "delete": _delete,
    "move": _move,
    "copy": _copy,
    "rename": _rename,
    "lock": _lock,
    "append": _append,
    "append_locked": _append_locked,
    "move_new": _move_new,
    "delete_or_move": _delete_or_move,
    "note": _note,
}
