"""Where an episode ends between the calls of one message."""

from __future__ import annotations

import json

import agentgrpo as ag
from agentgrpo.types import JsonObject


class OneGuess(ag.ToolEnv):
    """Guess a digit, once."""

    def reset_task(self, task: JsonObject) -> str:
        self.guesses: list[int] = []
        return "Which digit?"

    @ag.tool
    def guess(self, digit: int) -> str:
        """Guess it."""
        self.guesses.append(digit)
        return "so be it"

    def is_done(self) -> bool:
        return bool(self.guesses)

    def reward(self) -> float:
        return float(7 in self.guesses)


def test_no_call_is_made_after_the_end_so_that_many_guesses_in_one_message_are_one() -> None:
    env = OneGuess()
    env.reset(seed=0)
    calls = [{"id": f"call_{digit}", "name": "guess", "arguments": {"digit": digit}} for digit in range(10)]
    unknown = {"id": "call_x", "name": "no_such_tool", "arguments": {}}
    _, reward, terminated, _, info = env.step(json.dumps({"content": "", "tool_calls": [unknown, *calls]}))
    assert (env.guesses, reward, terminated) == ([0], 0.0, True)
    told = [message["content"] for message in info["messages"]]
    assert "there is no tool" in told[0] and told[1] == "so be it"
    assert len(told) == 11 and all("the episode was over before this call" in one for one in told[2:])
    assert [call.error for call in env.calls] == ["unknown_tool", None, *["tool_error"] * 9]
