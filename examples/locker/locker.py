"""A custom environment in one class: find the locker that belongs to a name and open it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import agentgrpo as ag


class Locker(ag.ToolEnv):
    """Find the locker that belongs to a name and open it."""

    def reset_task(self, task: dict[str, Any]) -> str:  # task: one row (a dict) of the training or held-out set
        self.lockers, self.opened = task["lockers"], None
        return f"Open the locker of {task['name']}."

    @ag.tool
    def find(self, name: str) -> str:
        """Return the number of the locker that belongs to a name."""
        if name not in self.lockers:
            raise ag.ToolError(f"nobody is called {name}")  # the model reads this, the run goes on
        return str(self.lockers[name])

    @ag.tool
    async def unlock(self, number: str) -> str:
        """Open a locker by its number."""
        self.opened = number
        return "open"

    def reward(self) -> dict[str, float]:
        return {"outcome": float(self.opened == self.lockers[self.task["name"]])}

    # Only for the warm start of a model that cannot act yet: how it is done, now and then with the wrong locker.
    def oracle(self, *, quality: float = 1.0, rng: random.Random | None = None) -> Iterator[dict[str, Any]]:
        """Yield the actions that solve the task; below quality 1 it sometimes opens any locker."""
        rng = rng or random.Random(0)
        yield self.call("find", name=self.task["name"])
        right = self.lockers[self.task["name"]]
        yield self.call("unlock", number=right if rng.random() < quality else rng.choice(list(self.lockers.values())))
        yield self.say("done")
