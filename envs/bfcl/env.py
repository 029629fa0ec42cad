"""BFCL's multi-turn tasks as an environment: the user's turns, the apps' tools, and the checks after each turn.

A turn ends with a message without calls. Then the apps' state has to equal, and the results so far have to contain,
what the right calls lead to; the episode ends at the first turn that fails. It does not know who found
those calls.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from agentgrpo.core import ToolEnv
from agentgrpo.envs.bfcl.calls import answer_of, methods_of, named_arguments
from agentgrpo.envs.bfcl.data import CATEGORIES, Gold, described, entries, open_apps
from agentgrpo.errors import EnvError, TaskError, ToolError
from agentgrpo.tasks import require_split
from agentgrpo.tooling import Tool, ToolResult
from agentgrpo.types import BadCall, Json, JsonObject, Message, ToolCall

TRAIN = 150  # of the 200 base tasks
SPLITS = ("train", "heldout", *CATEGORIES[1:])
MORE_TOOLS = "I have updated some more functions you can choose from. What about now?"  # the leaderboard's words


class Bfcl(ToolEnv):
    """Carry out what a user asks for, turn by turn, with the tools of several apps.

    Args:
        reward: "official" is 1 when every turn passes; "turns" is the share of the turns that passed, of those in which
            something had to be called.
        tasks: Rows with an "entry" each, the id of a task; None means those shipped.
        reward_weights: Weight of each reward term.
        render_mode: "ansi" or None, as in Gymnasium.
    """

    # What is computed with a model's numbers can take forever and hold the interpreter: only a process can be stopped.
    metadata: ClassVar[dict[str, Any]] = {"isolation": "process"}  # type: ignore[misc]  # as in AgentEnv
    splits = SPLITS

    def __init__(
        self,
        *,
        reward: Literal["official", "turns"] = "official",
        tasks: str | Path | Sequence[JsonObject] | None = None,
        reward_weights: Mapping[str, float] | None = None,
        render_mode: str | None = None,
    ) -> None:
        if reward not in ("official", "turns"):
            raise EnvError(f"reward is {reward!r}; expected 'official' or 'turns'")
        super().__init__(tasks=tasks, reward_weights=reward_weights, render_mode=render_mode)
        self._reward, self._entry = reward, next(iter(entries().values()))

    @classmethod
    def tasks(cls, split: str = "train") -> Sequence[JsonObject]:
        """Return the rows of a split: the first 150 base tasks, the other 50, or a whole category of 200."""
        require_split(split, SPLITS, "BFCL")
        category = "base" if split in ("train", "heldout") else split
        ids = [entry for entry in entries() if entry.startswith(f"multi_turn_{category}_")]
        ids = {"train": ids[:TRAIN], "heldout": ids[TRAIN:]}.get(split, ids)
        return [{"task_id": entry, "entry": entry} for entry in ids]

    def reset_task(self, task: JsonObject) -> str:
        """Open the apps and return the user's first words."""
        if task["entry"] not in entries():
            raise TaskError(f"BFCL has no multi-turn task '{task['entry']}'; expected such as multi_turn_base_0")
        self._entry = entries()[task["entry"]]
        self._apps, self._right_apps = open_apps(self._entry), open_apps(self._entry)
        self._methods = methods_of(self._apps)
        self._all_tools = {
            name: _tool(name, *about, partial(self._call, name))
            for app in self._entry.apps
            for name, about in described(app).items()
        }
        self._turn, self._passed, self._failed, self._calls = 0, 0, False, 0
        self._results: list[str] = []
        return self._asked()

    def extra_tools(self) -> list[Tool]:
        """Return the tools of the apps that are there in this turn."""
        missing = {name for turn, names in self._entry.missed.items() if turn > self._turn for name in names}
        hidden = missing | self._entry.excluded
        return [tool for name, tool in self._all_tools.items() if name not in hidden]

    def respond(self, content: str) -> str | None:
        """Check the turn and return the user's next words, or None at the end and after a failure."""
        gold = self._entry.gold[self._turn]
        self._failed = not self._check(gold)
        self._passed += bool(gold) and not self._failed
        self._turn, self._calls = self._turn + 1, 0
        if self._failed or self._turn == len(self._entry.gold):
            return None
        if self._turn in self._entry.missed:
            self._offer(self.extra_tools())
        return self._asked()

    def reward(self) -> dict[str, float]:
        """Return the official result, or the share of turns that passed."""
        if self._reward == "turns":
            return {"outcome": self._passed / sum(map(bool, self._entry.gold))}
        return {"outcome": float(self._turn == len(self._entry.gold) and not self._failed)}

    def oracle(
        self, *, quality: float = 1.0, rng: random.Random | None = None
    ) -> Generator[JsonObject, tuple[Message, ...], None]:
        """Make the right calls; below quality 1 each is left out with probability 1 - quality."""
        rng = rng or random.Random(0)
        for turn in self._entry.gold:
            for gold in turn:
                if rng.random() < quality:
                    yield self.call(gold.name, **named_arguments(self._methods[gold.name], gold))
            yield self.say("Done.")

    def _run(self, call: ToolCall | BadCall) -> ToolResult:
        """Run a call; as on the leaderboard, a tool that is not offered answers too (one right answer needs it to)."""
        if isinstance(call, ToolCall) and call.name in self._all_tools and call.name not in self.tools:
            return self._all_tools[call.name].call(call.arguments)
        return super()._run(call)

    def _asked(self) -> str:
        return self._entry.questions[self._turn] or MORE_TOOLS

    def _call(self, name: str, /, **arguments: Json) -> str:
        self._calls += 1
        result, is_error = answer_of(self._methods[name], (), arguments)
        self._results.append(result)
        if is_error:
            raise ToolError(result)
        return result

    def _check(self, gold: tuple[Gold, ...]) -> bool:
        """Apply the leaderboard's checks of one turn; without right calls there is nothing to check."""
        from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker import response_checker, state_checker

        right = methods_of(self._right_apps)
        wanted = [answer_of(right[call.name], call.positional, call.named)[0] for call in gold]
        if not gold:
            return True
        is_same = self._calls > 0 and state_checker(self._apps, self._right_apps)["valid"]
        return is_same and bool(response_checker(self._results, wanted, self._turn)["valid"])


def _tool(name: str, description: str, parameters: JsonObject, function: Callable[..., Any]) -> Tool:
    return Tool(name=name, description=description, parameters=parameters, function=function, validate=dict)
