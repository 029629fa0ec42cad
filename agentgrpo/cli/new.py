"""`agentgrpo env new`: a folder with an environment that runs, its tasks, its test and the config that trains on it.

It writes files and runs one: the script that makes the tasks. It never writes over anything.
"""

from __future__ import annotations

import importlib.util
import keyword
import re
import runpy
import shlex
import shutil
from collections.abc import Iterator, Sequence
from enum import StrEnum
from importlib import resources
from pathlib import Path
from string import Template as Text

from rich.console import Console
from rich.table import Table

from agentgrpo.errors import UserError

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_FILES = {  # of a template -> of the project
    "env.py": "$name.py",
    "app.py": "${name}_app.py",
    "make_tasks.py": "make_tasks.py",
    "test.py": "test_$name.py",
    "config.toml": "$name.toml",
    "README.md": "README.md",
}
_ABOUT = {
    "env.py": "the environment: tasks, tools, reward, oracle",
    "app.py": "the app behind it: state and functions",
    "make_tasks.py": "makes tasks.jsonl",
    "test.py": "what has to hold: python -m pytest",
    "config.toml": "a run",
    "README.md": "what is what",
}


class Template(StrEnum):
    """What a new environment begins as."""

    PLAIN = "plain"  # tools are methods, the state is attributes
    APP = "app"  # the state is a database with snapshots and a change log


def new(folder: Path, template: Template) -> None:
    """Write a project and say what to type next.

    Raises:
        UserError: the folder is there, or its name can be no module's.
    """
    _check(folder)
    folder.mkdir()
    try:
        files = list(_write(folder, template))
        runpy.run_path(str(folder / "make_tasks.py"), run_name="__main__")
    except BaseException:
        shutil.rmtree(folder)  # it was made here
        raise
    _tell(folder, files)


def _check(folder: Path) -> None:
    name = folder.name
    if folder.exists():
        raise UserError(f"'{folder}' exists: give another name, nothing is written over")
    if not folder.parent.is_dir():
        raise UserError(f"there is no folder '{folder.parent}' to make '{name}' in")
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        usable = re.sub(r"\W+", "_", name.lower()).strip("_")
        usable = usable if _NAME.fullmatch(usable) and not keyword.iskeyword(usable) else f"env_{usable}"
        raise UserError(f"'{name}' can be no Python module: expected small letters, digits and _, such as '{usable}'")
    if importlib.util.find_spec(name) is not None:
        raise UserError(f"there is a Python module '{name}' already, which would hide yours: try 'my_{name}'")


def _write(folder: Path, template: Template) -> Iterator[tuple[str, str]]:
    """Write the files of a template; yield the name of each and what it is."""
    name = folder.name
    words = {"name": name, "Name": "".join(part.capitalize() for part in name.split("_"))}
    assets = resources.files("agentgrpo").joinpath("assets/new")
    for file, target in _FILES.items():
        for source in (assets.joinpath(f"{template}/{file}.txt"), assets.joinpath(f"common/{file}.txt")):
            if source.is_file():
                path = folder / Text(target).substitute(words)
                path.write_text(Text(source.read_text(encoding="utf-8")).substitute(words), encoding="utf-8")
                yield path.name, _ABOUT[file]
                break


def _tell(folder: Path, files: Sequence[tuple[str, str]]) -> None:
    console = Console(highlight=False)
    table = Table.grid(padding=(0, 2))
    for name, about in files:
        table.add_row(f"  {name}", f"[dim]{about}[/dim]")
    table.add_row("  tasks.jsonl", "[dim]400 tasks[/dim]")
    console.print(f"[bold]{folder.name}[/bold]: an environment that runs. Change it to yours, file by file.")
    console.print(table)
    config = f"{folder.name}.toml"
    steps = Table.grid(padding=(0, 2))
    for command, about in (
        (f"cd {shlex.quote(str(folder))}", ""),
        (f"agentgrpo env check {config}", "is it fit to train on?"),
        (f"agentgrpo env play {config}", "act in it yourself"),
        (f"agentgrpo env stats {config}", "how long, what it earns, is there anything to learn"),
        (f"agentgrpo train {config}", "some minutes on two CPU cores"),
    ):
        steps.add_row(f"  {command}", f"[dim]{about}[/dim]")
    console.print("then", steps)
