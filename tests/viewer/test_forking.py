from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from agentgrpo.cli import view
from agentgrpo.errors import UserError
from agentgrpo.store import EpisodeFilter, EpisodeReader, RunDirectory
from agentgrpo.viewer.forking import MOST_WAITING, Fork, Forking, ForkRequest
from agentgrpo.viewer.guard import GUARD, TOKEN_HEADER
from agentgrpo.viewer.runs import Runs
from agentgrpo.viewer.server import make_app
from tests.replay.runs import oracle_run

Client = TestClient[Any, Any]
ADDER = f"{Path(__file__).parents[1] / 'replay' / 'adders.py'}:Adder"


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return oracle_run(tmp_path, ADDER, tasks=1, samples=2)


@pytest.fixture
async def client(run: RunDirectory) -> AsyncIterator[Client]:
    app = make_app(Runs(run.path), fork=view._fork)
    async with TestClient(TestServer(app, host="127.0.0.1")) as client:
        yield client


async def ask(client: Client, run: RunDirectory, body: Any) -> Any:
    headers = {"Origin": str(client.make_url("/").origin()), TOKEN_HEADER: client.app[GUARD].token}
    async with client.post(f"/api/episodes/1/fork?run={run.path.name}", headers=headers, json=body) as response:
        return {"status": response.status, **await response.json()}


async def ended(client: Client, number: int) -> Any:
    async with asyncio.timeout(60):
        while True:
            async with client.get(f"/api/jobs/{number}") as response:
                job = await response.json()
            if job["state"] in ("done", "failed"):
                return job
            await asyncio.sleep(0.02)


async def test_an_episode_is_forked_and_stored_beside_it(client: Client, run: RunDirectory) -> None:
    action = json.dumps({"content": "", "tool_calls": [{"name": "add", "arguments": {"number": 1000}}]})
    asked = await ask(client, run, {"turn": 2, "action": action, "policy": "none"})
    assert asked["status"] == 202
    assert await ended(client, asked["job"]) == {"job": asked["job"], "state": "done", "message": ""}
    with EpisodeReader(run.episodes) as reader:
        (fork,) = reader.list(EpisodeFilter(parent=1))
        turns = [reader.get(which).trajectory.turns for which in (1, fork.id)]
    assert (fork.phase, fork.parent, fork.parent_turns, fork.turns) == ("fork", 1, 1, 2)
    assert turns[0][0].state_hash == turns[1][0].state_hash
    async with client.get(f"/api/runs/{run.path.name}/episode?episode=1") as response:
        assert [row["id"] for row in (await response.json())["forked"]] == [fork.id]
    async with client.get(f"/api/runs/{run.path.name}/episode?episode={fork.id}") as response:
        assert (await response.json())["parent"]["id"] == 1


async def test_a_fork_that_cannot_be_says_why(client: Client, run: RunDirectory) -> None:
    asked = await ask(client, run, {"turn": 99, "action": "x", "policy": "none"})
    job = await ended(client, asked["job"])
    assert job["state"] == "failed"
    assert "it can be forked at turn 1 to" in job["message"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "got list"),
        ({"turn": 1, "size": 3}, r"got \['size'\]"),
        ({}, "turn is None: expected the first turn to play anew"),
        ({"turn": 0}, "turn is 0"),
        ({"turn": True}, "turn is True"),
        ({"turn": 1, "count": 65}, "count is 65: expected 1 to 64"),
        ({"turn": 1, "action": {}, "policy": 3}, "policy and action are text"),
    ],
)
def test_what_a_page_asks_for_is_checked(body: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ForkRequest.of("1", body)


def test_a_broken_environment_fails_its_fork_only() -> None:
    def break_down(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("division by zero")

    assert _carried_out(break_down) == ("failed", "ZeroDivisionError: division by zero")


def test_only_so_many_forks_may_wait() -> None:
    go_on = threading.Event()
    forking = Forking(fork=lambda *_, **__: go_on.wait(60))
    request = ForkRequest(episode="1", turn=1)
    jobs = [forking.start(Path(), request) for _ in range(MOST_WAITING)]
    with pytest.raises(UserError, match="forks are waiting already"):
        forking.start(Path(), request)
    go_on.set()
    forking._thread.shutdown(wait=True)
    assert {job.state for job in jobs} == {"done"}


def _carried_out(fork: Fork) -> tuple[str, str]:
    forking = Forking(fork=fork)
    job = forking.start(Path(), ForkRequest(episode="1", turn=1))
    forking._thread.shutdown(wait=True)
    return job.state, job.message
