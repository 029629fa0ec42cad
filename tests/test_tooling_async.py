"""Tools that are coroutines: where they run, and for how long."""

from __future__ import annotations

import asyncio
import functools
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from agentgrpo.errors import EnvError, ToolFailure
from agentgrpo.tooling import TOOL_LOOP, as_tool, tool


async def _sleep(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "slept"


def test_async_tools_run_with_and_without_a_running_loop() -> None:
    nap = as_tool(_sleep)
    assert nap.is_async
    assert nap.call({"seconds": 0}).content == "slept"

    async def in_a_notebook() -> str:
        return nap.call({"seconds": 0}).content

    assert asyncio.run(in_a_notebook()) == "slept"


def test_an_async_function_behind_a_decorator_is_awaited() -> None:
    def logged(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapped

    assert as_tool(logged(_sleep)).call({"seconds": 0}) == ("slept", False)


def test_hung_async_tool_is_cancelled_at_its_deadline() -> None:
    ended: list[str] = []

    @tool(deadline=0.05)
    async def hang() -> str:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("cancelled")
        return "never"

    began = time.perf_counter()
    result = as_tool(hang).call({})
    assert time.perf_counter() - began < 30
    assert json.loads(result.content)["error"] == {
        "type": "timeout",
        "message": "hang did not finish within 0.05 s and was stopped",
    }
    assert ended == ["cancelled"]


def test_a_tools_own_timeout_is_a_failure() -> None:
    async def fetch() -> str:
        raise TimeoutError("no route")

    with pytest.raises(ToolFailure, match="TimeoutError: no route"):
        as_tool(fetch).call({})


async def test_async_tools_use_the_rollouts_loop() -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    async def which() -> str:
        loops.append(asyncio.get_running_loop())
        return "ok"

    token = TOOL_LOOP.set(asyncio.get_running_loop())
    try:
        assert (await asyncio.to_thread(as_tool(which).call, {})).content == "ok"
        with pytest.raises(EnvError, match="isolation 'thread'"):
            as_tool(which).call({})
    finally:
        TOOL_LOOP.reset(token)
    assert loops == [asyncio.get_running_loop()]
