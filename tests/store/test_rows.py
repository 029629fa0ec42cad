from __future__ import annotations

from pathlib import Path

import pytest

from agentgrpo.store import EpisodeReader, EpisodeStore, TrainingRow
from agentgrpo.types import Phase
from tests.store.strategies import make_key, make_trajectory


@pytest.mark.parametrize(
    ("phase", "learned", "why"),
    [
        ("train", None, "no train step yet"),
        ("train", {"advantage": 0.5}, None),
        ("train", {"advantage": 0.0, "filter_reason": "zero_variance"}, "zero_variance"),
        ("eval", None, "eval"),
    ],
)
async def test_an_episode_says_why_it_did_not_train(
    tmp_path: Path, phase: Phase, learned: dict[str, float | str] | None, why: str | None
) -> None:
    key = make_key(1, phase=phase)
    with EpisodeStore(tmp_path / "episodes.sqlite") as store:
        await store.add([make_trajectory(key)])
        if learned is not None:
            await store.set_training([TrainingRow(key=key, **learned)])  # type: ignore[arg-type]
    with EpisodeReader(tmp_path / "episodes.sqlite") as reader:
        assert reader.get(key).row.untrained == why
