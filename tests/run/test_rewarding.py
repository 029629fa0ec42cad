"""Whole runs whose reward is named in the config, or judged: what is stored, recorded, resumed, evaluated."""

from __future__ import annotations

import json
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import agentgrpo as ag
from agentgrpo.config.run import load_config
from agentgrpo.endpoint import client
from agentgrpo.endpoint.client import Endpoint
from agentgrpo.endpoint.stub import StubEndpoint, calls, says
from agentgrpo.errors import ConfigError, RunError
from agentgrpo.evaluate.endpoint import evaluate_endpoint
from agentgrpo.evaluate.run import evaluate_checkpoint
from agentgrpo.judge.stub import judging
from agentgrpo.run.ending import Run
from agentgrpo.run.report import SilentReporter
from agentgrpo.run.rewarding import open_rewarding
from agentgrpo.store import EpisodeReader, EpisodeStore, RunDirectory
from agentgrpo.store.run import read_metrics
from agentgrpo.training import train
from agentgrpo.types import Message, Trajectory
from tests.endpoint.serving import serving
from tests.small import small_model, small_run

SILENT = SilentReporter()
REWARDS = """
import asyncio

async def presses(episode):
    await asyncio.sleep(0)
    return {**episode.terms, "presses": min(1.0, len(episode.calls) / 4)}

def fails(episode):
    raise ValueError("no idea")
"""


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_jitter", lambda state: 0.01)


@pytest.fixture(scope="module")
def lockbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.getbasetemp(), "lockbox")


@pytest.fixture
def rewards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_rewards.py").write_text(REWARDS)
    return tmp_path / "my_rewards.py"


def few_turns(messages: list[Message]) -> float:
    """A judge's opinion: the fewer tool results the better."""
    return 1.0 / (1 + len([message for message in messages if message["role"] == "tool"]))


def stored(run: Path) -> list[Trajectory]:
    with EpisodeReader(run / "episodes.sqlite") as reader:
        return [reader.get(row.id).trajectory for row in reader.list(limit=1000)]


