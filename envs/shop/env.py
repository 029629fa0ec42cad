"""The shop environment: tasks over the back office, scored by the final state and the answer.

It does not know how the agent works; it only shows it the tools.
"""

from __future__ import annotations

import json
import random
from collections.abc import Generator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from agentgrpo.envs.app_env import AppEnv, Case, make_case
from agentgrpo.envs.shop.oracle import Clerk
from agentgrpo.envs.shop.tasks import SPLITS, shop_tasks
from agentgrpo.envs.shop.templates import TEMPLATES, Template
from agentgrpo.envs.shop.world import load_world, make_world
from agentgrpo.errors import EnvError, TaskError, nearest
from agentgrpo.tooling import tool
from agentgrpo.tools.shop import ShopApp
from agentgrpo.types import JsonObject, Message


class Shop(AppEnv):
    """A clerk's desk in an online shop: find customers and orders, cancel, refund, send, swap, answer.

    Args:
        tasks: Rows, or a file of rows; None means the shipped training rows.
        reward_weights: Weight of each reward term.
        tools: Names of the tools to offer; None means all.
        templates: Names of the task templates to use, of the shipped tasks; None means all.
        levels: Levels (1 to 3) to use, of the shipped tasks; None means all.
        render_mode: "ansi" or None, as in Gymnasium.
    """

    splits = SPLITS
    system_prompt = "You run a shop. Use the tools, then answer with the value asked for, or done."
    app: ShopApp

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
        self.app = ShopApp()
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

    def case_of(self, task: JsonObject) -> Case:
        """Return what a task starts from and what it wants."""
        return _case(_template(task).name, task["seed"], json.dumps(task["goal"], sort_keys=True))

    @tool
    def find_customer(self, name: str) -> JsonObject:
        """Find a customer by full name."""
        return self.app.find_customer(name)

    @tool
    def list_orders(self, customer: str) -> list[JsonObject]:
        """List a customer's orders, oldest first."""
        return self.app.list_orders(customer)

    @tool
    def find_order(self, customer: str, item: str) -> JsonObject:
        """Find a customer's order by its item."""
        return self.app.find_order(customer, item)

    @tool
    def get_order(self, order: str) -> JsonObject:
        """Show an order and what was paid."""
        return self.app.get_order(order)

    @tool
    def cancel_order(self, order: str) -> JsonObject:
        """Cancel an order that has not left."""
        return self.app.cancel_order(order)

    @tool
    def refund_order(self, order: str, amount: int, reason: str) -> JsonObject:
        """Refund an order that has arrived. Reasons: damaged, late, wrong, missing, unwanted."""
        return self.app.refund_order(order, amount, reason)

    @tool
    def set_address(self, order: str, street: str) -> JsonObject:
        """Send an order that has not left to an address of its customer."""
        return self.app.set_address(order, street)

    @tool
    def list_addresses(self, customer: str) -> list[str]:
        """List a customer's addresses."""
        return self.app.list_addresses(customer)

    @tool
    def add_address(self, customer: str, street: str) -> JsonObject:
        """Add an address to a customer."""
        return self.app.add_address(customer, street)

    @tool
    def get_product(self, item: str) -> JsonObject:
        """Show an item's price and stock."""
        return self.app.get_product(item)

    @tool
    def swap_item(self, order: str, item: str) -> JsonObject:
        """Change the item of an order that has not left."""
        return self.app.swap_item(order, item)

    def oracle(
        self, *, quality: float = 1.0, rng: random.Random | None = None
    ) -> Generator[JsonObject, tuple[Message, ...], None]:
        """Solve the current task from what the tools answer; below quality 1 with wrong decisions."""
        template = _template(self.task)
        clerk = Clerk(self, self.task["goal"], quality, rng or random.Random(0))
        return clerk.work(template.selector.name, template.effect.name)


@lru_cache(maxsize=256)
def _case(template_name: str, seed: int, goal_json: str) -> Case:
    """Build a task's case; cached, because the episodes of a group share it."""
    template, goal, world, app = TEMPLATES[template_name], json.loads(goal_json), make_world(seed), ShopApp()
    load_world(app, world)
    case = make_case(app, lambda: template.effect.solve(app, template.target(world, goal), goal))
    app.close()
    return case


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
