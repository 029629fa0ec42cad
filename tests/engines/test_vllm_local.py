"""vLLM in this process, for real: its numbers beside the learner's, its versions, and what breaks on the way."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
import torch
from transformers import PreTrainedModel

from agentgrpo import causal_lm
from agentgrpo.config.engine import EngineConfig
from agentgrpo.engines.adapters import WEIGHTS, AdapterFolders
from agentgrpo.engines.vllm_options import engine_environment, engine_options
from agentgrpo.errors import EngineFailure
from agentgrpo.learner.batch import Row, collate
from agentgrpo.learner.policy import LoraPolicy
from agentgrpo.tolerances import LOGPROB_TOLERANCE
from agentgrpo.types import Adapter, Generation, Policy, Sampling
from agentgrpo.types import Sequence as Text
from tests.engines.models import save_wide
from tests.engines.stubs import settled
from tests.learner.episodes import policy, randomize
from tests.small import ROOT

if TYPE_CHECKING:
    from agentgrpo.engines.vllm_local import VllmEngine

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]
CONTEXT, LIVE, VOCABULARY = 256, 4, 500
TOLERANCE = LOGPROB_TOLERANCE["float32"]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_wide(tmp_path_factory.mktemp("wide"), vocabulary=VOCABULARY, context=CONTEXT)


@pytest.fixture(scope="module")
def base(wide: Path) -> PreTrainedModel:
    return causal_lm.load_model(wide, device=torch.device("cpu"), dtype=torch.float32)


def start(folder: Path) -> VllmEngine:
    from agentgrpo.engines.vllm_local import VllmEngine

    options = engine_options(
        EngineConfig(kind="vllm", max_sequences=64),
        model_path=str(folder),
        device="cpu",
        dtype="float32",
        lora_rank=4,
        context_length=CONTEXT,
        live_versions=LIVE,
    )
    return VllmEngine(options, tolerance=TOLERANCE, environment=engine_environment("cpu"))


@pytest.fixture(scope="module")
def engine(wide: Path) -> Iterator[VllmEngine]:
    made = start(wide)
    yield made
    asyncio.run(made.close())


def learner(base: PreTrainedModel, version: int) -> LoraPolicy:
    return policy(base, seed=version)


def prompt(seed: int, length: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(int(x) for x in torch.randint(VOCABULARY, (length,), generator=generator))


async def say(
    engine: VllmEngine, which: Policy, count: int, *, temperature: float = 1.0, tokens: int = 12
) -> list[tuple[tuple[int, ...], Generation]]:
    """Return prompts of many lengths with what the engine says to them, all at once."""
    prompts = [prompt(1000 * which.version + i, 3 + 7 * i % 100) for i in range(count)]
    said = await asyncio.gather(
        *(
            engine.generate(ids, Sampling(max_tokens=tokens, seed=i, temperature=temperature), which)
            for i, ids in enumerate(prompts)
        )
    )
    return list(zip(prompts, said, strict=True))


def distance(
    trained: LoraPolicy, said: Sequence[tuple[tuple[int, ...], Generation]], temperature: float = 1.0
) -> float:
    """Return the largest difference between the engine's logprobs and the learner's."""
    rows = []
    for i, (ids, made) in enumerate(said):
        mask = (0,) * len(ids) + (1,) * len(made.token_ids)
        logprobs = (*(0.0,) * len(ids), *made.logprobs)
        text = Text(
            token_ids=(*ids, *made.token_ids), loss_mask=mask, rollout_logprobs=logprobs, turns=(0,) * len(mask)
        )
        rows.append(Row(sequence=text, advantage=0.0, episode=i))
    batch = collate(rows)
    return float((trained.frozen_logprobs(batch, temperature=temperature) - batch.behaviour_N).abs().max())


async def publish(engine: VllmEngine, trained: LoraPolicy, which: Policy) -> None:
    (proof,) = await engine.publish(trained.adapter(), which, canary=trained.canary())
    assert proof.difference <= TOLERANCE.each


async def test_a_version_is_proved_while_others_generate(engine: VllmEngine, base: PreTrainedModel) -> None:
    first, second = Policy(name="amid", version=1), Policy(name="amid", version=2)
    await publish(engine, learner(base, 1), first)
    asked = asyncio.create_task(say(engine, first, 16, tokens=150))
    await settled(lambda: engine._versions[first].open == 16)
    await publish(engine, learner(base, 2), second)
    assert distance(learner(base, 1), await asked) <= 1e-4
    await engine.retire(first)
    await engine.retire(second)


@pytest.mark.parametrize("count", [10, pytest.param(100, marks=pytest.mark.slow)])
async def test_engine_and_learner_agree_over_ten_versions(
    engine: VllmEngine, base: PreTrainedModel, count: int
) -> None:
    before, verdicts = None, []
    for version in range(1, 11):
        which = Policy(name=f"agree{count}", version=version)
        trained = learner(base, version)
        (proof,) = await engine.publish(trained.adapter(), which, canary=trained.canary())
        verdicts.append(proof.verdict)
        temperature = (1.0, 0.7)[version % 2]
        assert distance(trained, await say(engine, which, count, temperature=temperature), temperature) <= 1e-4
        if before is not None:
            await engine.retire(before)
        before = which
    assert before is not None
    await engine.retire(before)
    assert verdicts == ["indistinguishable"] + ["proved"] * 9


async def test_two_versions_generate_in_one_batch_each_with_its_own_logprobs(
    engine: VllmEngine, base: PreTrainedModel
) -> None:
    policies = [Policy(name="pair", version=v) for v in (1, 2)]
    learners = [learner(base, which.version) for which in policies]
    for trained, which in zip(learners, policies, strict=True):
        await publish(engine, trained, which)
    said = await asyncio.gather(*(say(engine, which, 24, tokens=40) for which in policies))
    for i, trained in enumerate(learners):
        assert distance(trained, said[i]) <= 1e-4
        assert distance(trained, said[1 - i]) > 0.1
    await asyncio.gather(*map(engine.retire, policies))


async def test_an_episode_that_spans_an_update_keeps_its_version(engine: VllmEngine, base: PreTrainedModel) -> None:
    old, new = Policy(name="span", version=1), Policy(name="span", version=2)
    trained = learner(base, 1)
    await publish(engine, trained, old)
    first = prompt(1, 40)
    said = await engine.generate(first, Sampling(max_tokens=20, seed=1), old, session="e")
    await publish(engine, learner(base, 2), new)
    second = (*first, *said.token_ids, *prompt(2, 10))
    again = await engine.generate(second, Sampling(max_tokens=20, seed=2), old, session="e")
    assert distance(trained, [(first, said), (second, again)]) <= 1e-4
    await engine.retire(old)
    other = await engine.generate(second, Sampling(max_tokens=20, seed=2), new)  # its cache is not the old version's
    assert distance(learner(base, 2), [(second, other)]) <= 1e-4
    await engine.retire(new)


async def test_sampling_is_what_was_asked_for(engine: VllmEngine, base: PreTrainedModel) -> None:
    which = Policy(name="sampling")
    await engine.publish(None, which)
    ids = prompt(3, 30)
    greedy = await engine.generate(ids, Sampling(max_tokens=8, temperature=0.0), which)
    again = await engine.generate(ids, Sampling(max_tokens=8, temperature=1.0, top_k=1, seed=5), which)
    assert again.token_ids == greedy.token_ids
    assert again.logprobs == (0.0,) * 8  # of the distribution sampled from
    assert all(x < 0 for x in greedy.logprobs)  # greedy: the model's own
    seeded = [await engine.generate(ids, Sampling(max_tokens=20, seed=s), which) for s in (7, 7, 8)]
    assert seeded[0] == seeded[1] and seeded[0].token_ids != seeded[2].token_ids
    assert all(x * 2**16 == round(x * 2**16) for x in seeded[0].logprobs)
    stop = seeded[0].token_ids[4]
    cut = await engine.generate(ids, Sampling(max_tokens=20, seed=7, stop_token_ids=(stop,)), which)
    assert cut.finish_reason == "stop" and cut.token_ids[-1] == stop
    assert cut.token_ids == seeded[0].token_ids[: len(cut.token_ids)]
    await engine.retire(which)


async def test_limits_are_said(engine: VllmEngine) -> None:
    which = Policy(name="limits")
    await engine.publish(None, which)
    assert engine.context_length == CONTEXT
    assert 0 < engine.max_sequences <= min(64, engine.cache_tokens // CONTEXT)
    made = await engine.generate(prompt(1, CONTEXT - 3), Sampling(max_tokens=50), which)
    assert (len(made.token_ids), made.finish_reason) == (3, "length")
    for length in (0, CONTEXT):
        with pytest.raises(EngineFailure, match=f"a prompt of {length} tokens does not fit a context of {CONTEXT}"):
            await engine.generate(prompt(1, length), Sampling(max_tokens=1), which)
    with pytest.raises(EngineFailure, match=r"nobody-v3 is not published; live: .*limits-v0"):
        await engine.generate([1], Sampling(max_tokens=1), Policy(name="nobody", version=3))
    with pytest.raises(EngineFailure, match="published before"):
        await engine.publish(None, which)
    more = [Policy(name="limits", version=v) for v in range(1, LIVE)]
    for other in more:
        await engine.publish(None, other)
    with pytest.raises(EngineFailure, match=f"{LIVE} versions are alive"):
        await engine.publish(None, Policy(name="limits", version=LIVE))
    for other in (which, *more):
        await engine.retire(other)


async def test_a_truncated_adapter_is_refused_and_the_engine_goes_on(
    engine: VllmEngine, base: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, which = learner(base, 1), Policy(name="cut", version=1)
    write = AdapterFolders.write

    def truncated(self: AdapterFolders, adapter: Adapter, name: str) -> Path:
        folder = write(self, adapter, name)
        file = folder / WEIGHTS
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        return folder

    monkeypatch.setattr(AdapterFolders, "write", truncated)
    with pytest.raises(EngineFailure, match="load the adapter of cut-v1"):
        await engine.publish(trained.adapter(), which, canary=trained.canary())
    monkeypatch.undo()
    with pytest.raises(EngineFailure, match="not published"):
        await engine.generate([1], Sampling(max_tokens=1), which)
    await publish(engine, trained, which)
    await engine.retire(which)


async def test_an_adapter_that_was_not_applied_is_caught(
    engine: VllmEngine, base: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = Policy(name="stale", version=1), Policy(name="stale", version=2)
    first, second = learner(base, 1), learner(base, 2)
    await publish(engine, first, old)
    write, stale = AdapterFolders.write, first.adapter()
    monkeypatch.setattr(AdapterFolders, "write", lambda self, adapter, name: write(self, stale, name))
    with pytest.raises(EngineFailure, match=r"does not answer with stale-v2: .*the version before"):
        await engine.publish(second.adapter(), new, canary=second.canary())
    with pytest.raises(EngineFailure, match="not published"):
        await engine.generate([1], Sampling(max_tokens=1), new)
    monkeypatch.undo()
    await publish(engine, second, new)
    await asyncio.gather(engine.retire(old), engine.retire(new))


async def test_a_version_is_retired_once_its_generations_ended(engine: VllmEngine, base: PreTrainedModel) -> None:
    trained, which = learner(base, 1), Policy(name="leaving", version=1)
    await publish(engine, trained, which)
    ids = prompt(4, 20)
    under_way = asyncio.ensure_future(engine.generate(ids, Sampling(max_tokens=150, seed=1), which))
    await settled(lambda: engine._versions[which].open == 1)
    retired = asyncio.ensure_future(engine.retire(which))
    await settled(lambda: which not in engine._versions)
    with pytest.raises(EngineFailure, match="not published"):
        await engine.generate(ids, Sampling(max_tokens=1), which)
    said = await under_way
    await retired
    assert distance(trained, [(ids, said)]) <= 1e-4
    await engine.retire(which)  # unknown by now: fine
    assert not list(engine._folders.root.glob("*-v*"))


async def test_a_cancelled_generation_makes_room(engine: VllmEngine) -> None:
    which = Policy(name="cancelled")
    await engine.publish(None, which)
    tasks = [
        asyncio.ensure_future(engine.generate(prompt(i, 20), Sampling(max_tokens=200, seed=i), which))
        for i in range(16)
    ]
    await settled(lambda: engine._versions[which].open == 16)
    for task in tasks[:8]:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(e, asyncio.CancelledError) for e in ended] == [True] * 8 + [False] * 8
    await asyncio.wait_for(engine.retire(which), 60)  # waits for those that were cancelled too
    assert engine._llm.get_num_unfinished_requests() == 0


async def test_it_sleeps_while_the_learner_works_where_both_do_not_fit(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    async def sleep(level: int) -> None:
        done.append(f"asleep at level {level}")

    async def wake_up() -> None:
        done.append("awake")

    monkeypatch.setattr(engine._llm, "sleep", sleep)
    monkeypatch.setattr(engine._llm, "wake_up", wake_up)
    async with engine.stand_by():
        assert not done
    monkeypatch.setattr(engine, "_sleeps", True)
    with pytest.raises(RuntimeError, match="the learner failed"):
        async with engine.stand_by():
            assert done == ["asleep at level 1"]
            raise RuntimeError("the learner failed")
    assert done == ["asleep at level 1", "awake"]

    async def insomnia(level: int) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(engine._llm, "sleep", insomnia)
    with pytest.raises(EngineFailure, match="vLLM could not sleep: out of memory"):
        async with engine.stand_by():
            pass


def test_any_event_loop_may_ask(engine: VllmEngine) -> None:
    which = Policy(name="loops")
    asyncio.run(engine.publish(None, which))
    said = [asyncio.run(engine.generate([1, 2], Sampling(max_tokens=3, seed=1), which)) for _ in range(2)]
    assert said[0] == said[1]
    asyncio.run(engine.retire(which))


def memory() -> int:
    """Return the bytes this process's children hold."""
    return sum(child.memory_info().rss for child in psutil.Process().children(recursive=True))


