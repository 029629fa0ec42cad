"""A stub endpoint for what runs an event loop of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from agentgrpo.endpoint.stub import Answer, Fault, StubEndpoint


@contextmanager
def serving(answer: Answer, faults: Sequence[Fault] = (), **options: Any) -> Iterator[StubEndpoint]:
    """Serve a stub from another thread."""
    loop, stub = asyncio.new_event_loop(), StubEndpoint(answer, faults=faults, **options)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(stub.__aenter__(), loop).result()
    try:
        yield stub
    finally:
        asyncio.run_coroutine_threadsafe(stub.__aexit__(None, None, None), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
