from __future__ import annotations

import ast
import subprocess
import sys

import pytest

import agentgrpo
from tests.small import ROOT


def python(code: str) -> str:
    """Return what a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def type_checked_names() -> set[str]:
    tree = ast.parse((ROOT / "agentgrpo" / "__init__.py").read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If)]
    return {alias.name for block in blocks for line in block.body for alias in line.names}  # type: ignore[attr-defined]


def test_all_is_sorted_complete_and_what_type_checkers_see() -> None:
    assert agentgrpo.__all__ == sorted(agentgrpo.__all__)
    assert set(agentgrpo.__all__) == agentgrpo._WHERE.keys() == type_checked_names()
    assert set(agentgrpo.__all__) <= set(dir(agentgrpo))


@pytest.mark.parametrize("name", agentgrpo.__all__)
def test_each_name_is_there_and_documented(name: str) -> None:
    value = getattr(agentgrpo, name)
    assert (value.__doc__ or "").strip()
    assert value.__module__ == agentgrpo._WHERE[name]


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'agentgrpo' has no attribute 'trian'"):
        _ = agentgrpo.trian


def test_importing_loads_no_torch_nor_does_defining_an_environment() -> None:
    heavy = "{'torch', 'transformers', 'peft', 'renderers', 'matplotlib', 'datasets'}"
    assert python(f"import sys, agentgrpo; print(*{heavy} & sys.modules.keys())") == ""
    names = "ag.ToolEnv, ag.tool, ag.ToolError, ag.load_tasks, ag.load_config, ag.check_env, ag.EpisodeReader"
    assert python(f"import sys, agentgrpo as ag; {names}; print(*{heavy} & sys.modules.keys())") == ""


@pytest.mark.parametrize("first", ["import agentgrpo.training", "from agentgrpo import Run, tool"])
def test_train_is_the_function_whatever_was_imported_first(first: str) -> None:
    code = f"{first}\nimport agentgrpo\nprint(callable(agentgrpo.train), agentgrpo.train.__module__)"
    assert python(code) == "True agentgrpo.training"
