"""A real vLLM server, killed, stalled behind a healthy front, given half an adapter: what was begun ends rightly."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, Qwen3ForCausalLM

from agentgrpo.config.engine import ServersConfig
from agentgrpo.config.run import LoraConfig
from agentgrpo.engines.adapters import WEIGHTS
from agentgrpo.engines.vllm_remote import RemoteEngine
from agentgrpo.errors import EngineFailure
from agentgrpo.learner.policy import LoraPolicy
from agentgrpo.tolerances import LOGPROB_TOLERANCE
from agentgrpo.types import Generation, Policy, Sampling
from tests.engines.models import save_wide
from tests.engines.stubs import settled
from tests.faults.conftest import Ledger
from tests.learner.episodes import randomize

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore")]
CONTEXT, VOCABULARY, TOKENS, AT_ONCE = 2048, 500, 1500, 16
FIRST_TOKEN, CONNECT, START = 6.0, 6.0, 400.0  # seconds: no server that works is so late, on a busy machine
V1 = Policy(version=1)


class RealServer:
    """One process of `agentgrpo engine serve`, and those it starts; on the same port again after a kill."""

    def __init__(self, model: Path, folder: Path) -> None:
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.model, self.log = model, folder / "server.log"
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        serve = ["engine", "serve", str(self.model), "--port", str(self.port), "--max-sequences", str(AT_ONCE)]
        more = ["--lora-rank", "4", "--versions", "2", "--kv-cache-gib", "0.25"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "agentgrpo.cli.main", *serve, *more],
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def wait(self) -> None:
        end = time.monotonic() + START
        while not self.answers("/v1/models"):
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()[-3000:]
            time.sleep(0.5)

    def answers(self, path: str) -> bool:
        try:
            with urllib.request.urlopen(self.url + path, timeout=CONNECT) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def workers(self) -> list[int]:
        """Return the processes behind the one that answers: the others of its group."""
        states = [(int(path.parent.name), path.read_text()) for path in Path("/proc").glob("[0-9]*/stat")]
        groups = {pid: int(state.rsplit(")", 1)[1].split()[2]) for pid, state in states}
        return [pid for pid, group in groups.items() if group == self.process.pid != pid]

    def kill(self) -> None:
        with suppress(ProcessLookupError):  # killed already
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_wide(tmp_path_factory.mktemp("model"), vocabulary=VOCABULARY, context=CONTEXT)


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    started = RealServer(model, tmp_path_factory.mktemp("server"))
    try:
        started.wait()
        yield started
    finally:
        started.kill()


@pytest.fixture
def learner(model: Path) -> LoraPolicy:
    base: PreTrainedModel = Qwen3ForCausalLM.from_pretrained(model, dtype=torch.float32)
    trained = LoraPolicy(base, LoraConfig(rank=4, alpha=8), seed=0, model_path=str(model))
    randomize(trained, 1)
    return trained


@asynccontextmanager
async def pool(*servers: RealServer, adapter_folder: Path | None = None) -> AsyncIterator[RemoteEngine]:
    """Yield an engine on these servers and close it, whatever happened."""
    config = ServersConfig(
        urls=[server.url for server in servers],
        adapter_folder=None if adapter_folder is None else str(adapter_folder),
        connect_seconds=CONNECT,
        first_token_seconds=FIRST_TOKEN,
        outage_seconds=START,
        retries=6,
    )
    tolerance = LOGPROB_TOLERANCE["float32"]
    engine = RemoteEngine(config, context_length=CONTEXT, max_sequences=AT_ONCE, tolerance=tolerance)
    try:
        yield engine
    finally:
        await engine.close()


async def begin(engine: RemoteEngine) -> list[tuple[tuple[int, ...], asyncio.Task[Generation]]]:
    """Begin generations and wait until all are under way and each server has said something."""
    clock = time.monotonic()
    prompts = [tuple(random.Random(i).randrange(VOCABULARY) for _ in range(5 + i)) for i in range(AT_ONCE)]
    asked = [
        asyncio.create_task(engine.generate(ids, Sampling(max_tokens=TOKENS, seed=i), V1, session=str(i)))
        for i, ids in enumerate(prompts)
    ]
    await settled(lambda: sum(server.open for server in engine.servers) == AT_ONCE)
    await settled(lambda: all(server._last_token > clock for server in engine.servers))
    assert not any(task.done() for task in asked)
    return list(zip(prompts, asked, strict=True))


async def end(learner: LoraPolicy, asked: list[tuple[tuple[int, ...], asyncio.Task[Generation]]]) -> None:
    """Wait for all; fail unless each is whole and every logprob is the learner's after what stood before."""
    for prompt, task in asked:
        said = await task
        assert len(said.token_ids) == TOKENS
        ids = torch.tensor([[*prompt, *said.token_ids]])
        with torch.no_grad():
            shares = learner.causal_lm(ids).logits[0].log_softmax(-1)
        expected = shares[len(prompt) - 1 : -1].gather(1, ids[0, len(prompt) :, None])[:, 0]
        assert float((expected - torch.tensor(said.logprobs)).abs().max()) <= 1e-4


