from __future__ import annotations

from collections.abc import Callable

import pytest

from agentgrpo.errors import ToolError
from agentgrpo.tools.shop import REASONS, ShopApp
from agentgrpo.types import Json

STATUS_OF = {"1": "pending", "2": "packed", "3": "shipped", "4": "delivered", "5": "cancelled"}


@pytest.fixture
def app() -> ShopApp:
    app = ShopApp()
    app.insert("customers", [{"id": "C1", "name": "Ada Stone"}, {"id": "C2", "name": "Bob Fox"}])
    streets = {"C1": ("Elm", "Oak"), "C2": ("Pine", "Ash")}
    for customer, pair in streets.items():
        rows = [{"id": f"{customer}-{n}", "customer": customer, "street": s} for n, s in enumerate(pair, 1)]
        app.insert("addresses", rows)
    app.insert("products", [{"id": i, "price": p, "stock": s} for i, p, s in (("lamp", 40, 2), ("rug", 90, 0))])
    for day, (order, status) in enumerate(STATUS_OF.items()):
        row = {"id": order, "customer": "C1", "day": 9 - day, "status": status, "street": "Elm", "paid": 50}
        app.insert("orders", [row])
        app.insert("items", [{"id": f"{order}-1", "order_id": order, "product": "lamp"}])
    return ShopApp(app.snapshot())


def refused(app: ShopApp, action: Callable[[], Json]) -> str:
    """Return why an action was refused, once it is sure that it changed nothing."""
    with pytest.raises(ToolError) as error:
        action()
    assert app.state_diff() == []
    return str(error.value)


def test_find_customer_ignores_case(app: ShopApp) -> None:
    assert app.find_customer(" ada stone") == {"customer": "C1"}
    assert "Eve" in refused(app, lambda: app.find_customer("Eve"))


def test_orders_are_listed_oldest_first(app: ShopApp) -> None:
    assert [row["order"] for row in app.list_orders("C1")] == ["5", "4", "3", "2", "1"]
    assert app.list_orders("C1")[0] == {"order": "5", "item": "lamp", "status": "cancelled"}
    assert app.list_orders("C2") == []
    assert "C9" in refused(app, lambda: app.list_orders("C9"))


def test_get_order_shows_refunds_only_when_there_are_any(app: ShopApp) -> None:
    shown = {"order": "4", "item": "lamp", "status": "delivered", "paid": 50, "street": "Elm"}
    assert app.get_order("4") == shown
    app.refund_order("4", 20, "late")
    assert app.get_order("4") == shown | {"refunded": 20}
    with pytest.raises(ToolError, match="no order '77'"):
        app.get_order("77")


@pytest.mark.parametrize("order", ["1", "2"])
def test_an_order_that_has_not_shipped_is_cancelled_and_its_item_goes_back(app: ShopApp, order: str) -> None:
    app.cancel_order(order)
    assert app.state_diff() == [
        {"op": "replace", "path": f"/orders/{order}/status", "old": STATUS_OF[order], "value": "cancelled"},
        {"op": "replace", "path": "/products/lamp/stock", "old": 2, "value": 3},
    ]


@pytest.mark.parametrize("order", ["3", "4", "5"])
def test_a_shipped_order_is_fixed(app: ShopApp, order: str) -> None:
    for action in (
        lambda: app.cancel_order(order),
        lambda: app.set_address(order, "Oak"),
        lambda: app.swap_item(order, "rug"),
    ):
        assert STATUS_OF[order] in refused(app, action)


def test_refunds_add_up_to_what_was_paid(app: ShopApp) -> None:
    assert app.refund_order("4", 20, "damaged") == {"order": "4", "refunded": 20}
    assert app.state_diff() == [
        {"op": "add", "path": "/refunds/4-1", "value": {"order_id": "4", "amount": 20, "reason": "damaged"}}
    ]
    assert "1 to 30" in refused(app, lambda: app.refund_order("4", 31, "late"))
    app.refund_order("4", 30, "late")
    app.state_diff()
    assert "fully refunded" in refused(app, lambda: app.refund_order("4", 1, "late"))


@pytest.mark.parametrize("amount", [0, -5, 51, 10**30])
def test_refund_amount_has_bounds(app: ShopApp, amount: int) -> None:
    assert "1 to 50" in refused(app, lambda: app.refund_order("4", amount, "late"))


def test_refund_needs_a_reason_from_the_list(app: ShopApp) -> None:
    assert all(reason in refused(app, lambda: app.refund_order("4", 50, "bored")) for reason in REASONS)


@pytest.mark.parametrize("order", ["1", "2", "3", "5"])
def test_only_a_delivered_order_is_refunded(app: ShopApp, order: str) -> None:
    assert STATUS_OF[order] in refused(app, lambda: app.refund_order(order, 50, "late"))


def test_an_order_goes_only_to_its_customers_addresses(app: ShopApp) -> None:
    assert "Elm, Oak" in refused(app, lambda: app.set_address("1", "Pine"))
    app.set_address("1", "Oak")
    assert app.state_diff() == [{"op": "replace", "path": "/orders/1/street", "old": "Elm", "value": "Oak"}]


def test_a_customer_has_three_addresses_at_most(app: ShopApp) -> None:
    assert "already has Elm" in refused(app, lambda: app.add_address("C1", "Elm"))
    app.add_address("C1", "Pine")
    assert app.list_addresses("C1") == ["Elm", "Oak", "Pine"]
    app.state_diff()
    assert "most" in refused(app, lambda: app.add_address("C1", "Ash"))


@pytest.mark.parametrize("street", ["", "  ", "x" * 41, "a\nb", "\ud800"])
def test_a_street_is_printable_text(app: ShopApp, street: str) -> None:
    assert "printable" in refused(app, lambda: app.add_address("C1", street))


def test_swap_moves_stock_and_price(app: ShopApp) -> None:
    app.change("UPDATE products SET stock = 1 WHERE id = 'rug'")
    app.state_diff()
    app.swap_item("1", "rug")
    assert {op["path"]: op["value"] for op in app.state_diff()} == {
        "/items/1-1/product": "rug",
        "/orders/1/paid": 90,
        "/products/lamp/stock": 3,
        "/products/rug/stock": 0,
    }


def test_swap_needs_another_item_in_stock(app: ShopApp) -> None:
    assert "not in stock" in refused(app, lambda: app.swap_item("1", "rug"))
    assert "already has the lamp" in refused(app, lambda: app.swap_item("1", "lamp"))
    assert "no item" in refused(app, lambda: app.swap_item("1", "boat"))
    assert app.get_product("rug") == {"item": "rug", "price": 90, "stock": 0}


def test_find_order_takes_the_newest_of_several_and_says_what_it_does_not_find(app: ShopApp) -> None:
    orders = app.list_orders("C1")
    for order in {row["item"]: row for row in orders}.values():  # later rows are newer
        assert app.find_order("C1", order["item"].upper()) == {"order": order["order"], "status": order["status"]}
    with pytest.raises(ToolError, match="C1 has no order of 'unicorn'"):
        app.find_order("C1", "unicorn")
