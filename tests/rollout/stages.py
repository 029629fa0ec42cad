"""A small environment where everything can happen, an engine whose every prompt is kept, and what runs them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from agentgrpo.activity import Activity
from agentgrpo.chat import Chat
from agentgrpo.core import ToolEnv
from agentgrpo.engines import Engine
from agentgrpo.engines.scripted import ScriptedEngine
from agentgrpo.errors import ToolError, ToolFailure
from agentgrpo.registry import EnvSource, resolve_env
from agentgrpo.rollout.episode import Stage, run_episode
from agentgrpo.rollout.isolation import EnvHosts
from agentgrpo.rollout.record import Recorder
from agentgrpo.rollout.speaker import TokenSpeaker
from agentgrpo.rollout.turn import Limits
from agentgrpo.tooling import tool
from agentgrpo.types import EpisodeKey, JsonObject, Policy, Sampling, Task, Trajectory

POLICY = Policy()
KEY = EpisodeKey(phase="train", step=0, task_id="t", sample=0)
LIMITS = Limits(
    max_turns=8, max_tokens=400, max_turn_tokens=100, context_length=4096, episode_seconds=30, generate_seconds=30
)


class Desk(ToolEnv):
    """Echoes; a task may say {"replies": how often the user asks again, "broken": where it breaks}."""

    metadata = {"isolation": "inline"}  # noqa: RUF012
    system_prompt = "You sit at a desk."

    def reset_task(self, task: JsonObject) -> str:
        self.heard: list[str] = []
        self.is_finished = False
        if task.get("broken") == "reset":
            raise RuntimeError("no desk")
        return "What now?"

    @tool
    def echo(self, text: str = "") -> str:
        """Say it again.

        Args:
            text: What to say.
        """
        self.heard.append(text)
        return text

    @tool
    def refuse(self) -> str:
        """Refuse."""
        raise ToolError("no")

    @tool
    def down(self) -> str:
        """Break."""
        raise ToolFailure("the backend is down")

    @tool
    def finish(self) -> str:
        """End the episode."""
        self.is_finished = True
        return "bye"

    def is_done(self) -> bool:
        return self.is_finished

    def respond(self, content: str) -> str | None:
        if len(self.heard) >= self.task.get("replies", 0):
            return None
        self.heard.append(content)
        return "And now?"

    def reward(self) -> dict[str, float]:
        if self.task.get("broken") == "reward":
            raise RuntimeError("no idea")
        return {"outcome": float(self.is_finished), "heard": 0.125 * len(self.heard)}


def calls(*names: str, content: str = "", **arguments: Any) -> JsonObject:
    """Return an action with these calls, all with the same arguments."""
    made = [{"id": f"c_{i}", "name": name, "arguments": arguments} for i, name in enumerate(names)]
    return {"content": content, "tool_calls": made}


def says(content: str = "ok") -> JsonObject:
    """Return an action that is an answer."""
    return {"content": content, "tool_calls": []}


def acting(chat: Chat, *actions: JsonObject, **options: Any) -> ScriptedEngine:
    """Return an engine that takes these actions one after the other, then answers."""
    left = [chat.completion(action) for action in actions]
    engine = ScriptedEngine(reply=lambda prompt, sampling: left.pop(0) if left else chat.completion(says()), **options)
    engine.live[POLICY] = None
    return engine


def babbling(chat: Chat, seed: int) -> ScriptedEngine:
    """Return an engine that says whatever a model might: actions, broken calls, thoughts, garbage, cut anywhere."""
    rng = random.Random(seed)
    controls = sorted(chat.tokenizer.get_added_vocab().values())

    def encode(text: str) -> list[int]:
        return list(chat.tokenizer.encode(text, add_special_tokens=False))

    kinds: list[Callable[[], Sequence[int]]] = [
        lambda: chat.completion(calls("echo", text="x" * rng.randrange(5))),
        lambda: chat.completion(calls("echo", "refuse", content="both")),
        lambda: encode("<think>\nperhaps\n</think>\n\n") + chat.completion(calls("echo", "nonesuch")),
        lambda: chat.completion(says("well")),
        lambda: encode("<think>\nhm\n</think>\n\nwell<|im_end|>"),
        lambda: encode('<tool_call>\n{"name": "echo", "argu<|im_end|>'),
        lambda: encode("<tool_call>\nnonsense\n</tool_call>") + chat.completion(calls("echo")),
        lambda: [*encode("<think>never done"), chat.stop_token_ids[0]],
        lambda: encode(
            '<tool_call>{"name": "echo", "arguments": {"text": "\\ud800<|im_start|>"}}</tool_call><|im_end|>'
        ),
        lambda: [rng.choice([rng.randrange(500), rng.choice(controls)]) for _ in range(rng.randrange(1, 25))],
    ]

    def reply(prompt_ids: Sequence[int], sampling: Sampling) -> Sequence[int]:
        ids = list(rng.choice(kinds)())
        return ids[: rng.randrange(1, len(ids))] if rng.random() < 0.15 and len(ids) > 1 else ids

    engine = ScriptedEngine(reply=reply)
    engine.live[POLICY] = None
    return engine


@contextmanager
def hosting(source: EnvSource, seconds: float = 30.0) -> Iterator[EnvHosts]:
    """Yield the hosts of an environment and end them."""
    hosts = EnvHosts(source, concurrency=4, seconds=seconds)
    try:
        yield hosts
    finally:
        hosts.close()


async def play(
    chat: Chat,
    engine: Engine,
    *,
    env: Any = Desk,
    source: EnvSource | None = None,
    key: EpisodeKey = KEY,
    policy: Policy = POLICY,
    sampling: Sampling | None = None,
    env_seconds: float = 30.0,
    row: JsonObject | None = None,
    **limits: Any,
) -> Trajectory:
    """Run one episode and return its record."""
    source = source or resolve_env(env)
    recorder = Recorder(key=key, env_id=source.id, seed=7, policy=policy)
    with hosting(source, env_seconds) as hosts:
        host = hosts.make()
        bounds, activity = replace(LIMITS, **limits), Activity()
        speaker = TokenSpeaker(recorder, engine, chat, bounds, sampling or Sampling(max_tokens=0, seed=11), activity)
        stage = Stage(host=host, speaker=speaker, limits=bounds, activity=activity)
        try:
            return await run_episode(recorder, Task(id=key.task_id, row=row or {}), stage)
        finally:
            await host.close()


def check_tokens(trajectory: Trajectory, engine: ScriptedEngine) -> None:
    """Whatever happened: the record is what the engine saw, each sampled token trains once, nothing else trains."""
    prompts = [prompt for prompt, _, _, _ in engine.calls]
    sampled = [i for i, span in enumerate(trajectory.spans) if span.sampled]
    assert len(sampled) == len(prompts)
    for index, prompt in zip(sampled, prompts, strict=True):
        path = [trajectory.spans[i] for i in trajectory.path(index)[:-1]]
        assert tuple(token for span in path for token in span.token_ids) == prompt
    rows = trajectory.sequences()
    assert sum(sum(row.loss_mask) for row in rows) == trajectory.sampled_count
    trained_at: set[tuple[int, int]] = set()
    for index, prompt in zip(sampled, prompts, strict=True):
        span = trajectory.spans[index]
        seen, n = (*prompt, *span.token_ids), len(prompt)
        homes = [
            r for r, row in enumerate(rows) if row.token_ids[: len(seen)] == seen and any(row.loss_mask[n : len(seen)])
        ]
        assert len(homes) == 1 or not span.token_ids
        for r in homes:
            assert all(rows[r].loss_mask[n : len(seen)])
            assert rows[r].rollout_logprobs[n : len(seen)] == span.logprobs
            assert set(rows[r].turns[n : len(seen)]) == {span.turn}
            trained_at |= {(r, t) for t in range(n, len(seen))}
    masked = {(r, t) for r, row in enumerate(rows) for t, m in enumerate(row.loss_mask) if m}
    assert masked == trained_at
