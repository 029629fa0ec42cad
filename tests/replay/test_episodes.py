"""What was recorded happens again, and where it does not, that is found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentgrpo.chat import Chat
from agentgrpo.errors import EnvError, TaskError, UserError
from agentgrpo.replay.episodes import RunReplay, replay_episode, replay_run
from agentgrpo.run.report import SilentReporter
from agentgrpo.store import EpisodeFilter, EpisodeReader, EpisodeStore, RunDirectory
from agentgrpo.types import Boundary, Failure, StopReason, Trajectory
from tests.replay.runs import oracle_run

ADDERS = "tests.replay.adders"


class Notes(SilentReporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Forty episodes of the shop, some of them wrong."""
    return oracle_run(tmp_path_factory.mktemp("shop"), "shop", tasks=20, samples=2)


def adder(folder: Path, name: str = "Adder", **args: Any) -> RunDirectory:
    return oracle_run(folder, f"{ADDERS}:{name}", tasks=3, samples=2, env_args=args)


def change(run: RunDirectory, **changes: Any) -> None:
    """Write the first episode of a run as something else, under the same key."""
    with EpisodeReader(run.episodes) as reader:
        first = reader.list(descending=False, limit=1)[0]
        trajectory = reader.get(first.id).trajectory
    with EpisodeStore(run.episodes) as store:
        store.add_sync([replace(trajectory, **changes)])


def first(run: RunDirectory) -> Trajectory:
    with EpisodeReader(run.episodes) as reader:
        return reader.get(reader.list(descending=False, limit=1)[0].id).trajectory


def same(found: RunReplay) -> bool:
    return found.same == found.total > 0


def test_every_episode_of_a_shop_run_happens_again(shop: RunDirectory) -> None:
    found = replay_run(shop.path)
    assert same(found)
    assert found.total == 40
    assert found.checked == dict.fromkeys(
        ("messages", "rewards", "state hashes", "state changes", "reward terms"), found.total
    )
    with EpisodeReader(shop.episodes) as reader:
        assert 0 < reader.count(EpisodeFilter(success=True)) < 40
    one = replay_episode(shop.path, "train/1/train-cancel_item-000/0")
    assert (one.is_same, one.turns, one.checked) == (True, 4, tuple(found.checked))


@pytest.mark.parametrize("name", ["InThread", "InProcess", "Plain"])
def test_environments_are_played_again_in_their_isolation(name: str, tmp_path: Path) -> None:
    run = oracle_run(tmp_path, f"{ADDERS}:{name}", tasks=1, samples=2)
    assert same(replay_run(run.path))


def test_a_planted_clock_is_found_at_its_turn_in_every_episode(tmp_path: Path) -> None:
    run = adder(tmp_path)
    for turn in range(1, 6):
        found = replay_run(run.path, overrides=[f"env_args.clock_from={turn}"])
        assert (found.total, found.diverged, found.same) == (6, 6, 0)
        assert [(r.episode, r.divergence and (r.divergence.turn, r.divergence.what)) for r in found.divergences] == [
            (number, (turn, "messages")) for number in range(1, 7)
        ]


def test_a_clock_that_was_there_already_is_shown_with_both_times(tmp_path: Path) -> None:
    run = adder(tmp_path, clock_from=3)
    one = replay_episode(run.path, 1)
    assert one.divergence is not None
    assert str(one.divergence) == "messages of turn 3"
    expected, got = (side[0]["content"].split(" at ") for side in (one.divergence.expected, one.divergence.got))
    assert expected[0] == got[0]
    assert int(expected[1]) < int(got[1])


def test_a_shop_whose_answers_drift_is_found_at_the_turn_they_do(shop: RunDirectory) -> None:
    found = replay_run(shop.path, overrides=[f"env={ADDERS}:DriftingShop"])
    assert found.total == 40
    with EpisodeReader(shop.episodes) as reader:
        long = {row.id for row in reader.list(limit=100) if len(tool_turns(reader.get(row.id).trajectory)) >= 2}
    assert len(long) > 10
    assert {r.episode for r in found.divergences if r.divergence is not None} == long
    for replayed in found.divergences:
        with EpisodeReader(shop.episodes) as reader:
            second = tool_turns(reader.get(replayed.episode).trajectory)[1]
        assert replayed.divergence is not None
        assert (replayed.divergence.turn, replayed.divergence.what) == (second + 1, "messages")


