"""The example of a service: checked, played by many episodes at once, and shown in the docs as it is."""

from __future__ import annotations

import asyncio
import json
import os
import re
import runpy
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from agentgrpo.envcheck import check_env
from agentgrpo.registry import EnvSource, resolve_env
from agentgrpo.rollout.isolation import EnvHosts
from agentgrpo.tasks import load_tasks

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "tickets"
TASKS = [task.row for task in load_tasks(EXAMPLE / "tickets.jsonl")]


class Running:
    """The example's service in a thread of its own; `connections` counts those it was spoken to over."""

    def __init__(self, app: web.Application) -> None:
        self.url, self.connections, self._app = "", set[int](), app
        self._loop = asyncio.new_event_loop()
        self._is_ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Running:
        self._thread.start()
        assert self._is_ready.wait(20)
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()

    def _run(self) -> None:
        @web.middleware
        async def count(request: web.Request, handler: Any) -> web.StreamResponse:
            self.connections.add(id(request.transport))
            response: web.StreamResponse = await handler(request)
            return response

        self._app.middlewares.append(count)
        runner = web.AppRunner(self._app, shutdown_timeout=0.1, access_log=None)
        self._loop.run_until_complete(runner.setup())
        self._loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", 0).start())
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._is_ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())


@pytest.fixture
def service() -> Iterator[Running]:
    make_app = runpy.run_path(str(EXAMPLE / "service.py"))["make_app"]
    with Running(make_app()) as running:
        yield running


def source_of(service: Running) -> EnvSource:
    return resolve_env(f"{EXAMPLE / 'desk.py'}:Desk", url=service.url, tasks=str(EXAMPLE / "tickets.jsonl"))


def test_the_environment_is_sound(service: Running) -> None:
    results = check_env(source_of(service), tasks=5)
    assert [r for r in results if r.passed is False] == []
    assert {r.name for r in results if r.passed} >= {"gymnasium", "determinism", "garbage", "oracle", "nothing"}


def call(name: str, **arguments: Any) -> str:
    return json.dumps({"content": "", "tool_calls": [{"id": "c", "name": name, "arguments": arguments}]})


@pytest.mark.parametrize("isolation", ["thread", "process"])
async def test_episodes_at_once_do_not_see_each_others_tickets(service: Running, isolation: Any) -> None:
    count = 40 if isolation == "thread" else 2
    hosts = EnvHosts(replace(source_of(service), isolation=isolation), concurrency=count, seconds=60.0)

    async def episode(row: dict[str, Any], is_right: bool) -> float:
        host = hosts.make()
        _, info = await host.reset(seed=0, options={"task": row})
        schema = next(tool["function"] for tool in info["tools"] if tool["function"]["name"] == "listTickets")
        assert list(schema["parameters"]["properties"]) == ["customer"]
        _, _, _, _, info = await host.step(call("listTickets", customer=row["customer"]))
        ids = [ticket["id"] for ticket in json.loads(info["messages"][0]["content"])]
        assert sorted(ids) == sorted(t["id"] for t in row["tickets"] if t["customer"] == row["customer"])
        wanted = row["ticket"] if is_right else next(number for number in ids if number != row["ticket"])
        await host.step(call("setStatus", ticket=wanted, status="closed"))
        reward = (await host.step("done"))[1]
        await host.close()
        return float(reward)

    try:
        # The same task many times: all of a group's episodes start from the same tickets.
        rewards = await asyncio.gather(*(episode(TASKS[n % 4], n % 2 == 0) for n in range(count)))
    finally:
        hosts.close()
        await asyncio.sleep(0.05)
    assert rewards == [float(n % 2 == 0) for n in range(count)]
    # Two calls and two look-ups each: connections are shared, not made per episode and call.
    assert len(service.connections) <= count + 2


async def test_what_the_service_refuses_is_read_by_the_model(service: Running) -> None:
    env = source_of(service).make()

    def play() -> list[str]:
        env.reset(seed=0, options={"task": TASKS[0]})
        actions = (
            call("setStatus", ticket="7", status="closed"),
            call("setStatus", ticket=TASKS[0]["ticket"], status="lost"),
            call("setStatus", ticket=TASKS[0]["ticket"], status="closed", desk="d1"),
        )
        return [json.loads(env.step(action)[0])["error"]["message"] for action in actions]

    told = await asyncio.to_thread(play)
    env.close()
    assert told == [
        '404 Not Found: {"detail": "no ticket 7: listTickets gives the ids"}',
        "argument 'status': got 'lost', expected 'open' or 'closed'",
        "argument 'desk': expected only ticket, status",
    ]


def test_the_docs_show_the_example_and_its_commands_work() -> None:
    page = (ROOT / "docs" / "tools-http.md").read_text(encoding="utf-8")
    code = (EXAMPLE / "desk.py").read_text(encoding="utf-8")
    first, *_ = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert first.rstrip() in code
    assert len(first.splitlines()) <= 24


def test_the_service_starts_by_its_command_and_the_check_runs_against_it(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "service.py", "0"]
    with subprocess.Popen(
        command, cwd=EXAMPLE, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            assert process.stdout is not None
            url = next(match[0] for line in process.stdout if (match := re.search(r"http://127\.0\.0\.1:\d+", line)))
            source = resolve_env(f"{EXAMPLE / 'desk.py'}:Desk", url=url, tasks=str(EXAMPLE / "tickets.jsonl"))
            assert {r.passed for r in check_env(source, tasks=1) if r.name == "oracle"} == {True}
        finally:
            process.terminate()
            process.wait(20)


def test_the_tasks_are_those_the_generator_writes(tmp_path: Path) -> None:
    script = (EXAMPLE / "make_tasks.py").read_text(encoding="utf-8")
    (tmp_path / "make_tasks.py").write_text(script, encoding="utf-8")
    subprocess.run([sys.executable, "make_tasks.py"], cwd=tmp_path, check=True, timeout=300)
    assert (tmp_path / "tickets.jsonl").read_bytes() == (EXAMPLE / "tickets.jsonl").read_bytes()
