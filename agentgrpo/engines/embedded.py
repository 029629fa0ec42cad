"""The default engine: continuous batching in this process, on the CPU, CUDA or MPS.

One thread of its own runs the decode loop; the event loop only hands over requests and takes generations.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TypeVar

import torch
from transformers import PreTrainedModel

from agentgrpo import causal_lm
from agentgrpo.engines import selfcheck
from agentgrpo.engines.decode import DecodeLoop
from agentgrpo.engines.proof import Canary, Proof
from agentgrpo.engines.requests import Request
from agentgrpo.errors import EngineFailure
from agentgrpo.types import Adapter, Generation, Policy, Sampling

T = TypeVar("T")
CLOSE_SECONDS = 30.0  # for the step under way; a thread that is stuck in one dies with the program


class EmbeddedEngine:
    """Generates with a model of this process; shares its tensors, never its modules, with the learner."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        max_sequences: int = 128,
        context_length: int | None = None,
        prefill_tokens: int = 1024,
    ) -> None:
        causal_lm.check_attention(model)
        selfcheck.check_model(model)
        shared = causal_lm.share_weights(model)
        limit = causal_lm.context_length(model)
        self._plain = causal_lm.share_weights(model)  # whatever peft puts into the learner's modules later
        self._context_length = min(context_length or limit, limit)
        self._max_sequences = max_sequences
        self._decode = DecodeLoop(
            shared,
            max_sequences=max_sequences,
            context_length=self._context_length,
            prefill_tokens=prefill_tokens,
        )
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="agentgrpo-engine", daemon=True)
        self._thread.start()

    @property
    def context_length(self) -> int:
        """Most tokens a prompt and its completion may have together."""
        return self._context_length

    @property
    def max_sequences(self) -> int:
        """Most sessions that may be open at once; further ones wait for a release."""
        return self._max_sequences

    @cached_property
    @torch.inference_mode()
    def is_batch_invariant(self) -> bool:
        """Whether a request gets the same bits alone and in any batch here: tried once, takes passes of the model."""
        return self._plain.device.type == "cpu" and selfcheck.is_batch_invariant(self._plain)

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, policy: Policy, *, session: str = ""
    ) -> Generation:
        """Sample a completion; see `Engine.generate`."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Generation] = loop.create_future()

        def hand_over(result: Generation | Exception) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
                loop.call_soon_threadsafe(_settle, future, result)

        request = Request(
            prompt_ids=tuple(prompt_ids),
            sampling=sampling,
            policy=policy,
            session=session,
            on_end=hand_over,
        )
        self._send(lambda: self._decode.add(request))
        try:
            return await future
        except asyncio.CancelledError:
            self._inbox.put(lambda: self._decode.cancel(request))
            raise

    async def release(self, session: str) -> None:
        """Free the cache of a session; a closed engine holds none."""
        self._inbox.put(lambda: self._decode.release(session))

    async def publish(
        self, adapter: Adapter | None, policy: Policy, *, canary: Canary | None = None
    ) -> tuple[Proof, ...]:
        """Load an adapter as `policy`; what is handed over in memory needs no proof."""
        await self._ask(lambda: self._decode.versions.add(policy, adapter))
        return ()

    async def retire(self, policy: Policy) -> None:
        """Forget a policy."""
        await self._ask(lambda: self._decode.retire(policy))

    def stand_by(self) -> contextlib.nullcontext[None]:
        """Give nothing back: the learner's memory is counted beside this engine's."""
        return contextlib.nullcontext()

    async def close(self) -> None:
        """Stop the thread; generations still open end with EngineFailure."""
        if not self._is_closed:
            self._is_closed = True
            self._inbox.put(None)
        await asyncio.to_thread(self._thread.join, CLOSE_SECONDS)

    def _send(self, command: Callable[[], None]) -> None:
        if self._is_closed:
            raise EngineFailure("the engine is closed")
        self._inbox.put(command)

    async def _ask(self, command: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def run() -> None:
            try:
                result: T | Exception = command()
            except Exception as error:  # handed to whoever awaits the answer
                result = error
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_settle, future, result)

        self._send(run)
        return await future

    @torch.inference_mode()
    def _run(self) -> None:
        while True:
            try:
                command = self._inbox.get(block=not self._decode.has_work)
            except queue.Empty:
                self._step()
                continue
            if command is None:
                self._decode.fail_all(EngineFailure("the engine was closed"))
                return
            command()

    def _step(self) -> None:
        try:
            self._decode.step()
        except Exception as error:  # the requests under way learn of it; the thread lives on
            self._decode.fail_all(EngineFailure(f"the engine's forward pass failed: {error!r}"))


def _settle(future: asyncio.Future[T], result: T | Exception) -> None:
    if future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
