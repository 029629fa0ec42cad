"""An OpenAI-compatible server that says what it is told to, and fails when it is told to: a fake for tests."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Literal, TypeAlias

from aiohttp import web

from agentgrpo.types import JsonObject

Fault: TypeAlias = Literal["none", "500", "429", "reset", "half", "empty", "stall", "refused", "long", "renamed"]
Answer: TypeAlias = Callable[[JsonObject], JsonObject]  # a request's body -> the assistant message

FAULTS: tuple[Fault, ...] = ("500", "429", "reset", "half", "empty", "stall")  # those a repetition mends
_STALL_SECONDS = 3600.0
_TOLD = {
    "500": "no",
    "refused": "no",
    "long": "This model's maximum context length is 8192 tokens.",
    "renamed": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
}


def says(text: str) -> JsonObject:
    """Return an assistant message without calls."""
    return {"role": "assistant", "content": text}


def calls(name: str, arguments: JsonObject | str, *, call_id: str = "call_x") -> JsonObject:
    """Return an assistant message with one call; its arguments may be any text."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    function = {"name": name, "arguments": text}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": call_id, "type": "function", "function": function}],
    }


class StubEndpoint:
    """Serves one scripted model on a free local port. Use as an async context manager.

    Args:
        answer: What is said to a request.
        faults: What goes wrong with each request in turn; nothing after the last.
        key: The key a request must bring.
        retry_after: Seconds that a 429 asks for.
        counts_tokens: Whether answers say how many tokens they took: 10 read and 5 written each.
        seconds: How long an answer takes.
    """

    def __init__(
        self,
        answer: Answer,
        *,
        faults: Iterable[Fault] = (),
        key: str | None = None,
        retry_after: float | None = None,
        counts_tokens: bool = True,
        seconds: float = 0.0,
    ) -> None:
        self.answer, self.key, self.retry_after = answer, key, retry_after
        self.counts_tokens, self.seconds = counts_tokens, seconds
        self.requests: list[JsonObject] = []  # the bodies, in order of arrival
        self.open = self.most_open = 0
        self._faults = itertools.chain(faults, itertools.repeat("none"))
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def __aenter__(self) -> StubEndpoint:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._serve)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            if self.key is not None and request.headers.get("Authorization") != f"Bearer {self.key}":
                told = f"wrong key {request.headers.get('Authorization')}"
                return web.json_response({"error": {"message": told}}, status=401)
            return await self._respond(request, body, next(self._faults))
        finally:
            self.open -= 1

    async def _respond(self, request: web.Request, body: JsonObject, fault: str) -> web.StreamResponse:
        if fault == "reset":
            assert request.transport is not None
            request.transport.abort()
        await asyncio.sleep(_STALL_SECONDS if fault == "stall" else self.seconds)
        if fault == "429":
            headers = {} if self.retry_after is None else {"Retry-After": f"{self.retry_after:g}"}
            return web.json_response({"error": {"message": "slow down"}}, status=429, headers=headers)
        if fault in _TOLD:
            return web.json_response({"error": {"message": _TOLD[fault]}}, status=500 if fault == "500" else 400)
        text = json.dumps({} if fault == "empty" else _completion(self.answer(body), self.counts_tokens))
        return web.Response(text=text[: len(text) // 2] if fault == "half" else text, content_type="application/json")


def _completion(message: JsonObject, counts_tokens: bool) -> JsonObject:
    reason = message.pop("finish_reason", "tool_calls" if message.get("tool_calls") else "stop")
    return {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        **({"usage": {"prompt_tokens": 10, "completion_tokens": 5}} if counts_tokens else {}),
    }
