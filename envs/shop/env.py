"""The shop environment: tasks over the back office, scored by the final state and the answer.

It does not know how the agent works; it only shows it the tools.
"""

from __future__ import annotations

import json
import random
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from agentgrpo.core import ToolEnv
from agentgrpo.envs.shop.oracle import Clerk
from agentgrpo.envs.shop.tasks import SPLITS, shop_tasks
from agentgrpo.envs.shop.templates import TEMPLATES, Template
from agentgrpo.envs.shop.world import load_world, make_world
from agentgrpo.errors import EnvError, TaskError, nearest
from agentgrpo.tooling import tool
from agentgrpo.tools.appstate import patch
from agentgrpo.tools.shop import ShopApp
from agentgrpo.types import Json, JsonObject, Message

SIDE_EFFECTS = -0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What a task starts from and what it wants."""

    snapshot: bytes
    start: JsonObject  # state
    changes: frozenset[str]  # the wanted changes, each a JSON Patch operation as text
    answer: str | None  # None: any final message will do


class Shop(ToolEnv):
    """A clerk's desk in an online shop: find customers and orders, cancel, refund, send, swap, answer.

    Args:
        tasks: Rows, or a file of rows; None means the shipped training rows.
        reward_weights: Weight of each reward term.
        tools: Names of the tools to offer; None means all.
        templates: Names of the task templates to use, of the shipped tasks; None means all.
        levels: Levels (1 to 3) to use, of the shipped tasks; None means all.
        render_mode: "ansi" or None, as in Gymnasium.
    """

    metadata: ClassVar[dict[str, Any]] = {"isolation": "inline"}  # type: ignore[misc]  # as in AgentEnv
    splits = SPLITS
    system_prompt = "You run a shop. Use the tools, then answer with the value asked for, or done."

    def __init__(
        self,
        *,
        tasks: str | Path | Sequence[JsonObject] | None = None,
        reward_weights: Mapping[str, float] | None = None,
        tools: Sequence[str] | None = None,
        templates: Sequence[str] | None = None,
        levels: Sequence[int] | None = None,
        render_mode: str | None = None,
    ) -> None:
        if tasks is not None and (templates is not None or levels is not None):
            raise EnvError("templates and levels choose among the shipped tasks: leave them out, or leave out tasks")
        rows = shop_tasks("train", templates=templates, levels=levels) if tasks is None else tasks
        super().__init__(tasks=rows, reward_weights=reward_weights, tools=tools, render_mode=render_mode)
        self._app = ShopApp()
        self._case: Case | None = None
        if tools is not None and not isinstance(rows, str | Path):
            _check_tools({*(row["template"] for row in rows), *(templates or ())}, tools)

    @classmethod
    def tasks(
        cls, split: str = "train", *, templates: Sequence[str] | None = None, levels: Sequence[int] | None = None
    ) -> Sequence[JsonObject]:
        """Return the rows of `train`, `heldout` or `heldout_templates`, optionally of some templates or levels only.

        A name or level that a split does not have leaves out nothing else: one list of names can serve all splits.
        """
        return shop_tasks(split, templates=templates, levels=levels)

    def reset_task(self, task: JsonObject) -> str:
        """Set up the task's world and return its instruction."""
        self._case = _case_of(task)
        self._app.restore(self._case.snapshot)
        return str(task["instruction"])

    @tool
    def find_customer(self, name: str) -> JsonObject:
        """Find a customer by full name."""
        return self._app.find_customer(name)

    @tool
    def list_orders(self, customer: str) -> list[JsonObject]:
        """List a customer's orders, oldest first."""
        return self._app.list_orders(customer)

    @tool
    def find_order(self, customer: str, item: str) -> JsonObject:
        """Find a customer's order by its item."""
        return self._app.find_order(customer, item)

    @tool
    def get_order(self, order: str) -> JsonObject:
        """Show an order and what was paid."""
        return self._app.get_order(order)

    @tool
    def cancel_order(self, order: str) -> JsonObject:
        """Cancel an order that has not left."""
        return self._app.cancel_order(order)

    @tool
    def refund_order(self, order: str, amount: int, reason: str) -> JsonObject:
        """Refund an order that has arrived. Reasons: damaged, late, wrong, missing, unwanted."""
        return self._app.refund_order(order, amount, reason)

    @tool
    def set_address(self, order: str, street: str) -> JsonObject:
        """Send an order that has not left to an address of its customer."""
        return self._app.set_address(order, street)

    @tool
    def list_addresses(self, customer: str) -> list[str]:
        """List a customer's addresses."""
        return self._app.list_addresses(customer)

    @tool
    def add_address(self, customer: str, street: str) -> JsonObject:
        """Add an address to a customer."""
        return self._app.add_address(customer, street)

    @tool
    def get_product(self, item: str) -> JsonObject:
        """Show an item's price and stock."""
        return self._app.get_product(item)

    @tool
    def swap_item(self, order: str, item: str) -> JsonObject:
        """Change the item of an order that has not left."""
        return self._app.swap_item(order, item)

    def reward(self) -> dict[str, float]:
        """Return `outcome` (1 when exactly the wanted changes were made and the answer is right) and `side_effects`."""
        case = self._require_case()
        changes = _texts(patch(case.start, self._app.state()))
        answered = case.answer is None or normalize(self.answer or "") == normalize(case.answer)
        return {
            "outcome": float(changes == case.changes and answered),
            "side_effects": SIDE_EFFECTS if changes - case.changes else 0.0,
        }

    def oracle(
        self, *, quality: float = 1.0, rng: random.Random | None = None
    ) -> Generator[JsonObject, tuple[Message, ...], None]:
        """Solve the current task from what the tools answer; below quality 1 with wrong decisions."""
        template = _template(self.task)
        clerk = Clerk(self, self.task["goal"], quality, rng or random.Random(0))
        return clerk.work(template.selector.name, template.effect.name)

    def snapshot(self) -> bytes:
        """Return the task, the answer, the calls and the database."""
        header = json.dumps(self.dump_episode())
        return header.encode() + b"\n" + self._app.snapshot()

    def restore(self, data: bytes) -> None:
        """Go back to a snapshot, of this environment or another one."""
        header, database = data.split(b"\n", 1)
        self.load_episode(json.loads(header))
        self._case = _case_of(self.task)
        self._app.restore(database)

    def state(self) -> Json:
        """Return the shop's tables."""
        return self._app.state()

    def state_hash(self) -> str:
        """Return the hash of the shop's content."""
        return self._app.state_hash()

    def state_diff(self) -> list[JsonObject]:
        """Return what changed since the last call, as JSON Patch operations."""
        return self._app.state_diff()

    def close(self) -> None:
        """Free the database."""
        self._app.close()
        super().close()

    def _require_case(self) -> Case:
        if self._case is None:
            raise EnvError("the shop has no task yet: call reset() first")
        return self._case