def train_with_copies(config: dict[str, Any], folder: Path) -> tuple[Run, list[Path]]:
    """Train in folder/runs; return the run, and copies of it as a kill would leave it whenever it stored episodes."""
    original, copies = EpisodeStore.add, list[Path]()

    async def add(self: EpisodeStore, trajectories: Any) -> None:
        await original(self, trajectories)
        (run,) = (folder / "runs").iterdir()
        copies.append(Path(shutil.copytree(run, folder / f"copy-{len(copies)}", symlinks=True)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EpisodeStore, "add", add)
        return train(config, reporter=SILENT), copies


def record_of(run: Path) -> Any:
    return json.loads((run / "run.json").read_text())


def judge(stub: StubEndpoint, **more: Any) -> dict[str, Any]:
    return {"endpoint": stub.url, "model": "m", "rubric": "Be quick.", **more}


def test_a_named_reward_trains_is_stored_and_recorded(lockbox: Path, rewards: Path, tmp_path: Path) -> None:
    config = small_run(lockbox, tmp_path / "runs", reward=f"{rewards}:presses", reward_weights={"presses": -0.25})
    config["train"] |= {"steps": 1}
    run = train(config, reporter=SILENT)
    for trajectory in stored(run.path):
        terms = trajectory.reward_terms
        assert terms["presses"] == min(1.0, trajectory.call_count / 4)
        assert trajectory.reward == pytest.approx(terms["outcome"] - 0.25 * terms["presses"])
        assert trajectory.info["env_reward"]["terms"] == {"outcome": terms["outcome"]}
    metrics = read_metrics(run.path / "metrics.jsonl")[-1]
    assert metrics["train/terms/presses"] > 0
    assert metrics["train/unscored/reward"] == 0
    first = record_of(run.path)
    assert len(first["hashes"]["reward_source"]) == 64
    assert (first["exact"], "judge" in first) == (True, False)
    found = evaluate_checkpoint(run.path, checkpoint="last", reporter=SILENT)
    assert found.reward == pytest.approx(read_metrics(run.path / "metrics.jsonl")[-1]["eval/reward"])
    rewards.write_text(REWARDS + "\n# another\n")
    del sys.modules[next(name for name in sys.modules if name.startswith("agentgrpo_file_my_rewards"))]
    told: list[str] = []
    again = train(resume=run.path, overrides=["train.steps=2"], reporter=Listens(told))
    assert any("the code of the reward" in line and "was changed" in line for line in told)
    assert record_of(again.path)["exact"] is False


class Listens(SilentReporter):
    def __init__(self, said: list[str]) -> None:
        self.said = said

    def message(self, text: str) -> None:
        self.said.append(text)


@pytest.mark.slow
def test_the_same_reward_makes_the_same_adapter(lockbox: Path, rewards: Path, tmp_path: Path) -> None:
    config = small_run(lockbox, tmp_path / "runs", reward=f"{rewards}:presses", eval={"tasks": 1, "every": 0})
    config["train"] |= {"steps": 1}
    hashes = [record_of(train(config, reporter=SILENT).path)["adapter"] for _ in range(2)]
    assert hashes[0] == hashes[1]


def test_a_reward_that_fails_stops_the_run_with_the_cause(lockbox: Path, rewards: Path, tmp_path: Path) -> None:
    config = small_run(lockbox, tmp_path / "runs", reward=f"{rewards}:fails", eval={"tasks": 2})
    with pytest.raises(RunError, match=r"2 of 2 episodes could not be scored .* reward: .*fails raised ValueError: no"):
        train(config, reporter=SILENT)
    (run,) = (tmp_path / "runs").iterdir()
    record = record_of(run)
    assert record["episodes"]["unscored"] == {"reward": 2}
    assert record["episodes"]["by_stop_reason"]["failed"] == 0
    assert (record["status"], record["exact"]) == ("failed", False)


def test_a_group_judge_trains_and_its_ranks_are_stored_and_paid_once(lockbox: Path, tmp_path: Path) -> None:
    with serving(judging(few_turns)) as stub:
        config = small_run(lockbox, tmp_path / "runs", judge=judge(stub), eval={"tasks": 1, "every": 0})
        run, copies = train_with_copies(config, tmp_path)
        asked = len(stub.requests)
        episodes = [t for t in stored(run.path) if t.key.phase == "train"]
        assert len(episodes) == 16
        for trajectory in episodes:
            assert trajectory.info["judge"]["model"] == "m"
            own = trajectory.info["judge"]["own_reward"]
            assert trajectory.reward == own + 0.5 * trajectory.reward_terms["judge"]
            assert own == trajectory.reward_terms["outcome"]
        assert not any("judge" in t.info for t in stored(run.path) if t.key.phase == "eval")
        record, metrics = record_of(run.path), read_metrics(run.path / "metrics.jsonl")[-1]
        assert record["judge"] == {"calls": asked, "tokens": 15 * asked}
        assert metrics["train/terms/judge"] == pytest.approx(0.5)
        assert metrics["judge/calls"] == asked
        assert record["inexact"] == ["a model behind an endpoint judges (judge.model)"]
        # Killed at any moment, in mid-group or just before its ranks were stored: the same run comes of it.
        copy = copies[len(copies) // 2]
        again = train(resume=copy, reporter=SILENT)
        assert {str(t.key): t.reward for t in stored(again.path)} == {str(t.key): t.reward for t in stored(run.path)}
        assert record_of(again.path)["adapter"] == record["adapter"]
        assert record_of(again.path)["judge"]["calls"] <= asked + 2  # a verdict under way when it was killed


@pytest.mark.slow
def test_whatever_the_moment_a_judged_run_was_killed_at(lockbox: Path, tmp_path: Path) -> None:
    with serving(judging(few_turns)) as stub:
        config = small_run(lockbox, tmp_path / "runs", judge=judge(stub), eval={"tasks": 1, "every": 0})
        run, copies = train_with_copies(config, tmp_path)
        expected = {str(t.key): (t.reward, dict(t.reward_terms)) for t in stored(run.path)}
        for copy in copies:
            again = train(resume=copy, reporter=SILENT)
            assert {str(t.key): (t.reward, dict(t.reward_terms)) for t in stored(again.path)} == expected
            assert record_of(again.path)["adapter"] == record_of(run.path)["adapter"]


@pytest.mark.slow
def test_asynchronous_training_is_judged_too(lockbox: Path, rewards: Path, tmp_path: Path) -> None:
    with serving(judging(few_turns), seconds=0.02) as stub:
        config = small_run(
            lockbox, tmp_path / "runs", judge=judge(stub), reward=f"{rewards}:presses", eval={"tasks": 1}
        )
        config["train"] |= {"steps": 4, "max_staleness": 1}
        run = train(config, reporter=SILENT)
    trained = [t for t in stored(run.path) if t.key.phase == "train"]
    assert len({t.key.task_id for t in trained if "judge" in t.reward_terms}) >= 8
    assert all({"outcome", "presses"} <= t.reward_terms.keys() for t in trained)
    with EpisodeReader(run.path / "episodes.sqlite") as reader:
        rows = [row for row in reader.list(limit=1000) if row.phase == "train"]
    judged = {str(t.key) for t in trained if "judge" in t.reward_terms}
    assert {str(row.key) for row in rows if row.advantage is not None} <= judged


def test_an_outage_of_the_judge_stops_the_run_and_a_resume_goes_on(lockbox: Path, tmp_path: Path) -> None:
    config = small_run(lockbox, tmp_path / "runs", eval={"tasks": 1, "every": 0})
    config["train"] |= {"steps": 1}
    expected = pytest.raises(RunError, match=r"judge: 1 answers could not be read")
    with serving(lambda body: says("well")) as stub, expected:
        train({**config, "judge": judge(stub, retries=0)}, reporter=SILENT)
    (path,) = (tmp_path / "runs").iterdir()
    assert record_of(path)["episodes"]["unscored"]["judge"] >= 4
    assert record_of(path)["judge"]["calls"] >= 1
    with serving(judging(few_turns)) as stub:
        run = train(resume=path, overrides=[f"judge.endpoint={stub.url}"], reporter=SILENT)
    assert "unscored" not in record_of(run.path)["episodes"]
    assert all("judge" in t.reward_terms for t in stored(run.path) if t.key.phase == "train")


def test_a_chat_model_is_scored_by_the_named_reward_and_the_judge(tmp_path: Path, rewards: Path) -> None:
    (tmp_path / "rubric.md").write_text("Be quick.\n")
    played = {"n": 0}

    def plays(body: Any) -> Any:
        played["n"] += 1
        return calls("press", {"digit": 1}) if played["n"] % 2 else says("done")

    with serving(plays) as model, serving(judging(few_turns)) as stub:
        file = tmp_path / "run.toml"
        file.write_text(
            f'env = "lockbox"\nreward = "my_rewards:presses"\n[env_args]\nturns = 2\n[eval]\ntasks = 3\n'
            f'[judge]\nendpoint = "{stub.url}"\nmodel = "m"\nmode = "episode"\nrubric_file = "rubric.md"\n'
        )
        endpoint = Endpoint(model.url, "player", concurrency=1)
        overrides = [f"train.runs={tmp_path / 'runs'}"]
        found = evaluate_endpoint(str(file), endpoint, overrides=overrides, reporter=SILENT)
        assert len(stub.requests) >= 1
        assert "Be quick." in stub.requests[0]["messages"][0]["content"]
    run = RunDirectory.open(tmp_path / "runs")
    terms = [t.reward_terms for t in stored(run.path)]
    assert all(t == {"outcome": t["outcome"], "presses": 0.25, "judge": 0.5} for t in terms)
    assert found.reward == pytest.approx(sum(t["outcome"] + 0.25 + 0.25 for t in terms) / 3)
    written = tomllib.loads(run.config.read_text())
    assert written["reward"] == f"{rewards}:presses"
    assert written["judge"]["rubric_file"] == str(tmp_path / "rubric.md")
    assert {"reward_source", "judge_rubric"} <= record_of(run.path)["hashes"].keys()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"reward": "nonsense"}, "reward = 'nonsense' names no function"),
        ({"reward": "no_such_module:fn"}, "cannot import the module 'no_such_module'"),
        ({"judge": {"model": "m", "rubric": "r"}}, "judge.endpoint"),
        ({"judge": {"endpoint": "ftp://x", "model": "m", "rubric": "r"}}, r"judge\.endpoint 'ftp://x' is no URL"),
        ({"judge": {"endpoint": "http://x", "model": "m"}}, "give either rubric .* or rubric_file"),
        (
            {"judge": {"endpoint": "http://x", "model": "m", "rubric": "r", "rubric_file": "f"}},
            "give either rubric .* or rubric_file",
        ),
        ({"judge": {"endpoint": "http://x", "model": "m", "rubric_file": "none.md"}}, "cannot be read as text"),
        (
            {"judge": {"endpoint": "http://x", "model": "m", "rubric": "r", "api_key_env": "NOT_SET_ANYWHERE"}},
            "judge.api_key_env NOT_SET_ANYWHERE: the environment variable is not set",
        ),
    ],
)
def test_what_is_wrong_is_said_before_a_model_is_made(tmp_path: Path, more: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        train(small_run(Path("nowhere"), tmp_path / "runs", **more), reporter=SILENT)
    assert not (tmp_path / "runs").exists()


def test_an_empty_rubric_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rubric.md").write_text(" \n")
    config = {"judge": {"endpoint": "http://x", "model": "m", "rubric_file": str(tmp_path / "rubric.md")}}
    with pytest.raises(ConfigError, match="is empty: write in it what counts"):
        open_rewarding(load_config(config))


def test_without_either_there_is_nothing() -> None:
    assert open_rewarding(load_config({})) is None
    assert "judge" not in tomllib.loads(load_config({}).to_toml())


def test_the_public_names_are_there() -> None:
    assert ag.Rubric({"progress": 0.2}).score(1.0, progress=1.0) == {"outcome": 1.0, "progress": 0.0}
