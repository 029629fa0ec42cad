"""A ticket service with an OpenAPI document: a desk of tickets per episode. Start it with: python service.py [port]."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

from aiohttp import web

DOCUMENT = Path(__file__).parent / "tickets.json"
MAX_DESKS = 10_000
DESKS = web.AppKey("desks", dict[str, dict[str, Any]])
NUMBERS = web.AppKey("numbers", itertools.count)
routes = web.RouteTableDef()


def refusal(status: int, message: str) -> web.Response:
    """Return an error as the service words it."""
    return web.json_response({"detail": message}, status=status)


@routes.get("/openapi.json")
async def document(request: web.Request) -> web.Response:
    """Show the document."""
    return web.json_response(text=DOCUMENT.read_text(encoding="utf-8"))


@routes.post("/desks")
async def open_desk(request: web.Request) -> web.Response:
    """Open a desk with tickets, and forget the oldest when there are too many."""
    desks, body = request.app[DESKS], await request.json()
    while len(desks) >= MAX_DESKS:
        del desks[next(iter(desks))]
    desk = f"d{next(request.app[NUMBERS])}"
    desks[desk] = {ticket["id"]: {**ticket, "status": "open"} for ticket in body["tickets"]}
    return web.json_response({"desk": desk}, status=201)


@routes.get("/desks/{desk}/tickets")
async def list_tickets(request: web.Request) -> web.Response:
    """List the tickets of a desk, or those of one customer."""
    tickets = request.app[DESKS].get(request.match_info["desk"])
    if tickets is None:
        return refusal(404, "no such desk")
    customer = request.query.get("customer")
    return web.json_response([t for t in tickets.values() if customer is None or t["customer"] == customer])


@routes.put("/desks/{desk}/tickets/{ticket}/status")
async def set_status(request: web.Request) -> web.Response:
    """Close or reopen a ticket."""
    tickets, body = request.app[DESKS].get(request.match_info["desk"], {}), json.loads(await request.read() or b"{}")
    ticket = tickets.get(request.match_info["ticket"])
    if ticket is None:
        return refusal(404, f"no ticket {request.match_info['ticket'][:40]}: listTickets gives the ids")
    if body.get("status") not in ("open", "closed"):
        return refusal(422, "status must be open or closed")
    ticket["status"] = body["status"]
    return web.json_response(ticket)


def make_app() -> web.Application:
    """Return a service without desks."""
    app = web.Application()
    app[DESKS], app[NUMBERS] = {}, itertools.count(1)
    app.add_routes(routes)
    return app


if __name__ == "__main__":
    web.run_app(make_app(), host="127.0.0.1", port=int(sys.argv[1]) if sys.argv[1:] else 8765)
