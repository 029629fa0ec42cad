"""Runs to step back into, made without a model: an environment's oracle plays, well or badly."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentgrpo.chat import Chat
from agentgrpo.config.run import Config, load_config
from agentgrpo.registry import EnvSource, resolve_env
from agentgrpo.rollout.manager import Rollouts, Start
from agentgrpo.rollout.record import Recorder
from agentgrpo.rollout.speaker import Given, Mute, Said, Speaker
from agentgrpo.rollout.token_path import TokenPath
from agentgrpo.seeds import derive_seed
from agentgrpo.store import EpisodeStore, RunDirectory, start_record, write_text
from agentgrpo.store.run import write_lines
from agentgrpo.tasks import load_tasks
from agentgrpo.types import (
    AssistantMessage,
    EpisodeKey,
    Generation,
    JsonObject,
    Message,
    Policy,
    Sampling,
    StopReason,
    Task,
    Trajectory,
)


class Written(Mute):
    """Says nothing of its own, and keeps what it is given as the tokens a model would have sampled."""

    def __init__(self, recorder: Recorder, chat: Chat) -> None:
        super().__init__(recorder, StopReason.MAX_TURNS)
        self.chat, self.path = chat, TokenPath(recorder, chat)

    def begin(self, messages: Sequence[Message], tools: Sequence[JsonObject]) -> None:
        self.path.begin(messages, tools)

    def repeat(self, given: Given) -> None:
        ids = tuple(self.chat.completion(given.message.to_message()))
        self.path.add_sampled(
            Generation(token_ids=ids, logprobs=(-0.5,) * len(ids), finish_reason="stop"), given.policy_version
        )

    def listen(self, action: JsonObject, news: Sequence[Message], tools: Sequence[JsonObject]) -> None:
        self.path.listen(action, news, tools)


class Oracle:
    """Plays as an environment's oracle does, in a copy of its own of the environment."""

    def __init__(self, after: Speaker, source: EnvSource, task: Task, recorder: Recorder, quality: float) -> None:
        self.after, self.source, self.task, self.quality = after, source, task, quality
        self.recorder = recorder
        self.script: Any = None
        self.heard: tuple[Message, ...] | None = None

    def begin(self, messages: Sequence[Message], tools: Sequence[JsonObject]) -> None:
        env: Any = self.source.make()
        env.reset(seed=self.recorder.seed, options={"task": {**self.task.row, "task_id": self.task.id}})
        self.script = env.unwrapped.oracle(quality=self.quality, rng=random.Random(str(self.recorder.key)))
        self.after.begin(messages, tools)

    async def speak(self) -> Said | StopReason:
        try:
            action = next(self.script) if self.heard is None else self.script.send(self.heard)
        except StopIteration:
            return StopReason.MAX_TOKENS
        # As it comes from a parser: with ids that name the turn.
        for index, call in enumerate(action["tool_calls"]):
            call["id"] = f"call_{len(self.recorder.turns)}_{index}"
        message = AssistantMessage.from_message(action)
        self.after.repeat(Given(message=message))
        return Said(message=message, finish_reason="stop", seconds=0.0)

    def repeat(self, given: Given) -> None:
        raise AssertionError("an oracle starts anew")

    def listen(self, action: JsonObject, news: Sequence[Message], tools: Sequence[JsonObject]) -> None:
        self.heard = tuple(news)
        self.after.listen(action, news, tools)

    async def release(self) -> None:
        await self.after.release()


class OracleRollouts(Rollouts):
    """Episodes of an oracle; `chat` writes their tokens, without one they have none."""

    def __init__(self, source: EnvSource, config: Config, tasks: Sequence[Task], quality: float, chat: Chat | None):
        super().__init__(source, config.rollout, seed=config.seed, places=64, context_length=None)
        self.tasks, self.quality, self.chat = {task.id: task for task in tasks}, quality, chat

    def speaker(self, recorder: Recorder, sampling: Sampling) -> Speaker:
        after = Mute(recorder, StopReason.MAX_TURNS) if self.chat is None else Written(recorder, self.chat)
        return Oracle(after, self.source, self.tasks[recorder.key.task_id], recorder, self.quality)


def oracle_run(
    folder: Path,
    env: str,
    *,
    tasks: int = 8,
    samples: int = 2,
    quality: float = 0.6,
    chat: Chat | None = None,
    model: Path | None = None,
    rows: Sequence[JsonObject] | None = None,
    **config: Any,
) -> RunDirectory:
    """Return a run whose episodes an oracle has played, several of each task."""
    settings = load_config({"name": "oracle", "env": env, "model": {"path": str(model or "")}, **config})
    source = resolve_env(env, **settings.env_args)
    chosen = load_tasks(source.tasks("train") if rows is None else rows)[:tasks]
    run = open_run(folder, settings, source, chosen, model)
    keys = [EpisodeKey(phase="train", step=1, task_id=t.id, sample=sample) for t in chosen for sample in range(samples)]
    how: dict[str, Any] = {"policy": Policy(), "sampling": Sampling(max_tokens=0), "start": Start()}

    async def play() -> list[Trajectory]:
        async with OracleRollouts(source, settings, chosen, quality, chat) as rollouts:
            return [await rollouts.episode(key, rollouts.tasks[key.task_id], **how) for key in keys]

    with EpisodeStore(run.episodes) as store:
        store.add_sync(asyncio.run(play()))
    return run


def open_run(
    folder: Path, config: Config, source: EnvSource, tasks: Sequence[Task], model: Path | None
) -> RunDirectory:
    """Return a run's folder with all that a run writes down before its first episode."""
    run = RunDirectory.create(folder, config.name)
    rows = [task.row for task in tasks]
    write_text(run.config, config.to_toml())
    write_lines(run.tasks, rows)
    write_lines(run.heldout, [])
    start_record(
        run,
        config=config.model_dump(mode="json"),
        env=source.classes,
        env_id=source.id,
        tasks={"train": rows, "heldout": []},
        model_path=model,
        sampling={},
    )
    return run


def seed_of(run_seed: int, task_id: str) -> int:
    """Return the seed of a task's environment in a run."""
    return derive_seed(run_seed, "env", task_id) % 2**31
