"""The shop environment: tasks over the back office, scored by the final state and the answer.

It does not know how the agent works; it only shows it the tools.
"""

from __future__ import annotations

import random
from collections.abc import Generator

from agentgrpo.envs.attempt import work
from agentgrpo.envs.shop.oracle import ACT, SELECT, Clerk
from agentgrpo.envs.shop.tasks import SHOP_DRAW, SHOP_ROWS
from agentgrpo.envs.shop.templates import TEMPLATES
from agentgrpo.envs.template_env import TemplateEnv
from agentgrpo.tooling import tool
from agentgrpo.tools.shop import ShopApp
from agentgrpo.types import JsonObject, Message


class Shop(TemplateEnv):
    """A clerk's desk in an online shop: find customers and orders, cancel, refund, send, swap, answer."""

    system_prompt = "You run a shop. Use the tools, then answer with the value asked for, or done."
    draw = SHOP_DRAW
    shipped = SHOP_ROWS
    app_type = ShopApp
    app: ShopApp

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
        template = TEMPLATES[self.task["template"]]
        clerk = Clerk(self, self.task["goal"], quality, rng or random.Random(0))
        return work(clerk, SELECT[template.selector.name], ACT[template.effect.name])
