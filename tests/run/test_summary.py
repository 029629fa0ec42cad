from __future__ import annotations

from dataclasses import replace

from agentgrpo.learner.step import LearnResult
from agentgrpo.rollout.group import GroupResult
from agentgrpo.run.summary import cut_metrics, missed, no_survivors, score_metrics, staleness_metrics, train_metrics
from agentgrpo.store.rows import FacetRow
from agentgrpo.tooling import error_result
from agentgrpo.types import Boundary, Failure, Group, Message, Policy, StopReason, Task, Trajectory, Turn
from tests.learner.episodes import episode


def answer(content: str, is_error: bool = True) -> Message:
    return {"role": "tool", "content": content, "is_error": is_error}


def test_tool_errors_are_counted_by_kind() -> None:
    answers = [
        answer(error_result("too_deep", "...").content),
        answer(error_result("unknown_tool", "{").content),
        answer("not ours"),
        answer('{"error": {"type": "unknown_tool"', is_error=False),
    ]
    turn = Turn(action={"tool_calls": [{}] * 4}, messages=tuple(answers), reward=0.0)
    scored = replace(episode(0, [1, 2, 3], 1.0), turns=(turn, turn))
    group = Group(task=Task(id="t", row={}), trajectories=(scored,))
    metrics = train_metrics([scored], [group], LearnResult(metrics={}, advantages={}, decisions=()), scored.env_id)
    assert {key: value for key, value in metrics.items() if "/tool_error" in key} == {
        "train/tool_error_rate": 0.75,
        "train/tool_errors/other": 0.25,
        "train/tool_errors/too_deep": 0.25,
        "train/tool_errors/unknown_tool": 0.25,
    }


def sampled(sample: int, version: int = 0, stop_reason: StopReason = StopReason.DONE) -> Trajectory:
    made = episode(sample, [1, 2, 3], 1.0, sample=sample)
    return replace(made, policy=Policy(version=version), stop_reason=stop_reason)


def test_staleness_is_counted_in_updates() -> None:
    groups = [
        Group(task=Task(id="a", row={}), trajectories=(sampled(0, 5), sampled(1, 5), sampled(2, 3))),
        Group(task=Task(id="b", row={}), trajectories=(sampled(0, 4),)),
    ]
    assert staleness_metrics(groups, 5) == {
        "train/staleness": 0.75,
        "train/staleness_max": 2.0,
        "train/staleness/0": 0.5,
        "train/staleness/1": 0.25,
        "train/staleness/2": 0.25,
    }


def test_what_groups_lost_is_counted_by_reason() -> None:
    cut, failed = StopReason.CANCELLED, StopReason.FAILED

    def result(scored: list[int], *lost: tuple[int, StopReason]) -> GroupResult:
        return GroupResult(
            group=Group(task=Task(id="a", row={}), trajectories=tuple(sampled(s) for s in scored)),
            failed=tuple(sampled(s, stop_reason=reason) for s, reason in lost),
        )

    results = [
        result([0, 1, 2], (2, failed)),  # tried again with success
        result([0, 1], (2, cut)),
        result([0, 1], (2, failed)),
        result([0], (1, cut), (2, failed), (2, failed)),
        result([0, 1], (2, failed), (2, cut)),  # broke, and was cut off when it was tried again
    ]
    assert cut_metrics(results, 2) == {
        "train/cut_episodes": 3.0,
        "train/groups_cut/deadline": 3.0,
        "train/groups_cut/failed": 3.0,
        "train/groups_cut/too_few_survivors": 1.0,
    }
    assert "3 episodes met rollout.group_seconds: give groups more time" in no_survivors(results)


def test_terms_are_means_where_known_and_what_has_no_score_is_counted_by_what_failed() -> None:
    scored = [replace(sampled(0), reward_terms={"outcome": 1.0, "judge": 0.5}), replace(sampled(1), reward_terms={})]
    lost = [
        replace(sampled(2 + number), reward=None, failure=Failure(boundary=boundary, cause="x"))
        for number, boundary in enumerate([Boundary.JUDGE, Boundary.JUDGE, Boundary.REWARD, Boundary.ENGINE])
    ]
    group = Group(task=Task(id="a", row={}), trajectories=tuple(scored))
    assert score_metrics([GroupResult(group=group, failed=tuple(lost))]) == {
        "train/terms/judge": 0.5,
        "train/terms/outcome": 1.0,
        "train/unscored/reward": 1.0,
        "train/unscored/judge": 2.0,
    }


def kind(value: str, successes: int, scored: int = 30) -> FacetRow:
    return FacetRow(
        phase="eval",
        step=60,
        facet="family",
        value=value,
        episodes=scored,
        scored=scored,
        reward=float(successes),
        successes=successes,
        calls=0,
        errors=0,
    )


def test_a_run_that_missed_nothing_names_no_command_for_it() -> None:
    assert missed([kind("paid", 30), kind("status", 30)]) == ""
    assert missed([]) == ""


def test_what_was_missed_is_told_by_kind_of_task_and_can_be_listed() -> None:
    listing = "--filter 'phase:eval step:60 success:no'"
    assert missed([kind("paid", 26), kind("cancel", 30), kind("status", 19)]) == (
        f"{listing}   (status 11 of 30, paid 4 of 30)"
    )
    many = [kind(name, 29) for name in "abcde"]
    assert missed(many) == f"{listing}   (a 1 of 30, b 1 of 30, c 1 of 30, 2 more kinds)"


def test_task_ids_that_name_no_kinds_are_left_out() -> None:
    listing = "--filter 'phase:eval step:60 success:no'"
    assert missed([kind("lockers", 26)]) == listing
    assert missed([kind(f"task-{number}x", 0, 1) for number in range(25)]) == listing
    assert missed([kind("paid\x1b[2J", 26), kind("status", 30)]) == listing
