from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import agentgrpo as ag
from agentgrpo.config.run import load_config
from agentgrpo.endpoint.client import Endpoint
from agentgrpo.endpoint.stub import StubEndpoint, calls
from agentgrpo.envstats.figures import signal_of
from agentgrpo.envstats.groups import of_endpoint, of_model, of_run
from agentgrpo.errors import UserError
from agentgrpo.registry import resolve_env
from agentgrpo.run.report import SilentReporter
from agentgrpo.store.run import RunDirectory
from tests.small import small_model, small_run

SOURCE = resolve_env("lockbox", turns=2)
TASKS = ag.load_tasks(SOURCE.tasks())[:3]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.getbasetemp(), "lockbox")


def test_a_model_plays_a_group_of_each_task(model: Path) -> None:
    config = load_config(small_run(model, Path("runs")))
    episodes = of_model(config, SOURCE, TASKS, SilentReporter())
    assert sorted({episode.group for episode in episodes}) == sorted(task.id for task in TASKS)
    assert len(episodes) == 3 * 4
    assert all(episode.sampled_tokens and episode.tokens for episode in episodes)
    assert of_model(config, SOURCE, TASKS, SilentReporter()) == episodes


async def test_a_model_behind_an_endpoint_does_too() -> None:
    config = load_config({"env": "lockbox"}, overrides=["rollout.group_size=2", "rollout.max_turns=3"])
    async with StubEndpoint(lambda body: calls("press", {"digit": 3})) as stub:
        endpoint = Endpoint(stub.url, "stub")
        episodes = await asyncio.to_thread(of_endpoint, config, SOURCE, endpoint, TASKS, SilentReporter())
    assert [(e.turns, e.calls) for e in episodes] == [(3, 3)] * 6
    assert all(episode.tokens is None for episode in episodes)
    found = signal_of(episodes)
    assert found is not None
    assert (found.groups, found.differing) == (3, 0)


def test_the_newest_groups_of_a_run_are_taken(model: Path, tmp_path: Path) -> None:
    run = ag.train(small_run(model, tmp_path))
    name, episodes = of_run(run.path, 2)
    assert name == f"{run.path.name}, train step 2"
    assert len(episodes) == 2 * 4
    assert {episode.group.split("/")[0] for episode in episodes} == {"2"}
    name, episodes = of_run(tmp_path, 100)
    assert name.endswith("train steps 1 to 2")
    assert len({episode.group for episode in episodes}) == 4
    assert all(episode.sampled_tokens for episode in episodes)


def test_a_run_without_scored_episodes_is_told(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "empty")
    with pytest.raises(UserError):
        of_run(run.path, 2)
