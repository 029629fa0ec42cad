from __future__ import annotations

import pytest

import agentgrpo as ag
from agentgrpo.envcheck import CHECKS
from agentgrpo.envs import SHIPPED
from agentgrpo.errors import EnvError
from agentgrpo.registry import EnvSource, resolve_env
from agentgrpo.types import JsonObject
from tests.checks.sound import Sound, failed, results


def shipped(name: str) -> EnvSource:
    """Return a shipped environment; skip where it needs an extra that is not installed."""
    try:
        return resolve_env(name)
    except EnvError as error:
        if "pip install" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_environment_is_sound(name: str) -> None:
    found = ag.check_env(shipped(name), tasks=8)
    assert [result for result in found if result.passed is False] == []
    assert [result.name for result in found] == list(CHECKS)
    undeclared = {r.name for r in found if r.passed is None and not r.detail.startswith("declared not to apply: ")}
    assert undeclared <= {"inline", "tools"}  # steps in a thread or process; actions that are text


def test_without_oracle_or_snapshot_calls_are_made_up() -> None:
    class Bare(ag.ToolEnv):
        def reset_task(self, task: JsonObject) -> str:
            return str(self.np_random.integers(100))

        @ag.tool
        def look(self, where: str, deep: bool = False) -> str:
            """Look somewhere."""
            return f"{where} {deep}"

        def reward(self) -> float:
            return 0.0

    found = results(Bare)
    assert {name for name, result in found.items() if result.passed is False} == {"tasks"}
    assert found["snapshot"].passed is found["oracle"].passed is None


def test_an_environment_declares_what_does_not_apply_to_it() -> None:
    class Unsolved(Sound):
        metadata = {"unchecked": {"oracle": "nobody knows how", "snapshot": "the state is elsewhere"}}  # noqa: RUF012

        def oracle(self, **_: object) -> None:  # type: ignore[override]
            raise AssertionError

        def snapshot(self) -> bytes:
            raise AssertionError

    found = results(Unsolved)
    assert (found["oracle"].passed, found["oracle"].detail) == (None, "declared not to apply: nobody knows how")
    assert found["snapshot"].passed is None


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        ({"orcale": "why"}, "metadata['unchecked'] has 'orcale', expected some of splits, .* Did you mean 'oracle'"),
        ({"garbage": "why"}, "metadata['unchecked'] has 'garbage', expected some of"),
        ({"oracle": ""}, "expected {'oracle': 'why it does not apply'}"),
        (["oracle"], "expected {'oracle': 'why it does not apply'}"),
    ],
)
def test_what_cannot_be_declared_is_told(declared: object, told: str) -> None:
    class Declaring(Sound):
        metadata = {"unchecked": declared}  # noqa: RUF012

    head, _, tail = told.partition(".*")
    found = failed(Declaring)
    assert found.keys() == {"tasks"}
    assert head in found["tasks"]
    assert tail in found["tasks"]
