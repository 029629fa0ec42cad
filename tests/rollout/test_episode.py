from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentgrpo.chat import Chat
from agentgrpo.errors import EngineFailure
from agentgrpo.registry import resolve_env
from agentgrpo.types import Boundary, JsonObject, StopReason
from tests.clock import leap
from tests.engines.stubs import settled
from tests.rollout.stages import KEY, POLICY, Desk, acting, babbling, calls, check_tokens, play, says


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32),
    thinking=st.sampled_from([None, True, False]),
    renderer=st.sampled_from(["auto", "default"]),
    replies=st.integers(0, 5),
)
def test_the_record_is_what_the_engine_saw(
    tiny_folder: Path, seed: int, thinking: bool | None, renderer: str, replies: int
) -> None:
    chat = Chat.from_folder(tiny_folder, enable_thinking=thinking, renderer=renderer)
    engine = babbling(chat, seed)
    trajectory = asyncio.run(play(chat, engine, row={"replies": replies}, max_tokens=300, context_length=900))
    assert trajectory.stop_reason not in (StopReason.FAILED, StopReason.CANCELLED), trajectory.failure
    assert trajectory.is_scored
    check_tokens(trajectory, engine)
    assert engine.released == [str(KEY)]


async def test_it_ends_when_the_environment_is_done(tiny_chat: Chat) -> None:
    engine = acting(tiny_chat, calls("echo", "refuse", text="a"), calls("finish"))
    trajectory = await play(tiny_chat, engine)
    assert trajectory.stop_reason is StopReason.DONE
    assert (trajectory.reward, trajectory.reward_terms) == (1.125, {"outcome": 1.0, "heard": 0.125})
    assert trajectory.failure is None
    first, last = trajectory.turns
    assert first.messages[0]["content"] == "a"
    assert (first.call_count, first.error_count, last.messages[0]["content"]) == (2, 1, "bye")
    assert [m["role"] for m in trajectory.prompt] == ["system", "user"]
    assert [t["function"]["name"] for t in trajectory.tools] == ["echo", "refuse", "down", "finish"]
    assert [span.sampled for span in trajectory.spans] == [False, True, False, True]
    check_tokens(trajectory, engine)


async def test_it_ends_with_an_answer(tiny_chat: Chat) -> None:
    trajectory = await play(tiny_chat, acting(tiny_chat, says("forty-two")))
    assert trajectory.stop_reason is StopReason.ANSWERED
    assert trajectory.turns[0].action["content"] == "forty-two"
    assert trajectory.reward == 0.0


async def test_it_ends_after_max_turns_and_is_scored_where_it_stands(tiny_chat: Chat) -> None:
    trajectory = await play(tiny_chat, acting(tiny_chat, *[calls("echo")] * 9), max_turns=3)
    assert trajectory.stop_reason is StopReason.MAX_TURNS
    assert len(trajectory.turns) == 3
    assert trajectory.reward_terms == {"outcome": 0.0, "heard": 0.375}


async def test_it_ends_when_its_tokens_are_spent(tiny_chat: Chat) -> None:
    action = calls("echo")
    length = len(tiny_chat.completion(action))
    engine = acting(tiny_chat, *[action] * 9)
    exact = await play(tiny_chat, engine, max_tokens=2 * length)
    assert exact.stop_reason is StopReason.MAX_TOKENS
    assert (len(exact.turns), exact.sampled_count) == (2, 2 * length)
    assert exact.reward == 0.25
    cut = await play(tiny_chat, acting(tiny_chat, says("never finished")), max_turn_tokens=2)
    assert (cut.stop_reason, cut.sampled_count, cut.turns) == (StopReason.MAX_TOKENS, 2, ())
    assert cut.spans[-1].sampled  # what was said still stands in the record


async def test_a_turn_cut_off_after_a_call_still_acts(tiny_chat: Chat) -> None:
    whole = tiny_chat.completion(calls("finish"))
    engine = acting(tiny_chat, calls("finish"))
    trajectory = await play(tiny_chat, engine, max_turn_tokens=len(whole) - 1)
    assert trajectory.turns[0].finish_reason == "length"
    assert trajectory.stop_reason is StopReason.DONE


async def test_it_ends_when_the_next_prompt_does_not_fit(tiny_chat: Chat) -> None:
    engine = acting(tiny_chat, *[calls("echo", text="x" * 50)] * 9)
    first = await play(tiny_chat, acting(tiny_chat), context_length=5)
    assert (first.stop_reason, first.turns, first.sampled_count) == (StopReason.CONTEXT_FULL, (), 0)
    assert first.reward == 0.0
    room = first.token_count + 200
    trajectory = await play(tiny_chat, engine, context_length=room, max_tokens=10**6)
    assert trajectory.stop_reason is StopReason.CONTEXT_FULL
    assert trajectory.turns
    assert max(len(prompt) for prompt, _, _, _ in engine.calls) < room
    assert all(len(prompt) + sampling.max_tokens <= room for prompt, sampling, _, _ in engine.calls)


