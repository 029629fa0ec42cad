"""A verifiers environment as one of ours: its tasks, its tools called in this process, its rewards under their names.

It does not know harnesses, runtimes or endpoints: the agent is our own loop, the tools are called, not served.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from agentgrpo.actions import parse_action
from agentgrpo.core import StepResult, ToolEnv
from agentgrpo.envs.verifiers.load import load, rows_of
from agentgrpo.envs.verifiers.messages import message_of, new_trace, opening, reply_of, result_of
from agentgrpo.envs.verifiers.seat import Seat
from agentgrpo.envs.verifiers.toolset import tools_of
from agentgrpo.errors import EnvError, EnvFailure, TaskError
from agentgrpo.tasks import load_tasks
from agentgrpo.tooling import Tool
from agentgrpo.types import JsonObject, Message, Task


class Verifiers(ToolEnv):
    """A verifiers environment: a taskset, and the environment its package brings or else verifiers' single agent.

    Args:
        taskset: Its id.
        taskset_args: Its own settings.
        tasks: Rows with an "index" each; None means the first 1,200 tasks, every sixth held out.
        reward_weights: Weight of each reward term, on top of the weights the environment gives.
        render_mode: "ansi" or None, as in Gymnasium.
    """

    # Tools and rewards are others' code, which may block, hang, and share state between episodes.
    metadata: ClassVar[dict[str, Any]] = {"isolation": "process"}  # type: ignore[misc]  # as in AgentEnv

    def __init__(
        self,
        *,
        taskset: str = "",
        taskset_args: Mapping[str, Any] | None = None,
        tasks: str | Path | Sequence[JsonObject] | None = None,
        reward_weights: Mapping[str, float] | None = None,
        render_mode: str | None = None,
    ) -> None:
        if not taskset:
            raise EnvError("the environment 'verifiers' needs env_args.taskset, the id of a taskset")
        super().__init__(tasks=tasks, reward_weights=reward_weights, render_mode=render_mode)
        self._given = (taskset, json.dumps(taskset_args or {}))
        self._env, self._all = load(*self._given)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._seat: Seat | None = None
        self._toolset: list[Tool] = []
        self._played: Any = None
        self._ended = False

    @classmethod
    def tasks(
        cls, split: str = "train", *, taskset: str = "", taskset_args: Mapping[str, Any] | None = None
    ) -> Sequence[JsonObject]:
        """Return the rows of `train` or `heldout`."""
        return rows_of(load(taskset, json.dumps(taskset_args or {}))[1], split)

    def reset_task(self, task: JsonObject) -> list[Message]:
        """Start the environment on a task; the messages are its prompt, or what it says first."""
        if not 0 <= task["index"] < len(self._all):
            raise TaskError(f"{self._given[0]} has {len(self._all)} tasks here, there is no {task['index']}")
        self._leave()
        self._loop = self._loop or asyncio.new_event_loop()
        chosen = self._played = self._all[task["index"]].with_data()
        self._seat, self._ended = Seat(self._loop, new_trace(chosen)), False
        first = opening(chosen)
        for said in first:
            self._seat.record(said, sampled=False)
        self._toolset = self._seat.call(tools_of(self._env.taskset, chosen, self._seat.trace.state, self._seat.call))
        return [*map(message_of, [*first, *self._seat.start(self._env, chosen)])]

    def extra_tools(self) -> list[Tool]:
        """Return the tools of the task's and the taskset's tool servers."""
        return self._toolset

    def step(self, action: str) -> StepResult:
        """Step, and keep the conversation as the environment's rewards read it."""
        seat = self._sitting()
        seat.record(reply_of(parse_action(action, first_id=len(self.calls))), sampled=True)
        result = super().step(action)
        for message in result[4]["messages"]:
            if message["role"] == "tool":
                seat.record(result_of(message), sampled=False)
        return result

    def respond(self, content: str) -> str | None:
        """Give the reply to the environment and return what it says to it, or None at its end."""
        answer = self._sitting().reply()
        self._ended = answer is None
        return None if answer is None else "\n".join(message_of(said)["content"] for said in answer)

    def reward(self) -> dict[str, float]:
        """Return the environment's rewards, by name and weighted as it says; of an unfinished episode, what it has."""
        seat = self._sitting()
        if not self._ended:
            seat.call(self._played.score(seat.trace))
        unscored = [name for name, reward in seat.trace.rewards.items() if reward is None]
        if unscored:
            raise EnvFailure(f"{self._given[0]} did not score {', '.join(unscored)}")
        return {name: reward.value for name, reward in seat.trace.rewards.items()}

    def close(self) -> None:
        """End the environment and its event loop."""
        self._leave()
        if self._loop is not None:
            self._loop.close()
        super().close()

    def _shipped(self, split: str) -> tuple[Task, ...]:
        return load_tasks(rows_of(self._all, split), split=split)

    def _sitting(self) -> Seat:
        if self._seat is None:
            raise EnvError("there is no task yet: call reset() first")
        return self._seat

    def _leave(self) -> None:
        seat, self._seat = self._seat, None
        if seat is not None:
            seat.close()
