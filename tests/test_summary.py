from __future__ import annotations

from dataclasses import replace

from agentgrpo.learner.step import LearnResult
from agentgrpo.summary import train_metrics
from agentgrpo.tooling import error_result
from agentgrpo.types import Group, Message, Task, Turn
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
    metrics = train_metrics([scored], [group], LearnResult(metrics={}, advantages={}, decisions=()))
    assert {key: value for key, value in metrics.items() if "/tool_error" in key} == {
        "train/tool_error_rate": 0.75,
        "train/tool_errors/other": 0.25,
        "train/tool_errors/too_deep": 0.25,
        "train/tool_errors/unknown_tool": 0.25,
    }
