"""(e) From the end of learning to a version that may be sampled from: canary, adapter, loading, proof. Milliseconds."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import TYPE_CHECKING

from agentgrpo.types import Policy
from bench import vllm_side

if TYPE_CHECKING:
    from agentgrpo.engines.vllm_local import VllmEngine


def measure(*, quick: bool) -> float | None:
    """Return the median of publishing a version; None without vLLM."""
    if not vllm_side.has_vllm():
        return None
    engine = vllm_side.start()
    return round(1000 * statistics.median(asyncio.run(_publish(engine, 10 if quick else 40))), 1)


async def _publish(engine: VllmEngine, count: int) -> list[float]:
    trained, seconds = vllm_side.policy(), []
    for version in range(count + 1):
        vllm_side.move(trained, version)
        clock = time.perf_counter()
        await engine.publish(trained.adapter(), Policy(version=version), canary=trained.canary())
        seconds.append(time.perf_counter() - clock)
        if version:
            await engine.retire(Policy(version=version - 1))
    await engine.close()
    return seconds[1:]  # the first also samples the canary's text and warms up
