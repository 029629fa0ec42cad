from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgrpo.errors import UserError
from agentgrpo.exchange.exporting import Format, export
from agentgrpo.store import Filter, RunDirectory
from agentgrpo.types import Trajectory
from tests.exchange.runs import fresh_folder, make_run, take
from tests.store.strategies import keys, make_key, make_trajectory, trajectories

pytest.importorskip("inspect_ai", reason="pip install 'agentgrpo[inspect]'")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def opened(run: RunDirectory, folder: Path) -> Any:
    from inspect_ai.log import read_eval_log

    take(run, Format.INSPECT, folder / "run.eval")
    return read_eval_log(str(folder / "run.eval"))


def test_inspect_opens_a_run_of_the_shop(shop: RunDirectory, tmp_path: Path) -> None:
    log = opened(shop, tmp_path)
    assert (log.status, len(log.samples), log.eval.model) == ("success", 8, "oracle")
    scores = {score.name: score.metrics for score in log.results.scores}
    assert scores["success"]["accuracy"].value == pytest.approx(7 / 8)
    sample = log.samples[-1]
    events = [event.event for event in sample.events]
    assert events[:3] == ["sample_init", "model", "tool"]
    assert any(event.event == "state" for each in log.samples for event in each.events)
    assert [m.role for m in sample.messages[:2]] == ["system", "user"]
    assert sample.output.choices[0].message.role == "assistant"


def test_a_group_is_a_sample_with_epochs_and_what_broke_is_an_error(tmp_path: Path) -> None:
    run = make_run(tmp_path, [make_trajectory(make_key(sample=i), reward=r) for i, r in enumerate([1.0, 0.5, None])])
    log = opened(run, tmp_path)
    assert len({sample.id for sample in log.samples}) == 1
    assert [sample.epoch for sample in log.samples] == [1, 2, 3]
    assert [bool(sample.error) for sample in log.samples] == [False, False, True]
    told = next(event for event in log.samples[0].events if event.event == "model").metadata
    assert told["completion_ids"] == [5, 6, 7]


def test_a_sample_is_listed_by_what_was_asked_and_answered(shop: RunDirectory, tmp_path: Path) -> None:
    sample = opened(shop, tmp_path).samples[-1]
    assert [message.role for message in sample.input] == ["user"]
    assert sample.scores["success"].answer == sample.messages[-1].text
    assert sample.scores["success"].explanation == "ended: answered"
    assert sample.scores["reward"].explanation.startswith("reward, of outcome ")
    told = [event.scorer for event in sample.events if event.event == "score"]
    assert told == ["success", "reward"]


def test_tokens_of_a_sample_are_those_of_its_calls(tmp_path: Path) -> None:
    log = opened(make_run(tmp_path, [make_trajectory()]), tmp_path)
    calls = [event.output.usage for event in log.samples[0].events if event.event == "model" and event.output.usage]
    (usage,) = log.samples[0].model_usage.values()
    assert calls
    assert usage.total_tokens == sum(call.total_tokens for call in calls)
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert list(log.stats.model_usage.values()) == [usage]


def test_groups_of_unequal_size_do_not_look_unfinished(tmp_path: Path) -> None:
    keys = [make_key(sample=0), make_key(sample=1), make_key(step=8), make_key(step=9)]
    log = opened(make_run(tmp_path, [make_trajectory(key) for key in keys]), tmp_path)
    assert log.eval.dataset.samples * log.eval.config.epochs == len(log.samples)


def test_two_exports_of_a_run_are_two_evaluations(shop: RunDirectory, tmp_path: Path) -> None:
    from inspect_ai.log import read_eval_log

    ids = set()
    for limit in (1, 2, 2):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.eval"
        export(shop, Filter(), Format.INSPECT, out=path, limit=limit)
        ids.add(read_eval_log(str(path), header_only=True).eval.task_id)
    assert len(ids) == 2


@settings(max_examples=12, deadline=None)
@given(st.lists(trajectories(keys), min_size=1, max_size=3, unique_by=lambda t: t.key))
def test_inspect_opens_any_episode(drawn: list[Trajectory]) -> None:
    with fresh_folder() as folder:
        assert len(opened(make_run(folder, drawn), folder).samples) == len(drawn)


def test_a_name_inspect_would_not_find_is_refused(shop: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ends in \.eval"):
        export(shop, Filter(), Format.INSPECT, out=tmp_path / "log.zip", limit=None)
