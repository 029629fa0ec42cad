"""Pools of stub servers, adapters of a few numbers, and canaries as a learner of the stub would score them."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import torch
from safetensors.torch import save

from agentgrpo.config.engine import ServersConfig
from agentgrpo.engines import vllm_remote
from agentgrpo.engines.proof import Canary
from agentgrpo.engines.stub_server import BASE, StubServer, stub_logprobs
from agentgrpo.engines.vllm_remote import RemoteEngine
from agentgrpo.tolerances import LOGPROB_TOLERANCE
from agentgrpo.types import Adapter

# No healthy server is so late on any machine; a test whose server shall be late says when that is.
PATIENT = {"connect_seconds": 30.0, "first_token_seconds": 30.0, "outage_seconds": 60.0}
LOOK_SECONDS = 0.2  # between two looks at a server
CANARY_IDS = (3, 1, 4, 1, 5, 9, 2, 6)


def adapter(number: int) -> Adapter:
    """Return an adapter unlike that of any other number."""
    tensors = {"base_model.model.q.lora_A.weight": torch.full((2, 2), float(number))}
    config = {"r": 2, "lora_alpha": 4, "target_modules": ["q"], "task_type": "CAUSAL_LM"}
    return Adapter(tensors=tensors, config=config, sha256=hashlib.sha256(save(tensors)).hexdigest())


def canary(weights: str = BASE) -> Canary:
    """Return a canary as the learner scores it under these weights."""
    return Canary(CANARY_IDS, tuple(stub_logprobs(weights, CANARY_IDS)))


def engine_on(*servers: StubServer, **more: Any) -> RemoteEngine:
    """Return an engine on these servers; `more` are settings of [engine.servers]."""
    config = ServersConfig(urls=[server.url for server in servers], **{**PATIENT, **more})
    tolerance = LOGPROB_TOLERANCE["float32"]
    return RemoteEngine(config, context_length=1024, max_sequences=64, tolerance=tolerance)


@asynccontextmanager
async def pool(size: int, *, options: dict[str, Any] | None = None, **more: Any) -> AsyncIterator[Any]:
    """Yield so many running servers and an engine on them."""
    async with AsyncExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).setattr(vllm_remote, "_LOOK_SECONDS", LOOK_SECONDS)
        servers = [await stack.enter_async_context(StubServer(**(options or {}))) for _ in range(size)]
        engine = engine_on(*servers, **more)
        stack.push_async_callback(engine.close)
        yield servers, engine


async def settled(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until something holds, which takes as long as the machine takes."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to hold"
        await asyncio.sleep(0.01)