async def test_it_ends_at_its_deadline_and_is_scored(tiny_chat: Chat) -> None:

    def latency(call: int) -> float:
        if call == 1:
            leap(20)
        return 1000.0 * call

    engine = acting(tiny_chat, calls("echo"), latency=latency)
    trajectory = await play(tiny_chat, engine, episode_seconds=20)
    assert trajectory.stop_reason is StopReason.DEADLINE
    assert trajectory.reward == 0.125
    assert engine.cancelled == 1
    assert engine.released == [str(KEY)]
    assert not trajectory.spans[-1].sampled


class Sleepy(Desk):
    metadata = {"isolation": "thread"}  # noqa: RUF012
    hangs: ClassVar[Callable[[], object]]
    is_over: ClassVar[threading.Event]

    def is_done(self) -> bool:
        type(self).hangs()
        self.is_over.wait(60)
        return False


async def test_an_environment_that_hangs_cannot_be_scored(tiny_chat: Chat) -> None:
    loop = asyncio.get_running_loop()
    Sleepy.hangs = lambda: loop.call_soon_threadsafe(leap, 20)
    late: list[tuple[dict[str, Any], StopReason, str]] = [
        ({"env_seconds": 20}, StopReason.FAILED, "step (echo) did not return within 20 s; its thread"),
        ({"episode_seconds": 20}, StopReason.DEADLINE, "the episode's 20 s were over: step (echo) was cut off;"),
    ]
    for limits, stop_reason, cause in late:
        Sleepy.is_over = threading.Event()
        trajectory = await play(tiny_chat, acting(tiny_chat, calls("echo")), env=Sleepy, **limits)
        Sleepy.is_over.set()
        assert trajectory.stop_reason is stop_reason
        assert trajectory.failure is not None
        assert trajectory.failure.boundary is Boundary.ENV
        assert trajectory.failure.cause.startswith(cause)
        assert trajectory.reward is None


@pytest.mark.parametrize(
    ("broken", "action", "boundary", "cause"),
    [
        (None, calls("down"), Boundary.TOOL, "the backend is down"),
        ("reset", says(), Boundary.ENV, "no desk"),
        ("reward", says(), Boundary.ENV, "no idea"),
    ],
)
async def test_it_fails_where_the_environment_does(
    tiny_chat: Chat, broken: str | None, action: JsonObject, boundary: Boundary, cause: str
) -> None:
    trajectory = await play(tiny_chat, acting(tiny_chat, action), row={"broken": broken})
    assert trajectory.stop_reason is StopReason.FAILED
    assert trajectory.failure is not None
    assert trajectory.failure.boundary is boundary
    assert cause in trajectory.failure.cause
    assert (trajectory.reward, trajectory.reward_terms) == (None, {})


async def test_scoring_what_was_cut_off_may_fail_too(tiny_chat: Chat) -> None:
    trajectory = await play(tiny_chat, acting(tiny_chat, calls("echo")), row={"broken": "reward"}, max_turns=1)
    assert trajectory.stop_reason is StopReason.FAILED
    assert trajectory.failure is not None
    assert trajectory.failure.boundary is Boundary.ENV


@pytest.mark.parametrize("fault", [EngineFailure("gone"), ConnectionError("gone"), RuntimeError("gone")])
async def test_it_fails_where_the_engine_does(tiny_chat: Chat, fault: Exception) -> None:
    engine = acting(tiny_chat, calls("echo"), faults={1: fault})
    trajectory = await play(tiny_chat, engine)
    assert trajectory.stop_reason is StopReason.FAILED
    assert trajectory.failure is not None
    assert trajectory.failure.boundary is Boundary.ENGINE
    assert "gone" in trajectory.failure.cause
    assert len(trajectory.turns) == 1
    assert engine.released == [str(KEY)]


async def test_an_engine_that_does_not_answer_is_a_failure_of_the_engine(tiny_chat: Chat) -> None:
    trajectory = await play(tiny_chat, acting(tiny_chat, latency=lambda call: 1000.0), generate_seconds=0.05)
    assert trajectory.failure is not None
    assert trajectory.failure.boundary is Boundary.ENGINE
    assert "no answer within 0.05 s" in trajectory.failure.cause


