"""What the faces of a simulated app share: its functions as tools, and one state per session.

It does not know how a face is spoken to.
"""

from __future__ import annotations

import inspect
import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from agentgrpo.errors import EnvError, UserError
from agentgrpo.references import load_module
from agentgrpo.tooling import Tool, as_tool, is_tool
from agentgrpo.tools.appstate import AppState

MAX_SESSIONS = 10_000


def tools_of(app: AppState) -> dict[str, Tool]:
    """Return an app's functions as tools: those marked with `@tool`, or else all public methods it adds to AppState."""
    added = [base for base in reversed(type(app).__mro__) if base not in AppState.__mro__]
    names = dict.fromkeys(name for base in added for name, value in vars(base).items() if inspect.isfunction(value))
    functions = [getattr(app, name) for name in names if not name.startswith("_") and not hasattr(AppState, name)]
    marked = [function for function in functions if is_tool(function)]
    return {tool.name: tool for tool in map(as_tool, marked or functions)}


class Sessions:
    """The states of an app, by the name of their session; a new one begins with what `make` returns.

    Args:
        make: Returns an app in its start state.
    """

    def __init__(self, make: Callable[[], AppState]) -> None:
        self._make = make
        self._apps: dict[str, AppState] = {}
        self._tools: dict[str, dict[str, Tool]] = {}
        self._starts: dict[str, bytes] = {}

    def app(self, session: str) -> AppState:
        """Return a session's app.

        Raises:
            UserError: there are too many sessions.
        """
        if session not in self._apps:
            if len(self._apps) >= MAX_SESSIONS:
                raise UserError(f"there are {MAX_SESSIONS:,} sessions already: end some")
            self._apps[session] = app = self._make()
            self._starts[session] = app.snapshot()
        return self._apps[session]

    def tools(self, session: str) -> dict[str, Tool]:
        """Return a session's tools, by name."""
        app = self.app(session)
        if session not in self._tools:
            self._tools[session] = tools_of(app)
        return self._tools[session]

    def begin(self, session: str, snapshot: bytes) -> None:
        """Give a session another start state.

        Raises:
            UserError: it is no snapshot.
        """
        app = self.app(session)
        before = app.snapshot()
        try:
            app.restore(snapshot)
        except sqlite3.Error as error:
            app.restore(before)
            raise UserError(f"this is no snapshot of {type(app).__name__}: {error}") from error
        self._starts[session] = snapshot

    def reset(self, session: str) -> None:
        """Put a session back to its start state."""
        self.app(session).restore(self._starts[session])

    def end(self, session: str) -> None:
        """Forget a session."""
        self._tools.pop(session, None)
        self._starts.pop(session, None)
        if (app := self._apps.pop(session, None)) is not None:
            app.close()

    def close(self) -> None:
        """Forget all."""
        for session in list(self._apps):
            self.end(session)


def app_maker(name: str, snapshot: Path | None = None) -> Callable[[], AppState]:
    """Return what makes an app, from what a person calls it.

    Args:
        name: One of this package ("shop"), "module:Class" or "path/to/file.py:Class".
        snapshot: A file with the state it begins with; None: empty.

    Raises:
        UserError: there is no such app, or it cannot begin with this.
    """
    known = name if ":" in name or name.endswith(".py") else f"agentgrpo.tools.{name}:"
    module, _, attribute = known.rpartition(":") if ":" in known else (known, "", "")
    try:
        loaded = load_module(module)
    except EnvError as error:
        raise UserError(f"cannot import the app '{name}': {error}") from error
    app_class = _app_class(loaded, attribute, name)
    try:
        start = None if snapshot is None else snapshot.read_bytes()
        app_class(start).close()
    except (OSError, sqlite3.Error) as error:
        raise UserError(f"the app '{name}' cannot begin with {snapshot}: {error}") from error
    return lambda: app_class(start)


def _app_class(module: ModuleType, attribute: str, name: str) -> type[AppState]:
    found = [
        value
        for key, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, AppState)
        and (key == attribute if attribute else value.__module__ == module.__name__ and value is not AppState)
    ]
    if len(found) != 1:
        classes = ", ".join(cls.__name__ for cls in found) or "none"
        raise UserError(
            f"the app '{name}': expected one class derived from AppState in {module.__name__}, got {classes}"
        )
    return found[0]
