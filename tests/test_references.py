from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentgrpo.errors import EnvError
from agentgrpo.references import load_function, load_module

CODE = """
import functools
import beside_mine

class Thing:
    def __call__(self): ...

@functools.lru_cache
def cached(): return beside_mine.NUMBER

def plain(): return 1

def _hidden(): return 2

constant = 5
a_thing = Thing()
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "beside_mine.py").write_text("NUMBER = 7\n")
    (tmp_path / "mine.py").write_text(CODE)
    yield tmp_path / "mine.py"
    sys.modules.pop("beside_mine", None)


def test_a_function_is_found_decorated_or_not(file: Path) -> None:
    assert load_function(f"{file}:plain", "reward")() == 1
    assert load_function(f"{file}:cached", "reward")() == 7
    assert load_function("os.path:join", "reward")("a", "b") == "a/b"


@pytest.mark.parametrize("reference", ["math:sqrt", "{file}:a_thing"])
def test_whatever_can_be_called_is_as_good_as_a_function(file: Path, reference: str) -> None:
    assert callable(load_function(reference.format(file=file), "reward"))


def test_what_answers_to_every_name_does_not_hide_the_mistake(file: Path) -> None:
    file.write_text("from unittest.mock import call\ndef plain(): return 1\n")
    with pytest.raises(EnvError, match="it has plain"):
        load_function(f"{file}:plan", "reward")


def test_a_file_is_loaded_once_however_it_is_written(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert load_module("mine.py") is load_module(str(file)) is load_module("./mine.py")


def test_a_module_is_looked_for_in_the_current_folder(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    assert load_function("mine:plain", "reward").__module__ == "mine"
    monkeypatch.delitem(sys.modules, "mine")


@pytest.mark.parametrize("name", ["Thing", "constant", "nothing"])
def test_what_is_no_function_is_answered_with_those_there(file: Path, name: str) -> None:
    with pytest.raises(
        EnvError, match=rf"view = '.*:{name}': .*mine.py has no function '{name}'; it has cached, plain"
    ):
        load_function(f"{file}:{name}", "view")


@pytest.mark.parametrize("reference", ["", "plain", ":plain", "mine:", "mine.py"])
def test_a_reference_has_two_parts(reference: str) -> None:
    with pytest.raises(EnvError, match="names no function: expected"):
        load_function(reference, "reward")


def test_code_that_breaks_is_told_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "broken.py").write_text("x = 1\n1 / 0\n")
    for _ in range(2):  # and is not remembered as loaded
        with pytest.raises(EnvError, match=r"ZeroDivisionError: division by zero \(broken.py:2\)"):
            load_function(f"{tmp_path / 'broken.py'}:fn", "reward")
