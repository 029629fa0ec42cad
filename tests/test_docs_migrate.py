"""docs/migrate: what stands under "After" is run, is sound, and offers the tools that stood there before."""

from __future__ import annotations

import ast
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import get_json_schema

import agentgrpo as ag
from agentgrpo.config.run import load_config
from agentgrpo.registry import resolve_env
from agentgrpo.tooling import as_tool
from agentgrpo.types import JsonObject
from tests.documents import DOCS, blocks

PAGES = sorted(path.name for path in (DOCS / "migrate").iterdir())
QUICK = [
    *("train.steps=1", "train.threads=1", "rollout.tasks_per_step=2", "rollout.group_size=2", "rollout.max_turns=2"),
    *("rollout.max_tokens=16", "rollout.max_turn_tokens=16"),
]
each_page = pytest.mark.parametrize("page", PAGES)


def after(page: str) -> dict[str, Any]:
    """Return the names that the page's "After" defines."""
    names: dict[str, Any] = {"__name__": "docs"}
    (block,) = blocks(f"migrate/{page}", "python")
    exec(block.text, names)
    return names


def env_of(names: dict[str, Any]) -> type[ag.ToolEnv]:
    (env,) = [value for value in names.values() if isinstance(value, type) and issubclass(value, ag.ToolEnv)]
    return env


def test_there_is_a_page_for_each_of_the_four() -> None:
    assert PAGES == ["art.md", "openenv.md", "trl.md", "verifiers.md"]


@each_page
def test_what_comes_after_is_sound(page: str) -> None:
    names = after(page)
    results = ag.check_env(resolve_env(env_of(names)), train=ag.load_tasks(names["rows"]))
    assert [result for result in results if result.passed is False] == []


@each_page
def test_what_comes_after_trains(page: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_folder, tmp_path / "models" / "small")
    names = after(page)
    assert load_config(names["config"]).model.path == "models/small"
    (block,) = blocks(f"migrate/{page}", "python run")
    names["train"] = partial(ag.train, overrides=QUICK)
    exec(block.text.replace("ag.train(", "train("), names)
    assert names["run"].summary["train_steps"] == 1


@each_page
def test_what_came_before_is_python(page: str) -> None:
    before = [block for block in blocks(f"migrate/{page}") if block.kind not in ("python", "python run")]
    assert before
    for block in before:
        assert block.kind.startswith("python ")
        ast.parse(block.text)


def test_trl_would_offer_the_same_tool() -> None:
    names: dict[str, Any] = {}
    exec(blocks("migrate/trl.md", "python before")[0].text, names)
    theirs = get_json_schema(names["Counter"].increment)["function"]
    assert tool_of("trl.md") == {key: theirs[key] for key in ("name", "description", "parameters")}


def test_arts_schema_written_by_hand_is_the_one_that_is_made() -> None:
    names: dict[str, Any] = {}
    exec(blocks("migrate/art.md", "python before")[0].text, names)
    assert tool_of("art.md") == names["TOOLS"][0]["function"]


def test_the_function_of_verifiers_stays_the_same_but_for_its_error() -> None:
    names: dict[str, Any] = {}
    exec(blocks("migrate/verifiers.md", "python before")[0].text, names)
    assert tool_of("verifiers.md") == as_tool(names["price"]).schema["function"]


def tool_of(page: str) -> JsonObject:
    """Return the one tool a page ends up with, as the model reads it."""
    names = after(page)
    env = env_of(names)()
    env.reset(options={"task": names["rows"][0]})
    (tool,) = env.tools.values()
    function: JsonObject = tool.schema["function"]
    return function
