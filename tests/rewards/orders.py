"""An environment scored by the whole kit, as an author would write it."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any, ClassVar

from agentgrpo.core import ToolEnv
from agentgrpo.errors import ToolError
from agentgrpo.rewards import (
    TOOL_CALL_WEIGHTS,
    RequiredCall,
    Rubric,
    changed_paths,
    check_state,
    false_completion,
    number_match,
    outcome,
    progress,
    side_effects,
    tool_call_terms,
)
from agentgrpo.tooling import tool
from agentgrpo.types import JsonObject

RUBRIC = Rubric({"progress": 0.15, "side_effects": -0.2, "false_completion": -0.15, **TOOL_CALL_WEIGHTS})
START: JsonObject = {
    "customers": {"ann": ["o1"], "bob": ["o2", "o3"], "cid": ["o4", "o5", "o6"]},
    "orders": {f"o{n}": {"status": "open", "total": 10 * n} for n in range(1, 7)},
}
ROW: JsonObject = {"task_id": "t", "customer": "ann", "order": "o1"}


class Orders(ToolEnv):
    """Cancel a customer's order and say what it was worth; say "impossible" if that cannot be done."""

    metadata: ClassVar[dict[str, Any]] = {"isolation": "inline"}  # type: ignore[misc]

    @classmethod
    def tasks(cls, split: str = "train") -> Sequence[JsonObject]:
        return [ROW]

    def reset_task(self, task: JsonObject) -> str:
        self.data = copy.deepcopy(START)
        self.goals = {f"/orders/{task['order']}/status": "cancelled"}
        self.at_start = check_state(self.data, self.goals)
        order = {"order": task["order"]}
        self.required = (
            RequiredCall(name="find", arguments={"customer": task["customer"]}),
            RequiredCall(name="look", arguments=order, after=(0,)),
            RequiredCall(name="cancel", arguments=order, after=(0,)),
        )
        return f"Cancel the order of {task['customer']} and say its total, as a number only."

    @tool
    def find(self, customer: str) -> list[str]:
        """Return a customer's orders."""
        if customer not in self.data["customers"]:
            raise ToolError(f"nobody is called {customer}")
        return list(self.data["customers"][customer])

    @tool
    def look(self, order: str) -> JsonObject:
        """Show an order."""
        return dict(self._order(order))

    @tool
    def cancel(self, order: str) -> str:
        """Cancel an order."""
        self._order(order)["status"] = "cancelled"
        return "cancelled"

    @tool
    def reopen(self, order: str) -> str:
        """Take a cancellation back."""
        self._order(order)["status"] = "open"
        return "open"

    def reward(self) -> dict[str, float]:
        """Score by the final state and the answer; everything else is shaping."""
        checks = check_state(self.data, self.goals)
        changes = changed_paths(START, self.data)
        harm = side_effects(changes, self.goals)
        worth = START["orders"][self.task["order"]]["total"]
        reached = outcome(checks, is_clean=not harm) * number_match(self.answer, worth)
        return RUBRIC.score(
            reached,
            progress=progress(checks, self.at_start),
            side_effects=harm,
            false_completion=false_completion(reached, self.answer, gave_up="impossible"),
            **tool_call_terms(self.calls, self.required),
        )

    def oracle(self, **_: Any) -> Any:
        """Do what is asked."""
        yield self.call("find", customer=self.task["customer"])
        messages = yield self.call("look", order=self.task["order"])
        total = json.loads(messages[-1]["content"])["total"]
        yield self.call("cancel", order=self.task["order"])
        yield self.say(str(total))

    def snapshot(self) -> bytes:
        return json.dumps([self.dump_episode(), self.data]).encode()

    def restore(self, data: bytes) -> None:
        episode, self.data = json.loads(data)
        self.load_episode(episode)

    def state(self) -> JsonObject:
        return self.data

    def _order(self, order: str) -> JsonObject:
        if order not in self.data["orders"]:
            raise ToolError(f"there is no order {order}")
        found: JsonObject = self.data["orders"][order]
        return found
