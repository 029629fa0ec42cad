"""The worlds of the shop environment: a few customers and their orders, made from a seed and a closed vocabulary.

It does not know tasks. Every split uses the same words; what is new in a held-out world is how they combine.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

from agentgrpo.tools.shop import STATUSES, ShopApp
from agentgrpo.types import JsonObject

# fmt: off
FIRST_NAMES = (
    "Ada", "Alan", "Amy", "Anna", "Ben", "Bob", "Cara", "Carl", "Clara", "Dan", "Dora", "Ed", "Ella", "Emil", "Emma",
    "Eva", "Finn", "Fred", "Gina", "Greta", "Hans", "Hugo", "Ida", "Ines", "Ivan", "Jack", "Jane", "Jim", "Joan",
    "Karl", "Kate", "Leo", "Lena", "Lily", "Luke", "Mara", "Max", "Mia", "Nina", "Noah", "Olga", "Otto", "Paul",
    "Rita", "Sam", "Tina", "Tom", "Vera",
)
LAST_NAMES = (
    "Adams", "Allen", "Baker", "Berg", "Bishop", "Brown", "Carter", "Clark", "Cole", "Cook", "Cooper", "Cox", "Davis",
    "Dixon", "Evans", "Fisher", "Ford", "Fox", "Gibson", "Grant", "Gray", "Hall", "Harris", "Hill", "Hunt", "Jones",
    "Kelly", "King", "Klein", "Lane", "Lopez", "Marsh", "Mason", "Miller", "Moore", "Moss", "Nash", "Owen", "Perry",
    "Porter", "Quinn", "Reed", "Ross", "Scott", "Stone", "Taylor", "Webb", "Young",
)
PRODUCTS = (
    "lamp", "chair", "table", "desk", "sofa", "rug", "vase", "clock", "mirror", "shelf", "kettle", "toaster", "mug",
    "plate", "bowl", "pan", "knife", "towel", "pillow", "blanket", "candle", "basket", "bench", "drawer",
)
STREETS = (
    "Alder", "Ash", "Aspen", "Beech", "Birch", "Canal", "Castle", "Cedar", "Church", "Dock", "Elm", "Harbor", "Hazel",
    "Linden", "Maple", "Market", "Mill", "Oak", "Orchard", "Park", "Pine", "River", "Station", "Willow",
)
# fmt: on
# 1009..9982: no order id is a customer id or an amount, so a word says what it is.
ORDER_IDS = tuple(str(1009 + 37 * i) for i in range(240))
CUSTOMER_IDS = tuple(f"C{n}" for n in range(10, 58))
AMOUNTS = tuple(range(15, 310, 5))
HELDOUT_SEED = 1_000_000  # worlds from this seed on use the full names kept for the held-out splits
STATUS_WEIGHTS = (30, 25, 8, 32, 5)
CUSTOMERS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One order of a world."""

    id: str
    product: str
    status: str
    paid: int
    street: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Customer:
    """A customer of a world; `orders` are in the order they were placed."""

    id: str
    name: str
    streets: tuple[str, ...]
    orders: tuple[Order, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A start state, as plain data."""

    customers: tuple[Customer, ...]
    products: tuple[tuple[str, int, int], ...]  # name, price, stock


def is_heldout_name(first: int, last: int) -> bool:
    """Whether a full name, given as its two indices, is kept for the held-out splits."""
    return (first + last) % 5 == 0


@lru_cache(maxsize=512)
def make_world(seed: int) -> World:
    """Return the world of a seed. Full names of held-out worlds never occur in a training world."""
    rng = random.Random(seed)
    ids = iter(rng.sample(ORDER_IDS, 3 * CUSTOMERS))
    names = _names(rng, heldout=seed >= HELDOUT_SEED)
    customers = tuple(
        _customer(rng, customer_id, name, [next(ids) for _ in range(rng.choice((2, 3, 3)))])
        for customer_id, name in zip(rng.sample(CUSTOMER_IDS, CUSTOMERS), names, strict=True)
    )
    products = tuple((name, rng.choice(AMOUNTS), rng.choice((0, 1, 2, 3))) for name in PRODUCTS)
    return World(customers=customers, products=products)


def _names(rng: random.Random, *, heldout: bool) -> list[str]:
    names: list[str] = []
    while len(names) < CUSTOMERS:
        first, last = rng.randrange(len(FIRST_NAMES)), rng.randrange(len(LAST_NAMES))
        name = f"{FIRST_NAMES[first]} {LAST_NAMES[last]}"
        if is_heldout_name(first, last) == heldout and name not in names:
            names.append(name)
    return names


def _customer(rng: random.Random, customer_id: str, name: str, order_ids: list[str]) -> Customer:
    streets = tuple(rng.sample(STREETS, 2))
    products = rng.sample(PRODUCTS, len(order_ids))
    statuses = rng.choices(STATUSES, STATUS_WEIGHTS, k=len(order_ids))
    paid = rng.sample(AMOUNTS, len(order_ids))  # distinct, so that the most expensive order is one order
    orders = tuple(
        Order(id=i, product=product, status=status, paid=amount, street=rng.choice(streets))
        for i, product, status, amount in zip(order_ids, products, statuses, paid, strict=True)
    )
    return Customer(id=customer_id, name=name, streets=streets, orders=orders)


def load_world(app: ShopApp, world: World) -> None:
    """Write a world into an empty app."""
    customers = world.customers
    app.insert("products", [{"id": name, "price": price, "stock": stock} for name, price, stock in world.products])
    app.insert("customers", [{"id": customer.id, "name": customer.name} for customer in customers])
    app.insert("addresses", [row for customer in customers for row in _address_rows(customer)])
    app.insert("orders", [row for customer in customers for row in _order_rows(customer)])
    orders = [order for customer in customers for order in customer.orders]
    app.insert("items", [{"id": f"{order.id}-1", "order_id": order.id, "product": order.product} for order in orders])


def _address_rows(customer: Customer) -> list[JsonObject]:
    return [
        {"id": f"{customer.id}-{n}", "customer": customer.id, "street": street}
        for n, street in enumerate(customer.streets, 1)
    ]


def _order_rows(customer: Customer) -> list[JsonObject]:
    return [
        {"id": o.id, "customer": customer.id, "day": day, "status": o.status, "street": o.street, "paid": o.paid}
        for day, o in enumerate(customer.orders, 1)
    ]
