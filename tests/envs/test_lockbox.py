from __future__ import annotations

import json
import random

import pytest

from agentgrpo.envcheck import check_env
from agentgrpo.envs.lockbox.env import Lockbox
from agentgrpo.errors import EnvError, TaskError
from agentgrpo.registry import resolve_env


def play(env: Lockbox, task_id: str, quality: float = 1.0) -> tuple[float, list[str]]:
    obs, _ = env.reset(options={"task_id": task_id})
    said, oracle = [obs], env.oracle(quality=quality, rng=random.Random(task_id))
    action = next(oracle)
    while True:
        obs, reward, terminated, _, info = env.step(json.dumps(action))
        if terminated:
            return reward, said
        said.append(obs)
        action = oracle.send(tuple(info["messages"]))


def test_words_and_digits_are_those_of_the_comparison() -> None:
    env = Lockbox()
    _, info = env.reset(options={"task": {"seed": 7}})
    rng = random.Random(7)
    assert env.digits == [rng.randrange(10) for _ in range(4)]
    assert info["messages"] == [
        {"role": "system", "content": "Press the shown digit each time until done."},
        {"role": "user", "content": f"digit: {env.digits[0]}"},
    ]
    assert info["tools"][0]["function"] == {
        "name": "press",
        "description": "Press one digit.",
        "parameters": {
            "type": "object",
            "properties": {"digit": {"type": "integer", "description": "The digit."}},
            "required": ["digit"],
        },
    }


def test_oracle_presses_right_and_then_answers() -> None:
    env = Lockbox()
    reward, said = play(env, "heldout-0")
    assert (reward, env.answer, said[-1], len(said)) == (1.0, "ok", "done", 5)
    assert Lockbox.tasks("heldout")[0] == {"task_id": "heldout-0", "seed": 1000}
    assert len(Lockbox.tasks("train")) == 1000


def test_reward_is_the_fraction_of_right_presses() -> None:
    env = Lockbox()
    env.reset(seed=0)
    env.step(json.dumps(env.call("press", digit=env.digits[0])))
    env.step(json.dumps(env.call("press", digit=(env.digits[1] + 1) % 10)))
    assert env.score() == {"outcome": 0.25}
    for _ in range(5):
        obs = env.step(json.dumps(env.call("press", digit=10)))[0]
    assert (obs, env.score()) == ("done", {"outcome": 0.25})


def test_quality_is_the_share_of_deliberate_presses() -> None:
    env = Lockbox()
    means = [sum(play(env, f"train-{i}", q)[0] for i in range(200)) / 200 for q in (1.0, 0.5, 0.0)]
    assert means[0] == 1.0
    assert means[1] == pytest.approx(0.55, abs=0.06)
    assert means[2] == pytest.approx(0.1, abs=0.04)


@pytest.mark.parametrize("tool_kind", ["sync", "async"])
def test_a_slow_lockbox_is_the_same_one_in_a_thread(tool_kind: str) -> None:
    source = resolve_env("lockbox", latency=0.001, tool_kind=tool_kind, turns=2)
    assert source.isolation == "thread"
    slow = source.make().unwrapped
    assert isinstance(slow, Lockbox)
    assert play(slow, "train-3") == play(Lockbox(turns=2), "train-3")
    assert Lockbox().metadata["isolation"] == "inline"


def test_some_presses_take_ten_times_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    for index in range(100):
        play(Lockbox(turns=4, latency=1.0, slow_share=0.1), f"train-{index}")
    assert set(slept) == {1.0, 10.0}
    assert slept.count(10.0) / len(slept) == pytest.approx(0.1, abs=0.06)


def test_it_proves_itself() -> None:
    assert [result for result in check_env(resolve_env("lockbox")) if result.passed is not True] == []


def test_misuse_is_told() -> None:
    with pytest.raises(EnvError, match="tool_kind 'sync' or 'async'"):
        Lockbox(tool_kind="slow")  # type: ignore[arg-type]
    with pytest.raises(EnvError, match="slow_share from 0 to 1"):
        Lockbox(slow_share=2.0)
    with pytest.raises(TaskError, match="no split 'test', it has train, heldout"):
        Lockbox.tasks("test")
    with pytest.raises(TaskError, match="seed"):
        Lockbox().reset(options={"task": {}})
