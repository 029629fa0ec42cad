"""OpenEnv's own server with our client, and its own clients with our server: both as `openenv-core` has them."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentgrpo.envcheck import check_env
from agentgrpo.envs.openenv.env import OpenEnv
from agentgrpo.envs.shop.env import Shop
from agentgrpo.errors import EnvFailure
from agentgrpo.registry import resolve_env
from tests.elsewhere.interpreters import python_with

ROOT = Path(__file__).parents[2]
PARTS = ROOT / "tests" / "elsewhere"
APART = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def python() -> str:
    return python_with("openenv", "AGENTGRPO_OPENENV_PYTHON")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def running(command: list[str], log: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, cwd=ROOT, env=env) as process:
        try:
            yield process
        finally:
            process.terminate()


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(1200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None, "the server ended"
        time.sleep(0.1)
    pytest.fail("the server did not start within two minutes")


@contextmanager
def theirs(python: str, name: str, log: Path) -> Iterator[str]:
    port = free_port()
    with running([python, str(PARTS / "openenv_server.py"), name, str(port)], log, APART) as process:
        wait_for(port, process)
        yield f"http://127.0.0.1:{port}"


def test_our_client_plays_typed_actions_on_their_server(python: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with theirs(python, "guess", log) as url:
        source = resolve_env("openenv", url=url, seconds=20)
        assert [r for r in check_env(source, tasks=2) if r.passed is False] == []

        def search(seed: int) -> tuple[float, int]:
            env = OpenEnv(url=url, seconds=20)
            assert env.reset(options={"task": {"seed": seed}})[0] == "a number from 0 to 9"
            low, high, turns = 0, 9, 0
            while True:
                number, turns = (low + high) // 2, turns + 1
                obs, reward, terminated, truncated, _ = env.step(json.dumps(env.call("act", number=number)))
                assert not truncated
                if terminated:
                    env.close()
                    return reward, turns
                low, high = (number + 1, high) if obs == "higher" else (low, number - 1)

        with ThreadPoolExecutor(4) as pool:  # their server has four places
            found = list(pool.map(search, range(8)))
        assert all(reward == 1.25 - 0.25 * turns for reward, turns in found)
        assert len({turns for _, turns in found}) > 1
        env = OpenEnv(url=url, seconds=20)
        env.reset(options={"task": {"seed": 0}})
        assert "number: Input should be a valid integer" in env.step(json.dumps(env.call("act", number="x")))[0]
        with pytest.raises(EnvFailure, match=r"EXECUTION_ERROR\): the backend is down"):
            env.step(json.dumps(env.call("act", number=13)))
        env.close()
    assert log.read_text() == ""  # no complaint of theirs about how we leave


def test_our_client_calls_mcp_tools_on_their_server(python: str, tmp_path: Path) -> None:
    with theirs(python, "door", tmp_path / "log") as url:
        env = OpenEnv(url=url, seconds=20, instructions="Open the door.")
        info = env.reset(options={"task": {"seed": 3}})[1]
        assert [tool["function"]["name"] for tool in info["tools"]] == ["look", "enter"]
        assert "not negative" in env.step(json.dumps(env.call("enter", code=-1)))[0]
        code = env.step(json.dumps(env.call("look")))[0]
        assert re.fullmatch(r"\d{1,3}", code)
        assert env.step(json.dumps(env.call("enter", code=int(code))))[:4] == ("open", 1.0, True, False)
        env.close()


def test_their_clients_play_our_environment(python: str, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "agentgrpo.cli.main", "env", "serve", "shop", "--port", str(port)]
    with running(command, tmp_path / "log", os.environ | {"PYTHONPATH": str(ROOT)}) as process:
        wait_for(port, process)
        done = subprocess.run(
            [python, str(PARTS / "openenv_client.py"), f"http://127.0.0.1:{port}"],
            capture_output=True,
            text=True,
            timeout=120,
            env=APART,
        )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    env = Shop()
    text, info = env.reset(seed=3)
    names = sorted(tool["function"]["name"] for tool in info["tools"])
    assert len(found["many"]) == 4
    for seen in found["many"]:
        assert (seen["text"], seen["tools"]) == (text, names)
        assert json.loads(seen["answer"])["error"]["message"] == "no customer is called 'Nobody Atall'"
        assert (seen["rewards"], seen["done"]) == ([None, 0.0, 0.0], [False, False, True])
        assert seen["state"] == {"episode_id": "mine", "step_count": 1}
    product = env.step(json.dumps(env.call("get_product", item="lamp")))[0]
    assert (found["tools"]["names"], found["tools"]["product"]) == (names, product)
    assert "no item 'no such thing'" in found["tools"]["refusal"]
