"""Rewards beside the environment's: where they come in, what they cost a group when they cannot be had."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agentgrpo.activity import Activity
from agentgrpo.chat import Chat
from agentgrpo.config.judge import JudgeConfig
from agentgrpo.config.run import RolloutConfig
from agentgrpo.endpoint import client
from agentgrpo.endpoint.client import Endpoint
from agentgrpo.endpoint.stub import Answer, StubEndpoint, says
from agentgrpo.errors import RunError
from agentgrpo.judge.judge import Judge
from agentgrpo.judge.stub import judging
from agentgrpo.registry import resolve_env
from agentgrpo.rewards import Episode
from agentgrpo.rewards.named import NamedReward
from agentgrpo.rollout.group import GroupResult
from agentgrpo.rollout.manager import RolloutManager
from agentgrpo.rollout.scoring import Scorer, without_verdict
from agentgrpo.store.verdicts import VerdictStore
from agentgrpo.types import Boundary, EpisodeKey, Message, Phase, Sampling, StopReason, Task, Trajectory
from tests.rollout.stages import POLICY, Desk, acting, calls
from tests.rollout.stages import says as answers
from tests.rollout.stateful import Notebook, ProcessNotebook, TornNotebook

TASK = Task(id="t", row={"note": "hello"})


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_jitter", lambda state: 0.01)


def named(function: Any) -> NamedReward:
    return NamedReward(name="mine:fn", function=function, reference="mine:fn")


async def roll(
    chat: Chat,
    scorer: Scorer | None,
    *actions: Any,
    env: Any = Desk,
    size: int = 4,
    phase: Phase = "train",
    told: list[Trajectory] | None = None,
    **options: Any,
) -> GroupResult:
    limits = {"max_turns": 2, "max_tokens": 200, "max_turn_tokens": 60, "max_failed_share": 1.0}
    config = RolloutConfig(
        **{**limits, **{k: options.pop(k) for k in list(options) if k in RolloutConfig.model_fields}}
    )

    async def tell(trajectory: Trajectory) -> None:
        if told is not None:
            told.append(trajectory)

    engine = acting(chat, *actions)
    async with RolloutManager(resolve_env(env), chat, engine, config, seed=0, scorer=scorer) as manager:
        (result,) = await manager.rollout(
            [TASK],
            policy=POLICY,
            phase=phase,
            step=1,
            group_size=size,
            sampling=Sampling(max_tokens=0),
            on_episode=tell,
            **options,
        )
    return result


# A reward named in the config


async def test_a_named_reward_takes_the_place_of_the_environments(tiny_chat: Chat) -> None:
    seen: list[Episode] = []

    def fn(episode: Episode) -> dict[str, float]:
        seen.append(episode)
        return {**episode.terms, "calls": len(episode.calls) / 10}

    told: list[Trajectory] = []
    scorer = Scorer(named(fn), weights={"calls": 2.0, "notes": 0.0})
    result = await roll(tiny_chat, scorer, calls("echo", text="hi"), env=Notebook, size=1, told=told)
    (trajectory,) = result.group.trajectories
    assert trajectory.reward_terms == {"outcome": 1.0, "notes": 0.125, "calls": 0.1}
    assert trajectory.reward == pytest.approx(1.2)
    assert trajectory.info["env_reward"] == {"reward": 1.125, "terms": {"outcome": 1.0, "notes": 0.125}}
    assert told == [trajectory]  # what is stored has the score
    (episode,) = seen
    assert (episode.task, episode.state) == ({"note": "hello", "task_id": "t"}, {"notes": ["hi"]})


async def test_the_final_state_comes_out_of_a_process_too(tiny_chat: Chat) -> None:
    scorer = Scorer(named(lambda episode: float(len(episode.state["notes"]))))
    result = await roll(tiny_chat, scorer, calls("echo", text="hi"), env=ProcessNotebook, size=1)
    assert result.group.rewards == [1.0]


async def test_an_async_reward_and_one_of_a_cut_off_episode_count_alike(tiny_chat: Chat) -> None:
    async def fn(episode: Episode) -> float:
        return 0.25 if episode.stop_reason.is_truncated else 0.75

    result = await roll(tiny_chat, Scorer(named(fn)), *[calls("echo")] * 2, size=1)
    assert (result.group.rewards, result.group.trajectories[0].stop_reason) == ([0.25], StopReason.MAX_TURNS)
    assert (await roll(tiny_chat, Scorer(named(fn)), size=1)).group.rewards == [0.75]


async def test_a_reward_that_fails_leaves_the_episode_unscored_and_is_not_played_again(tiny_chat: Chat) -> None:
    count = iter(range(9))

    def fn(episode: Episode) -> float:
        if next(count) % 2:
            raise ValueError("no idea")
        return 1.0

    activity, told = Activity(), list[Trajectory]()
    result = await roll(tiny_chat, Scorer(named(fn), activity=activity), told=told)
    assert (len(result.group.trajectories), result.group.rewards) == (2, [1.0, 1.0])
    assert len(told) == len(result.trajectories) == 4  # no second attempt: playing again would mend nothing
    for trajectory in result.failed:
        assert (trajectory.reward, trajectory.reward_terms, trajectory.stop_reason) == (None, {}, StopReason.ANSWERED)
        assert trajectory.failure is not None
        assert trajectory.failure.boundary is Boundary.REWARD
        assert trajectory.failure.cause.startswith("mine:fn raised ValueError: no idea")
    assert (result.broken, activity.troubles) == (2, {"reward_failures": 2})


async def test_a_weight_for_a_term_that_is_not_there_is_found(tiny_chat: Chat) -> None:
    scorer = Scorer(named(lambda episode: 1.0), weights={"outcom": 1.0})
    with pytest.raises(
        RunError, match=r"4 of 4 .* reward: mine:fn: reward_weights has 'outcom', the reward has outcome"
    ):
        await roll(tiny_chat, scorer, max_failed_share=0.5)


async def test_a_state_that_cannot_be_had_fails_the_episode(tiny_chat: Chat) -> None:
    result = await roll(tiny_chat, Scorer(named(lambda episode: 1.0)), env=TornNotebook, size=1, retries=0)
    (failed,) = result.failed
    assert failed.failure is not None
    assert (failed.stop_reason, failed.failure.boundary) == (StopReason.FAILED, Boundary.ENV)
    assert "state raised RuntimeError: no state today" in failed.failure.cause


async def test_what_broke_is_not_shown_to_the_reward(tiny_chat: Chat) -> None:
    scorer = Scorer(named(lambda episode: 1.0))
    result = await roll(tiny_chat, scorer, *[calls("down")] * 9, size=1, retries=1)
    assert [t.stop_reason for t in result.failed] == [StopReason.FAILED] * 2
    assert all(t.failure is not None and t.failure.boundary is Boundary.TOOL for t in result.failed)


async def test_what_had_ended_keeps_the_score_it_was_stored_with(tiny_chat: Chat) -> None:
    first = await roll(tiny_chat, Scorer(named(lambda episode: 0.5)), size=2)
    finished = {t.key: t for t in first.trajectories}
    again = await roll(tiny_chat, Scorer(named(lambda episode: 0.9)), size=3, finished=finished)
    assert again.group.rewards == [0.5, 0.5, 0.9]


# A judge


def longest(messages: list[Message]) -> float:
    return len(messages[-1]["content"]) / 100


@asynccontextmanager
async def judged(
    folder: Path,
    answer: Answer,
    *,
    kept: list[Trajectory] | None = None,
    reward: NamedReward | None = None,
    **more: Any,
) -> AsyncIterator[tuple[Scorer, StubEndpoint]]:
    async def keep(trajectories: Sequence[Trajectory]) -> None:
        if kept is not None:
            kept.extend(trajectories)

    async with StubEndpoint(answer) as stub:
        config = JudgeConfig(endpoint=stub.url, model="m", rubric="Be long.", **more)
        with VerdictStore(folder / "v.sqlite") as verdicts:
            judge = Judge(config, "Be long.", Endpoint(stub.url, "m", retries=0), verdicts, seed=0)
            yield Scorer(reward, judge=judge, keep=keep), stub


SAID = [answers(text) for text in ("a", "bbb", "cc", "dddd")]


async def test_a_judge_of_episodes_adds_its_term(tiny_chat: Chat, tmp_path: Path) -> None:
    told: list[Trajectory] = []
    async with judged(tmp_path, judging(longest), mode="episode", weight=0.5) as (scorer, stub):
        result = await roll(tiny_chat, scorer, *SAID, told=told)
        assert len(stub.requests) == 4
    for trajectory in result.group.trajectories:
        score = len(trajectory.turns[-1].action["content"]) / 100
        assert trajectory.reward_terms == {"outcome": 0.0, "heard": 0.0, "judge": score}
        assert trajectory.reward == 0.5 * score
        assert trajectory.info["judge"] == {"model": "m", "reason": "so it seems", "own_reward": 0.0}
    assert sorted(str(t.key) for t in told) == [str(t.key) for t in result.group.trajectories]
    assert all("judge" in t.info for t in told)


async def test_a_judge_of_groups_ranks_when_the_group_is_complete(tiny_chat: Chat, tmp_path: Path) -> None:
    told, kept = list[Trajectory](), list[Trajectory]()
    async with judged(tmp_path, judging(longest), kept=kept) as (scorer, stub):
        result = await roll(tiny_chat, scorer, *SAID, told=told)
        assert len(stub.requests) == 1
    by_length = {len(t.turns[-1].action["content"]): t.reward_terms["judge"] for t in result.group.trajectories}
    assert by_length == pytest.approx({1: 0.0, 2: 1 / 3, 3: 2 / 3, 4: 1.0})
    assert result.group.rewards == [0.5 * t.reward_terms["judge"] for t in result.group.trajectories]
    assert [t.key.sample for t in result.group.trajectories] == [0, 1, 2, 3]
    assert not any("judge" in t.info for t in told)  # stored as they end
    assert kept == list(result.group.trajectories)  # and again, with their ranks
    assert [without_verdict(t) for t in kept] == sorted(told, key=lambda t: t.key.sample)


async def test_a_named_reward_comes_before_the_judge(tiny_chat: Chat, tmp_path: Path) -> None:
    reward = named(lambda episode: {"outcome": 0.25})
    async with judged(tmp_path, judging(longest), reward=reward, weight=1.0) as (scorer, _):
        result = await roll(tiny_chat, scorer, *SAID)
    assert sorted(result.group.rewards) == pytest.approx([0.25, 0.25 + 1 / 3, 0.25 + 2 / 3, 1.25])
    assert set(result.group.trajectories[0].reward_terms) == {"outcome", "judge"}


async def test_an_evaluation_is_not_ranked(tiny_chat: Chat, tmp_path: Path) -> None:
    async with judged(tmp_path, judging(longest)) as (scorer, stub):
        result = await roll(tiny_chat, scorer, *SAID, phase="eval")
        assert stub.requests == []
    assert result.group.rewards == [0.0] * 4


@pytest.mark.parametrize("mode", ["episode", "group"])
async def test_without_a_verdict_there_is_no_score(tiny_chat: Chat, tmp_path: Path, mode: Any) -> None:
    kept: list[Trajectory] = []
    async with judged(tmp_path, lambda body: says("very nice"), kept=kept, mode=mode, retries=0) as (scorer, _):
        result = await roll(tiny_chat, scorer, *SAID)
    assert (result.group.trajectories, len(result.failed), result.broken) == ((), 4, 4)
    for trajectory in result.failed:
        assert (trajectory.reward, trajectory.stop_reason) == (None, StopReason.ANSWERED)
        assert trajectory.failure is not None
        assert trajectory.failure.boundary is Boundary.JUDGE
    assert len(kept) == (4 if mode == "group" else 0)


async def test_a_judge_that_is_down_for_long_stops_the_run_with_the_cause(tiny_chat: Chat, tmp_path: Path) -> None:
    async with judged(tmp_path, judging(longest), mode="episode", budget_calls=1) as (scorer, _):
        with pytest.raises(
            RunError, match=r"3 of 4 episodes could not be scored .* judge: judge.budget_calls = 1 is used"
        ):
            await roll(tiny_chat, scorer, *SAID, max_failed_share=0.5)


async def test_a_single_survivor_is_not_ranked(tiny_chat: Chat, tmp_path: Path) -> None:
    async with judged(tmp_path, judging(longest)) as (scorer, stub):
        result = await roll(tiny_chat, scorer, answers("a"), calls("down"), size=2, retries=0)
        assert (stub.requests, result.group.trajectories) == ([], ())
    assert {t.failure.boundary for t in result.failed if t.failure} == {Boundary.TOOL, Boundary.JUDGE}


async def test_a_term_of_the_same_name_is_no_judges(tiny_chat: Chat, tmp_path: Path) -> None:
    reward = named(lambda episode: {"judge": 1.0})
    async with judged(tmp_path, judging(longest), reward=reward) as (scorer, _):
        result = await roll(tiny_chat, scorer, *SAID)
    assert result.failed[0].failure is not None
    assert "rename it" in result.failed[0].failure.cause


async def test_a_group_of_a_stopped_run_is_ranked_once(tiny_chat: Chat, tmp_path: Path) -> None:
    told, kept = list[Trajectory](), list[Trajectory]()
    async with judged(tmp_path, judging(longest), kept=kept) as (scorer, _):
        whole = await roll(tiny_chat, scorer, *SAID, told=told)

    def finished(trajectories: Sequence[Trajectory]) -> dict[EpisodeKey, Trajectory]:
        return {trajectory.key: trajectory for trajectory in trajectories}

    async with judged(tmp_path, judging(longest)) as (scorer, stub):
        # Killed after the ranks were stored: nothing is asked, nothing is stored.
        again = await roll(tiny_chat, scorer, finished=finished(kept))
        assert (again.group, stub.requests) == (whole.group, [])
        # Killed before: ranked as it would have been; the verdict is kept from the first time.
        again = await roll(tiny_chat, scorer, finished=finished(told))
        assert (again.group.rewards, stub.requests) == (whole.group.rewards, [])


async def test_an_episode_that_joins_a_ranked_group_has_all_ranked_anew(tiny_chat: Chat, tmp_path: Path) -> None:
    async with judged(tmp_path, judging(longest)) as (scorer, stub):
        first = await roll(tiny_chat, scorer, *SAID[:3], size=3)
        finished = {t.key: t for t in first.trajectories}
        again = await roll(tiny_chat, scorer, answers("e" * 9), size=4, finished=finished)
        assert len(stub.requests) == 2
    by_length = {len(t.turns[-1].action["content"]): t.reward for t in again.group.trajectories}
    assert by_length == pytest.approx({1: 0.0, 2: 1 / 6, 3: 1 / 3, 9: 0.5})
    assert all(t.info["judge"]["own_reward"] == 0.0 for t in again.group.trajectories)


async def test_without_a_scorer_nothing_is_different(tiny_chat: Chat) -> None:
    plain, scored = await roll(tiny_chat, None, *SAID), await roll(tiny_chat, Scorer(), *SAID)
    assert plain.group.rewards == scored.group.rewards
    assert all(t.info == {} for t in (*plain.trajectories, *scored.trajectories))