async def test_cancellation_escapes_and_releases_the_session(tiny_chat: Chat) -> None:
    engine = acting(tiny_chat, latency=lambda call: 30.0)
    task = asyncio.create_task(play(tiny_chat, engine))
    await settled(lambda: engine.running == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine.cancelled == 1
    assert engine.released == [str(KEY)]


async def test_a_new_question_after_thinking_forks_and_counts_it(tiny_folder: Path) -> None:
    chat = Chat.from_folder(tiny_folder, enable_thinking=True)
    engine = acting(chat, {**calls("echo"), "reasoning": "mull"}, {**says("a"), "reasoning": "mull"}, says("b"))
    trajectory = await play(chat, engine, row={"replies": 2})
    assert trajectory.forks == 1
    rows = trajectory.sequences()
    assert len(rows) == 2
    texts = [chat.decode(row.token_ids) for row in rows]
    assert ["mull" in text for text in texts] == [True, False]  # the template drops what was thought before a question
    check_tokens(trajectory, engine)
    plain = Chat.from_folder(tiny_folder, enable_thinking=False)
    unforked = await play(plain, acting(plain, calls("echo"), says("a"), says("b")), row={"replies": 2})
    assert (unforked.forks, len(unforked.sequences())) == (0, 1)


async def test_a_template_nothing_is_known_of_forks_at_every_turn(tiny_folder: Path) -> None:
    chat = Chat.from_folder(tiny_folder, renderer="default")
    engine = acting(chat, calls("echo"), calls("echo"))
    trajectory = await play(chat, engine)
    assert trajectory.forks == 2
    check_tokens(trajectory, engine)


class Shrinking(Desk):
    """Withdraws all tools after the second call."""

    def step(self, action: str) -> tuple[str, float, bool, bool, JsonObject]:
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, terminated, truncated, {**info, "tools": info["tools"] if len(self.heard) < 2 else []}


async def test_tools_that_change_are_in_the_next_prompt(tiny_chat: Chat) -> None:
    engine = acting(tiny_chat, calls("echo"), calls("echo"), calls("echo"))
    trajectory = await play(tiny_chat, engine, env=Shrinking)
    texts = [tiny_chat.decode(prompt) for prompt, _, _, _ in engine.calls]
    assert ["refuse" in text for text in texts] == [True, True, False, False]
    assert ["# Tools" in text for text in texts] == [True, True, False, False]
    assert trajectory.forks == 1
    check_tokens(trajectory, engine)


@pytest.mark.parametrize(
    ("actions", "stop_reason", "reward"),
    [
        ([calls("echo")] * 3, StopReason.MAX_TURNS, 0.25),
        ([calls("echo"), calls("finish")], StopReason.DONE, 1.125),
        ([calls("echo"), says()], StopReason.ANSWERED, 0.125),
    ],
)
async def test_gymnasiums_time_limit_truncates_what_has_not_ended(
    tiny_chat: Chat, actions: list[JsonObject], stop_reason: StopReason, reward: float
) -> None:
    """And what ends with the very last step allowed has ended: it is no truncated episode."""
    gymnasium.register("tests/TimedDesk-v0", entry_point="tests.rollout.stages:Desk", max_episode_steps=2)
    try:
        source = resolve_env("tests/TimedDesk-v0")
        trajectory = await play(tiny_chat, acting(tiny_chat, *actions), source=source)
    finally:
        del gymnasium.registry["tests/TimedDesk-v0"]
    assert (trajectory.stop_reason, trajectory.reward) == (stop_reason, reward)
    assert len(trajectory.turns) == 2


async def test_seeds_differ_by_turn_and_only_by_what_they_are_for(tiny_chat: Chat) -> None:
    seeds = []
    for _ in range(2):
        engine = acting(tiny_chat, calls("echo"), calls("echo"))
        await play(tiny_chat, engine)
        seeds.append([sampling.seed for _, sampling, _, _ in engine.calls])
        assert {policy for _, _, policy, _ in engine.calls} == {POLICY}
        assert {session for _, _, _, session in engine.calls} == {str(KEY)}
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0])) == 3


async def test_actions_reach_the_environment_as_canonical_json(tiny_chat: Chat) -> None:
    trajectory = await play(tiny_chat, acting(tiny_chat, calls("echo", text="ключ"), calls("finish")))
    assert trajectory.turns[0].action["tool_calls"] == [
        {"id": "call_0_0", "name": "echo", "arguments": {"text": "ключ"}}
    ]
    assert trajectory.turns[0].messages[0]["content"] == "ключ"
    assert json.dumps(trajectory.turns[1].action)
