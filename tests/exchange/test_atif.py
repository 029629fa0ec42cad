from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgrpo.exchange.atif import Document
from agentgrpo.exchange.exporting import Format, export
from agentgrpo.exchange.importing import import_files
from agentgrpo.store import EpisodeReader, Filter, RunDirectory, TrainingRow
from agentgrpo.store.episodes import Item
from agentgrpo.types import Parent, Trajectory
from tests.exchange.runs import fresh_folder, make_run, take, there_and_back
from tests.exchange.samples import STEPS, document
from tests.store.strategies import keys, make_key, make_spans, make_trajectory, trajectories


def write(folder: Path, *documents: Any) -> Path:
    path = folder / "given.jsonl"
    path.write_text("".join(f"{json.dumps(each)}\n" for each in documents), encoding="utf-8")
    return path


def only(run: RunDirectory) -> Trajectory:
    with EpisodeReader(run.episodes) as reader:
        (row,) = reader.list()
        return reader.get(row.id).trajectory


@settings(max_examples=10, deadline=None)
@given(st.lists(trajectories(keys), min_size=1, max_size=3, unique_by=lambda t: t.key))
def test_any_episode_comes_back_as_it_went(drawn: list[Trajectory]) -> None:
    with fresh_folder() as folder:
        first, second = there_and_back(make_run(folder, drawn), Format.ATIF, folder)
    assert second == first
    for line in first.splitlines():
        Document.model_validate_json(line)


def test_what_the_learner_did_and_where_a_fork_comes_from_come_back_too(tmp_path: Path) -> None:
    spans = make_spans()
    parent, fork = make_key(), make_key(phase="fork", sample=1)
    logprobs = [-float(i) for i in range(sum(len(span.token_ids) for span in spans if span.sampled))]
    items: list[Item] = [
        make_trajectory(parent),
        TrainingRow(key=parent, advantage=0.75, logprobs=logprobs, entropies=[-value / 3 for value in logprobs]),
        make_trajectory(fork, parent=Parent(episode=1, turns=2)),
        make_trajectory(make_key(sample=2), reward=None),
        TrainingRow(key=make_key(sample=2), filter_reason="failed"),
    ]
    run = make_run(tmp_path, items)
    first, second = there_and_back(run, Format.ATIF, tmp_path)
    assert second == first
    with EpisodeReader(run.episodes) as own, EpisodeReader(RunDirectory.open(tmp_path / "imported").episodes) as back:
        assert back.get(1).row == own.get(1).row
        assert back.get(1).learner_logprobs == own.get(1).learner_logprobs
        assert back.get(1).entropies == own.get(1).entropies
        assert back.get(1).trajectory.spans == spans
        assert back.get(2).trajectory.parent == Parent(episode=1, turns=2)
        assert back.get(3).row.filter_reason == "failed"


def test_an_entropy_stands_beside_the_logprob_of_its_token(tmp_path: Path) -> None:
    spans = make_spans()
    size = sum(len(span.token_ids) for span in spans if span.sampled)
    learned = TrainingRow(key=make_key(), advantage=1.0, logprobs=[-1.0] * size, entropies=[1.0] * size)
    line = take(make_run(tmp_path, [make_trajectory(), learned]), Format.ATIF, tmp_path / "a.jsonl")
    told = [step["metrics"] for step in json.loads(line)["steps"] if step.get("metrics")]
    assert told
    for metrics in told:
        extra = metrics["extra"]["agentgrpo"]
        assert extra["entropies"] == [1.0] * metrics["completion_tokens"]
        assert len(extra["learner_logprobs"]) == len(extra["entropies"])


def test_entropies_of_which_one_is_no_number_are_left_out(tmp_path: Path) -> None:
    size = sum(len(span.token_ids) for span in make_spans() if span.sampled)
    values = [float("nan"), *[1.0] * (size - 1)]
    learned = TrainingRow(key=make_key(), advantage=1.0, logprobs=[-1.0] * size, entropies=values)
    first, second = there_and_back(make_run(tmp_path, [make_trajectory(), learned]), Format.ATIF, tmp_path)
    assert second == first
    assert b"entropies" not in first
    assert b"learner_logprobs" in first


