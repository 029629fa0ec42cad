"""Another reward over old episodes: kept beside what they had, with what it would have changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agentgrpo.errors import ConfigError, UserError
from agentgrpo.replay.episodes import replay_run
from agentgrpo.replay.rescore import rescore
from agentgrpo.store import EpisodeReader, EpisodeStore, RunDirectory
from agentgrpo.store.scores import rescores_of, scores_of
from agentgrpo.types import Boundary, Failure, StopReason, Trajectory
from tests.replay.runs import oracle_run

ADDERS, SAMPLES = "tests.replay.adders", "tests.replay.rewards_sample"


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """Three tasks, four episodes each, of an environment that adds up."""
    return oracle_run(tmp_path, f"{ADDERS}:Adder", tasks=3, samples=4)


def episodes(run: RunDirectory) -> dict[int, Trajectory]:
    with EpisodeReader(run.episodes) as reader:
        return {row.id: reader.get(row.id).trajectory for row in reader.list(limit=100, descending=False)}


def test_a_reward_that_turns_everything_round_is_told_as_that(run: RunDirectory) -> None:
    before = episodes(run)
    found = rescore(run.path, f"{SAMPLES}:flipped")
    assert (found.id, len(found.pairs), found.problems.total()) == (1, 12, 0)
    (move,) = found.movements
    good = sum(bool(t.success) for t in before.values())
    assert 0 < good < 12
    assert (move.phase, move.episodes) == ("train", 12)
    assert (move.success_before, move.success_after) == pytest.approx((good / 12, 1 - good / 12))
    assert move.rank_correlation is not None
    assert -1 <= move.rank_correlation < 0
    assert episodes(run) == before  # the scores they had stay


def test_scores_are_kept_with_what_gave_them(run: RunDirectory) -> None:
    rescore(run.path, f"{SAMPLES}:short")
    found = rescore(run.path, f"{SAMPLES}:named", weights={"calls": 0.5})
    assert found.id == 2
    first, second = rescores_of(run.episodes)
    assert (first.reward, first.weights, second.reward, second.weights) == (
        f"{SAMPLES}:short",
        {},
        f"{SAMPLES}:named",
        {"calls": 0.5},
    )
    assert first.source_sha256 is not None
    for number, trajectory in episodes(run).items():
        calls = sum(turn.call_count for turn in trajectory.turns)
        (_, short), (_, named) = scores_of(run.episodes, number)
        outcome = trajectory.reward_terms["outcome"]
        assert short.reward == 1 / (1 + calls)
        assert named.terms == {"outcome": outcome, "calls": calls}
        assert named.reward == outcome + 0.5 * calls
        assert named.success is bool(outcome)


def test_groups_that_would_train_and_those_that_would_not_any_more_are_counted(run: RunDirectory) -> None:
    (same,) = rescore(run.path, f"{SAMPLES}:short").movements  # every episode makes five calls
    assert (same.groups, same.gained, same.lost, same.rank_correlation) == (3, 0, 3, None)


def test_the_final_state_is_had_by_playing_again(run: RunDirectory) -> None:
    with pytest.raises(UserError, match=r"could score no episode .*AssertionError.*Nothing was written.*--with-state"):
        rescore(run.path, f"{SAMPLES}:stateful")
    assert rescores_of(run.episodes) == []
    found = rescore(run.path, f"{SAMPLES}:stateful", with_state=True)
    totals = {number: int(t.turns[4].messages[0]["content"]) for number, t in episodes(run).items()}
    assert {pair.row.id: pair.after for pair in found.pairs} == totals
    assert [pair.change for pair in found.most_moved] == sorted((p.change for p in found.pairs), reverse=True)[:10]


def test_an_episode_that_comes_out_otherwise_gets_no_new_score(run: RunDirectory) -> None:
    number, changed = next(iter(episodes(run).items()))
    turns = list(changed.turns)
    turns[1] = replace(turns[1], reward=0.5)
    with EpisodeStore(run.episodes) as store:
        store.add_sync([replace(changed, turns=tuple(turns))])
    found = rescore(run.path, f"{SAMPLES}:stateful", with_state=True)
    assert len(found.pairs) == 11
    assert dict(found.problems) == {"played again, the reward of turn 2 differs": 1}
    assert number not in {pair.row.id for pair in found.pairs}


def test_what_breaks_on_some_scores_the_others_and_says_why_not_those(run: RunDirectory) -> None:
    found = rescore(run.path, f"{SAMPLES}:choosy")
    assert len(found.pairs) == 8
    ((problem, count),) = found.problems.items()
    assert (count, "not this [one]" in problem) == (4, True)
    bad = [scores_of(run.episodes, number)[0][1] for number in episodes(run)]
    assert sorted(score.problem is not None for score in bad) == [False] * 8 + [True] * 4
    assert all((score.reward is None) is (score.problem is not None) for score in bad)


def test_episodes_that_broke_are_left_out(run: RunDirectory) -> None:
    (_, broken), *_ = episodes(run).items()
    failure = Failure(boundary=Boundary.TOOL, cause="down")
    with EpisodeStore(run.episodes) as store:
        store.add_sync([replace(broken, reward=None, reward_terms={}, stop_reason=StopReason.FAILED, failure=failure)])
    found = rescore(run.path, f"{SAMPLES}:short")
    assert (len(found.pairs), dict(found.problems)) == (11, {"it ended without a score": 1})


def test_a_run_scored_by_a_reward_is_scored_anew_from_its_environments_terms(run: RunDirectory) -> None:
    changed = [
        replace(
            t,
            reward=9.0,
            reward_terms={"mine": 9.0},
            info={"env_reward": {"reward": t.reward, "terms": dict(t.reward_terms)}},
        )
        for t in episodes(run).values()
    ]
    with EpisodeStore(run.episodes) as store:
        store.add_sync(changed)
    found = rescore(run.path, f"{SAMPLES}:flipped")
    assert {pair.before for pair in found.pairs} == {9.0}
    assert {pair.after for pair in found.pairs} == {0.0, 1.0}


def test_rescored_episodes_replay_as_before(run: RunDirectory) -> None:
    rescore(run.path, f"{SAMPLES}:short")
    assert replay_run(run.path).same == 12


@pytest.mark.parametrize(
    ("reward", "error", "told"),
    [
        (f"{SAMPLES}:shrot", ConfigError, "no function 'shrot'.*Did you mean 'short'"),
        ("short", ConfigError, "names no function"),
        ("no_such_module:f", ConfigError, "no_such_module"),
        ("absent.py:f", ConfigError, "absent.py"),
        (f"{SAMPLES}:none_at_all", UserError, r"could score no episode .*KeyError.*\(12\).*Nothing was written"),
    ],
)
def test_what_cannot_score_is_one_message(reward: str, error: type[UserError], told: str, run: RunDirectory) -> None:
    with pytest.raises(error, match=told):
        rescore(run.path, reward)
    assert rescores_of(run.episodes) == []


def test_a_weight_without_its_term_is_said(run: RunDirectory) -> None:
    with pytest.raises(UserError, match=r"could score no episode .*nothing_such"):
        rescore(run.path, f"{SAMPLES}:short", weights={"nothing_such": 1.0})
