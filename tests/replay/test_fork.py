"""Forks: new episodes from a turn of an old one, kept with where they come from, and never trained."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agentgrpo.endpoint.client import Endpoint
from agentgrpo.endpoint.stub import calls as said_call
from agentgrpo.endpoint.stub import says as said
from agentgrpo.errors import UserError
from agentgrpo.replay.episodes import replay_run
from agentgrpo.replay.fork import fork
from agentgrpo.replay.prefix import Diverged
from agentgrpo.run.report import SilentReporter
from agentgrpo.store import EpisodeFilter, EpisodeReader, RunDirectory
from agentgrpo.store.lock import RunLock
from agentgrpo.types import StopReason, Trajectory
from agentgrpo.warm_start.good_episodes import good_episodes
from tests.endpoint.serving import serving
from tests.replay.runs import oracle_run

ADDERS = "tests.replay.adders"


class Notes(SilentReporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


def longest(run: RunDirectory) -> Trajectory:
    with EpisodeReader(run.episodes) as reader:
        row = max(reader.list(EpisodeFilter(phase="train"), limit=100), key=lambda row: (row.turns, row.id))
        return reader.get(row.id).trajectory


def get(run: RunDirectory, which: int) -> Trajectory:
    with EpisodeReader(run.episodes) as reader:
        return reader.get(which).trajectory


def count(run: RunDirectory) -> int:
    with EpisodeReader(run.episodes) as reader:
        return reader.count()


def number(run: RunDirectory, trajectory: Trajectory) -> int:
    with EpisodeReader(run.episodes) as reader:
        return reader.get(trajectory.key).row.id


def test_a_policy_goes_on_from_a_turn_token_for_token(trained: RunDirectory) -> None:
    parent = longest(trained)
    assert len(parent.turns) >= 3
    notes = Notes()
    rows = fork(trained.path, str(parent.key), turn=3, count=3, policy="step-000001", reporter=notes)
    assert notes.lines == []
    assert [(row.phase, row.parent, row.parent_turns) for row in rows] == [("fork", number(trained, parent), 2)] * 3
    assert [(row.policy, row.policy_version) for row in rows] == [("policy", 1)] * 3
    for row in rows:
        forked = get(trained, row.id)
        taken = [span for span in parent.spans if span.turn < 2]
        # Ids, logprobs and the policy that sampled them: a fork begins with what its parent was.
        assert [span for span in forked.spans if span.turn < 2] == taken
        assert forked.turns[:2] == parent.turns[:2]
        assert len(forked.turns) > 2
        assert all(s.policy_version == 1 for s in forked.spans if s.sampled and s.turn >= 2)
        assert forked.spans[len(taken)].token_ids == parent.spans[len(taken)].token_ids  # the prompt of the new turn
        assert forked.parent is not None
        assert (forked.reward is None, forked.stop_reason is StopReason.FAILED) == (False, False)


def test_forks_get_numbers_of_their_own_and_are_replayed_like_others(trained: RunDirectory) -> None:
    parent = longest(trained)
    before = count(trained)
    one = fork(trained.path, parent.key, turn=2)
    two = fork(trained.path, parent.key, turn=2, count=2, policy="base")
    of_a_fork = fork(trained.path, one[0].id, turn=3) if one[0].turns >= 3 else ()
    assert len({row.sample for row in (*one, *two, *of_a_fork)}) == 3 + len(of_a_fork)
    assert count(trained) == before + 3 + len(of_a_fork)
    assert (two[0].policy, one[0].policy, one[0].policy_version) == ("base", "policy", 3)
    for mock_tools in (False, True):
        found = replay_run(trained.path, mock_tools=mock_tools)
        assert found.same == found.total == count(trained)


def test_nothing_ever_learns_from_a_fork(trained: RunDirectory) -> None:
    fork(trained.path, longest(trained).key, turn=1, count=2)
    with EpisodeReader(trained.episodes) as reader:
        forks = reader.list(EpisodeFilter(phase="fork"), limit=100)
        assert forks
        assert all((row.advantage, row.filter_reason) == (None, None) for row in forks)
        assert not any(key.phase == "fork" for version in range(4) for key in reader.of_policy(version))
    taken = good_episodes_or_none(trained)
    assert not any(t.key.phase == "fork" for t in taken)


def good_episodes_or_none(run: RunDirectory) -> tuple[Trajectory, ...]:
    try:
        return good_episodes(run, limit=1000).trajectories
    except UserError:
        return ()


def test_an_action_by_hand_comes_first_and_is_context(trained: RunDirectory) -> None:
    parent = longest(trained)
    press = {"content": "", "tool_calls": [{"name": "press", "arguments": {"digit": 3}}]}
    (row,) = fork(trained.path, parent.key, turn=2, action=press)
    forked = get(trained, row.id)
    (call,) = forked.turns[1].action["tool_calls"]
    assert (call["name"], call["arguments"]) == ("press", {"digit": 3})
    by_hand = [span for span in forked.spans if span.turn == 1]
    assert [span.sampled for span in by_hand] == [False, False]  # the prompt, and what was written
    assert len(forked.turns) > 2
    assert any(span.sampled for span in forked.spans if span.turn == 2)


def test_an_action_without_anybody_to_go_on_needs_no_model(tmp_path: Path) -> None:
    run = oracle_run(tmp_path, f"{ADDERS}:Adder", tasks=1, samples=1)
    (row,) = fork(
        run.path, 1, turn=3, policy="none", action='<tool_call>{"name": "add", "arguments": {"number": 5}}</tool_call>'
    )
    forked, parent = get(run, row.id), get(run, 1)
    assert (row.turns, row.stop_reason, row.policy) == (3, StopReason.MAX_TURNS, "none")
    total = int(parent.turns[1].messages[0]["content"])
    assert forked.turns[2].messages[0]["content"] == str(total + 5)
    assert forked.reward_terms == {"outcome": 0.0, "small": 1 / (1 + total + 5)}
    (ended,) = fork(run.path, 1, turn=2, policy="none", action="done")
    assert ended.stop_reason is StopReason.ANSWERED


def test_the_recorded_action_at_a_turn_leads_where_it_led(tmp_path: Path) -> None:
    run = oracle_run(tmp_path, "shop", tasks=4, samples=1)
    check_recorded_actions(run, [1, 4])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_recorded_action_at_each_turn_of_a_hundred_episodes_leads_where_it_led(tmp_path: Path) -> None:
    run = oracle_run(tmp_path, "shop", tasks=50, samples=2)
    assert check_recorded_actions(run, list(range(1, 101))) >= 300


def check_recorded_actions(run: RunDirectory, episodes: list[int]) -> int:
    """Fork at each turn with the action the parent took there; return how many forks that were."""
    forks = 0
    for episode in episodes:
        parent = get(run, episode)
        for index, turn in enumerate(parent.turns):
            (row,) = fork(run.path, episode, turn=index + 1, policy="none", action=turn.action)
            forked = get(run, row.id).turns[index]
            assert (forked.messages, forked.state_hash, forked.state_diff, forked.reward) == (
                turn.messages,
                turn.state_hash,
                turn.state_diff,
                turn.reward,
            )
            forks += 1
    return forks


def test_a_chat_model_goes_on_and_its_forks_are_text(trained: RunDirectory) -> None:
    parent = longest(trained)

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        assistants = [m for m in body["messages"] if m["role"] == "assistant"]
        assert len(assistants) >= 1  # what was taken over
        return said_call("press", {"digit": 1}) if len(assistants) == 1 else said("done")

    with serving(answer) as stub:
        (row,) = fork(trained.path, parent.key, turn=2, policy=Endpoint(stub.url, "chatty"))
    forked = get(trained, row.id)
    assert (row.policy, row.turns, forked.is_text, forked.spans) == ("chatty", 3, True, ())
    assert forked.turns[0] == parent.turns[0]


def test_a_model_goes_on_where_a_chat_model_began(trained: RunDirectory, tmp_path: Path) -> None:
    run = oracle_run(tmp_path, "lockbox", tasks=1, samples=1, env_args={"turns": 2})  # without tokens, as text is
    (row,) = fork(run.path, 1, turn=2, policy=trained.path)
    forked = get(run, row.id)
    assert row.policy == trained.name
    assert [span.sampled for span in forked.spans if span.turn == 0] == [False, False]
    assert any(span.sampled for span in forked.spans if span.turn == 1)


def test_a_limit_that_ended_an_episode_can_be_raised(tmp_path: Path) -> None:
    run = oracle_run(tmp_path, f"{ADDERS}:Adder", tasks=1, samples=1, rollout={"max_turns": 3})
    action = {"content": "", "tool_calls": [{"name": "add", "arguments": {"number": 1}}]}
    with pytest.raises(UserError, match=r"turn 4 is beyond rollout.max_turns = 3: .* --set rollout.max_turns=6"):
        fork(run.path, 1, turn=4, policy="none", action=action)
    (row,) = fork(run.path, 1, turn=4, policy="none", action=action, overrides=["rollout.max_turns=6"])
    assert row.turns == 4
    assert replay_run(run.path).same == 2


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"turn": 0}, r"has 6 turns: it can be forked at turn 1 to 6, not at 0"),
        ({"turn": 7}, r"it can be forked at turn 1 to 6, not at 7"),
        ({"turn": 1, "count": 0}, "0 episodes cannot be played"),
        ({"turn": 1}, "has no checkpoint yet"),
        ({"turn": 1, "policy": "step-000007"}, r"no policy 'step-000007'.*base, another run"),
        ({"turn": 1, "policy": "none"}, "say what is done"),
        ({"turn": 1, "policy": "none", "action": "x", "count": 2}, "the same each time"),
        ({"turn": 1, "policy": "none", "action": " "}, "the action is empty"),
        ({"turn": 1, "policy": "none", "action": {"tool_calls": [{"arguments": {}}]}}, "cannot be read: .*expected"),
        ({"turn": 1, "policy": "none", "action": "<tool_call>{"}, "cannot be read: .*cut off before its end"),
    ],
)
def test_what_cannot_be_forked_is_one_message(asked: dict[str, Any], told: str, adding: RunDirectory) -> None:
    with pytest.raises(UserError, match=told):
        fork(adding.path, 1, **asked)
    assert count(adding) == 1


@pytest.fixture(scope="module")
def adding(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return oracle_run(tmp_path_factory.mktemp("adding"), f"{ADDERS}:Adder", tasks=1, samples=1)


def test_a_state_that_cannot_be_had_stores_nothing(tmp_path: Path) -> None:
    run = oracle_run(tmp_path, f"{ADDERS}:Adder", tasks=1, samples=1, env_args={"clock_from": 2})
    with pytest.raises(Diverged, match="messages of turn 2"):
        fork(run.path, 1, turn=4, policy="none", action="done")
    assert count(run) == 1


def test_an_environment_that_breaks_afterwards_is_a_fork_that_failed(tmp_path: Path) -> None:
    run = oracle_run(tmp_path, f"{ADDERS}:Adder", tasks=1, samples=1, env_args={"breaks_at": 3})
    action = {"content": "", "tool_calls": [{"name": "add", "arguments": {"number": 1}}]}
    (row,) = fork(run.path, 1, turn=3, policy="none", action=action)
    assert (row.stop_reason, row.boundary, row.turns) == (StopReason.FAILED, "tool", 2)
    (saved,) = fork(run.path, 1, turn=3, policy="none", action=action, overrides=["env_args.breaks_at=0"])
    assert (saved.turns, saved.reward is not None) == (3, True)


def test_one_process_at_a_time_forks_a_run(adding: RunDirectory) -> None:
    with RunLock(adding.path, "forked"), pytest.raises(UserError, match="is being forked by process"):
        fork(adding.path, 1, turn=1, policy="none", action="done")
    RunLock(adding.path).close()  # training is another matter


async def test_a_fork_can_be_made_where_an_event_loop_runs(tmp_path: Path) -> None:
    run = oracle_run_in_thread(tmp_path)
    rows = await asyncio.to_thread(fork, (await run).path, 1, turn=2, policy="none", action="done")
    assert [row.parent_turns for row in rows] == [1]


async def oracle_run_in_thread(folder: Path) -> RunDirectory:
    return await asyncio.to_thread(oracle_run, folder, f"{ADDERS}:Adder", tasks=1, samples=1)
