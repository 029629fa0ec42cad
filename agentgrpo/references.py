"""What a configuration means by "package.module:name" or "path/to/file.py:name": a module, and a function in it.

It does not know what either is for.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from agentgrpo.errors import EnvError, nearest
from agentgrpo.tooling import describe

FORM = '"module:function" or "path/to/file.py:function"'


def load_module(place: str) -> ModuleType:
    """Return the module of "package.module" or "path/to/file.py", loaded once.

    A module is also looked for in the current folder, the neighbours of a file beside it.

    Raises:
        EnvError: it cannot be imported.
    """
    return _load(Path(place).resolve()) if place.endswith(".py") else _import(place)


def load_function(reference: str, key: str) -> Callable[..., Any]:
    """Return the function a key of the configuration names, or what can be called like one.

    Raises:
        EnvError: there is none.
    """
    place, _, name = reference.rpartition(":")
    if not place or not name:
        raise EnvError(f"{key} = '{reference}' names no function: expected {FORM}")
    try:
        module = load_module(place)
    except EnvError as error:
        raise EnvError(f"{key} = '{reference}': {error}") from error
    found = getattr(module, name, None)
    if not callable(found) or isinstance(found, type):
        there = [known for known, value in vars(module).items() if _is_function(value) and not known.startswith("_")]
        raise EnvError(
            f"{key} = '{reference}': {place} has no function '{name}'; it has {', '.join(there) or 'none'}."
            f"{nearest(name, there)}"
        )
    return cast(Callable[..., Any], found)


def _is_function(value: Any) -> bool:
    try:
        return callable(value) and not isinstance(value, type) and inspect.isfunction(inspect.unwrap(value))
    except ValueError:  # it says that it wraps itself, as what answers to every name does
        return False


def _import(module: str) -> ModuleType:
    _add_to_path(Path.cwd())
    try:
        return importlib.import_module(module)
    except Exception as error:
        raise EnvError(f"cannot import the module '{module}': {describe(error)}") from error


def _load(path: Path) -> ModuleType:
    if not path.is_file():
        raise EnvError(f"there is no file {path}; expected path/to/file.py:Name")
    name = f"agentgrpo_file_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise EnvError(f"{path} is no Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    _add_to_path(path.parent)  # its neighbours can be imported, as in a script
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise EnvError(f"cannot load {path}: {describe(error)}") from error
    return module


def _add_to_path(folder: Path) -> None:
    if os.fspath(folder) not in sys.path:
        sys.path.append(os.fspath(folder))