def normalize(answer: str) -> str:
    """Return an answer without case, punctuation and extra white space."""
    kept = "".join(character if character.isalnum() else " " for character in answer.casefold())
    return " ".join(kept.split())


def _texts(operations: list[JsonObject]) -> frozenset[str]:
    return frozenset(json.dumps(operation, sort_keys=True) for operation in operations)


def _case_of(task: JsonObject) -> Case:
    return _case(_template(task).name, task["seed"], json.dumps(task["goal"], sort_keys=True))


@lru_cache(maxsize=256)
def _case(template_name: str, seed: int, goal_json: str) -> Case:
    """Build a task's case; cached, because the episodes of a group share it."""
    template, goal, world, app = TEMPLATES[template_name], json.loads(goal_json), make_world(seed), ShopApp()
    load_world(app, world)
    snapshot, start = app.snapshot(), app.state()
    answer = template.effect.solve(app, template.target(world, goal), goal)
    changes = _texts(patch(start, app.state()))
    app.close()
    return Case(snapshot=snapshot, start=start, changes=changes, answer=answer)


def _template(task: JsonObject) -> Template:
    missing = [key for key in ("template", "seed", "goal", "instruction") if key not in task]
    if missing:
        raise TaskError(f"a shop task has no '{missing[0]}'. Use rows of Shop.tasks(split).")
    name = task["template"]
    if name not in TEMPLATES:
        raise TaskError(f"the shop has no template '{name}'.{nearest(name, TEMPLATES)}")
    return TEMPLATES[name]


def _check_tools(template_names: set[str], tools: Sequence[str]) -> None:
    for name in sorted(template_names & TEMPLATES.keys()):
        missing = sorted(TEMPLATES[name].tools - set(tools))
        if missing:
            raise EnvError(f"the tasks '{name}' need the tool '{missing[0]}': offer it, or leave these tasks out")
