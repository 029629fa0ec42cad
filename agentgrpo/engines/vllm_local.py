"""vLLM in this process: token ids in, token ids and logprobs out, adapters as versioned names.

vLLM's own front end lives on an event loop in a thread of its own, its model in processes of its own; any event loop
may ask. Importing this module imports vllm.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from agentgrpo.engines import round_logprob
from agentgrpo.engines.adapters import AdapterFolders
from agentgrpo.engines.guard import Guard
from agentgrpo.engines.loop_thread import LoopThread
from agentgrpo.engines.proof import Canary, Proof, prove
from agentgrpo.engines.vllm_options import PROOF_PLACES, more_environment, said_of
from agentgrpo.errors import ConfigError, EngineFailure, ModelError, first_line
from agentgrpo.tolerances import Tolerance
from agentgrpo.types import Adapter, FinishReason, Generation, Policy, Sampling

# Read when vllm is imported: quiet, and no report of who uses it for what.
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.inputs import tokens_input
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.metrics.loggers import PrometheusStatLogger

logger = logging.getLogger(__name__)

T = TypeVar("T")
_SERVER = "vLLM in this process"
_CLOSE_SECONDS = 30.0
_ADAPTER_SECONDS = 120.0  # to load and prove an adapter, or to forget one
_SLEEP_SECONDS = 300.0  # to give the card's memory away, or to take it again


@dataclass(slots=True)
class _Version:
    """A policy that was loaded: its adapter's name, id and folder, none of which is ever used again."""

    lora: Any  # LoRARequest; None: the base model
    folder: Path | None
    open: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)


class _Preemptions(PrometheusStatLogger):  # type: ignore[misc]  # where vLLM is not installed
    """What of vLLM's statistics is kept: how often a sequence lost its cache and was computed again.

    In the place of vLLM's own, which costs a part of each step and which nobody reads here.
    """

    def __init__(self, vllm_config: Any, engine_indexes: Sequence[int]) -> None:
        self.count = 0

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
    ) -> None:
        """Take the statistics of one step; called by vLLM."""
        if iteration_stats is not None:
            self.count += iteration_stats.num_preempted_reqs

    def log_engine_initialized(self) -> None:
        """Called by vLLM; nothing is said."""

    def record_sleep_state(self, is_awake: int, level: int) -> None:
        """Called by vLLM; the engine knows."""


