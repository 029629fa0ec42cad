from __future__ import annotations

import json
from typing import Any

import pytest

import agentgrpo as ag
from agentgrpo.cli.hand import Hand
from agentgrpo.envs.lockbox.env import Lockbox
from agentgrpo.registry import resolve_env
from agentgrpo.tooling import as_tool
from agentgrpo.types import JsonObject

TASK = ag.load_tasks(Lockbox.tasks())[0]


class WithoutSnapshot(Lockbox):
    snapshot = None  # type: ignore[assignment]


class Growing(Lockbox):
    """Offers another tool after the first press."""

    def wait(self) -> str:
        """Wait."""
        return "waited"

    def extra_tools(self) -> list[Any]:
        return super().extra_tools()

    def step(self, action: str) -> Any:
        result = super().step(action)
        if self.position == 1:
            self.tools = self.tools | {"wait": as_tool(self.wait)}
            return (*result[:4], result[4] | self._info(result[4]["messages"]))
        return result


def press(hand: Hand, digit: int) -> None:
    call = {"id": "call_0", "name": "press", "arguments": {"digit": digit}}
    hand.step(json.dumps({"content": "", "tool_calls": [call]}))


def digits(hand: Hand) -> list[int]:
    state: JsonObject = hand.state
    return list(state["digits"])


@pytest.mark.parametrize("env", [Lockbox, WithoutSnapshot])
def test_a_step_says_what_changed_and_undo_goes_back(env: Any) -> None:
    hand = Hand(resolve_env(env), TASK, 0)
    begun = hand.begin()
    assert [message["role"] for message in begun.messages] == ["system", "user"]
    assert (begun.reward, begun.terms, begun.diff, begun.is_over) == (0.0, {"outcome": 0.0}, (), False)
    right = digits(hand)
    press(hand, right[0])
    first = hand.last
    assert first.terms == {"outcome": 0.25}
    assert [operation["path"] for operation in first.diff] == ["/hits", "/position"]
    press(hand, (right[1] + 1) % 10)
    assert hand.undo()
    assert (hand.last, len(hand.actions)) == (first, 1)
    for digit in right[1:]:
        press(hand, digit)
    hand.step("done")
    assert (hand.last.is_over, hand.last.is_truncated, hand.last.reward) == (True, False, 1.0)
    assert hand.undo()
    assert not hand.last.is_over
    while hand.undo():
        pass
    assert hand.heard == [begun]
    hand.close()


def test_where_a_limit_counts_steps_undo_plays_again() -> None:
    import gymnasium

    gymnasium.register("tests/ShortBox-v0", entry_point="agentgrpo.envs.lockbox.env:Lockbox", max_episode_steps=2)
    hand = Hand(resolve_env("tests/ShortBox-v0"), TASK, 0)
    hand.begin()
    press(hand, 0)
    press(hand, 0)
    assert hand.last.is_truncated
    assert hand.undo()
    press(hand, 0)
    assert hand.last.is_truncated
    hand.close()


def test_tools_that_appear_are_known() -> None:
    hand = Hand(resolve_env(Growing), TASK, 0)
    before = {tool["function"]["name"] for tool in hand.begin().tools}
    press(hand, 0)
    assert {tool["function"]["name"] for tool in hand.last.tools} - before == {"wait"}
    hand.close()
