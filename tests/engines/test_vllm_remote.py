"""A pool of servers that behave, and single ones that do not: what the engine promises on each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from agentgrpo.engine_config import ServersConfig
from agentgrpo.engines.proof import Canary
from agentgrpo.engines.stub_server import BASE, StubServer, stub_logprob, stub_logprobs
from agentgrpo.engines.vllm_remote import RemoteEngine, survey
from agentgrpo.errors import EngineFailure
from agentgrpo.tolerances import LOGPROB_TOLERANCE
from agentgrpo.types import Adapter, Generation, Policy, Sampling
from tests.engines.stubs import adapter, canary, engine_on, pool, settled

PROMPT = (7, 8, 9)
ASK = Sampling(max_tokens=20, seed=5)


def is_said_by(weights: str, prompt: Sequence[int], generation: Generation) -> bool:
    """Return whether every logprob is what these weights give the token after exactly what stood before it."""
    said = [*prompt, *generation.token_ids]
    expected = stub_logprobs(weights, said)[len(prompt) - 1 :]
    return len(expected) == len(generation.logprobs) and all(
        abs(a - b) < 1e-5 for a, b in zip(expected, generation.logprobs, strict=True)
    )


async def test_tokens_come_with_their_logprobs_and_repeat() -> None:
    async with pool(2) as (servers, engine):
        await engine.publish(None, Policy())
        first = await engine.generate(PROMPT, ASK, Policy())
        again = await engine.generate(PROMPT, ASK, Policy())
        assert first == again and len(first.token_ids) == 20 and first.finish_reason == "length"
        assert is_said_by(BASE, PROMPT, first)
        assert sum(len(server.generations) for server in servers) == 2
