"""One vLLM server of a pool: is it up, which versions has it proved, does it still make progress.

A server serves only after every version in use was loaded and proved there; what puts it out is said once, in words.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from agentgrpo.engines.proof import Canary, Proof, prove
from agentgrpo.engines.vllm_api import Card, Chunk, Late, LostAdapter, TokenStream, Trouble, Unreachable, VllmApi
from agentgrpo.errors import EngineFailure
from agentgrpo.tolerances import Tolerance
from agentgrpo.types import Policy, Sampling

logger = logging.getLogger(__name__)

PATIENCE = 3  # silences a request may have while its server works for others
BREAKER = 5  # requests in a row that failed: the server is taken out until it has answered a canary
_LOAD_PAUSE = 0.25  # seconds before a load that failed is tried once more
_PROBE = (1, 2, 3)  # any tokens: what is asked of a server to see whether it generates at all


@dataclass(eq=False, slots=True, kw_only=True)
class Version:
    """A policy the pool shall answer with, and what proves that a server does."""

    policy: Policy
    folder: Path | None  # None: the base model
    canary: Canary | None
    previous: Canary | None
    is_live: bool = False  # proved somewhere: it may be asked for
    open: int = 0  # generations under way
    proofs: list[Proof] = field(default_factory=list)
    refusals: dict[str, str] = field(default_factory=dict)  # server -> why it does not answer with it


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What is expected of every server."""

    connect_seconds: float
    first_token_seconds: float
    context_length: int
    tolerance: Tolerance
    tag: str  # part of every adapter name of this run: no other run's cache can be mistaken for it


