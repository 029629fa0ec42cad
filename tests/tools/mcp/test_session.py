from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import pytest

pytest.importorskip("mcp")

from agentgrpo.errors import EnvError, ToolError, ToolFailure, ToolTimeout
from agentgrpo.tooling import background_loop
from agentgrpo.tools.mcp import session as sessions
from agentgrpo.tools.mcp.content import result_text
from agentgrpo.tools.mcp.servers import McpServer
from agentgrpo.tools.mcp.session import McpSession, open_sessions
from tests.faults.outside import descriptors
from tests.tools.mcp.servers import bad, survivors, wait_for


@pytest.fixture
def pids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which servers note their processes."""
    folder = tmp_path / "pids"
    folder.mkdir()
    monkeypatch.setenv("PIDS", str(folder))
    return folder


@contextmanager
def opened(*flags: str, **options: Any) -> Iterator[McpSession]:
    session = McpSession(bad(*flags, **options))
    open_sessions([session])
    try:
        yield session
    finally:
        session.close()


def said(session: McpSession, tool: str, **arguments: Any) -> str:
    return result_text(session.call(tool, arguments))


@contextmanager
def within(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def test_a_session_lists_calls_and_keeps_its_state() -> None:
    with opened() as session:
        assert "echo" in [tool.name for tool in session.tools()]
        assert said(session, "echo", text="hi") == "hi"
        said(session, "add", text="a")
        assert said(session, "kept") == '["a"]'


def test_sessions_are_opened_together_and_share_nothing(pids: Path) -> None:
    several = [McpSession(bad()) for _ in range(4)]
    open_sessions(several)
    for number, session in enumerate(several):
        said(session, "add", text=str(number))
    assert [said(session, "kept") for session in several] == [f'["{number}"]' for number in range(4)]
    assert len(list(pids.iterdir())) == 4
    for session in several:
        session.close()
    assert survivors(pids) == []


def test_errors_that_are_results_are_results() -> None:
    with opened() as session:
        refused = session.call("refuse", {})
        assert refused.is_error
        assert result_text(refused) == "the shop is closed"


def test_arguments_a_server_refuses_are_told_and_other_errors_are_failures() -> None:
    with opened() as session:
        with pytest.raises(ToolError, match="there must be more"):
            session.call("invalid", {})
        with pytest.raises(ToolFailure, match="'bad' answered with error -32603: oops"):
            session.call("crash", {})
        with pytest.raises(ToolFailure, match="'bad' does not keep to the protocol"):
            session.call("half", {})
        assert said(session, "print") == "done"
        assert said(session, "echo", text="still here") == "still here"


def test_a_picture_is_named_not_shown() -> None:
    with opened() as session:
        assert said(session, "picture") == "[image, image/png, 300 bytes: not shown]\na dog"


def test_a_slow_tool_is_stopped_and_its_server_lives_on() -> None:
    with opened(call_seconds=3.0) as session:
        with pytest.raises(ToolTimeout, match=r"sleep did not finish within 3 s and was stopped"):
            session.call("sleep", {})
        assert said(session, "echo", text="awake") == "awake"


def test_a_hung_server_is_a_failure_and_is_killed_at_once(pids: Path) -> None:
    with opened("deaf", call_seconds=2.0) as session:
        with within(45), pytest.raises(ToolFailure, match=r"hangs: no answer within 2 s, nor to a ping within 2 s"):
            session.call("hang", {})
        assert survivors(pids) == []
        with pytest.raises(ToolFailure):
            session.call("echo", {"text": "x"})


def test_a_server_that_dies_in_a_call_is_a_failure_with_its_last_words() -> None:
    with opened() as session:
        with within(45), pytest.raises(ToolFailure, match="it ended with status 1; its last words: I was told to"):
            session.call("die", {})
        with pytest.raises(ToolFailure, match="it ended with status 1"):
            session.tools()


@pytest.mark.parametrize(
    ("tool", "what"),
    [
        ("flood", "it wrote a line of more than 4,194,304 bytes"),
        ("spam", "it wrote [0-9,]+ messages, [0-9,]+ bytes, nobody asked for"),
    ],
)
def test_a_flood_ends_its_session_only(tool: str, what: str, pids: Path) -> None:
    with opened() as other, opened(call_seconds=60) as session:
        with pytest.raises(ToolFailure, match=what):
            session.call(tool, {})
        assert said(other, "echo", text="dry") == "dry"
    assert survivors(pids) == []


async def test_the_loop_of_a_rollout_does_not_feel_a_flood(pids: Path) -> None:
    with opened(call_seconds=60) as session:
        flooded = asyncio.create_task(asyncio.to_thread(session.call, "spam", {}))
        late = list[float]()
        while not flooded.done():
            clock = time.monotonic()
            await asyncio.sleep(0.01)
            late.append(time.monotonic() - clock)
        with pytest.raises(ToolFailure, match="nobody asked for"):
            await flooded
    assert median(late) < 0.5  # a busy machine may be late now and then


def test_nothing_is_left_of_a_server_that_forks_and_hears_no_signal(pids: Path) -> None:
    with opened("deaf", call_seconds=60) as session:
        said(session, "fork")
        assert len(list(pids.iterdir())) == 4
    assert survivors(pids) == []


def test_what_a_dead_server_started_goes_with_it(pids: Path) -> None:
    with opened(call_seconds=60) as session:
        said(session, "fork")
        with pytest.raises(ToolFailure):
            session.call("die", {})
        assert survivors(pids) == []


def test_a_server_that_does_not_answer_is_given_up_at_the_deadline(pids: Path) -> None:
    session = McpSession(bad("mute", "deaf", connect_seconds=0.4))
    with within(45), pytest.raises(ToolFailure, match=r"'bad' did not answer within 0.4 s"):
        open_sessions([session])
    assert survivors(pids) == []


def test_a_server_that_does_not_list_its_tools_is_a_failure() -> None:
    told = pytest.raises(ToolFailure, match=r"did not answer within 0.3 s")
    with opened("unlisted", list_seconds=0.3) as session, within(45), told:
        session.tools()


@pytest.mark.slow
def test_waiting_for_ones_turn_to_start_is_not_being_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "_starts", asyncio.Semaphore(1))
    several = [McpSession(bad("late", connect_seconds=3.0)) for _ in range(4)]
    open_sessions(several)
    assert [said(session, "echo", text="x") for session in several] == ["x"] * 4
    for session in several:
        session.close()


def test_a_server_that_cannot_start_says_why() -> None:
    session = McpSession(McpServer(command=("/bin/sh", "-c", "echo no database >&2; exit 3"), name="sad"))
    with pytest.raises(ToolFailure, match=r"'sad' could not be connected to: it ended with status 3; .* no database"):
        open_sessions([session])


def test_if_one_cannot_be_opened_none_is(pids: Path) -> None:
    with pytest.raises(ToolFailure, match="'bad' did not answer"):
        open_sessions([McpSession(bad()), McpSession(bad("mute", connect_seconds=0.3))])
    assert survivors(pids) == []


def test_nobody_listens_at_the_url() -> None:
    session = McpSession(McpServer(url="http://127.0.0.1:9/mcp", name="far", connect_seconds=60))
    with within(45), pytest.raises(ToolFailure, match="'far' broke: ConnectError"):
        open_sessions([session])


def test_only_the_named_variables_reach_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "s3cret")
    monkeypatch.setenv("NOTES_TOKEN", "t0ken")
    server = bad(env=("NOTES_TOKEN",))
    assert server.environment()["NOTES_TOKEN"] == "t0ken"
    assert "SECRET_KEY" not in server.environment()
    monkeypatch.delenv("NOTES_TOKEN")
    with pytest.raises(EnvError, match="needs the environment variable NOTES_TOKEN, which is not set"):
        open_sessions([McpSession(server)])


def test_a_session_is_of_no_use_on_its_own_loop() -> None:
    async def misuse() -> None:
        with pytest.raises(EnvError, match="cannot be used in an `async def` tool"):
            session.tools()

    with opened() as session:
        asyncio.run_coroutine_threadsafe(misuse(), background_loop()).result(60)


def test_many_sessions_leave_no_descriptor_thread_or_task() -> None:
    with opened():
        pass
    before = descriptors()
    for _ in range(5):
        with opened() as session:
            said(session, "echo", text="x")
    assert descriptors() == before
    assert not list(sessions._open)

    async def tasks() -> int:
        return len(asyncio.all_tasks())

    assert asyncio.run_coroutine_threadsafe(tasks(), background_loop()).result(60) == 1


async def test_a_cancelled_wait_for_a_session_ends_it(pids: Path) -> None:
    """The owner is in the middle of the handshake when whoever wanted the session is cancelled."""
    session = McpSession(bad("mute", "deaf"))
    opening = asyncio.run_coroutine_threadsafe(session.open(), background_loop())
    await asyncio.to_thread(wait_for, pids, 1)
    opening.cancel()
    await asyncio.sleep(0)
    assert await asyncio.to_thread(survivors, pids) == []


async def test_a_task_that_is_cancelled_natively_while_it_closes_leaves_nothing(pids: Path) -> None:
    session = McpSession(bad("deaf"))
    await asyncio.to_thread(open_sessions, [session])
    owner, loop = session._owner, background_loop()
    assert owner is not None
    loop.call_soon_threadsafe(session._stop.set)
    await asyncio.sleep(0.1)  # it waits for the server to end by itself
    for _ in range(3):
        loop.call_soon_threadsafe(owner.cancel)
    assert await asyncio.to_thread(survivors, pids) == []
    await asyncio.to_thread(session.close)
