"""A fake vLLM server for tests and dry runs: real HTTP on this machine, tokens from a hash, faults from a script.

It answers in the shapes of vLLM 0.32, keeps its rules (unknown adapters are 404, a truncated one is 500) and forgets
its adapters when it restarts.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from aiohttp import web
from safetensors import SafetensorError
from safetensors.torch import load, save

from agentgrpo.engines.vllm_api import GENERATE, LOAD, METRICS, MODELS, PREEMPTIONS, UNLOAD
from agentgrpo.types import JsonObject

Fault = Literal["500", "429", "reset", "half_json", "hang", "slow", "stall", "die", "wrong_count", "wrong_id"]
Reply = Callable[[Sequence[int], JsonObject], Sequence[int]]
BASE = "base"
_SUFFIX = 8  # how many of the last tokens the next one depends on


def stub_logprob(weights: str, prefix: Sequence[int], token: int) -> float:
    """Return the logprob of a token after a prefix, under the adapter with this hash (or BASE)."""
    return -0.05 - 2.0 * _share("logprob", weights, len(prefix), *prefix[-_SUFFIX:], token)


def stub_logprobs(weights: str, token_ids: Sequence[int]) -> list[float]:
    """Return the logprob of each of `token_ids[1:]` given those before: what a learner of the stub would say."""
    return [stub_logprob(weights, token_ids[:i], token_ids[i]) for i in range(1, len(token_ids))]


def stub_token(weights: str, prefix: Sequence[int], seed: int, vocab_size: int) -> int:
    """Return what is sampled after a prefix."""
    return int(_share("token", weights, seed, len(prefix), *prefix[-_SUFFIX:]) * vocab_size)


def _share(*parts: object) -> float:
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big") / 2**56


@dataclass(slots=True, kw_only=True)
class StubServer:
    """One server on a port of its own. Use as an async context manager.

    Args:
        reply: What it says to a prompt instead of hashed tokens.
        faults: Number of a streamed generation (from 0) -> what happens to it.
        refused: Numbers of loads (from 0) that are answered 500.
        misapplied: Numbers of loads (from 0) that silently keep the weights loaded before.
        fault_seconds: How long a stall, a slow first token, or being dead takes.
        places: Most generations at once; others wait for one of them to end.
        token_seconds: Time between two events.
        chunk: Tokens per event.
    """

    reply: Reply | None = None
    faults: dict[int, Fault] = field(default_factory=dict)
    refused: set[int] = field(default_factory=set)
    misapplied: set[int] = field(default_factory=set)
    fault_seconds: float = 0.5
    places: int = 1024
    token_seconds: float = 0.0
    chunk: int = 4
    vocab_size: int = 500
    context_length: int = 4096
    logprobs_mode: str = "processed_logprobs"
    api_key: str = ""
    port: int = 0
    adapters: dict[str, str] = field(default_factory=dict)  # name -> hash of its weights
    paths: dict[str, str] = field(default_factory=dict)
    generations: list[JsonObject] = field(default_factory=list)
    fired: int = 0  # faults so far
    preemptions: int = 0
    loads: int = 0
    restarts: int = 0
    open: int = 0  # generations under way
    _stalled: asyncio.Event = field(default_factory=asyncio.Event)
    _free: asyncio.Semaphore = field(init=False)
    _runner: web.AppRunner | None = None
    _socket: socket.socket | None = None
    _jobs: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> StubServer:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)
        await self.kill()

    async def start(self) -> None:
        """Listen; after a death on the same port, without the adapters."""
        app = web.Application(middlewares=[self._authenticate])
        app.router.add_get("/health", self._health)
        app.router.add_get(METRICS, self._metrics)
        app.router.add_get(MODELS, self._models)
        app.router.add_post(LOAD, self._load)
        app.router.add_post(UNLOAD, self._unload)
        app.router.add_post(GENERATE, self._generate)
        self.adapters.clear()
        self._stalled.clear()
        self._free = asyncio.Semaphore(self.places)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0, access_log=None)
        await self._runner.setup()
        self._socket = socket.create_server(("127.0.0.1", self.port), backlog=1024)
        self.port = self._socket.getsockname()[1]
        await web.SockSite(self._runner, self._socket).start()

    async def kill(self) -> None:
        """Die as a killed process does: connections are reset, nothing is answered any more."""
        runner, self._runner = self._runner, None
        if runner is None or self._socket is None:
            return
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        for _ in range(3):  # asyncio loses the sockets of connections it is about to accept when the server closes
            await asyncio.sleep(0)
        if runner.server is not None:
            for connection in runner.server.connections:
                if connection.transport is not None:
                    connection.transport.abort()
        await runner.cleanup()

    def stall(self) -> None:
        """Generate nothing more, with everything else still answered; `recover` ends it."""
        self._stalled.set()

    def recover(self) -> None:
        """Generate again what is asked from now on."""
        self._stalled.clear()

    def _later(self, fault: Fault) -> None:
        async def die() -> None:
            if self._runner is None:
                return  # it is dead already
            self.fired += 1
            await self.kill()
            self.restarts += 1
            await asyncio.sleep(self.fault_seconds)
            await self.start()

        async def stall() -> None:
            if self._stalled.is_set():
                return
            self.fired += 1
            self.stall()
            await asyncio.sleep(self.fault_seconds)
            self.recover()

        job = asyncio.create_task(die() if fault == "die" else stall())
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    @web.middleware
    async def _authenticate(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        is_guarded = request.path.startswith(("/v1", "/inference"))
        if self.api_key and is_guarded and request.headers.get("Authorization") != f"Bearer {self.api_key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        return await handler(request)

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(text=f'# TYPE x counter\n{PREEMPTIONS}{{engine="0"}} {float(self.preemptions)}\n')

    async def _models(self, request: web.Request) -> web.Response:
        base = {"id": "stub", "root": "stub", "parent": None, "max_model_len": self.context_length}
        own = [
            {"id": name, "root": self.paths[name], "parent": "stub", "max_model_len": None} for name in self.adapters
        ]
        return web.json_response({"object": "list", "data": [base, *own]})

    async def _load(self, request: web.Request) -> web.Response:
        told = await request.json()
        name, path = told["lora_name"], told["lora_path"]
        number, self.loads = self.loads, self.loads + 1
        if name in self.adapters:
            return _error(400, "InvalidUserInput", f"The lora adapter '{name}' has already been loaded.")
        if number in self.refused:
            return _error(500, "InternalServerError", "scripted")
        if self._stalled.is_set():
            await asyncio.Event().wait()
        try:
            weights = hashlib.sha256(save(load((Path(path) / "adapter_model.safetensors").read_bytes()))).hexdigest()
        except (OSError, SafetensorError) as error:
            return _error(500, "InternalServerError", f"Loading lora {name} failed: {error}")
        if number in self.misapplied:
            weights = next(reversed(self.adapters.values()), BASE)
        self.adapters[name], self.paths[name] = weights, path
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def _unload(self, request: web.Request) -> web.Response:
        name = (await request.json())["lora_name"]
        if self.adapters.pop(name, None) is None:
            return _error(404, "NotFoundError", f"The lora adapter '{name}' cannot be found.")
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        told = await request.json()
        name = told.get("model") or "stub"
        if name != "stub" and name not in self.adapters:
            return _error(404, "NotFoundError", f"The model `{name}` does not exist.")
        weights = self.adapters.get(name, BASE)
        if len(told["token_ids"]) >= self.context_length:
            return _error(400, "BadRequestError", f"a prompt of {len(told['token_ids'])} tokens is too long")
        self.open += 1
        try:
            async with self._free:
                return await (self._streamed if told.get("stream") else self._whole)(request, told, weights)
        finally:
            self.open -= 1

    async def _whole(self, request: web.Request, told: JsonObject, weights: str) -> web.Response:
        if self._stalled.is_set():
            await asyncio.Event().wait()
        params, prompt = told["sampling_params"], told["token_ids"]
        choice = _choice(*self._sample(prompt, params, weights))
        for token in params.get("logprob_token_ids") or []:
            told = {"token_id": token, "logprob": stub_logprob(weights, prompt, token), "rank": 1}
            choice["logprobs"]["content"][0]["top_logprobs"].append(told)
        return web.json_response({"request_id": "0", "output_mode": "tokens", "choices": [choice]})

    async def _streamed(self, request: web.Request, told: JsonObject, weights: str) -> web.StreamResponse:
        fault = self.faults.get(len(self.generations))
        self.generations.append(told)
        self.fired += fault not in (None, "die", "stall")  # which may be what it does already
        if fault == "500" or fault == "429":
            return _error(int(fault), "InternalServerError", "scripted")
        if fault == "stall" or fault == "die":
            self._later(fault)
            fault = "hang"
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        if fault == "slow":
            await asyncio.sleep(self.fault_seconds)
        ids, logprobs, finish = self._sample(told["token_ids"], told["sampling_params"], weights)
        for start in range(0, len(ids), self.chunk):
            end = start + self.chunk
            if self._stalled.is_set():
                await asyncio.Event().wait()
            choice = _choice(ids[start:end], logprobs[start:end], finish if end >= len(ids) else None)
            event = _event({"request_id": "0", "output_mode": "tokens", "choices": [_spoil(choice, fault)]})
            is_last = end >= len(ids)
            if fault == "half_json" and (start > 0 or is_last):
                await response.write(event[: len(event) // 2])
                return response
            await response.write(event)
            if fault == "reset" and request.transport is not None:
                request.transport.abort()
                return response
            if fault == "hang":
                await asyncio.Event().wait()
            await asyncio.sleep(self.token_seconds)
        await response.write(b"data: [DONE]\n\n")
        return response

    def _sample(self, prompt: list[int], params: JsonObject, weights: str) -> tuple[list[int], list[float], str]:
        most = min(params["max_tokens"], self.context_length - len(prompt))
        stops = params.get("stop_token_ids") or []
        scripted = list(self.reply(prompt, params)) if self.reply is not None else None
        ids: list[int] = []
        while len(ids) < most and not (ids and ids[-1] in stops):
            if scripted is not None and len(ids) == len(scripted):
                break
            prefix = [*prompt, *ids]
            known = None if scripted is None else scripted[len(ids)]
            ids.append(stub_token(weights, prefix, params.get("seed", 0), self.vocab_size) if known is None else known)
        logprobs = [stub_logprob(weights, [*prompt, *ids[:i]], token) for i, token in enumerate(ids)]
        if params.get("top_k") == 1 and self.logprobs_mode == "processed_logprobs":
            logprobs = [0.0] * len(ids)
        return ids, logprobs, "stop" if ids and ids[-1] in stops else "length"


def _choice(ids: list[int], logprobs: list[float], finish: str | None) -> JsonObject:
    content = [
        {"token_id": token, "logprob": logprob, "rank": 1, "top_logprobs": []}
        for token, logprob in zip(ids, logprobs, strict=True)
    ]
    return {"index": 0, "token_ids": ids, "logprobs": {"content": content}, "finish_reason": finish}


def _spoil(choice: JsonObject, fault: Fault | None) -> JsonObject:
    if fault == "wrong_count":
        return choice | {"token_ids": [*choice["token_ids"], 0]}
    if fault == "wrong_id":
        return choice | {"token_ids": [token + 1 for token in choice["token_ids"]]}
    return choice


def _event(told: JsonObject) -> bytes:
    return f"data: {json.dumps(told)}\n\n".encode()


def _error(status: int, kind: str, message: str) -> web.Response:
    error = {"message": message, "type": kind, "param": None, "code": status}
    return web.json_response({"error": error}, status=status)