async def test_half_an_adapter_is_refused_and_the_version_before_goes_on(
    server: RealServer, learner: LoraPolicy, ledger: Ledger, is_full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(0)
    async with pool(server) as engine:
        await engine.publish(learner.adapter(), V1, canary=learner.canary())
        write = engine._folders.write

        def half(adapter: Any, name: str) -> Path:
            folder = write(adapter, name)
            content = (folder / WEIGHTS).read_bytes()
            (folder / WEIGHTS).write_bytes(content[: rng.randrange(len(content))])
            return folder

        for number in range(2, 5 if is_full else 3):
            monkeypatch.setattr(engine._folders, "write", half)
            with pytest.raises(EngineFailure, match=f"127.0.0.1:{server.port} could not load policy-v{number}"):
                await engine.publish(learner.adapter(), Policy(version=number), canary=learner.canary())
            monkeypatch.undo()
            await end(learner, await begin(engine))
    ledger.record("real vLLM: adapter truncated", injected=number - 1, survived=number - 1)


async def test_a_stall_behind_a_healthy_front_is_seen_and_ends(
    server: RealServer, learner: LoraPolicy, ledger: Ledger, is_full: bool
) -> None:
    injected = 3 if is_full else 1
    async with pool(server) as engine:
        await engine.publish(learner.adapter(), V1, canary=learner.canary())
        for _ in range(injected):
            asked = await begin(engine)
            workers = server.workers()
            for pid in workers:
                os.kill(pid, signal.SIGSTOP)
            try:
                await settled(lambda: not engine.servers[0].is_up)  # although nothing ends the stall
                assert "stalled" in (engine.servers[0].reason or "") or "within" in (engine.servers[0].reason or "")
                assert await asyncio.to_thread(server.answers, "/health")  # which would have told nothing
            finally:
                for pid in workers:
                    os.kill(pid, signal.SIGCONT)
            await end(learner, asked)
            assert engine.servers[0].is_up
    ledger.record("real vLLM: stalled", injected=injected, survived=injected)


async def test_a_killed_server_comes_back_proves_again_and_what_was_begun_goes_on(
    server: RealServer, learner: LoraPolicy, ledger: Ledger, is_full: bool
) -> None:
    injected = 3 if is_full else 1
    async with pool(server) as engine:
        await engine.publish(learner.adapter(), V1, canary=learner.canary())
        for _ in range(injected):
            asked = await begin(engine)
            server.kill()
            server.start()
            await end(learner, asked)
        assert len(engine._versions[V1].proofs) > injected
    ledger.record("real vLLM: killed", injected=injected, survived=injected)


async def test_a_version_is_proved_while_others_generate(server: RealServer, learner: LoraPolicy) -> None:
    async with pool(server) as engine:
        await engine.publish(learner.adapter(), V1, canary=learner.canary())
        asked = await begin(engine)
        randomize(learner, 2)
        (proof,) = await engine.publish(learner.adapter(), Policy(version=2), canary=learner.canary())
        assert proof.verdict == "proved" and engine.servers[0].outages == 0  # although every session was generating
        randomize(learner, 1)
        await end(learner, asked)


async def test_two_servers_share_a_folder_and_one_goes_on_with_the_others_episodes(
    model: Path, server: RealServer, learner: LoraPolicy, ledger: Ledger, is_full: bool, tmp_path: Path
) -> None:
    if not is_full:
        pytest.skip("a second server takes half a minute to start: `make faults` has one")
    other = RealServer(model, tmp_path)
    try:
        other.wait()
        async with pool(server, other, adapter_folder=tmp_path / "adapters") as engine:
            proofs = await engine.publish(learner.adapter(), V1, canary=learner.canary())
            assert len({proof.server for proof in proofs}) == 2
            asked = await begin(engine)
            assert all(each.open for each in engine.servers)
            other.kill()
            await end(learner, asked)
            assert [each.is_up for each in engine.servers] == [True, False]
        assert not list((tmp_path / "adapters").iterdir())
    finally:
        other.kill()
    ledger.record("real vLLM: one of two killed", injected=1, survived=1)