def tool_turns(trajectory: Trajectory) -> list[int]:
    """Return the turns in which something was called."""
    return [index for index, turn in enumerate(trajectory.turns) if turn.action["tool_calls"]]


@pytest.mark.parametrize(
    ("changes", "turn", "what"),
    [
        ({"reward": 2.0}, 6, "reward of the episode"),
        ({"reward_terms": {"outcome": 1.0}}, 6, "reward terms"),
        ({"prompt": ({"role": "user", "content": "Add to 7."},)}, 0, "messages"),
        ({"tools": ()}, 0, "tools"),
        ({"stop_reason": StopReason.MAX_TURNS}, 6, "end"),
    ],
)
def test_what_is_not_as_recorded_is_named(changes: dict[str, Any], turn: int, what: str, tmp_path: Path) -> None:
    run = adder(tmp_path)
    change(run, **changes)
    (found,) = replay_run(run.path).divergences
    assert found.divergence is not None
    assert (found.divergence.turn, found.divergence.what) == (turn, what)


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [("reward", 0.5, "reward"), ("state_hash", "x", "state hash"), ("messages", ({"role": "tool"},), "messages")],
)
def test_a_turn_that_differs_is_found_at_its_number(field: str, value: Any, what: str, tmp_path: Path) -> None:
    run = adder(tmp_path)
    turns = list(first(run).turns)
    turns[2] = replace(turns[2], **{field: value})
    change(run, turns=tuple(turns))
    (found,) = replay_run(run.path).divergences
    assert found.divergence is not None
    assert (found.divergence.turn, found.divergence.what) == (3, what)


def test_an_environment_that_ends_sooner_or_goes_on_is_found(tmp_path: Path) -> None:
    run = adder(tmp_path)
    sooner = replay_run(run.path, overrides=["env_args.ends_at=1"]).divergences[0].divergence
    assert sooner is not None
    assert (sooner.turn, sooner.what, sooner.expected, sooner.got) == (1, "reward", 0.0, sooner.got)
    short = first(run)
    change(run, turns=short.turns[:3], stop_reason=StopReason.DONE)
    later = [r.divergence for r in replay_run(run.path).divergences]
    assert [(d and d.turn, d and d.what, d and d.got) for d in later] == [(3, "end", "goes on")]


def test_how_a_broken_episode_ended_is_not_played_again(tmp_path: Path) -> None:
    run = adder(tmp_path, breaks_at=3)
    found = replay_episode(run.path, 1)
    assert (found.is_same, found.turns) == (True, 2)
    assert found.note == "how it ended is not played again: failed at the tool: the adder is down"
    again = replay_episode(run.path, 1, overrides=["env_args.breaks_at=2"])
    assert again.divergence is not None
    assert (again.divergence.turn, again.divergence.what, again.divergence.expected) == (2, "end", "goes on")
    assert again.divergence.got == "failed at the tool: the adder is down"


def test_an_episode_that_never_began_has_nothing_that_differs(tmp_path: Path) -> None:
    run = adder(tmp_path)
    failure = Failure(boundary=Boundary.ENV, cause="no room")
    change(
        run, prompt=(), tools=(), turns=(), reward=None, reward_terms={}, stop_reason=StopReason.FAILED, failure=failure
    )
    assert same(replay_run(run.path))


def test_scores_from_elsewhere_are_no_difference(tmp_path: Path) -> None:
    run = adder(tmp_path)
    trajectory = first(run)
    own = {"reward": trajectory.reward, "terms": dict(trajectory.reward_terms)}
    change(run, reward=9.0, reward_terms={"mine": 9.0}, info={"env_reward": own})
    assert same(replay_run(run.path))


