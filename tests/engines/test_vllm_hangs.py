"""vLLM in this process when vLLM hangs or does not start: what is left then, on a fake of the names that are used."""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from agentgrpo.engines import adapters, guard
from agentgrpo.engines.vllm_options import PROOF_PLACES
from agentgrpo.errors import EngineFailure, ModelError
from agentgrpo.tolerances import LOGPROB_TOLERANCE
from agentgrpo.types import Policy
from tests.clock import leap
from tests.engines.stubs import adapter, settled

V1 = Policy(version=1)


@dataclass
class FakeLora:
    """As vLLM's `LoRARequest`."""

    lora_name: str
    lora_int_id: int
    lora_path: str


class FakeLlm:
    """As vLLM's `AsyncLLM`, with a process of its own; what is in `hung` never ends."""

    def __init__(self, arguments: Any, stat_loggers: list[Any]) -> None:
        self.logger_manager = SimpleNamespace(stat_loggers=[kind(None, [0]) for kind in stat_loggers])
        self.hung: set[str] = set()
        self.hangs = asyncio.Event()  # something that never ends has begun
        self.loaded: set[int] = set()
        self.done: list[str] = []
        self.process = subprocess.Popen(["sleep", "60"])
        manager = SimpleNamespace(processes=[self.process])
        self.engine_core = SimpleNamespace(resources=SimpleNamespace(engine_manager=manager))
        self.model_config = SimpleNamespace(max_model_len=64)
        self.vllm_config = SimpleNamespace(cache_config=SimpleNamespace(num_gpu_blocks=64, block_size=16))

    async def _do(self, name: str) -> None:
        if name in self.hung:
            self.hangs.set()
            await asyncio.Event().wait()
        self.done.append(name)

    async def add_lora(self, lora: FakeLora) -> None:
        await self._do("add_lora")
        self.loaded.add(lora.lora_int_id)

    async def list_loras(self) -> set[int]:
        return self.loaded

    async def remove_lora(self, number: int) -> None:
        await self._do("remove_lora")
        self.loaded.discard(number)

    async def sleep(self, level: int) -> None:
        await self._do("sleep")

    async def wake_up(self) -> None:
        await self._do("wake_up")

    def shutdown(self) -> None:
        if "shutdown" not in self.hung:
            self.process.kill()
        self.process.wait()


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """Return the engine's module, imported on the fake; adapters are written to `tmp_path`, closing is short."""
    fakes: dict[str, dict[str, Any]] = {
        "vllm": {"SamplingParams": dict},
        "vllm.engine.arg_utils": {"AsyncEngineArgs": dict},
        "vllm.inputs": {"tokens_input": list},
        "vllm.lora.request": {"LoRARequest": FakeLora},
        "vllm.sampling_params": {"RequestOutputKind": SimpleNamespace(FINAL_ONLY=2)},
        "vllm.v1.engine.async_llm": {"AsyncLLM": SimpleNamespace(from_engine_args=FakeLlm)},
        "vllm.v1.metrics.loggers": {"PrometheusStatLogger": object},
        "vllm.v1.engine.exceptions": {"EngineDeadError": type("EngineDeadError", (Exception,), {})},
    }
    for name, content in fakes.items():
        fake = ModuleType(name)
        vars(fake).update(content)
        monkeypatch.setitem(sys.modules, name, fake)
    spec = importlib.util.find_spec("agentgrpo.engines.vllm_local")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "_CLOSE_SECONDS", 3.0)
    monkeypatch.setattr(guard, "_SCRIPT", guard._SCRIPT.replace("sleep 5", "sleep 0.1"))
    monkeypatch.setattr(adapters, "_MEMORY", tmp_path)
    monkeypatch.setattr(adapters, "_ENOUGH", 0)
    return module


def start(local: ModuleType, **more: Any) -> Any:
    options = {"model": "m", "max_loras": 4, "max_num_seqs": 4 + PROOF_PLACES}
    return local.VllmEngine(options, tolerance=LOGPROB_TOLERANCE["float32"], **more)


