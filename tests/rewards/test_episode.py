from __future__ import annotations

import json
from typing import Any

from agentgrpo.core import ToolEnv
from agentgrpo.rewards import Episode
from agentgrpo.types import StopReason, Trajectory, Turn
from tests.judge.recordings import SYSTEM, USER, call, recording, said
from tests.rollout.stages import Desk

ROW = {"task_id": "t", "wanted": [1]}


def test_it_shows_the_task_the_conversation_and_the_environments_own_terms() -> None:
    record = recording(said("", call("look", where="desk"), results=("a note",)), said("7"), reward=1.0)
    episode = Episode.of(record, ROW, {"tables": {}})
    assert (episode.task, episode.answer, episode.stop_reason) == (ROW, "7", StopReason.ANSWERED)
    assert (episode.reward, episode.terms, episode.state) == (1.0, {"outcome": 1.0}, {"tables": {}})
    assert episode.messages[:2] == (SYSTEM, USER)
    assert [message["role"] for message in episode.messages[2:]] == ["assistant", "tool", "assistant"]
    assert episode.messages[2]["tool_calls"] == [call("look", where="desk")]


def test_whatever_is_done_to_it_the_record_stays() -> None:
    record = recording(said("", call("look", where="desk"), results=("a note",)))
    before = json.dumps([turn.action for turn in record.turns])
    episode = Episode.of(record, ROW)
    episode.turns[0].action["tool_calls"].clear()
    episode.messages[0]["content"] = "changed"
    episode.task["wanted"].append(2)
    assert json.dumps([turn.action for turn in record.turns]) == before
    assert (record.prompt[0]["content"], ROW["wanted"]) == ("You sit at a desk.", [1])


def test_an_episode_that_ended_in_a_call_has_no_answer() -> None:
    assert Episode.of(recording(said("", call("look"), results=("x",))), ROW).answer is None
    assert Episode.of(recording(), ROW).answer is None


def played(env: ToolEnv, *actions: Any) -> Trajectory:
    env.reset(options={"task": ROW})
    turns = []
    for action in actions:
        _, _, _, _, info = env.step(json.dumps(action))
        turns.append(Turn(action=json.loads(json.dumps(action)), messages=tuple(info["messages"]), reward=0.0))
    return recording(*turns)


def test_its_calls_are_those_the_environment_recorded() -> None:
    bad = {"id": "c3", "name": "echo", "raw": "{", "error": {"type": "invalid_json", "message": "no"}}
    action = {
        "content": "",
        "tool_calls": [
            call("echo", "c0", text="hi"),
            call("refuse", "c1"),
            call("nonesuch", "c2"),
            bad,
            call("echo", "c4", txt="hi"),
        ],
    }
    env = Desk()
    episode = Episode.of(played(env, action, {"content": "", "tool_calls": [call("echo", "c0", text="again")]}), ROW)
    assert [one.error for one in episode.calls] == [
        *(None, "tool_error", "unknown_tool", "invalid_json", "invalid_arguments", None),
    ]
    assert episode.calls == env.calls
    assert (episode.calls[0].arguments, episode.calls[0].result, episode.calls[3].arguments) == (
        {"text": "hi"},
        "hi",
        None,
    )


def test_results_belong_to_calls_by_place_or_where_that_does_not_fit_by_id() -> None:
    messages = ({"role": "user", "content": [{"type": "text", "text": "x"}]}, {"role": "user", "content": None})
    actions = {"content": "", "tool_calls": [call("a", "1"), call("b", "1")]}
    episode = Episode.of(recording(Turn(action=actions, messages=messages, reward=0.0)), ROW)
    assert [one.result for one in episode.calls] == ['[{"type": "text", "text": "x"}]', ""]
    more = ({"role": "user", "content": "by the way"}, {"role": "tool", "tool_call_id": "2", "content": "two"})
    actions = {"content": "", "tool_calls": [call("a", "1"), call("b", "2"), call("c", "3")]}
    episode = Episode.of(recording(Turn(action=actions, messages=more, reward=0.0)), ROW)
    assert [one.result for one in episode.calls] == ["", "two", ""]


def test_an_error_of_no_known_form_is_the_tools() -> None:
    message = {"role": "tool", "tool_call_id": "c", "content": "boom", "is_error": True}
    turn = Turn(action={"content": "", "tool_calls": [call("a")]}, messages=(message,), reward=0.0)
    assert Episode.of(recording(turn), ROW).calls[0].error == "tool_error"
