"""The task templates of the shop: which order is meant (selector) times what to do with it (effect).

It does not know the agent or the reward.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from agentgrpo.envs.shop.world import STREETS, Customer, Order, World
from agentgrpo.envs.templates import Effect, Selector, pair, please
from agentgrpo.tools.shop import OPEN, REASONS, ShopApp
from agentgrpo.types import JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The order a task is about, whose it is, and the words of the instruction that say so."""

    customer: Customer
    order: Order
    words: JsonObject


ShopEffect: TypeAlias = Effect[ShopApp, World, Target]


def _finder(find: Callable[[Customer], list[Order]], *words: str) -> Callable[[World], list[Target]]:
    """Return what finds the orders in a world that are meant when each customer's can be `find`."""

    def found(world: World) -> list[Target]:
        return [
            _target(customer, order, *(words or ("name",))) for customer in world.customers for order in find(customer)
        ]

    return found


def _target(customer: Customer, order: Order, *words: str) -> Target:
    said = {"name": customer.name, "item": order.product, "order": order.id}
    return Target(customer=customer, order=order, words={word: said[word] for word in words})


def _any(customer: Customer) -> list[Order]:
    return list(customer.orders)


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


def _is(*statuses: str) -> Callable[[Target], bool]:
    return lambda target: target.order.status in statuses


_LIST = ("find_customer", "list_orders")
_ID = Selector(name="id", phrase="order {order}", find=_finder(_any, "order"), tools=())
_ITEM = Selector(
    name="item",
    phrase="the {item} of {name}",
    find=_finder(_any, "name", "item"),
    tools=(*_LIST, "find_order"),  # the second one for the careless, who guess
)
_NEWEST = Selector(
    name="newest",
    phrase="the newest order of {name}",
    find=_finder(lambda customer: [customer.orders[-1]]),
    tools=_LIST,
)
_PENDING = Selector(name="pending", phrase="the pending order of {name}", find=_finder(_pending), tools=_LIST)
_DEAREST = Selector(
    name="dearest", phrase="the most expensive order of {name}", find=_finder(_dearest), tools=(*_LIST, "get_order")
)

_CANCEL: ShopEffect = Effect(
    name="cancel",
    wordings=please("Cancel {which}."),
    fits=_is(*OPEN),
    solve=_cancel,
    tools=("cancel_order",),
)
_REFUND: ShopEffect = Effect(
    name="refund",
    wordings=please("Refund {which}, reason {reason}."),
    fits=_is("delivered"),
    solve=_refund,
    sample=_sample_reason,
    tools=("get_order", "refund_order"),
)
_CANCEL_OR_REFUND: ShopEffect = Effect(
    name="cancel_or_refund",
    wordings=please("Cancel {which} if it has not shipped, else refund it, reason {reason}."),
    fits=_is(*OPEN, "delivered"),
    solve=_cancel_or_refund,
    sample=_sample_reason,
    tools=("cancel_order", "get_order", "refund_order"),
)
_SEND: ShopEffect = Effect(
    name="send",
    wordings=please("Send {which} to {street}."),
    fits=_is(*OPEN),
    solve=_send,
    sample=_sample_street,
    tools=("set_address",),
)
_SEND_OTHER: ShopEffect = Effect(
    name="send_other",
    wordings=please("Send {which} to the other address."),
    fits=_is(*OPEN),
    solve=_send_other,
    tools=("get_order", "list_addresses", "set_address"),
)
_SEND_NEW: ShopEffect = Effect(
    name="send_new",
    wordings=please("Send {which} to the new address {street}."),
    fits=_is(*OPEN),
    solve=_send_new,
    sample=_sample_new_street,
    tools=("add_address", "set_address"),
)
_SWAP: ShopEffect = Effect(
    name="swap",
    wordings=please("Swap {which} for a {new}."),
    fits=_is(*OPEN),
    solve=_swap,
    sample=_sample_stocked,
    tools=("swap_item",),
)
_SWAP_OR_CANCEL: ShopEffect = Effect(
    name="swap_or_cancel",
    wordings=please("Swap {which} for a {new} if it is in stock, else cancel it."),
    fits=_is(*OPEN),
    solve=_swap_or_cancel,
    sample=_sample_product,
    tools=("get_product", "swap_item", "cancel_order"),
)
_PAID: ShopEffect = Effect(
    name="paid",
    wordings=("How much was paid for {which}?", "Tell me how much was paid for {which}."),
    solve=_paid,
    tools=("get_order",),
)
_STATUS: ShopEffect = Effect(
    name="status",
    wordings=("What is the status of {which}?", "Tell me the status of {which}."),
    solve=_status,
    tools=(),
)


TRAIN_TEMPLATES = (
    pair(1, _STATUS, _ID),
    pair(1, _PAID, _ID),
    pair(1, _CANCEL, _ID),
    pair(1, _SEND, _ID),
    pair(1, _REFUND, _ID),
    pair(1, _STATUS, _ITEM),
    pair(2, _CANCEL, _ITEM),
    pair(2, _CANCEL, _NEWEST),
    pair(2, _CANCEL, _PENDING),
    pair(2, _SEND, _ITEM),
    pair(2, _PAID, _ITEM),
    pair(2, _SWAP, _NEWEST),
    pair(3, _REFUND, _ITEM),
    pair(3, _CANCEL_OR_REFUND, _ITEM),
    pair(3, _SWAP_OR_CANCEL, _ITEM),
    pair(3, _SEND_NEW, _ITEM),
    pair(3, _SEND_OTHER, _ITEM),
    pair(3, _CANCEL, _DEAREST),
)
HELDOUT_TEMPLATES = (
    pair(1, _STATUS, _NEWEST),
    pair(2, _SEND, _NEWEST),
    pair(2, _SWAP, _ITEM),
    pair(2, _PAID, _PENDING),
    pair(3, _REFUND, _NEWEST),
    pair(3, _CANCEL_OR_REFUND, _NEWEST),
    pair(3, _REFUND, _DEAREST),
)
TEMPLATES = {template.name: template for template in TRAIN_TEMPLATES + HELDOUT_TEMPLATES}