@pytest.fixture
async def engine(local: ModuleType) -> AsyncIterator[Any]:
    made = start(local, sleeps=True)
    yield made
    await made.close()


async def late(engine: Any, work: Coroutine[Any, Any, object]) -> None:
    """Await something in which vLLM hangs, for as long as it may take."""
    asked = asyncio.create_task(work)
    await settled(engine._llm.hangs.is_set)
    leap(300)
    await asked


def is_running() -> bool:
    return any(thread.name == "agentgrpo-vllm" for thread in threading.enumerate())


def test_a_start_that_fails_leaves_nothing(local: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Path] = []

    def fail(*args: object, **more: object) -> None:
        found.extend(tmp_path.iterdir())
        raise RuntimeError("out of memory")

    monkeypatch.setattr(local.AsyncLLM, "from_engine_args", fail)
    with pytest.raises(ModelError, match="vLLM cannot start with the model in 'm': out of memory"):
        start(local)
    assert len(found) == 1 and not list(tmp_path.iterdir()) and not is_running()


async def test_a_shutdown_that_hangs_is_not_waited_for(local: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    engine = start(local)
    process = engine._llm.process
    engine._llm.hung.add("shutdown")
    await engine.publish(adapter(1), V1)
    await engine.close()
    assert process.poll() is not None and not engine._folders.root.exists() and not is_running()
    assert "vLLM did not stop within 3 s: its processes are killed" in caplog.text


async def test_a_load_that_hangs_is_told(engine: Any) -> None:
    engine._llm.hung.add("add_lora")
    with pytest.raises(EngineFailure, match=r"vLLM did not load and prove policy-v1 within 120 s"):
        await late(engine, engine.publish(adapter(1), V1))
    await settled(lambda: not list(engine._folders.root.glob("policy-*")))
    engine._llm.hung.clear()
    await engine.publish(adapter(1), V1)  # it was not taken for loaded


async def test_a_version_that_is_not_forgotten_is_told(engine: Any) -> None:
    await engine.publish(adapter(1), V1)
    engine._llm.hung.add("remove_lora")
    with pytest.raises(EngineFailure, match=r"vLLM did not forget policy-v1 within 120 s"):
        await late(engine, engine.retire(V1))


async def test_vllm_wakes_once_the_learner_has_given_the_card_back(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = engine._llm.done
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: done.append("the learner's cache is emptied"))
    async with engine.stand_by():
        done.append("the learner works")
    assert done == ["sleep", "the learner works", "the learner's cache is emptied", "wake_up"]


@pytest.mark.parametrize(("name", "what"), [("sleep", "sleep"), ("wake_up", "wake up")])
async def test_memory_that_is_not_given_is_told(engine: Any, name: str, what: str) -> None:
    async def stand_by() -> None:
        async with engine.stand_by():
            assert name == "wake_up"

    engine._llm.hung.add(name)
    with pytest.raises(EngineFailure, match=rf"vLLM did not {what} within 300 s"):
        await late(engine, stand_by())


async def test_a_retired_version_waits_for_its_generations_longer_than_for_vllm(engine: Any) -> None:
    goes_on, ends = asyncio.Event(), asyncio.Event()

    async def generate() -> None:
        with engine._using(V1):
            goes_on.set()
            await ends.wait()

    async def end() -> None:
        ends.set()

    await engine.publish(adapter(1), V1)
    generating = engine._thread.submit(generate())
    await settled(goes_on.is_set)
    retiring = asyncio.create_task(engine.retire(V1))
    await settled(lambda: V1 not in engine._versions)
    leap(1000)
    assert not (await asyncio.wait([retiring], timeout=0.1))[0] and engine._llm.loaded
    engine._thread.wait(end())
    await retiring
    generating.result(60)
    assert not engine._llm.loaded
