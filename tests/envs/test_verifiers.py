"""Environments of verifiers; these tests run where it is installed: its pins may want an interpreter of its own."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("verifiers.v1", reason="pip install verifiers (0.4 or newer)")

from agentgrpo.envcheck import check_env
from agentgrpo.envs.verifiers.env import Verifiers
from agentgrpo.errors import EnvError, TaskError
from agentgrpo.registry import resolve_env

PARTS = Path(__file__).parents[1] / "elsewhere"
WORDS = ["river", "stone", "window", "garden", "bridge", "market", "kitchen", "summer", "letter", "basket"]


@pytest.fixture(autouse=True)
def tasksets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the tasksets beside these tests packages one has installed."""
    monkeypatch.syspath_prepend(str(PARTS))


@pytest.fixture
def letters() -> Iterator[Verifiers]:
    env = Verifiers(taskset="vf_letters")
    yield env
    env.close()


def test_a_taskset_is_sound() -> None:
    source = resolve_env("verifiers", taskset="vf_letters")
    assert [r for r in check_env(source, tasks=3) if r.passed is False] == []
    assert source.isolation == "process"
    assert [len(source.tasks(split)) for split in ("train", "heldout")] == [27, 5]


def test_its_prompt_its_tools_and_its_rewards_are_there(letters: Verifiers) -> None:
    obs, info = letters.reset(options={"task_id": "heldout-5"})
    assert obs == "How often is e in bookkeeper?"
    assert info["messages"][0] == {"role": "system", "content": "Answer with a number."}
    (tool,) = info["tools"]
    assert tool["function"]["name"] == "letters_tools_count"
    assert tool["function"]["description"] == "Count a letter in the word."
    assert letters.step(json.dumps(letters.call("letters_tools_count", letter="e")))[0] == "3"
    _, reward, terminated, _, info = letters.step(json.dumps(letters.say("3")))
    assert (reward, terminated) == (1.25, True)
    assert info["reward_terms"] == {"right": 1.0, "looked": 0.25}


def test_what_a_tool_refuses_is_told(letters: Verifiers) -> None:
    letters.reset(options={"task": {"index": 0}})
    for arguments, said in [({"letter": "ab"}, "one letter, please"), ({}, "'letter' is missing")]:
        obs, _, terminated, _, _ = letters.step(json.dumps(letters.call("letters_tools_count", **arguments)))
        assert said in obs
        assert not terminated
    assert letters.score() == {"right": 0.0, "looked": 0.0}  # a call that failed is a look: nothing was counted


def test_episodes_do_not_share_state(letters: Verifiers) -> None:
    letters.reset(options={"task": {"index": 0}})
    letters.step(json.dumps(letters.call("letters_tools_count", letter="s")))
    letters.reset(options={"task": {"index": 1}})
    assert letters.step(json.dumps(letters.say("no idea")))[1] == 0.0


def test_what_cannot_be_played_is_refused_with_the_reason() -> None:
    for taskset, reason in [
        ("", "needs env_args.taskset"),
        ("no_such_taskset", "cannot load the verifiers taskset 'no_such_taskset'"),
        ("vf_sandboxed", "its tasks are set up in a runtime"),
    ]:
        with pytest.raises(EnvError, match=reason):
            Verifiers(taskset=taskset)
    with pytest.raises(TaskError, match="there is no 99"):
        Verifiers(taskset="vf_letters").reset(options={"task": {"index": 99}})
    with pytest.raises(TaskError, match="no split 'test'"):
        Verifiers.tasks("test", taskset="vf_letters")


@pytest.mark.skipif(find_spec("textarena") is None, reason="textarena (verifiers[ta]) is not installed")
def test_their_textarena_environment_plays_hangman(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = tmp_path / "corpora" / "words"  # what nltk would download
    corpus.mkdir(parents=True)
    for name in ("en", "en-basic", "README"):
        (corpus / name).write_text("\n".join(WORDS) + "\n")
    monkeypatch.setattr(importlib.import_module("nltk.data"), "path", [str(tmp_path)])
    env = Verifiers(taskset="textarena", taskset_args={"game": "Hangman-v0"})
    obs, info = env.reset(options={"task_id": "train-0"})
    assert "You are playing Hangman" in obs
    assert (info["messages"][0]["role"], info["tools"]) == ("system", [])
    for letter in "eriostandwkgmhlubcf":
        obs, reward, terminated, _, info = env.step(json.dumps(env.say(f"I try [{letter}]")))
        if terminated:
            break
        assert "C00 C01" in obs
    assert terminated
    assert set(info["reward_terms"]) == {"game_reward"}
    assert 0.0 <= reward <= 1.0
    env.close()
