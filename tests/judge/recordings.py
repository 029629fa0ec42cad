"""Episodes to judge, made without an engine."""

from __future__ import annotations

from typing import Any

from agentgrpo.types import EpisodeKey, JsonObject, Policy, StopReason, Trajectory, Turn

SYSTEM = {"role": "system", "content": "You sit at a desk."}
USER = {"role": "user", "content": "Find the number."}


def said(content: str, *calls: JsonObject, results: tuple[str, ...] = (), **more: Any) -> Turn:
    """Return a turn with its calls and what they gave."""
    messages = tuple(
        {"role": "tool", "tool_call_id": call["id"], "name": call["name"], "content": result, "is_error": False}
        for call, result in zip(calls, results, strict=True)
    )
    action = {"content": content, "tool_calls": list(calls), **more}
    return Turn(action=action, messages=messages, reward=0.0)


def call(name: str, call_id: str = "c", **arguments: Any) -> JsonObject:
    """Return a call as it stands in an action."""
    return {"id": call_id, "name": name, "arguments": arguments}


def recording(*turns: Turn, sample: int = 0, reward: float | None = 0.0, **more: Any) -> Trajectory:
    """Return the record of an episode."""
    return Trajectory(
        key=EpisodeKey(phase="train", step=1, task_id="t", sample=sample),
        env_id="desk",
        seed=0,
        policy=Policy(),
        prompt=(SYSTEM, USER),
        tools=(),
        spans=(),
        turns=turns,
        stop_reason=StopReason.ANSWERED,
        reward=reward,
        reward_terms={} if reward is None else {"outcome": reward},
        **more,
    )


def answering(*answers: str) -> list[Trajectory]:
    """Return a group of episodes that looked once, and then answered differently."""
    looked = said("", call("look", where="desk"), results=("a note",))
    return [recording(looked, said(answer), sample=sample) for sample, answer in enumerate(answers)]
