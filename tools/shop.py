"""The back office of an online shop: customers, addresses, products, orders, items, refunds, and the shop's rules.

It does not know tasks or rewards. A rule that is violated raises ToolError and changes nothing.
"""

from __future__ import annotations

from agentgrpo.errors import ToolError
from agentgrpo.tools.appstate import AppState, Row
from agentgrpo.types import JsonObject

STATUSES = ("pending", "packed", "shipped", "delivered", "cancelled")
REASONS = ("damaged", "late", "wrong", "missing", "unwanted")
OPEN = ("pending", "packed")  # not shipped yet
MAX_ADDRESSES = 3

_ORDER = """
SELECT orders.id, customer, status, paid, street, items.id AS line, product
FROM orders JOIN items ON items.order_id = orders.id
"""


class ShopApp(AppState):
    """The shop: every public method from `find_customer` on is something a clerk can do."""

    schema = """
    CREATE TABLE customers (id TEXT PRIMARY KEY, name TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE addresses (id TEXT PRIMARY KEY, customer TEXT NOT NULL, street TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE products (id TEXT PRIMARY KEY, price INTEGER NOT NULL, stock INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE orders (id TEXT PRIMARY KEY, customer TEXT NOT NULL, day INTEGER NOT NULL, status TEXT NOT NULL,
                         street TEXT NOT NULL, paid INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE items (id TEXT PRIMARY KEY, order_id TEXT NOT NULL, product TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE refunds (id TEXT PRIMARY KEY, order_id TEXT NOT NULL, amount INTEGER NOT NULL,
                          reason TEXT NOT NULL) WITHOUT ROWID;
    """

    def find_customer(self, name: str) -> JsonObject:
        """Find a customer's id by full name."""
        found = self.row("SELECT id FROM customers WHERE lower(name) = lower(?)", name.strip())
        if found is None:
            raise ToolError(f"no customer is called '{_cap(name)}'")
        return {"customer": found["id"]}

    def list_addresses(self, customer: str) -> list[str]:
        """List the streets of a customer."""
        self._customer(customer)
        found = self.rows("SELECT street FROM addresses WHERE customer = ? ORDER BY id", customer)
        return [row["street"] for row in found]

    def add_address(self, customer: str, street: str) -> JsonObject:
        """Add a street to a customer."""
        street = street.strip()
        streets = self.list_addresses(customer)
        if not 1 <= len(street) <= 40 or not street.isprintable():
            raise ToolError("a street needs 1 to 40 printable characters")
        if street in streets:
            raise ToolError(f"{customer} already has {street}")
        if len(streets) >= MAX_ADDRESSES:
            raise ToolError(f"{customer} already has {MAX_ADDRESSES} addresses, the most a customer can have")
        row = {"id": f"{customer}-{len(streets) + 1}", "customer": customer, "street": street}
        self.insert("addresses", [row])
        return {"customer": customer, "street": street}

    def list_orders(self, customer: str) -> list[JsonObject]:
        """List a customer's orders, the oldest first."""
        self._customer(customer)
        found = self.rows(_ORDER + "WHERE customer = ? ORDER BY day, orders.id", customer)
        return [{"order": row["id"], "item": row["product"], "status": row["status"]} for row in found]

    def find_order(self, customer: str, item: str) -> JsonObject:
        """Find a customer's order by its item; of several, the newest."""
        self._customer(customer)
        where = "WHERE customer = ? AND lower(product) = lower(?) ORDER BY day DESC, orders.id DESC"
        found = self.row(_ORDER + where, customer, item.strip())
        if found is None:
            raise ToolError(f"{customer} has no order of '{_cap(item)}'")
        return {"order": found["id"], "status": found["status"]}

    def get_order(self, order: str) -> JsonObject:
        """Show an order: item, status, amount paid, street."""
        row = self._order(order)
        shown = {"order": row["id"], "item": row["product"], "status": row["status"], "paid": row["paid"]}
        shown["street"] = row["street"]
        refunded = self._refunded(order)
        return shown | ({"refunded": refunded} if refunded else {})

    def get_product(self, item: str) -> JsonObject:
        """Show the price and stock of an item."""
        row = self._product(item)
        return {"item": row["id"], "price": row["price"], "stock": row["stock"]}

    def cancel_order(self, order: str) -> JsonObject:
        """Cancel an order that has not shipped."""
        row = self._open_order(order)
        self.change("UPDATE orders SET status = 'cancelled' WHERE id = ?", order)
        self.change("UPDATE products SET stock = stock + 1 WHERE id = ?", row["product"])
        return {"order": order, "status": "cancelled"}

    def refund_order(self, order: str, amount: int, reason: str) -> JsonObject:
        """Refund a delivered order; the reason is one of a fixed list."""
        row = self._order(order)
        if reason not in REASONS:
            raise ToolError(f"reason must be one of {', '.join(REASONS)}, not '{_cap(reason)}'")
        if row["status"] != "delivered":
            raise ToolError(f"order {order} is {row['status']}: only a delivered order can be refunded")
        left = row["paid"] - self._refunded(order)
        if not 0 < amount <= left:
            raise ToolError(f"amount must be from 1 to {left}" if left else f"order {order} is fully refunded")
        count = len(self.rows("SELECT id FROM refunds WHERE order_id = ?", order))
        refund = {"id": f"{order}-{count + 1}", "order_id": order, "amount": amount, "reason": reason}
        self.insert("refunds", [refund])
        return {"order": order, "refunded": amount}

    def set_address(self, order: str, street: str) -> JsonObject:
        """Send an order that has not shipped to another street of its customer."""
        row = self._open_order(order)
        streets = self.list_addresses(row["customer"])
        if street not in streets:
            raise ToolError(f"'{_cap(street)}' is not an address of {row['customer']}: {', '.join(streets)}")
        self.change("UPDATE orders SET street = ? WHERE id = ?", street, order)
        return {"order": order, "street": street}

    def swap_item(self, order: str, item: str) -> JsonObject:
        """Change the item of an order that has not shipped; the new item must be in stock."""
        row, product = self._open_order(order), self._product(item)
        if item == row["product"]:
            raise ToolError(f"order {order} already has the {item}")
        if product["stock"] < 1:
            raise ToolError(f"the {item} is not in stock")
        self.change("UPDATE products SET stock = stock + 1 WHERE id = ?", row["product"])
        self.change("UPDATE products SET stock = stock - 1 WHERE id = ?", item)
        self.change("UPDATE items SET product = ? WHERE id = ?", item, row["line"])
        self.change("UPDATE orders SET paid = ? WHERE id = ?", product["price"], order)
        return {"order": order, "item": item}

    def _customer(self, customer: str) -> None:
        if self.row("SELECT id FROM customers WHERE id = ?", customer) is None:
            raise ToolError(f"no customer '{_cap(customer)}': find_customer gives the id")

    def _order(self, order: str) -> Row:
        row = self.row(_ORDER + "WHERE orders.id = ?", order)
        if row is None:
            raise ToolError(f"no order '{_cap(order)}': list_orders gives the ids")
        return row

    def _open_order(self, order: str) -> Row:
        row = self._order(order)
        if row["status"] not in OPEN:
            raise ToolError(f"order {order} is {row['status']}: it must be pending or packed")
        return row

    def _product(self, item: str) -> Row:
        row = self.row("SELECT * FROM products WHERE id = ?", item)
        if row is None:
            raise ToolError(f"no item '{_cap(item)}'")
        return row

    def _refunded(self, order: str) -> int:
        row = self.row("SELECT COALESCE(SUM(amount), 0) AS total FROM refunds WHERE order_id = ?", order)
        return int(row["total"]) if row else 0


def _cap(text: str) -> str:
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= 40 else text[:37] + "..."
