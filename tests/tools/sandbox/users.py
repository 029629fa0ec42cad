"""Two users to attack as: an ordinary one, and root, whose sandboxes have each a user of their own."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from agentgrpo.tools.sandbox.user import is_open_to_others

ROOT = Path(__file__).parents[3]
NOBODY = 65534


@dataclass(frozen=True)
class User:
    name: str
    python: str
    uid: int | None  # to become; None: who runs the tests
    has_own: bool  # whether each sandbox gets a user of its own

    def run(self, module: str, *arguments: str, seconds: float = 300.0) -> Any:
        """Run a module of the tests as this user; return the JSON it prints."""
        variables = {"PYTHONPATH": _path(), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [self.python, "-m", module, *arguments],
            capture_output=True,
            text=True,
            timeout=seconds,
            cwd="/",
            env=variables,
            user=self.uid,
            group=self.uid,
            extra_groups=None if self.uid is None else [],
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)


def ordinary() -> User:
    """Return an ordinary user; skip where the tests run as root and nobody else can read them."""
    if os.geteuid() != 0:
        return User(name="ordinary", python=sys.executable, uid=None, has_own=False)
    python = _python_for_others()
    if python is None:
        pytest.skip("run as root, from a checkout or with a Python that no other user can read")
    return User(name="ordinary", python=python, uid=NOBODY, has_own=False)


def root() -> User:
    """Return root, whose sandboxes have a user of their own; skip for others."""
    if os.geteuid() != 0:
        pytest.skip("only root can give each sandbox a user of its own")
    return User(name="root", python=sys.executable, uid=None, has_own=True)


def _path() -> str:
    # Of this environment: the interpreter may be another one.
    site = Path(importlib.util.find_spec("pydantic").origin).parents[1]  # type: ignore[union-attr,arg-type]
    return os.pathsep.join(map(str, (ROOT, site)))


@cache
def _python_for_others() -> str | None:
    """Return a Python of this version that every user can run, if the tests can be read by every user too."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    if not is_open_to_others(__file__.replace(Path(__file__).name, "")):
        return None
    for path in (sys.executable, f"/usr/bin/{name}", f"/usr/local/bin/{name}"):
        if Path(path).exists() and is_open_to_others(path):
            return path
    return None