class Server:
    """A server as the pool knows it. `attach` it to a running loop's HTTP session before asking anything."""

    def __init__(self, url: str, terms: Terms) -> None:
        self.url, self.terms = url, terms
        self.sessions: set[str] = set()
        self.open = 0  # generations under way
        self.names: dict[Policy, str] = {}  # the versions it has proved, and what it knows them as
        self.reason: str | None = "it was not asked yet"  # why it is out; None: it serves
        self.preemptions = 0  # since it was first asked
        self.outages = 0  # how often it was taken out while it served
        self._counted = 0  # of those, what it said last: a restart begins at 0
        self._numbers = count()
        self._has_served = False
        self._failures = 0  # requests in a row
        self._last_token = 0.0
        self._cuts: set[asyncio.Timeout] = set()

    def attach(self, api: VllmApi) -> None:
        """Talk through this; called once per event loop."""
        self.api = api
        self.suspect = asyncio.Event()  # something broke: look at it now
        self.looked_at = asyncio.Event()  # in this loop, at least once
        self._lock = asyncio.Lock()
        self._canary: asyncio.Task[bool] | None = None
        self._cuts.clear()

    def __str__(self) -> str:
        return self.url.removeprefix("http://").removeprefix("https://")

    @property
    def is_up(self) -> bool:
        return self.reason is None

    @property
    def load(self) -> tuple[int, int]:
        """How much it has to do, to be compared with others."""
        return len(self.sessions), self.open

    def fail(self, reason: str) -> None:
        """Take it out: what it generates is cut off, to go on elsewhere."""
        if self.reason != reason:
            logger.warning("the server %s is out: %s", self, reason)
        self.outages += self.is_up
        self.close(reason)
        self.suspect.set()

    def close(self, reason: str = "the engine is closed") -> None:
        """End what it generates."""
        self.reason = reason
        for cut in [cut for cut in self._cuts if not cut.expired()]:
            cut.reschedule(asyncio.get_running_loop().time())

    async def admit(self, wanted: Callable[[], Iterable[Version]]) -> None:
        """Let it serve once it has proved every version in use, whatever it had before.

        Raises:
            Trouble: it does not answer, or not in time.
            EngineFailure: it does not answer as it should.
        """
        async with self._lock:
            card = await self.api.card()
            self._check_card(card)
            known = {policy: name for policy, name in self.names.items() if name in card.adapters}
            self.names.clear()
            for name in card.adapters - set(known.values()):
                await self._unload(name)
            await self._check_generation(card)
            self._counted = await self.api.preemptions()
            await self._match(wanted, card, known)
            # Nothing is awaited from here on: a version published or retired meanwhile would be missed.
            self._failures, self._last_token = 0, time.monotonic()
            if self._has_served:
                logger.warning("the server %s serves again, %d versions proved", self, len(self.names))
            self.reason, self._has_served = None, True

    async def _match(self, wanted: Callable[[], Iterable[Version]], card: Card, known: dict[Policy, str]) -> None:
        """Let it have what is wanted, which may change meanwhile, and nothing else of this run."""
        while True:
            versions = {version.policy: version for version in wanted()}
            missing = [policy for policy in versions if policy not in self.names]
            extra = [policy for policy in (*known, *self.names) if policy not in versions]
            if extra:
                name = self.names.pop(extra[0], None) or known[extra[0]]
                known.pop(extra[0], None)
                await self._unload(name)
            elif missing:
                await self._deliver(versions[missing[0]], card, known.get(missing[0]))
            else:
                return

    async def _unload(self, name: str) -> None:
        """Unload an adapter, if it is one of this run."""
        if f"-{self.terms.tag}-" in name:
            await self.api.unload(name)

    def _check_card(self, card: Card) -> None:
        if card.context_length < self.terms.context_length:
            raise EngineFailure(
                f"its context is {card.context_length} tokens, the pool's {self.terms.context_length}: start it with "
                "the same --context-length as the others, or set a lower engine.context_length"
            )

    async def _check_generation(self, card: Card) -> None:
        """See that it generates, and that it reports the distribution it sampled from."""
        if abs(await self.api.first_choice(card.model, _PROBE)) > 1e-3:
            raise EngineFailure(
                "it reports logprobs from before temperature and truncation: start it with --logprobs-mode "
                "processed_logprobs, as `agentgrpo engine serve` does"
            )

    async def deliver(self, version: Version) -> None:
        """Load a version and have it proved; nothing to do where it is.

        Raises:
            Trouble: it does not answer, or not in time.
            EngineFailure: it cannot load it, or does not answer with it.
        """
        async with self._lock:
            if version.policy not in self.names:
                await self._deliver(version, await self.api.card(), None)

    async def _deliver(self, version: Version, card: Card, name: str | None) -> None:
        clock = time.perf_counter()
        try:
            if version.folder is None:
                name = card.model
            elif name is None:
                name = await self._load(version)
            await self._prove(version, name, clock)
        except EngineFailure as error:
            version.refusals[str(self)] = str(error)
            await self._discard(name or "")
            raise
        self.names[version.policy] = name
        version.refusals.pop(str(self), None)

    async def _load(self, version: Version, *, is_last: bool = False) -> str:
        """Load a version under a new name and return that; what a server could not do this time is tried once more."""
        name = f"{version.policy}-{self.terms.tag}-{next(self._numbers)}"
        try:
            await self.api.load(name, str(version.folder))
        except (Unreachable, Late):  # which says nothing of the adapter
            raise
        except (Trouble, EngineFailure) as error:
            await self._discard(name)
            if isinstance(error, Trouble) and not is_last:
                await asyncio.sleep(_LOAD_PAUSE)
                return await self._load(version, is_last=True)
            raise EngineFailure(
                f"{self} could not load {version.policy} from '{version.folder}', which it must be able to read "
                f"(engine.servers.adapter_folder): {error}"
            ) from error
        return name

    async def _discard(self, name: str) -> None:
        """Unload an adapter that may never have been loaded."""
        with contextlib.suppress(Trouble, EngineFailure):
            await self._unload(name)

    async def _prove(self, version: Version, name: str, clock: float) -> None:
        if version.canary is None:
            return
        measured = await self._score(name, version.canary.token_ids)
        proof = prove(
            measured,
            version.canary,
            version.previous,
            tolerance=self.terms.tolerance,
            policy=version.policy,
            server=str(self),
            seconds=time.perf_counter() - clock,
        )
        version.proofs.append(proof)

    async def _score(self, name: str, token_ids: Sequence[int]) -> list[float]:
        """Have a canary scored; it may have to wait for a place while the server generates for others."""
        for _ in range(PATIENCE - 1):
            try:
                return await self.api.score(name, token_ids)
            except Late:
                if not await self.is_moving():
                    raise
        return await self.api.score(name, token_ids)

    async def withdraw(self, policy: Policy) -> None:
        """Forget a version; a server that is out does so before it serves again, and is not waited for."""
        if not self.is_up:
            return
        async with self._lock:
            if self.is_up and policy in self.names:
                await self._unload(self.names.pop(policy))

    async def check(self) -> None:
        """See whether it still is what it was; put it out if not."""
        had = set(self.names.values())  # before it is asked: more may be loaded meanwhile
        try:
            card, counted = await self.api.card(), await self.api.preemptions()
        except Unreachable as error:
            self.fail(str(error))
        except Trouble:  # busy, or stalled: tokens tell
            await self.is_moving()
        else:
            self.preemptions += max(0, counted - self._counted)
            self._counted = counted
            if had & set(self.names.values()) - card.adapters - {card.model}:
                self.fail("it has restarted and lost its adapters")

    async def is_moving(self) -> bool:
        """Return whether it makes tokens; asked with a canary when none came lately. One that does not is put out."""
        if not self.is_up or time.monotonic() - self._last_token < self.terms.first_token_seconds:
            return self.is_up
        if self._canary is None or self._canary.done():
            self._canary = asyncio.create_task(self._try_canary())
        return await asyncio.shield(self._canary)

    async def _try_canary(self) -> bool:
        try:
            async with asyncio.timeout(self.terms.connect_seconds):
                card = await self.api.card()
                await self.api.first_choice(card.model, _PROBE)
        except (Trouble, EngineFailure, TimeoutError) as error:
            silent = f"no token for {self.terms.first_token_seconds:g} s and a canary was not answered"
            self.fail(f"it has stalled: {silent}" + (f" ({error})" if str(error) else ""))
            return False
        self._last_token = time.monotonic()
        return True

    async def generate(
        self, policy: Policy, prompt_ids: Sequence[int], sampling: Sampling, session: str, take: Callable[[Chunk], None]
    ) -> None:
        """Generate, giving `take` every chunk as it comes.

        Raises:
            Trouble: it broke off; what was taken stands, unless it is a BadAnswer.
            EngineFailure: it would be refused everywhere.
        """
        name = self.names.get(policy)
        if name is None or not self.is_up:
            raise Trouble(self.reason or f"it has not proved {policy}")
        self.open += 1
        try:
            async with AsyncExitStack() as stack:
                async with self._cut_off():
                    stream = await stack.enter_async_context(self.api.stream(name, prompt_ids, sampling, session))
                while (chunk := await self._next(stream)) is not None:
                    self._last_token, self._failures = time.monotonic(), 0
                    take(chunk)
        except Trouble as error:
            if not isinstance(error, LostAdapter) or self.names.get(policy) == name:  # else it was retired meanwhile
                self._blame(error)
            raise
        finally:
            self.open -= 1

    async def _next(self, stream: TokenStream) -> Chunk | None:
        for _ in range(PATIENCE):
            try:
                async with self._cut_off():
                    return await stream.next()
            except Silence:
                if not await self.is_moving():
                    break
        raise Trouble(self.reason or f"no token within {PATIENCE} times {self.terms.first_token_seconds:g} s")

    @asynccontextmanager
    async def _cut_off(self) -> AsyncIterator[None]:
        """Bound a wait by the deadline of a token, and by the server being put out."""
        try:
            async with asyncio.timeout(self.terms.first_token_seconds) as cut:
                self._cuts.add(cut)
                try:
                    yield
                finally:
                    self._cuts.discard(cut)
        except TimeoutError as error:
            raise Silence(self.reason or f"no answer within {self.terms.first_token_seconds:g} s") from error

    def _blame(self, error: Trouble) -> None:
        """Remember that a request failed here."""
        self._failures += 1
        if isinstance(error, LostAdapter):
            self.fail("it has restarted and lost its adapters")
        elif self.is_up and self._failures >= BREAKER:
            self.fail(f"{self._failures} requests in a row failed, the last because {error}")
        self.suspect.set()


class Silence(Trouble):
    """Nothing came for as long as a token may take."""
