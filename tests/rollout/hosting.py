"""Hosts of environments for a test, closed after it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from agentgrpo.registry import EnvSource, Isolation
from agentgrpo.rollout.isolation import EnvHosts


@asynccontextmanager
async def hosting(source: EnvSource, kind: Isolation, seconds: float = 20.0) -> AsyncIterator[EnvHosts]:
    """Give the hosts of an environment in this isolation."""
    hosts = EnvHosts(replace(source, isolation=kind), concurrency=8, seconds=seconds)
    try:
        yield hosts
    finally:
        hosts.close()
        await asyncio.sleep(0.01)  # transports close in the loop
