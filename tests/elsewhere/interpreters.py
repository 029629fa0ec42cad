"""Python interpreters with packages that want an environment of their own; tests skip where there is none.

AGENTGRPO_OPENENV_PYTHON names one with openenv-core: its own clients and servers run there, beside ours here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest


def python_with(package: str, variable: str) -> str:
    """Return an interpreter that can import a package, or skip the test."""
    if find_spec(package) is not None:
        return sys.executable
    named = os.environ.get(variable)
    if named is None:
        pytest.skip(f"{package} is not installed, and {variable} names no interpreter that has it")
    code = f"import importlib.util as u, sys; sys.exit(u.find_spec({package!r}) is None)"
    if subprocess.run([named, "-c", code], timeout=60, check=False).returncode != 0:
        pytest.fail(f"{variable}={named} cannot import {package}")
    return named
