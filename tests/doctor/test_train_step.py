"""The train step that is measured, beside an engine that gives its memory back: on a card that is not here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from agentgrpo.doctor import train_step


@asynccontextmanager
async def noted(done: list[str]) -> AsyncIterator[None]:
    done.append("the engine gives its memory")
    yield
    done.append("the engine takes it again")


def bench(done: list[str], device: str) -> Any:
    return SimpleNamespace(
        engine=SimpleNamespace(stand_by=lambda: noted(done)),
        learner=SimpleNamespace(step=lambda groups: done.append(f"{len(groups)} groups are learned from")),
        policy=SimpleNamespace(device=torch.device(device)),
    )


async def test_the_engine_stands_by_while_the_step_is_measured() -> None:
    done: list[str] = []
    _, seconds, size = await train_step._learn(bench(done, "cpu"), ["a", "b"])  # type: ignore[list-item]
    assert done == ["the engine gives its memory", "2 groups are learned from", "the engine takes it again"]
    assert seconds >= 0 and size is None


async def test_on_a_card_its_memory_is_measured_and_not_the_machine_s(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 7_000)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: done.append(f"{device} counts anew"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 9_500)
    _, _, size = await train_step._learn(bench(done, "cuda:1"), [])
    assert size == 2_500 and done[1:3] == ["cuda:1 counts anew", "0 groups are learned from"]
