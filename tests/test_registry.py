from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import pytest
from gymnasium.envs.registration import EnvSpec

import agentgrpo as ag
from agentgrpo.core import AgentEnv
from agentgrpo.errors import EnvError
from agentgrpo.registry import EnvSource, resolve_env
from agentgrpo.types import JsonObject

FILE = """
import agentgrpo as ag
from neighbour import GREETING

class Greeter(ag.ToolEnv):
    def __init__(self, punctuation=".", **kwargs):
        super().__init__(**kwargs)
        self.punctuation = punctuation
    def reset_task(self, task):
        return GREETING + self.punctuation
    def reward(self):
        return 1
"""


class Importable(ag.ToolEnv):
    def reset_task(self, task: dict[str, Any]) -> str:
        return "hello"

    def reward(self) -> float:
        return 1.0


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "neighbour.py").write_text("GREETING = 'hi'")
    (tmp_path / "greeter.py").write_text(FILE)
    return tmp_path / "greeter.py"


def first_words(source: EnvSource) -> str:
    env = source.make()
    obs: str = env.reset(seed=0)[0]
    env.close()
    return obs


@pytest.mark.parametrize(
    "name",
    ["lockbox", "agentgrpo/Lockbox-v0", "agentgrpo.envs.lockbox.env:Lockbox", "agentgrpo.envs:agentgrpo/Lockbox-v0"],
)
def test_every_name_of_a_shipped_environment_finds_it(name: str) -> None:
    source = resolve_env(name, turns=2)
    assert first_words(source).startswith("digit: ")
    assert (source.isolation, source.action_format, source.has_async_tools) == ("inline", "message", False)
    assert len(source.tasks("train")) == 1000
    again = gymnasium.make(EnvSpec.from_json(source.spec.to_json()))
    assert again.unwrapped.turns == 2  # type: ignore[attr-defined]


def test_shipped_environments_are_not_imported_for_nothing() -> None:
    code = "import sys, agentgrpo.envs; print('agentgrpo.envs.lockbox.env' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_a_file_can_be_made_again_in_another_process(file: Path) -> None:
    source = resolve_env(f"{file}:Greeter", punctuation="!")
    assert (source.id, first_words(source)) == ("greeter:Greeter", "hi!")
    code = (
        "import gymnasium, sys; from gymnasium.envs.registration import EnvSpec;"
        "print(gymnasium.make(EnvSpec.from_json(sys.argv[1])).reset()[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, source.spec.to_json()],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "hi!", done.stderr


def test_a_class_is_found_by_its_module_or_kept_here() -> None:
    class Local(Importable):
        pass

    importable, local = resolve_env(Importable), resolve_env(Local)
    assert first_words(importable) == first_words(local) == "hello"
    assert importable.spec.entry_point == f"{__name__}:Importable"
    assert local.id == "local:Local"
    assert json.loads(local.spec.to_json())["kwargs"] == {"env_ref": f"local:{Local.__qualname__}"}


def test_foreign_environments_are_text_in_a_thread() -> None:
    source = resolve_env("CartPole-v1")
    assert (source.isolation, source.action_format, list(source.tasks())) == ("thread", "text", [])


def test_rows_given_are_the_training_split(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"seed": 5}\n')
    source = resolve_env("lockbox", tasks=path, reward_weights={"outcome": 2.0})
    assert source.tasks("train") == [{"seed": 5, "task_id": "own-0"}]
    assert len(source.tasks("heldout")) == 200
    assert source.reward_weights == {"outcome": 2.0}


def test_arguments_shared_with_tasks_choose_rows() -> None:
    rows = resolve_env("shop", templates=["refund_item"]).tasks("heldout")
    assert {row["template"] for row in rows} == {"refund_item"}


@pytest.mark.parametrize(
    ("name", "kwargs", "told"),
    [
        ("shp", {}, "no environment 'shp'. Did you mean 'shop'"),
        ("agentgrpo/Lockbo-v0", {}, "Did you mean 'agentgrpo/Lockbox-v0'"),
        ("no_such_module:Env", {}, "cannot import the module 'no_such_module'"),
        ("agentgrpo.core:Tool", {}, "agentgrpo.core has no environment class 'Tool'; it has AgentEnv, ToolEnv"),
        ("nowhere/x.py:Env", {}, "there is no file"),
        ("lockbox", {"turnz": 1}, "unexpected keyword argument 'turnz'"),
        ("lockbox", {"turns": 0}, "turns >= 1"),
        ("lockbox", {"turns": object()}, "must be plain JSON data"),
    ],
)
def test_what_cannot_be_found_is_told(name: str, kwargs: dict[str, Any], told: str) -> None:
    with pytest.raises(EnvError, match=told):
        resolve_env(name, **kwargs)


def test_broken_files_and_classes_are_told(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("x = 1 /")
    with pytest.raises(EnvError, match="SyntaxError"):
        resolve_env(f"{tmp_path / 'broken.py'}:Env")
    (tmp_path / "mine.py").write_text("from agentgrpo import ToolEnv\nclass Mine(ToolEnv): ...\n")
    with pytest.raises(EnvError, match=r"which class of .*mine.py\? Expected .*mine.py:Class; it has ToolEnv, Mine"):
        resolve_env(str(tmp_path / "mine.py"))
    with pytest.raises(EnvError, match="int is no environment"):
        resolve_env(int)  # type: ignore[arg-type]

    class Odd(Importable):
        metadata = {"isolation": "cloud"}  # noqa: RUF012

    with pytest.raises(EnvError, match=r"metadata\['isolation'\] is 'cloud', expected one of inline, thread, process"):
        resolve_env(Odd)


class Told(AgentEnv):
    """Tells what it is played in."""

    told: ClassVar[Any] = {"tier": "namespace"}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, JsonObject]:
        super().reset(seed=seed)
        self.place = (options or {})["task"]["place"]
        return "hello", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, JsonObject]:
        return "", 0.0, True, False, {}

    def facts(self) -> JsonObject:
        return {"place": self.place, **self.told}


def test_an_environment_may_tell_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_env(Told).facts({"place": "here"}) == {"place": "here", "tier": "namespace"}
    assert resolve_env("lockbox").facts({"seed": 1}) == {}
    monkeypatch.setattr(Told, "told", {"tier": object()})
    with pytest.raises(EnvError, match=r"facts\(\) gave no plain data: TypeError"):
        resolve_env(Told).facts({"place": "here"})
