from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from agentgrpo.errors import ConfigError, RewardFailure
from agentgrpo.rewards import Episode
from agentgrpo.rewards.named import NamedReward, load_reward
from tests.judge.recordings import recording, said

FILE = """
import asyncio, math, sys, time
calls = []

def number(episode): return 0.5
def terms(episode): return {**episode.terms, "brevity": 1 / len(episode.turns)}
async def later(episode):
    await asyncio.sleep(0)
    return {"outcome": episode.answer == "7"}
def awaits(episode): return later(episode)
def nothing(episode): return None
def text(episode): return {"outcome": "much"}
def unnamed(episode): return {1: 1.0}
def nan(episode): return math.nan
def huge(episode): return 10 ** 400
def raises(episode): raise ValueError("no idea")
def stops(episode): return next(iter(()))
def leaves(episode): sys.exit(3)
def late(episode): raise TimeoutError("of its own")
def hangs(episode): time.sleep(30)
async def waits(episode): await asyncio.sleep(30)
def broken(episode):
    class Broken:
        def __repr__(self): raise RuntimeError("even this")
    return Broken()
class Thing: pass
constant = 3
"""
EPISODE = Episode.of(recording(said("6"), said("7"), reward=1.0), {"task_id": "t"})


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_rewards.py").write_text(FILE)
    return tmp_path / "my_rewards.py"


@pytest.mark.parametrize(
    ("name", "terms"),
    [
        ("number", {"outcome": 0.5}),
        ("terms", {"outcome": 1.0, "brevity": 0.5}),
        ("later", {"outcome": 1.0}),
        ("awaits", {"outcome": 1.0}),
    ],
)
async def test_a_function_gives_a_number_or_terms_now_or_later(file: Path, name: str, terms: Any) -> None:
    assert await load_reward(f"{file}:{name}").terms(EPISODE, seconds=60) == terms


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "gave outcome = None; expected a finite number"),
        ("text", "gave outcome = 'much'"),
        ("unnamed", "gave 1 = 1.0"),
        ("nan", "gave outcome = nan"),
        ("huge", "gave outcome = 1000"),
        ("raises", "raised ValueError: no idea (my_rewards.py:"),
        ("stops", "raised RuntimeError: StopIteration"),
        ("leaves", "raised SystemExit: 3"),
        ("late", "raised TimeoutError: of its own"),
        ("hangs", "gave no reward within 0.2 s"),
        ("waits", "gave no reward within 0.2 s"),
        ("broken", "raised RuntimeError: even this"),
    ],
)
async def test_whatever_goes_wrong_is_a_failure_with_its_cause(file: Path, name: str, said: str) -> None:
    clock = time.monotonic()
    with pytest.raises(RewardFailure) as caught:
        await load_reward(f"{file}:{name}").terms(EPISODE, seconds=0.2 if name in ("hangs", "waits") else 60)
    assert str(caught.value).startswith(f"{file}:{name} ")
    assert said in str(caught.value)
    assert time.monotonic() - clock < 25


async def test_a_function_never_runs_in_the_event_loops_thread(file: Path) -> None:
    seen: list[threading.Thread] = []

    def look(episode: Episode) -> float:
        seen.append(threading.current_thread())
        return 1.0

    await NamedReward(name="x", function=look, reference="x").terms(EPISODE, seconds=60)
    assert seen[0] is not threading.current_thread()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("rewards", "names no function: expected"),
        (":number", "names no function: expected"),
        ("no_such_module:fn", "cannot import the module 'no_such_module'"),
        ("nowhere/x.py:fn", "there is no file"),
        ("{file}:numbr", "has no function 'numbr'; it has number, terms, .* Did you mean 'number'"),
        ("{file}:Thing", "has no function 'Thing'"),
        ("{file}:constant", "has no function 'constant'"),
    ],
)
def test_a_name_that_finds_no_function_is_answered_with_those_there(file: Path, name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_reward(name.replace("{file}", str(file)))


def test_a_function_is_found_again_from_any_folder(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    sys.path.insert(0, str(file.parent))
    try:
        assert load_reward("my_rewards:number").reference == f"{file}:number"
        assert load_reward("my_rewards.py:number").reference == f"{file}:number"
        assert load_reward("os.path:join").reference == "os.path:join"
    finally:
        sys.modules.pop("my_rewards")
