"""The scripted clerk of the shop: solves any task from the instruction's words and what the tools answer.

It never looks at the hidden state. Below quality 1 each decision is sometimes a guess among what was seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agentgrpo.envs.attempt import Attempt, Script
from agentgrpo.tools.shop import OPEN, REASONS
from agentgrpo.types import JsonObject


class Clerk(Attempt):
    """An attempt that remembers whose order it is."""

    customer = ""


def _by_id(clerk: Clerk) -> Script[JsonObject]:
    yield from ()
    return {"order": clerk.goal["order"]}


def _met(clerk: Clerk) -> Script[str]:
    found = yield from clerk.ask("find_customer", name=clerk.goal["name"])
    clerk.customer = found["customer"]
    return clerk.customer


def _listed(clerk: Clerk) -> Script[list[JsonObject]]:
    customer = yield from _met(clerk)
    orders: list[JsonObject] = yield from clerk.ask("list_orders", customer=customer)
    return orders


def _by_item(clerk: Clerk) -> Script[JsonObject]:
    customer = yield from _met(clerk)
    if clerk.is_careful():
        order: JsonObject = yield from clerk.ask("find_order", customer=customer, item=clerk.goal["item"])
        return order
    orders = yield from clerk.ask("list_orders", customer=customer)
    return clerk.guess(orders)


def _newest(clerk: Clerk) -> Script[JsonObject]:
    orders = yield from _listed(clerk)
    return clerk.decide(orders[-1], orders)


def _pending(clerk: Clerk) -> Script[JsonObject]:
    orders = yield from _listed(clerk)
    return clerk.decide(next(order for order in orders if order["status"] == "pending"), orders)


def _dearest(clerk: Clerk) -> Script[JsonObject]:
    listed = yield from _listed(clerk)
    orders = []
    for row in listed:
        order: JsonObject = yield from clerk.ask("get_order", order=row["order"])
        orders.append(order)
    return clerk.decide(max(orders, key=lambda order: order["paid"]), orders)


def _shown(clerk: Clerk, order: JsonObject, field: str) -> Script[JsonObject]:
    """Return the order with a field, looking it up only when it has not been seen yet."""
    if field not in order:
        order = yield from clerk.ask("get_order", order=order["order"])
    return order


def _answer(clerk: Clerk, order: JsonObject, field: str) -> Script[str]:
    order = yield from _shown(clerk, order, field)
    return str(clerk.decide(order[field], (order[field], "done")))  # the careless forget to tell


def _paid(clerk: Clerk, order: JsonObject) -> Script[str]:
    return (yield from _answer(clerk, order, "paid"))


def _status(clerk: Clerk, order: JsonObject) -> Script[str]:
    return (yield from _answer(clerk, order, "status"))


def _cancel(clerk: Clerk, order: JsonObject) -> Script[str]:
    yield from clerk.ask("cancel_order", order=order["order"])
    return "done"


def _refund(clerk: Clerk, order: JsonObject) -> Script[str]:
    order = yield from _shown(clerk, order, "paid")
    reason = clerk.decide(clerk.goal["reason"], REASONS)
    yield from clerk.ask("refund_order", order=order["order"], amount=order["paid"], reason=reason)
    return "done"


def _cancel_or_refund(clerk: Clerk, order: JsonObject) -> Script[str]:
    act = clerk.decide(_cancel if order["status"] in OPEN else _refund, (_cancel, _refund))
    return (yield from act(clerk, order))


def _send_to(clerk: Clerk, order: JsonObject, street: str) -> Script[str]:
    yield from clerk.ask("set_address", order=order["order"], street=street)
    return "done"


def _send(clerk: Clerk, order: JsonObject) -> Script[str]:
    return (yield from _send_to(clerk, order, clerk.goal["street"]))


def _send_new(clerk: Clerk, order: JsonObject) -> Script[str]:
    yield from clerk.ask("add_address", customer=clerk.customer, street=clerk.goal["street"])
    return (yield from _send(clerk, order))


def _send_other(clerk: Clerk, order: JsonObject) -> Script[str]:
    order = yield from _shown(clerk, order, "street")
    streets = yield from clerk.ask("list_addresses", customer=clerk.customer)
    street = clerk.decide(next(street for street in streets if street != order["street"]), streets)
    return (yield from _send_to(clerk, order, street))


def _swap(clerk: Clerk, order: JsonObject) -> Script[str]:
    yield from clerk.ask("swap_item", order=order["order"], item=clerk.goal["new"])
    return "done"


def _swap_or_cancel(clerk: Clerk, order: JsonObject) -> Script[str]:
    product = yield from clerk.ask("get_product", item=clerk.goal["new"])
    act = clerk.decide(_swap if product["stock"] else _cancel, (_swap, _cancel))
    return (yield from act(clerk, order))


SELECT: Mapping[str, Callable[[Clerk], Script[JsonObject]]] = {
    "id": _by_id,
    "item": _by_item,
    "newest": _newest,
    "pending": _pending,
    "dearest": _dearest,
}
ACT: Mapping[str, Callable[[Clerk, JsonObject], Script[str]]] = {
    "cancel": _cancel,
    "refund": _refund,
    "cancel_or_refund": _cancel_or_refund,
    "send": _send,
    "send_new": _send_new,
    "send_other": _send_other,
    "swap": _swap,
    "swap_or_cancel": _swap_or_cancel,
    "paid": _paid,
    "status": _status,
}
