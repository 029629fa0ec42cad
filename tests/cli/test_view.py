from __future__ import annotations

import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from agentgrpo.store import EpisodeStore, RunDirectory
from tests.cli.command import Command
from tests.store.strategies import make_key, make_trajectory


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory.create(tmp_path / "runs", "shop")
    with EpisodeStore(run.episodes) as store:
        store.add_sync([make_trajectory(make_key(1, "shop-1", i), reward=r) for i, r in enumerate([1.0, 0.0, 0.5])])
    return run


def test_a_page_is_served_until_it_is_interrupted_and_starts_without_torch(run: RunDirectory) -> None:
    code = (
        "import signal, sys; from agentgrpo.cli.main import main; import atexit;"
        "signal.signal(signal.SIGINT, signal.default_int_handler);"  # ignored in what a shell started in the background
        "atexit.register(lambda: print('torch' in sys.modules, flush=True));"
        f"sys.argv = ['agentgrpo', 'view', {str(run.path)!r}, '--port', '0', '--no-browser']; main()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            greeting = process.stdout.readline()
            url = next(word for word in greeting.split() if word.startswith("http://127.0.0.1:"))
            with urllib.request.urlopen(url, timeout=60) as answer:
                assert b'<script type="module" src="/static/page.js">' in answer.read()
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "False\n"
            assert process.wait(60) == 0
        finally:
            process.kill()
    assert "1 run of" in greeting


def test_a_port_that_is_taken_is_told(agentgrpo: Command, run: RunDirectory) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = agentgrpo("view", run.path, "--port", port, "--no-browser")
    assert done.code != 0
    assert f"port {port} of 127.0.0.1 cannot be used: Address already in use. Choose" in done.err


def test_a_folder_without_runs_is_told(agentgrpo: Command, tmp_path: Path) -> None:
    assert agentgrpo("view", tmp_path, "--no-browser").code != 0


def test_show_takes_the_filter_of_the_page(agentgrpo: Command, run: RunDirectory) -> None:
    done = agentgrpo("show", run.path, "--filter", "reward<0.7 tool:cancel -success:yes")
    assert done.code == 0
    assert "2 of 2 episodes that match, 3 in all" in done.out
    wrong = agentgrpo("show", run.path, "--filter", "rewrad<0.7")
    assert wrong.code != 0
    assert "Did you mean 'reward'?" in wrong.err


def test_show_puts_a_group_side_by_side(agentgrpo: Command, run: RunDirectory) -> None:
    done = agentgrpo("show", run.path, "1", "--group", columns=160)
    assert done.code == 0
    assert done.out.count("find_orders") == 3
    assert "needs an episode" in agentgrpo("show", run.path, "--group").err
