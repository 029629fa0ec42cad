"""The task templates of the files environment: which files are meant (selector) times what to do with them (effect).

It does not know the agent or the reward.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TypeAlias

from agentgrpo.envs.files.world import ITEMS, File, Folder, World
from agentgrpo.envs.templates import Effect, Selector, pair, please
from agentgrpo.tools.files import FilesApp
from agentgrpo.types import JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The files a task is about, and the words of the instruction that say so."""

    files: tuple[File, ...]
    words: JsonObject

    @property
    def file(self) -> File:
        """The only or first file."""
        return self.files[0]


FilesEffect: TypeAlias = Effect[FilesApp, World, Target]


def _one(file: File, **words: str) -> Target:
    return Target(files=(file,), words=dict(words))


def _by_path(world: World) -> list[Target]:
    return [_one(file, path=file.path) for file in world.files]


def _by_name(world: World) -> list[Target]:
    return [_one(file, name=file.name, top=folder.top) for folder in world.folders for file in folder.files]


def _by_owner(world: World) -> list[Target]:
    return [_one(file, owner=file.owner, folder=file.folder) for file in world.files]


def _last(world: World) -> list[Target]:
    return [_one(folder.files[-1], folder=folder.path) for folder in world.folders]


def _longest(world: World) -> list[Target]:
    # Of two only: each has to be counted, and episodes stay short.
    pairs = [folder for folder in world.folders if len({len(file.lines) for file in folder.files}) == 2]
    return [_one(max(f.files, key=lambda file: len(file.lines)), folder=f.path) for f in pairs if len(f.files) == 2]


def _drafts(world: World) -> list[Target]:
    drafts = {folder.path: tuple(f for f in folder.files if f.status == "draft") for folder in world.folders}
    return [
        Target(files=drafts[folder.path], words={"folder": folder.path})
        for folder in world.folders
        if 1 < len(drafts[folder.path]) < len(folder.files)
    ]


def _is_one(target: Target) -> bool:
    return len(target.files) == 1


def _is_writable(target: Target) -> bool:
    return not any(file.is_readonly for file in target.files)


def _is_one_writable(target: Target) -> bool:
    return _is_one(target) and _is_writable(target)


def _is_one_locked(target: Target) -> bool:
    return _is_one(target) and not _is_writable(target)


def _sample_folder(world: World, target: Target, rng: random.Random) -> JsonObject | None:
    names = {file.name for file in target.files}
    others = [f.path for f in world.folders if f.path != target.file.folder and not names & {x.name for x in f.files}]
    return {"to": rng.choice(others)} if others else None


def _sample_new_folder(world: World, target: Target, rng: random.Random) -> JsonObject | None:
    return {"to": rng.choice(world.free_folders)}


def _sample_name(world: World, target: Target, rng: random.Random) -> JsonObject | None:
    return {"new": rng.choice(_folder_of(world, target).free_names)}


def _sample_new_file(world: World, target: Target, rng: random.Random) -> JsonObject | None:
    folder = rng.choice(world.folders)
    return {"to": f"{folder.path}/{rng.choice(folder.free_names)}"}


def _sample_item(world: World, target: Target, rng: random.Random) -> JsonObject | None:
    return {"item": rng.choice([item for item in ITEMS if item not in target.file.items])}


def _folder_of(world: World, target: Target) -> Folder:
    return next(folder for folder in world.folders if folder.path == target.file.folder)


def _status(app: FilesApp, target: Target, goal: JsonObject) -> str:
    return target.file.status


def _count(app: FilesApp, target: Target, goal: JsonObject) -> str:
    return str(len(target.file.lines))


def _first(app: FilesApp, target: Target, goal: JsonObject) -> str:
    return target.file.lines[0]


def _total(app: FilesApp, target: Target, goal: JsonObject) -> str:
    return str(sum(file.amount for file in target.files))


def _delete(app: FilesApp, target: Target, goal: JsonObject) -> None:
    for file in target.files:
        app.rm(file.path)


def _move(app: FilesApp, target: Target, goal: JsonObject) -> None:
    for file in target.files:
        app.mv(file.path, goal["to"])


def _move_new(app: FilesApp, target: Target, goal: JsonObject) -> None:
    app.mkdir(goal["to"])
    _move(app, target, goal)


def _delete_or_move(app: FilesApp, target: Target, goal: JsonObject) -> None:
    (_delete if target.file.status == "draft" else _move)(app, target, goal)


def _copy(app: FilesApp, target: Target, goal: JsonObject) -> None:
    app.cp(target.file.path, goal["to"])


def _rename(app: FilesApp, target: Target, goal: JsonObject) -> None:
    app.mv(target.file.path, f"{target.file.folder}/{goal['new']}")


def _lock(app: FilesApp, target: Target, goal: JsonObject) -> None:
    for file in target.files:
        app.chmod(file.path, "ro")


def _append(app: FilesApp, target: Target, goal: JsonObject) -> None:
    app.append(target.file.path, f"item {goal['item']}")


def _append_locked(app: FilesApp, target: Target, goal: JsonObject) -> None:
    app.chmod(target.file.path, "rw")
    _append(app, target, goal)
    app.chmod(target.file.path, "ro")


def _note(app: FilesApp, target: Target, goal: JsonObject) -> None:
    app.write(goal["to"], target.file.status)