@pytest.mark.slow
async def test_two_hundred_publishes_leave_memory_where_it_was(engine: VllmEngine, base: PreTrainedModel) -> None:
    trained, sizes = learner(base, 0), []
    for version in range(1, 421):
        randomize(trained, version)
        await publish(engine, trained, Policy(name="many", version=version))
        await say(engine, Policy(name="many", version=version), 4)
        await engine.retire(Policy(name="many", version=version - 1))
        if version in (220, 420):  # by then every page of the cache was written once
            sizes.append(memory())
    await engine.retire(Policy(name="many", version=420))
    assert sizes[1] - sizes[0] < 20 << 20, sizes
    assert not list(engine._folders.root.glob("*-v*"))


@pytest.mark.slow
def test_a_killed_run_leaves_no_process_of_vllm(wide: Path) -> None:
    code = (
        "import os, psutil, sys; sys.path[:0] = [os.getcwd()]\n"
        "from pathlib import Path\n"
        "from tests.engines.test_vllm_local import start\n"
        "if __name__ == '__main__':\n"
        "    engine = start(Path(sys.argv[1]))\n"
        "    print(*(child.pid for child in psutil.Process().children(recursive=True)), flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    script = wide / "killed.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run([sys.executable, str(script), str(wide)], cwd=ROOT, capture_output=True, text=True)
    children = [psutil.Process(int(pid)) for pid in done.stdout.split() if psutil.pid_exists(int(pid))]
    assert not psutil.wait_procs(children, timeout=60)[1], "processes of vLLM are still there"


def test_an_engine_that_died_says_so_and_closes(wide: Path) -> None:
    made, which = start(wide), Policy()

    async def die() -> None:
        await made.publish(None, which)
        under_way = asyncio.ensure_future(made.generate([1, 2], Sampling(max_tokens=250), which))
        await settled(lambda: made._versions[which].open == 1)
        for child in psutil.Process().children(recursive=True):
            if "EngineCore" in " ".join(child.cmdline()) or "EngineCore" in child.name():
                os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(EngineFailure, match="engine process has died"):
            await asyncio.wait_for(under_way, 60)
        with pytest.raises(EngineFailure, match="engine process has died"):
            await made.generate([1, 2], Sampling(max_tokens=2), which)
        await made.close()
        await made.close()
        with pytest.raises(EngineFailure, match="closed"):
            await made.generate([1, 2], Sampling(max_tokens=2), which)

    asyncio.run(die())
