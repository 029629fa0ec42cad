"""Episodes of plain Gymnasium environments of text: rewards along the way, and what breaks the contract."""

from __future__ import annotations

from typing import Any

import pytest

from agentgrpo.chat import Chat
from agentgrpo.core import AgentEnv
from agentgrpo.types import Boundary, JsonObject, StopReason
from tests.rollout.stages import acting, check_tokens, play, says


class Echo(AgentEnv):
    """A plain Gymnasium environment of text, with rewards along the way and no score of its own."""

    metadata = {"isolation": "inline", "action_format": "text"}  # noqa: RUF012
    answer: Any = ("again", 0.5, False, False, {})

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, JsonObject]:
        super().reset(seed=seed)
        self.said: list[str] = []
        return "Say something.", {}

    def step(self, action: str) -> Any:
        self.said.append(action)
        return ("enough", 1.0, True, False, {"said": self.said}) if len(self.said) == 3 else self.answer


async def test_a_text_environment_gets_text_and_its_observation_is_the_users(tiny_chat: Chat) -> None:
    engine = acting(tiny_chat, says("one"), says("two"), says("three"))
    trajectory = await play(tiny_chat, engine, env=Echo)
    assert trajectory.reward == 2.0
    assert trajectory.prompt == ({"role": "user", "content": "Say something."},)
    last = tiny_chat.decode(engine.calls[-1][0])
    assert "again" in last
    assert trajectory.stop_reason is StopReason.ANSWERED
    check_tokens(trajectory, engine)
    cut = await play(tiny_chat, acting(tiny_chat, says("one"), says("two")), env=Echo, max_turns=2)
    assert (cut.stop_reason, cut.reward) == (StopReason.MAX_TURNS, 1.0)


class Shaping(Echo):
    """Gives terms with its first reward, which is not its last, and scores what was cut off."""

    answer = ("on", 1.0, False, False, {"reward_terms": {"shape": 1.0}})

    def step(self, action: str) -> Any:
        self.said.append(action)
        return self.answer if len(self.said) == 1 else ("on", -5.0, False, len(self.said) == 3, {})

    def score(self) -> dict[str, float]:
        return {"outcome": -9.0}


@pytest.mark.parametrize(
    ("limits", "stop_reason"),
    [
        ({}, StopReason.MAX_TURNS),  # the environment truncates
        ({"max_turns": 2}, StopReason.MAX_TURNS),
        ({"max_turns": 1}, StopReason.MAX_TURNS),
        ({"max_tokens": 2}, StopReason.MAX_TOKENS),
    ],
)
async def test_terms_of_an_earlier_step_are_not_the_score_of_what_was_cut_off(
    tiny_chat: Chat, limits: dict[str, Any], stop_reason: StopReason
) -> None:
    trajectory = await play(tiny_chat, acting(tiny_chat), env=Shaping, **limits)
    assert trajectory.stop_reason is stop_reason
    assert (trajectory.reward, trajectory.reward_terms) == (-9.0, {"outcome": -9.0})


async def test_terms_of_the_step_that_was_truncated_are_its_score(
    tiny_chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Shaping, "answer", ("on", 1.0, False, True, {"reward_terms": {"shape": 1.0}}))
    trajectory = await play(tiny_chat, acting(tiny_chat), env=Shaping)
    assert trajectory.stop_reason is StopReason.MAX_TURNS
    assert (trajectory.reward, trajectory.reward_terms) == (1.0, {"shape": 1.0})


@pytest.mark.parametrize(
    "answer",
    [
        ("again", None, False, False, {}),
        ("again", 1.0, False, {}),
        ("again", 1.0, False, False, None),
        ("again", 1.0, True, False, {"reward_terms": {"outcome": "high"}}),
        ("again", 1.0, True, False, {"reward_terms": [1.0]}),
        ("again", 1.0, False, False, {"messages": ["hello"]}),
        None,
    ],
)
async def test_an_environment_that_breaks_the_contract_breaks_one_episode(
    tiny_chat: Chat, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    monkeypatch.setattr(Echo, "answer", answer)
    trajectory = await play(tiny_chat, acting(tiny_chat), env=Echo)
    assert trajectory.stop_reason is StopReason.FAILED
    assert trajectory.failure is not None
    assert trajectory.failure.boundary in (Boundary.ENV, Boundary.PARSE)
