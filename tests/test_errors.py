from __future__ import annotations

import re

import pytest

from agentgrpo import errors
from agentgrpo.errors import AgentGRPOError, EpisodeError, RunError, ToolError, UserError, nearest
from agentgrpo.types import Boundary


def drawn_tree() -> dict[str, str]:
    """Return class name -> name of its parent, as drawn in the module's docstring."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"(?P<indent>[│├└─ ]*)(?P<name>[A-Z]\w+)(  |$)", line)
        if match is None:
            continue
        depth = len(match["indent"]) // 4
        path[depth:] = [match["name"]]
        if depth:
            parents[match["name"]] = path[depth - 1]
    return parents


def all_subclasses(cls: type[AgentGRPOError]) -> list[type[AgentGRPOError]]:
    return [found for sub in cls.__subclasses__() for found in (sub, *all_subclasses(sub))]


def test_the_drawn_tree_is_the_tree_of_the_classes() -> None:
    defined = [cls for cls in all_subclasses(AgentGRPOError) if cls.__module__ == errors.__name__]
    assert drawn_tree() == {cls.__name__: cls.__bases__[0].__name__ for cls in defined}


def test_every_boundary_has_exactly_one_error() -> None:
    failures = [cls for cls in EpisodeError.__subclasses__() if cls.__module__ == errors.__name__]
    assert sorted(cls.boundary for cls in failures) == sorted(Boundary)


def test_families_are_apart_and_replace_the_builtin_a_caller_would_catch() -> None:
    families = {UserError, EpisodeError, RunError}
    assert set(AgentGRPOError.__subclasses__()) == families
    assert issubclass(UserError, ValueError)
    assert issubclass(RunError, RuntimeError)


def test_what_a_tool_tells_the_model_is_not_a_failure() -> None:
    assert not issubclass(ToolError, AgentGRPOError)


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("learning_rat", ["learning_rate", "beta"], " Did you mean 'learning_rate'?"),
        ("zzz", ["learning_rate", "beta"], ""),
        ("beta", [], ""),
    ],
)
def test_nearest_suggests_a_known_name_or_nothing(name: str, known: list[str], hint: str) -> None:
    assert nearest(name, iter(known)) == hint