def test_a_run_of_the_shop_comes_back_as_it_went(shop: RunDirectory, tmp_path: Path) -> None:
    first, second = there_and_back(shop, Format.ATIF, tmp_path)
    assert second == first
    assert len(first.splitlines()) == 8


def test_documents_hold_for_models_of_the_format_that_are_not_ours(shop: RunDirectory, tmp_path: Path) -> None:
    atif = pytest.importorskip("atif", reason="pip install atif")
    run = make_run(tmp_path, [make_trajectory(), make_trajectory(make_key(sample=1), reward=None)])
    lines = [*take(run, Format.ATIF, tmp_path / "a.jsonl").splitlines()]
    lines += take(shop, Format.ATIF, tmp_path / "b.jsonl").splitlines()
    for line in lines:
        assert atif.Trajectory.model_validate_json(line).schema_version == "ATIF-v1.8"


def test_a_document_of_another_tool_becomes_an_episode(tmp_path: Path) -> None:
    path = write(tmp_path, document(session_id="s-1"))
    found = only(import_files([path], tmp_path / "runs", "x", model_path=None).run)
    assert [m["role"] for m in found.prompt] == ["system", "user"]
    assert found.turns[0].action == {
        "content": "",
        "tool_calls": [{"id": "c1", "name": "look", "arguments": {"at": 7}}],
        "reasoning": "I look.",
    }
    (answer,) = found.turns[0].messages
    assert (answer["role"], answer["content"], answer["name"]) == ("tool", "a key", "look")
    assert (found.key.task_id, found.reward, found.success) == ("s-1", None, None)
    assert found.is_text
    assert not found.spans


def test_its_token_ids_are_kept_for_one_who_names_the_model(tmp_path: Path) -> None:
    path = write(tmp_path, document())
    found = only(import_files([path], tmp_path / "runs", "x", model_path="model").run)
    (row,) = found.sequences()
    assert row.token_ids == (1, 2, 3, 4, 5, 6)
    assert row.loss_mask == (0, 0, 1, 1, 0, 1)
    assert row.rollout_logprobs == (0.0, 0.0, -0.5, -0.25, 0.0, 0.0)
    assert not found.is_text


def test_a_prompt_that_was_rendered_anew_is_a_fork(tmp_path: Path) -> None:
    last = STEPS[3] | {"metrics": {"prompt_token_ids": [1, 2, 9], "completion_token_ids": [6]}}
    path = write(tmp_path, document(steps=[*STEPS[:3], last]))
    found = only(import_files([path], tmp_path / "runs", "x", model_path="model").run)
    assert [row.token_ids for row in found.sequences()] == [(1, 2, 3, 4), (1, 2, 9, 6)]
    assert found.forks == 1


def test_a_document_of_another_tool_is_the_same_after_the_first_export(tmp_path: Path) -> None:
    path = write(tmp_path, document(notes="by hand", trajectory_id="t"), document(trajectory_id="u"))
    run = import_files([path], tmp_path / "first", "x", model_path="model").run
    first, second = there_and_back(run, Format.ATIF, tmp_path)
    assert second == first
    assert json.loads(first.splitlines()[0])["notes"] == "by hand"


def test_one_document_or_a_folder_of_them(shop: RunDirectory, tmp_path: Path) -> None:
    from_folder = tmp_path / "folder"
    assert take_folder(shop, from_folder) == 8
    done = import_files([from_folder], tmp_path / "runs", "x", model_path=None)
    assert done.episodes == 8
    assert take(done.run, Format.ATIF, tmp_path / "a.jsonl") == take(shop, Format.ATIF, tmp_path / "b.jsonl")


def take_folder(run: RunDirectory, folder: Path) -> int:
    return export(run, Filter(), Format.ATIF, out=folder, limit=None).written