class VllmEngine:
    """Generates with vLLM.

    Args:
        options: Keyword arguments of vLLM's `AsyncEngineArgs`; see `vllm_options.engine_options`.
        tolerance: How far its logprobs of a canary may be from the learner's.
        environment: What its processes find in their environment, beside what is there.
        sleeps: Whether it gives its memory back while the learner works.

    Raises:
        ConfigError: vLLM refuses the options.
        ModelError: it cannot start with this model.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        *,
        tolerance: Tolerance,
        environment: Mapping[str, str] | None = None,
        sleeps: bool = False,
    ) -> None:
        self._tolerance, self._sleeps = tolerance, sleeps
        self._max_live = int(options["max_loras"])
        self._versions: dict[Policy, _Version] = {}
        self._proved: dict[str, Canary] = {}  # by the policy's name: what its newest version was proved with
        self._numbers = itertools.count(1)
        self._is_closed = False
        self._folders = AdapterFolders()
        self._thread = LoopThread("agentgrpo-vllm")
        try:
            with more_environment(environment or {}):
                self._llm = self._thread.wait(self._start(dict(options)))
        except BaseException:
            self._thread.close(_CLOSE_SECONDS)
            self._folders.close()
            raise
        loggers = self._llm.logger_manager.stat_loggers
        self._preemptions = next(each for each in loggers if isinstance(each, _Preemptions))
        self._guard = Guard(process.pid for process in self._llm.engine_core.resources.engine_manager.processes)
        self._context_length = int(self._llm.model_config.max_model_len)
        cache = self._llm.vllm_config.cache_config
        self.cache_tokens = int(cache.num_gpu_blocks) * int(cache.block_size)
        # As many whole contexts as the cache holds: then no sequence is ever thrown out and computed again.
        self._max_sequences = max(
            1, min(int(options["max_num_seqs"]) - PROOF_PLACES, self.cache_tokens // self._context_length)
        )

    @property
    def context_length(self) -> int:
        """Most tokens a prompt and its completion may have together."""
        return self._context_length

    @property
    def max_sequences(self) -> int:
        """Most sessions that may be open at once: as many as the cache holds at full length."""
        return self._max_sequences

    @property
    def preemptions(self) -> int:
        """How often a sequence lost its place in the cache to another and was computed again."""
        return self._preemptions.count

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, policy: Policy, *, session: str = ""
    ) -> Generation:
        """Sample a completion; see `Engine.generate`. The prefix cache finds a session's tokens by itself."""
        room = self._context_length - len(prompt_ids)
        if room < 1 or not prompt_ids:
            raise EngineFailure(
                f"a prompt of {len(prompt_ids)} tokens does not fit a context of {self._context_length}: "
                "raise engine.context_length, or end episodes earlier"
            )
        return await self._there(self._generate(prompt_ids, _params(sampling, room), policy))

    async def release(self, session: str) -> None:
        """Nothing is kept by session."""

    async def publish(
        self, adapter: Adapter | None, policy: Policy, *, canary: Canary | None = None
    ) -> tuple[Proof, ...]:
        """Load an adapter as `policy` and prove it; nothing is sampled with it before. See `Engine.publish`."""
        return await self._there(
            self._publish(adapter, policy, canary), f"load and prove {policy}", seconds=_ADAPTER_SECONDS
        )

    async def retire(self, policy: Policy) -> None:
        """Forget a policy, once the generations under way with it have ended."""
        version = await self._there(self._leave(policy))  # as long as its generations may take
        if version is not None:
            await self._there(self._unload(version), f"forget {policy}", seconds=_ADAPTER_SECONDS)

    @asynccontextmanager
    async def stand_by(self) -> AsyncIterator[None]:
        """Give the card's memory to the learner for as long as this is held, where both do not fit it."""
        if not self._sleeps:
            yield
            return
        with _failures("sleep"):  # the weights to the machine's memory, the cache away
            await self._there(self._llm.sleep(level=1), "sleep", seconds=_SLEEP_SECONDS)
        try:
            yield
        finally:
            torch.cuda.empty_cache()  # what the learner's pass took: torch would keep it from every other process
            with _failures("wake up"):
                await self._there(self._llm.wake_up(), "wake up", seconds=_SLEEP_SECONDS)

    async def close(self) -> None:
        """Stop the engine's processes; generations still open are cancelled. Safe to call twice."""
        if self._is_closed:
            return
        self._is_closed = True
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        async def stop() -> None:
            open_tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            self._llm.shutdown()
            for task in open_tasks:
                task.cancel()
            await asyncio.gather(*open_tasks, return_exceptions=True)

        try:
            self._thread.wait(stop(), _CLOSE_SECONDS)
            self._guard.stop()
        except TimeoutError:
            logger.warning("vLLM did not stop within %g s: its processes are killed", _CLOSE_SECONDS)
            self._guard.kill()
        finally:
            del self._llm  # else it would try again when Python ends
            self._thread.close(_CLOSE_SECONDS)
            self._folders.close()

    async def _there(self, work: Coroutine[Any, Any, T], what: str = "generate", *, seconds: float | None = None) -> T:
        """Run a coroutine on the engine's loop; when the caller is cancelled or its time is over, so is it."""
        if self._is_closed:
            work.close()
            raise EngineFailure("the engine is closed")
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.wrap_future(self._thread.submit(work))
        except TimeoutError as error:
            raise EngineFailure(f"vLLM did not {what} within {seconds or 0:g} s") from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._is_closed and task is not None and not task.cancelling():
                raise EngineFailure("the engine was closed") from None
            raise

    async def _start(self, options: dict[str, Any]) -> Any:
        try:
            arguments = AsyncEngineArgs(disable_log_stats=True, **options)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"vLLM refuses [engine.vllm]: {said_of(error)}") from error
        try:
            return AsyncLLM.from_engine_args(arguments, stat_loggers=[_Preemptions])
        except Exception as error:  # vLLM's many kinds; what it wrote before says more
            raise ModelError(
                f"vLLM cannot start with the model in '{options['model']}': {said_of(error)}\n"
                "Its messages above say why; take fewer max_sequences, a shorter context_length or less memory "
                "([engine.vllm]), or the embedded engine."
            ) from error

    async def _generate(self, prompt_ids: Sequence[int], params: Any, policy: Policy) -> Generation:
        with self._using(policy) as lora:
            output = await self._ask(prompt_ids, params, lora)
        said = output.outputs[0]
        return Generation(
            token_ids=tuple(said.token_ids),
            logprobs=tuple(map(round_logprob, said.logprobs.logprobs)),
            finish_reason=_finish_reason(said.finish_reason),
        )

    @contextmanager
    def _using(self, policy: Policy) -> Iterator[Any]:
        version = self._versions.get(policy)
        if version is None:
            known = ", ".join(map(str, self._versions)) or "none"
            raise EngineFailure(f"{policy} is not published; live: {known}")
        version.open += 1
        version.idle.clear()
        try:
            yield version.lora
        finally:
            version.open -= 1
            if not version.open:
                version.idle.set()

    async def _ask(self, prompt_ids: Sequence[int], params: Any, lora: Any) -> Any:
        prompt = tokens_input(list(prompt_ids))
        with _failures("generate"):
            answers = self._llm.generate(prompt, params, f"r{next(self._numbers)}", lora_request=lora)
            return [answer async for answer in answers][-1]  # of FINAL_ONLY there is one

    async def _publish(self, adapter: Adapter | None, policy: Policy, canary: Canary | None) -> tuple[Proof, ...]:
        if policy in self._versions:
            raise EngineFailure(f"{policy} was published before; publish the new weights as the next version")
        if len(self._versions) >= self._max_live:
            raise EngineFailure(
                f"{len(self._versions)} versions are alive, as many as engine.vllm.max_live_versions allows: retire "
                f"one before publishing {policy}, or raise it"
            )
        started = time.perf_counter()
        version = await self._load(adapter, policy)
        try:
            proofs = (await self._prove(version, policy, canary, started),) if canary is not None else ()
        except BaseException:
            await self._unload(version)
            raise
        self._versions[policy] = version
        return proofs

    async def _load(self, adapter: Adapter | None, policy: Policy) -> _Version:
        if adapter is None:
            return _Version(lora=None, folder=None)
        number = next(self._numbers)
        name = f"{policy}-{number}"
        folder = await asyncio.to_thread(self._folders.write, adapter, name)
        version = _Version(lora=LoRARequest(name, number, str(folder)), folder=folder)
        try:
            with _failures(f"load the adapter of {policy}"):
                await self._llm.add_lora(version.lora)
                loaded = number in await self._llm.list_loras()
        except BaseException:
            self._folders.delete(folder)
            raise
        if not loaded:
            await self._unload(version)
            raise EngineFailure(f"{_SERVER} says it loaded {policy} and does not list it")
        return version

    async def _prove(self, version: _Version, policy: Policy, canary: Canary, started: float) -> Proof:
        ids = canary.token_ids
        asked = (self._score(ids[:end], ids[end], version.lora) for end in range(1, len(ids)))
        # All of them have ended, also when one fails: the adapter may go only then.
        told = await asyncio.gather(*asked, return_exceptions=True)
        for one in told:
            if isinstance(one, BaseException):
                raise one
        proof = prove(
            [one for one in told if isinstance(one, float)],
            canary,
            self._proved.get(policy.name),
            tolerance=self._tolerance,
            policy=policy,
            server=_SERVER,
            seconds=time.perf_counter() - started,
        )
        self._proved[policy.name] = canary
        return proof

    async def _score(self, prefix: Sequence[int], token: int, lora: Any) -> float:
        """Return the logprob of a token after a prefix.

        `prompt_logprobs` would give all of a text at once, but the CPU build dies of it while others generate with an
        adapter: its LoRA indices of a batch know one row per request.
        """
        params = SamplingParams(max_tokens=1, logprob_token_ids=[token], detokenize=False, ignore_eos=True)
        output = await self._ask(prefix, params, lora)
        with _failures("score a canary"):
            return float(output.outputs[0].logprobs[0][token].logprob)

    async def _leave(self, policy: Policy) -> _Version | None:
        """Let nothing new begin with a policy; return its version once what was under way has ended."""
        version = self._versions.pop(policy, None)
        if version is not None and version.open:
            await version.idle.wait()
        return version

    async def _unload(self, version: _Version) -> None:
        """Let vLLM forget an adapter, then delete its folder: a request naming one without a folder ends the engine."""
        if version.lora is not None and version.folder is not None:
            with _failures("forget an adapter"):
                await self._llm.remove_lora(version.lora.lora_int_id)
            self._folders.delete(version.folder)


def _params(sampling: Sampling, room: int) -> Any:
    return SamplingParams(
        max_tokens=min(sampling.max_tokens, room),
        seed=sampling.seed if sampling.temperature > 0 else None,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        stop_token_ids=list(sampling.stop_token_ids),
        ignore_eos=True,  # what ends a turn is said above
        logprobs=0,  # of the sampled token alone
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _finish_reason(reason: str | None) -> FinishReason:
    if reason == "stop":
        return "stop"
    if reason == "length":
        return "length"
    raise EngineFailure(f"vLLM ended a generation with '{reason}', expected 'stop' or 'length'")


@contextmanager
def _failures(what: str) -> Iterator[None]:
    """Let vLLM's own errors be engine failures that say what was tried."""
    try:
        yield
    except EngineFailure:
        raise
    except EngineDeadError as error:
        raise EngineFailure(f"vLLM's engine process has died, it could not {what}: its messages say why") from error
    except Exception as error:  # vLLM's many kinds
        cause = error.__cause__ or error
        raise EngineFailure(f"vLLM could not {what}: {first_line(cause)}") from error
