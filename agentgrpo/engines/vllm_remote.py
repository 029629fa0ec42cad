"""A pool of vLLM servers as one engine: episodes stick to a server, and go on elsewhere when it breaks.

A version is used only where it was proved. What is repeated is safe to repeat: a generation is seeded, and what came of
it before a server broke is kept, token for token.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path

import aiohttp
from tenacity import AsyncRetrying, RetryError, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from agentgrpo.config.engine import ServersConfig
from agentgrpo.engines.adapters import AdapterFolders
from agentgrpo.engines.partial import Partial
from agentgrpo.engines.proof import Canary, Proof
from agentgrpo.engines.servers import Server, Terms, Version
from agentgrpo.engines.vllm_api import BadAnswer, Card, Trouble, VllmApi
from agentgrpo.errors import EngineFailure
from agentgrpo.tolerances import Tolerance
from agentgrpo.types import Adapter, Generation, Policy, Sampling

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 10.0  # seconds, at most, before a generation is tried again
_LOOK_SECONDS = 1.0  # between two looks at a server that serves; one that refuses is looked at ever less often
_LOOKS_APART = 8
_KEEP_ALIVE_SECONDS = 4.0


async def survey(config: ServersConfig, *, api_key: str = "") -> dict[str, Card | str]:
    """Ask every server what it serves; in place of its answer, what was wrong."""

    async def ask(url: str, http: aiohttp.ClientSession) -> Card | str:
        seconds = config.connect_seconds
        try:
            return await VllmApi(url, http, seconds=seconds, load_seconds=seconds).card()
        except (Trouble, EngineFailure) as error:
            return str(error)

    async with _http(config, api_key) as http:
        return dict(zip(config.urls, await asyncio.gather(*(ask(url, http) for url in config.urls)), strict=True))


def _http(config: ServersConfig, api_key: str) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        # The rollout bounds how much is asked. vLLM ends connections idle for 5 s: nothing shall be asked just then.
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_SECONDS),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=config.connect_seconds),
        headers={"Authorization": f"Bearer {api_key}"} if api_key else None,
    )


class RemoteEngine:
    """Generates on a pool of vLLM servers; see `Engine`.

    Args:
        config: The servers, and how long they may take.
        context_length: Most tokens of prompt and completion, on every server.
        max_sequences: Most sessions that may be open at once, on all servers together.
        tolerance: How far a server's logprobs may be from the learner's.
        api_key: Sent to every server.
    """

    def __init__(
        self,
        config: ServersConfig,
        *,
        context_length: int,
        max_sequences: int,
        tolerance: Tolerance,
        api_key: str = "",
    ) -> None:
        self._config, self._api_key = config, api_key
        self._context_length, self._max_sequences = context_length, max_sequences
        tag = secrets.token_hex(4)
        terms = Terms(
            connect_seconds=config.connect_seconds,
            first_token_seconds=config.first_token_seconds,
            context_length=context_length,
            tolerance=tolerance,
            tag=tag,
        )
        self.servers = [Server(url, terms) for url in config.urls]
        shared = config.adapter_folder
        self._folders = AdapterFolders(Path(shared).resolve() / f"agentgrpo-{tag}" if shared else None)
        self._versions: dict[Policy, Version] = {}  # that servers shall have
        self._retired: list[Version] = []  # whose folder some server may still look into
        self._canaries: dict[str, Canary] = {}  # the last of each policy's name
        self._numbers = count()  # no path is ever used twice
        self._tick = min(0.05, config.outage_seconds / 10)  # seconds between two looks at what is waited for
        self._loop: asyncio.AbstractEventLoop | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def context_length(self) -> int:
        """Most tokens a prompt and its completion may have together."""
        return self._context_length

    @property
    def max_sequences(self) -> int:
        """Most sessions that may be open at once; further ones wait for a release."""
        return self._max_sequences

    @property
    def preemptions(self) -> int:
        """How often a server's cache was too small and a sequence had to be computed again."""
        return sum(server.preemptions for server in self.servers)

    def metrics(self) -> dict[str, float]:
        """Return how many servers serve, and how often one was taken out."""
        return {
            "engine/servers_up": float(sum(server.is_up for server in self.servers)),
            "engine/server_outages": float(sum(server.outages for server in self.servers)),
        }

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, policy: Policy, *, session: str = ""
    ) -> Generation:
        """Sample a completion; see `Engine.generate`."""
        await self._start()
        version = self._live(policy)
        room = self._context_length - len(prompt_ids)
        if room <= 0:
            raise EngineFailure(f"a prompt of {len(prompt_ids)} does not fit a context of {self._context_length}")
        part = Partial(tuple(prompt_ids), replace(sampling, max_tokens=min(sampling.max_tokens, room)))
        left: set[Server] = set()
        version.open += 1
        try:
            async for attempt in self._attempts():
                with attempt:
                    await self._go_on(part, policy, session, left)
        except RetryError as error:
            last = error.last_attempt
            raise EngineFailure(
                f"{last.attempt_number} attempts failed, the last because {last.exception()}"
            ) from error
        finally:
            version.open -= 1
            self._sweep()
        return part.generation()

    def _live(self, policy: Policy) -> Version:
        version = self._versions.get(policy)
        if self._is_closed:
            raise EngineFailure("the engine is closed")
        if version is None or not version.is_live:
            live = ", ".join(str(version.policy) for version in self._versions.values() if version.is_live)
            raise EngineFailure(f"{policy} is not published; live: {live or 'none'}")
        return version

    def _attempts(self) -> AsyncRetrying:
        longest = min(_LONGEST_PAUSE, self._config.first_token_seconds)
        return AsyncRetrying(
            retry=retry_if_exception_type(Trouble),
            stop=stop_after_attempt(self._config.retries + 1),
            # Full jitter: what broke for all at once is not asked by all at once again.
            wait=wait_random_exponential(multiplier=min(_FIRST_PAUSE, longest), max=longest),
        )

    async def _go_on(self, part: Partial, policy: Policy, session: str, left: set[Server]) -> None:
        """Ask one server for what is missing; who met trouble there asks another the next time."""
        server = await self._place(policy, session, left)
        start = len(part.token_ids)
        prompt_ids, sampling = part.rest()
        try:
            await server.generate(policy, prompt_ids, sampling, session, part.take)
            part.check_end()
        except Trouble as error:
            if isinstance(error, BadAnswer):
                part.drop(start)
            if part.finish_reason is not None:
                return  # all of it had come
            server.sessions.discard(session)
            left.add(server)
            raise type(error)(f"{server}: {error}") from error
        except EngineFailure as error:
            raise EngineFailure(f"{server}: {error}") from error

    async def _place(self, policy: Policy, session: str, left: set[Server]) -> Server:
        """Return the server of a session, or give it the least loaded one; wait for one to come back."""
        clock = time.monotonic()
        while True:
            self._live(policy)
            up = [server for server in self.servers if server.is_up and policy in server.names]
            own = next((server for server in up if session in server.sessions), None)
            if own is not None:
                return own
            if up:
                chosen = min(up, key=lambda server: (server in left, *server.load))
                await self.release(session)  # whatever server it was on
                if session:
                    chosen.sessions.add(session)
                return chosen
            self._check_outage(clock, policy)
            await asyncio.sleep(self._tick)

    def _check_outage(self, since: float, policy: Policy) -> None:
        seconds = self._config.outage_seconds
        if time.monotonic() - since > seconds:
            lacks = f"it serves, but has not proved {policy}"
            reasons = "; ".join(f"{server}: {server.reason or lacks}" for server in self.servers)
            raise EngineFailure(f"no server has served for {seconds:g} s: {reasons}")

    async def release(self, session: str) -> None:
        """Let another session have its place."""
        for server in self.servers:
            server.sessions.discard(session)

    async def publish(
        self, adapter: Adapter | None, policy: Policy, *, canary: Canary | None = None
    ) -> tuple[Proof, ...]:
        """Load an adapter on every server and have each prove it; one that does not is taken out.

        Raises:
            EngineFailure: no server answers with it.
        """
        await self._start()
        if policy in self._versions:
            raise EngineFailure(f"{policy} was published before; publish the new weights as the next version")
        name = f"{policy}-{next(self._numbers)}"
        folder = None if adapter is None else await asyncio.to_thread(self._folders.write, adapter, name)
        version = Version(policy=policy, folder=folder, canary=canary, previous=self._canaries.get(policy.name))
        self._versions[policy] = version
        try:
            await self._spread(version)
        except BaseException:
            await self.retire(policy)
            raise
        version.is_live = True
        if canary is not None:
            self._canaries[policy.name] = canary
        return tuple(version.proofs)

    async def _spread(self, version: Version) -> None:
        """Deliver a version to all servers that serve; wait until one has proved it."""
        clock = time.monotonic()
        await asyncio.gather(*(self._deliver(server, version) for server in self.servers if server.is_up))
        while not any(version.policy in server.names for server in self.servers if server.is_up):
            if len(version.refusals) == len(self.servers):
                raise EngineFailure(f"no server answers with {version.policy}: {'; '.join(version.refusals.values())}")
            self._check_outage(clock, version.policy)
            await asyncio.sleep(self._tick)

    async def _deliver(self, server: Server, version: Version) -> None:
        try:
            await server.deliver(version)
        except (Trouble, EngineFailure) as error:
            server.fail(str(error))

    async def retire(self, policy: Policy) -> None:
        """Forget a policy; its folder goes once no server and no generation can look into it."""
        version = self._versions.pop(policy, None)
        if version is None:
            return
        self._retired.append(version)
        await self._withdraw(policy)
        self._sweep()

    async def _withdraw(self, *policies: Policy) -> None:
        async def withdraw(server: Server) -> None:
            for policy in policies:
                try:
                    await server.withdraw(policy)
                except (Trouble, EngineFailure) as error:
                    server.fail(f"it could not unload {policy}: {error}")

        await asyncio.gather(*map(withdraw, self.servers))

    def _sweep(self) -> None:
        """Delete the folders that nobody can look into any more."""
        for version in [v for v in self._retired if not v.open]:
            if not any(version.policy in server.names for server in self.servers):
                self._retired.remove(version)
                if version.folder is not None:
                    self._folders.delete(version.folder)

    @asynccontextmanager
    async def stand_by(self) -> AsyncIterator[None]:
        """Hold nothing: the learner works elsewhere."""
        yield

    async def close(self) -> None:
        """Unload what was loaded and stop; generations still open end with EngineFailure."""
        if self._is_closed:
            return
        try:
            if any(server.names for server in self.servers):
                await self._start()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._config.connect_seconds):
                        await self._withdraw(*self._versions)
        finally:
            self._is_closed = True
            for server in self.servers:
                server.close()
            self._folders.close()
            if self._keeper is not None and self._loop is asyncio.get_running_loop():
                self._keeper.cancel()
                await asyncio.wait([self._keeper])

    async def _start(self) -> None:
        """Talk to the servers and look after them, in the loop that runs now."""
        if self._is_closed:
            raise EngineFailure("the engine is closed")
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._ready = loop, loop.create_future()
            self._keeper = loop.create_task(self._keep(self._ready), name="agentgrpo-servers")
        if self._keeper is not None and self._keeper.done():
            self._keeper.result()  # raises what ended it
        await asyncio.shield(self._ready)

    async def _keep(self, ready: asyncio.Future[None]) -> None:
        """Hold the connections of a loop until it ends, or the engine does.

        Ready once every server was looked at, so that the first episodes spread over all; none is waited for longer
        than it may take to connect.
        """
        seconds, load_seconds = self._config.connect_seconds, self._config.first_token_seconds
        try:
            async with _http(self._config, self._api_key) as http:
                for server in self.servers:
                    server.attach(VllmApi(server.url, http, seconds=seconds, load_seconds=load_seconds))
                async with asyncio.TaskGroup() as group:
                    for server in self.servers:
                        group.create_task(self._watch(server))
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(seconds):
                            for server in self.servers:
                                await server.looked_at.wait()
                    ready.set_result(None)
        finally:
            if not ready.done():
                ready.set_exception(EngineFailure("the connections to the servers ended before they began"))
                ready.exception()  # seen: nobody may be waiting any more

    async def _watch(self, server: Server) -> None:
        """Look at a server again and again; at one that cannot serve ever less often."""
        pause = shortest = min(_LOOK_SECONDS, self._config.connect_seconds)
        while True:
            pause = shortest if await self._look(server) else min(2 * pause, _LOOKS_APART * shortest)
            server.looked_at.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await server.suspect.wait()

    async def _look(self, server: Server) -> bool:
        """Put a server out when it is gone, take it in when it is back; return whether it serves, or may next time."""
        server.suspect.clear()
        try:
            if server.is_up:
                await server.check()
            else:
                await server.admit(lambda: list(self._versions.values()))
                self._sweep()
        except (Trouble, EngineFailure) as error:
            server.fail(str(error))
            server.suspect.clear()
            return False
        return True
