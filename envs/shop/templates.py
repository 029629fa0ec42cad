"""The task templates of the shop: which order is meant (selector) times what to do with it (effect).

It does not know the agent or the reward: `Template.solve` brings an app to the wanted end state, and that is all.
A held-out template is a pair never trained on, of parts that are.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from agentgrpo.envs.shop.world import STREETS, Customer, Order, World
from agentgrpo.tools.shop import OPEN, REASONS, ShopApp
from agentgrpo.types import JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The order a task is about, and whose it is."""

    customer: Customer
    order: Order


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """A way to say which order is meant. `find` returns the orders of a customer that it can mean."""

    name: str
    phrase: str
    find: Callable[[Customer], list[Order]]
    tools: tuple[str, ...] = ("find_customer", "list_orders")


Sampler: TypeAlias = Callable[[World, Target, random.Random], JsonObject]
Solver: TypeAlias = Callable[[ShopApp, Target, JsonObject], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What to do with the order. `sample` draws the instruction's other words, `solve` returns the wanted answer."""

    name: str
    wordings: tuple[str, ...]
    statuses: tuple[str, ...] | None  # of orders this can be asked for; None: any
    solve: Solver
    tools: tuple[str, ...]
    sample: Sampler = lambda world, target, rng: {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """One kind of task."""

    name: str
    level: int
    selector: Selector
    effect: Effect

    @property
    def tools(self) -> frozenset[str]:
        """Names of the tools a solution needs."""
        return frozenset(self.selector.tools + self.effect.tools)

    def targets(self, world: World) -> list[Target]:
        """Return the orders of a world this template can be about."""
        statuses = self.effect.statuses
        return [
            Target(customer=customer, order=order)
            for customer in world.customers
            for order in self.selector.find(customer)
            if statuses is None or order.status in statuses
        ]

    def target(self, world: World, goal: JsonObject) -> Target:
        """Return the order that a goal means."""
        return next(target for target in self.targets(world) if _is_meant(target, goal))

    def sample(self, world: World, rng: random.Random) -> JsonObject | None:
        """Return a goal (the instruction's parameters) and its wording; None when the world has no such order."""
        targets = self.targets(world)
        if not targets:
            return None
        target = rng.choice(targets)
        goal = _names_of(self.selector, target) | self.effect.sample(world, target, rng)
        wording = rng.choice(self.effect.wordings)
        return {"goal": goal, "instruction": wording.format(which=self.selector.phrase.format(**goal), **goal)}


def _names_of(selector: Selector, target: Target) -> JsonObject:
    if selector.name == "id":
        return {"order": target.order.id}
    item = {"item": target.order.product} if selector.name == "item" else {}
    return {"name": target.customer.name} | item


def _is_meant(target: Target, goal: JsonObject) -> bool:
    said = (goal.get("name"), goal.get("item"), goal.get("order"))
    true = (target.customer.name, target.order.product, target.order.id)
    return all(word is None or word == value for word, value in zip(said, true, strict=True))


def _pending(customer: Customer) -> list[Order]:
    found = [order for order in customer.orders if order.status == "pending"]
    return found if len(found) == 1 else []


def _dearest(customer: Customer) -> list[Order]:
    # Of two only: each order has to be opened to see what was paid, and episodes stay short.
    return [max(customer.orders, key=lambda order: order.paid)] if len(customer.orders) == 2 else []


def _sample_reason(world: World, target: Target, rng: random.Random) -> JsonObject:
    return {"reason": rng.choice(REASONS)}


def _other_street(target: Target) -> str:
    return next(street for street in target.customer.streets if street != target.order.street)


def _sample_street(world: World, target: Target, rng: random.Random) -> JsonObject:
    return {"street": _other_street(target)}


def _sample_new_street(world: World, target: Target, rng: random.Random) -> JsonObject:
    return {"street": rng.choice([street for street in STREETS if street not in target.customer.streets])}


def _products(world: World, target: Target, *, in_stock: bool) -> list[str]:
    return [name for name, _, stock in world.products if (stock > 0) == in_stock and name != target.order.product]


def _sample_stocked(world: World, target: Target, rng: random.Random) -> JsonObject:
    return {"new": rng.choice(_products(world, target, in_stock=True))}


def _sample_product(world: World, target: Target, rng: random.Random) -> JsonObject:
    choices = _products(world, target, in_stock=rng.random() < 0.5)
    return {"new": rng.choice(choices or _products(world, target, in_stock=True))}


def _cancel(app: ShopApp, target: Target, goal: JsonObject) -> None:
    app.cancel_order(target.order.id)


def _refund(app: ShopApp, target: Target, goal: JsonObject) -> None:
    app.refund_order(target.order.id, target.order.paid, goal["reason"])


def _cancel_or_refund(app: ShopApp, target: Target, goal: JsonObject) -> None:
    (_cancel if target.order.status in OPEN else _refund)(app, target, goal)


def _send(app: ShopApp, target: Target, goal: JsonObject) -> None:
    app.set_address(target.order.id, goal["street"])


def _send_other(app: ShopApp, target: Target, goal: JsonObject) -> None:
    app.set_address(target.order.id, _other_street(target))


def _send_new(app: ShopApp, target: Target, goal: JsonObject) -> None:
    app.add_address(target.customer.id, goal["street"])
    _send(app, target, goal)


def _swap(app: ShopApp, target: Target, goal: JsonObject) -> None:
    app.swap_item(target.order.id, goal["new"])


def _swap_or_cancel(app: ShopApp, target: Target, goal: JsonObject) -> None:
    (_swap if app.get_product(goal["new"])["stock"] else _cancel)(app, target, goal)


def _paid(app: ShopApp, target: Target, goal: JsonObject) -> str:
    return str(target.order.paid)


def _status(app: ShopApp, target: Target, goal: JsonObject) -> str:
    return target.order.status


_ID = Selector(name="id", phrase="order {order}", find=lambda customer: list(customer.orders), tools=())
_ITEM = Selector(
    name="item",
    phrase="the {item} of {name}",
    find=lambda customer: list(customer.orders),
    tools=("find_customer", "find_order", "list_orders"),  # the last one for the careless, who guess
)
_NEWEST = Selector(name="newest", phrase="the newest order of {name}", find=lambda customer: [customer.orders[-1]])
_PENDING = Selector(name="pending", phrase="the pending order of {name}", find=_pending)
_DEAREST = Selector(
    name="dearest",
    phrase="the most expensive order of {name}",
    find=_dearest,
    tools=("find_customer", "list_orders", "get_order"),
)

_CANCEL = Effect(
    name="cancel",
    wordings=("Cancel {which}.", "Please cancel {which}."),
    statuses=OPEN,
    solve=_cancel,
    tools=("cancel_order",),
)
_REFUND = Effect(
    name="refund",
    wordings=("Refund {which}, reason {reason}.", "Please refund {which}, reason {reason}."),
    statuses=("delivered",),
    solve=_refund,
    sample=_sample_reason,
    tools=("get_order", "refund_order"),
)
_CANCEL_OR_REFUND = Effect(
    name="cancel_or_refund",
    wordings=(
        "Cancel {which} if it has not shipped, else refund it, reason {reason}.",
        "Please cancel {which} if it has not shipped, else refund it, reason {reason}.",
    ),
    statuses=(*OPEN, "delivered"),
    solve=_cancel_or_refund,
    sample=_sample_reason,
    tools=("cancel_order", "get_order", "refund_order"),
)
_SEND = Effect(
    name="send",
    wordings=("Send {which} to {street}.", "Please send {which} to {street}."),
    statuses=OPEN,
    solve=_send,
    sample=_sample_street,
    tools=("set_address",),
)
_SEND_OTHER = Effect(
    name="send_other",
    wordings=("Send {which} to the other address.", "Please send {which} to the other address."),
    statuses=OPEN,
    solve=_send_other,
    tools=("get_order", "list_addresses", "set_address"),
)
_SEND_NEW = Effect(
    name="send_new",
    wordings=("Send {which} to the new address {street}.", "Please send {which} to the new address {street}."),
    statuses=OPEN,
    solve=_send_new,
    sample=_sample_new_street,
    tools=("add_address", "set_address"),
)
_SWAP = Effect(
    name="swap",
    wordings=("Swap {which} for a {new}.", "Please swap {which} for a {new}."),
    statuses=OPEN,
    solve=_swap,
    sample=_sample_stocked,
    tools=("swap_item",),
)
_SWAP_OR_CANCEL = Effect(
    name="swap_or_cancel",
    wordings=(
        "Swap {which} for a {new} if it is in stock, else cancel it.",
        "Please swap {which} for a {new} if it is in stock, else cancel it.",
    ),
    statuses=OPEN,
    solve=_swap_or_cancel,
    sample=_sample_product,
    tools=("get_product", "swap_item", "cancel_order"),
)
_PAID = Effect(
    name="paid",
    wordings=("How much was paid for {which}?", "Tell me how much was paid for {which}."),
    statuses=None,
    solve=_paid,
    tools=("get_order",),
)
_STATUS = Effect(
    name="status",
    wordings=("What is the status of {which}?", "Tell me the status of {which}."),
    statuses=None,
    solve=_status,
    tools=(),
)


def _template(level: int, effect: Effect, selector: Selector) -> Template:
    return Template(name=f"{effect.name}_{selector.name}", level=level, effect=effect, selector=selector)


TRAIN_TEMPLATES = (
    _template(1, _STATUS, _ID),
    _template(1, _PAID, _ID),
    _template(1, _CANCEL, _ID),
    _template(1, _SEND, _ID),
    _template(1, _REFUND, _ID),
    _template(1, _STATUS, _ITEM),
    _template(2, _CANCEL, _ITEM),
    _template(2, _CANCEL, _NEWEST),
    _template(2, _CANCEL, _PENDING),
    _template(2, _SEND, _ITEM),
    _template(2, _PAID, _ITEM),
    _template(2, _SWAP, _NEWEST),
    _template(3, _REFUND, _ITEM),
    _template(3, _CANCEL_OR_REFUND, _ITEM),
    _template(3, _SWAP_OR_CANCEL, _ITEM),
    _template(3, _SEND_NEW, _ITEM),
    _template(3, _SEND_OTHER, _ITEM),
    _template(3, _CANCEL, _DEAREST),
)
HELDOUT_TEMPLATES = (
    _template(1, _STATUS, _NEWEST),
    _template(2, _SEND, _NEWEST),
    _template(2, _SWAP, _ITEM),
    _template(2, _PAID, _PENDING),
    _template(3, _REFUND, _NEWEST),
    _template(3, _CANCEL_OR_REFUND, _NEWEST),
    _template(3, _REFUND, _DEAREST),
)
TEMPLATES = {template.name: template for template in TRAIN_TEMPLATES + HELDOUT_TEMPLATES}
