from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgrpo.errors import UserError
from agentgrpo.exchange.exporting import Format
from agentgrpo.exchange.importing import import_files
from agentgrpo.exchange.messages import NotWritten, read_messages, to_messages
from agentgrpo.exchange.plain import dump
from agentgrpo.store import EpisodeReader, RunDirectory
from agentgrpo.types import StopReason, Trajectory, Turn
from agentgrpo.warm_start.good_episodes import good_episodes
from tests.exchange.runs import fresh_folder, make_run, take, there_and_back
from tests.exchange.samples import LINE
from tests.store.strategies import keys, make_trajectory, names, trajectories

TOOLS = st.lists(names.map(lambda name: {"type": "function", "function": {"name": name}}), max_size=2).map(tuple)


@st.composite
def told(draw: st.DrawFn) -> Trajectory:
    """Draw an episode whose tools have names, as any tool has that was called."""
    drawn = draw(trajectories(keys))
    turns = tuple(replace(turn, tools=draw(st.none() | TOOLS)) for turn in drawn.turns)
    return replace(drawn, tools=draw(TOOLS), turns=turns)


@settings(max_examples=40, deadline=None)
@given(told())
def test_a_line_that_was_read_is_written_as_it_was(drawn: Trajectory) -> None:
    try:
        line = to_messages(drawn)
    except NotWritten:
        return
    read, left_out = read_messages(json.loads(dump(line)))
    assert dump(to_messages(read.trajectory)) == dump(line)
    assert not left_out


def test_any_run_is_the_same_after_import() -> None:
    @settings(max_examples=6, deadline=None)
    @given(st.lists(told(), min_size=1, max_size=3, unique_by=lambda t: t.key))
    def check(drawn: list[Trajectory]) -> None:
        with fresh_folder() as folder:
            first, second = there_and_back(make_run(folder, [make_trajectory(), *drawn]), Format.OPENAI, folder)
        assert second == first

    check()


def test_a_run_of_the_shop_comes_back_as_it_went(shop: RunDirectory, tmp_path: Path) -> None:
    first, second = there_and_back(shop, Format.OPENAI, tmp_path)
    assert second == first
    lines = [json.loads(line) for line in first.splitlines()]
    assert len(lines) == 8
    assert all(line["messages"][0]["role"] == "system" and line["tools"] for line in lines)
    answered = [m for line in lines for m in line["messages"] if m.get("tool_calls")]
    assert answered
    assert all(isinstance(json.loads(c["function"]["arguments"]), dict) for m in answered for c in m["tool_calls"])


def test_what_a_line_cannot_say_is_left_out_and_counted(tmp_path: Path) -> None:
    bad = {"id": "c", "name": None, "raw": "{", "error": {"type": "invalid_json", "message": "no"}}
    unread = Turn(action={"content": "", "tool_calls": [bad]}, messages=(), reward=0.0)
    run = make_run(tmp_path, [make_trajectory(turns=(unread,))])
    with pytest.raises(UserError, match=r"none of the 1 episodes can be told as messages: it holds a call nobody"):
        take(run, Format.OPENAI, tmp_path / "a.jsonl")
    assert not (tmp_path / "a.jsonl").exists()


def brought(folder: Path, *lines: Any) -> RunDirectory:
    path = folder / "given.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return import_files([path], folder / "runs", "x", model_path=None).run


def test_lines_of_another_tool_become_episodes_a_warm_start_learns_from(tmp_path: Path) -> None:
    run = brought(tmp_path, LINE, LINE)
    with EpisodeReader(run.episodes) as reader:
        found = [reader.get(row.id).trajectory for row in reader.list()]
    assert {t.key.task_id for t in found} == {"given line 1", "given line 2"}
    assert all((t.reward, t.stop_reason) == (None, StopReason.ANSWERED) for t in found)
    assert [call["arguments"] for call in found[0].turns[0].action["tool_calls"]] == [{"at": 7}]
    chosen = good_episodes(run, limit=10)
    assert len(chosen.trajectories) == 2
    assert str(chosen) == "2 of 2 episodes are taken: successful, or not scored"


def test_what_an_assistant_said_with_weight_0_is_context(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hm", "weight": 0}]
    run = brought(tmp_path, LINE | {"messages": messages + LINE["messages"][1:]})
    with EpisodeReader(run.episodes) as reader:
        trajectory = reader.get(1).trajectory
    assert [m["role"] for m in trajectory.prompt] == ["user", "assistant", "user"]
    assert len(trajectory.turns) == 2
    line = json.loads(take(run, Format.OPENAI, tmp_path / "out.jsonl"))
    assert line["messages"][1] == {"role": "assistant", "content": "hm", "weight": 0}