_PATH = Selector(name="path", phrase="{path}", find=_by_path, tools=())
_NAME = Selector(name="name", phrase="the {name} under {top}", find=_by_name, tools=("find",))
_OWNER = Selector(name="owner", phrase="the file of {owner} in {folder}", find=_by_owner, tools=("grep",))
_LAST = Selector(name="last", phrase="the last file in {folder}", find=_last, tools=("ls",))
_LONGEST = Selector(name="longest", phrase="the longest file in {folder}", find=_longest, tools=("ls", "wc"))
_DRAFTS = Selector(name="drafts", phrase="every draft in {folder}", find=_drafts, tools=("grep",))

_STATUS: FilesEffect = Effect(
    name="status",
    wordings=("What is the status of {which}?", "Tell me the status of {which}."),
    solve=_status,
    tools=("cat",),
    fits=_is_one,
)
_LINES: FilesEffect = Effect(
    name="lines",
    wordings=("How many lines are in {which}?", "Count the lines of {which}."),
    solve=_count,
    tools=("wc",),
    fits=_is_one,
)
_FIRST: FilesEffect = Effect(
    name="first",
    wordings=("What is the first line of {which}?", "Tell me the first line of {which}."),
    solve=_first,
    tools=("head",),
    fits=_is_one,
)
_TOTAL: FilesEffect = Effect(
    name="total",
    wordings=("What is the sum of the amounts of {which}?", "Add up the amounts of {which}."),
    solve=_total,
    tools=("cat",),
)
_DELETE: FilesEffect = Effect(
    name="delete",
    wordings=please("Delete {which}."),
    solve=_delete,
    tools=("rm",),
    fits=_is_writable,
)
_MOVE: FilesEffect = Effect(
    name="move",
    wordings=please("Move {which} to {to}."),
    solve=_move,
    tools=("mv", "cp"),  # the second one for the careless, who take one for the other
    fits=_is_writable,
    sample=_sample_folder,
)
_COPY: FilesEffect = Effect(
    name="copy",
    wordings=please("Copy {which} to {to}."),
    solve=_copy,
    tools=("cp", "mv"),
    fits=_is_one,
    sample=_sample_folder,
)
_RENAME: FilesEffect = Effect(
    name="rename",
    wordings=please("Rename {which} to {new}."),
    solve=_rename,
    tools=("mv",),
    fits=_is_one_writable,
    sample=_sample_name,
)
_LOCK: FilesEffect = Effect(
    name="lock",
    wordings=please("Make {which} read-only."),
    solve=_lock,
    tools=("chmod",),
    fits=_is_writable,
)
_APPEND: FilesEffect = Effect(
    name="append",
    wordings=please("Add the line item {item} to {which}."),
    solve=_append,
    tools=("append", "write"),
    fits=_is_one_writable,
    sample=_sample_item,
)
_APPEND_LOCKED: FilesEffect = Effect(
    name="append_locked",
    wordings=("Add the line item {item} to {which}, then make it read-only again.",),
    solve=_append_locked,
    tools=("chmod", "append"),
    fits=_is_one_locked,
    sample=_sample_item,
)
_MOVE_NEW: FilesEffect = Effect(
    name="move_new",
    wordings=please("Move {which} to the new folder {to}."),
    solve=_move_new,
    tools=("mkdir", "mv"),
    fits=_is_writable,
    sample=_sample_new_folder,
)
_DELETE_OR_MOVE: FilesEffect = Effect(
    name="delete_or_move",
    wordings=please("Delete {which} if its status is draft, else move it to {to}."),
    solve=_delete_or_move,
    tools=("cat", "rm", "mv"),
    fits=_is_one_writable,
    sample=_sample_folder,
)
_NOTE: FilesEffect = Effect(
    name="note",
    wordings=("Write the status of {which} to the new file {to}.",),
    solve=_note,
    tools=("cat", "write"),
    fits=_is_one,
    sample=_sample_new_file,
)


TRAIN_TEMPLATES = (
    pair(1, _STATUS, _PATH),
    pair(1, _LINES, _PATH),
    pair(1, _DELETE, _PATH),
    pair(1, _MOVE, _PATH),
    pair(1, _APPEND, _PATH),
    pair(1, _LOCK, _PATH),
    pair(2, _STATUS, _NAME),
    pair(2, _DELETE, _NAME),
    pair(2, _APPEND, _NAME),
    pair(2, _COPY, _NAME),
    pair(2, _LINES, _OWNER),
    pair(2, _MOVE, _OWNER),
    pair(2, _RENAME, _OWNER),
    pair(2, _FIRST, _LAST),
    pair(2, _DELETE, _LAST),
    pair(3, _APPEND_LOCKED, _PATH),
    pair(3, _DELETE_OR_MOVE, _NAME),
    pair(3, _NOTE, _OWNER),
    pair(3, _MOVE_NEW, _LAST),
    pair(3, _DELETE, _LONGEST),
    pair(3, _MOVE, _DRAFTS),
    pair(3, _TOTAL, _DRAFTS),
)
HELDOUT_TEMPLATES = (
    pair(1, _COPY, _PATH),
    pair(2, _LINES, _NAME),
    pair(2, _STATUS, _OWNER),
    pair(2, _MOVE, _LAST),
    pair(3, _APPEND_LOCKED, _NAME),
    pair(3, _DELETE_OR_MOVE, _OWNER),
    pair(3, _MOVE_NEW, _LONGEST),
    pair(3, _LOCK, _DRAFTS),
)
TEMPLATES = {template.name: template for template in TRAIN_TEMPLATES + HELDOUT_TEMPLATES}