def test_secrets_taken_out_of_the_record_are_no_difference(tmp_path: Path) -> None:
    secret = "sk-" + "a1B2" * 8
    rows = [{"task_id": "t", "start": 1, "note": secret}]
    run = oracle_run(tmp_path, f"{ADDERS}:Adder", rows=rows, samples=1)
    notes = Notes()
    assert same(replay_run(run.path, reporter=notes))
    assert "note: the tasks are not those the run began with" in notes.lines


def test_changed_code_is_said_before_anything_is_played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mine.py"
    code = f"from {ADDERS} import Adder\nclass Mine(Adder):\n    step_size = 1\n"
    file.write_text(code)
    run = oracle_run(tmp_path / "runs", f"{file}:Mine", tasks=1, samples=1)
    notes = Notes()
    assert same(replay_run(run.path, reporter=notes))
    assert notes.lines == []
    file.write_text(code + "    # another line\n")
    assert same(replay_run(run.path, reporter=notes))
    assert notes.lines == ["note: the code of the environment mine:Mine was changed since the run began"]


def test_what_cannot_be_found_is_one_message(tmp_path: Path) -> None:
    run = adder(tmp_path)
    with pytest.raises(UserError, match="no run at"):
        replay_episode(tmp_path / "absent", 1)
    with pytest.raises(UserError, match=r"no episode 99 .* numbered 1 to 6"):
        replay_episode(run.path, 99)
    with pytest.raises(EnvError, match="no environment class 'Gone'"):
        replay_episode(run.path, 1, overrides=[f"env={ADDERS}:Gone"])
    with pytest.raises(EnvError, match=r"defined in a script itself: name the file, --set env=script.py:Mine"):
        replay_episode(run.path, 1, overrides=["env=__main__:Mine"])


def test_a_task_that_is_gone_is_one_message_and_a_count(tmp_path: Path) -> None:
    run = adder(tmp_path)
    kept = run.tasks.read_text().splitlines()
    run.tasks.write_text("\n".join(kept[1:]) + "\n")
    record = run.read_record()
    record["hashes"]["tasks"]["train"] = "another"  # so that the environment's own are none either
    run.record.write_text(json.dumps(record))
    found = replay_run(run.path)
    assert (found.total, found.same) == (6, 4)
    (problem,) = found.problems
    assert "task 'train-0' is none of the 2 tasks kept in" in problem
    with pytest.raises(UserError, match="episode #1 cannot be played again: task 'train-0'"):
        replay_episode(run.path, 1)
    run.tasks.write_text("half a li")
    with pytest.raises(TaskError, match="has lost its tasks"):
        replay_run(run.path)


def test_tasks_that_were_lost_are_those_the_environment_still_ships(tmp_path: Path) -> None:
    run = oracle_run(tmp_path, f"{ADDERS}:Adder", tasks=20, samples=1)
    record = run.read_record()
    run.tasks.unlink()
    record["hashes"]["tasks"].pop("heldout")
    run.record.write_text(json.dumps(record))
    assert same(replay_run(run.path))


def test_the_tokens_of_an_oracles_run_are_made_again(tmp_path: Path, tiny_chat: Chat, tiny_folder: Path) -> None:
    run = oracle_run(
        tmp_path, f"{ADDERS}:Adder", tasks=2, samples=2, chat=tiny_chat, model=tiny_folder, env_args={"late_from": 2}
    )
    found = replay_run(run.path, mock_tools=True)
    assert same(found)
    assert found.checked == dict.fromkeys(("prompts", "calls", "tokens", "masks"), 4)
    assert same(replay_run(run.path))


def test_text_from_an_endpoint_has_no_tokens_to_make_again(tmp_path: Path) -> None:
    run = adder(tmp_path)
    record = run.read_record()
    record["endpoint"] = {"model": "chatty", "url": "http://127.0.0.1:9"}
    run.record.write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"a chat model behind an endpoint played it.*without --mock-tools"):
        replay_run(run.path, mock_tools=True)
    assert same(replay_run(run.path))
