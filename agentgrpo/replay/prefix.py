"""The state of a turn of a recorded episode, had again: its actions played once and verified, then its snapshot taken.

It does not know who goes on from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from agentgrpo.errors import EnvFailure, RunError
from agentgrpo.replay.compare import Divergence, compare_start, compare_turn
from agentgrpo.replay.difference import difference
from agentgrpo.rollout.episode import Stage, complete, reset
from agentgrpo.rollout.record import Recorder
from agentgrpo.rollout.speaker import Given
from agentgrpo.rollout.turn import action_text, record_turn
from agentgrpo.store.codec import as_stored, plain
from agentgrpo.types import JsonObject, Task, Trajectory


class Diverged(RunError):
    """The state cannot be had: what was recorded before it does not happen again."""

    def __init__(self, divergence: Divergence) -> None:
        lines = "\n".join(difference(divergence.expected, divergence.got))
        super().__init__(f"the state cannot be had, {divergence} would differ from its record:\n{lines}")
        self.divergence = divergence


class Prefix:
    """Brings fresh environments to the state that an episode had after its first turns; a `Begin` of the rollout.

    The first environment plays the recorded actions, and each answer is compared with the record. If it takes
    snapshots, the others are restored from one, provided that they then give the same snapshot; else they play the
    actions likewise. A snapshot is not used where the tools have changed since the reset, which it does not hold.

    Args:
        parent: The recorded episode.
        turns: How many of its turns are taken over.
        given: What was said in them.
    """

    def __init__(self, parent: Trajectory, turns: int, given: Sequence[Given]) -> None:
        self.parent, self.turns, self.given = parent, turns, tuple(given[:turns])
        self.restored = 0  # environments that were brought there by a snapshot
        self._first = asyncio.Lock()
        self._is_verified = False
        self._snapshot: bytes | None = None

    async def __call__(self, recorder: Recorder, task: Task, stage: Stage) -> Sequence[JsonObject]:
        """Bring an environment there, let the speaker hear what happened, and return the tools.

        Raises:
            Diverged: something else happened than on record.
            EnvFailure: the environment broke.
        """
        async with self._first:
            is_first = not self._is_verified
            if is_first:
                await self._play(recorder, task, stage)
                self._snapshot, self._is_verified = await self._take(stage), True
        if not is_first and not await self._restore(recorder, task, stage):
            await self._play(recorder, task, stage)
        return self._tell(recorder, stage)

    @property
    def tools(self) -> Sequence[JsonObject]:
        """The tools that are offered there."""
        changes = [turn.tools for turn in self.parent.turns[: self.turns] if turn.tools is not None]
        return changes[-1] if changes else self.parent.tools

    async def _play(self, recorder: Recorder, task: Task, stage: Stage) -> None:
        messages, tools = await reset(recorder, task, stage)
        for found in compare_start(self.parent, plain(messages), plain(tools)):
            raise Diverged(found)
        for index, given in enumerate(self.given):
            expected = self.parent.turns[index]
            action = action_text(given.message, stage.host.action_format)
            with stage.activity.waiting(str(recorder.key), "env step", f"turn {index}, again"):
                obs, reward, terminated, truncated, info = await stage.host.step(action)
            info = complete(info, obs, terminated=terminated, tools=tools)
            got = record_turn(given.message, "stop", reward, info, generate_seconds=0.0, env_seconds=0.0)
            for found in compare_turn(index + 1, expected, as_stored(got)):
                raise Diverged(found)
            if terminated or (truncated and index + 1 < self.turns):
                raise Diverged(
                    Divergence(turn=index + 1, what="end", expected="goes on", got="the environment ends it")
                )
            tools = tools if got.tools is None else list(got.tools)

    async def _take(self, stage: Stage) -> bytes | None:
        is_worth_it = self.turns and list(self.tools) == list(self.parent.tools)
        return await stage.host.snapshot() if is_worth_it else None

    async def _restore(self, recorder: Recorder, task: Task, stage: Stage) -> bool:
        """Restore the snapshot, if there is one that can be trusted; return whether the environment is there."""
        if self._snapshot is None:
            return False
        await reset(recorder, task, stage)
        try:
            await stage.host.restore(self._snapshot)
            is_there = await stage.host.snapshot() == self._snapshot
        except EnvFailure as error:
            stage.activity.trouble("restore_failures", f"the environment cannot be restored ({error}): played again")
            return False
        self.restored += is_there
        return is_there

    def _tell(self, recorder: Recorder, stage: Stage) -> Sequence[JsonObject]:
        """Let speaker and record have the turns as they were."""
        speaker, tools = stage.speaker, self.parent.tools
        speaker.begin(self.parent.prompt, tools)
        for given, turn in zip(self.given, self.parent.turns, strict=False):
            speaker.repeat(given)
            recorder.turns.append(turn)
            tools = tools if turn.tools is None else turn.tools
            speaker.listen(turn.action, turn.messages, tools)
        return tools
