"""An environment around a service: close one ticket, in an API that an OpenAPI document describes."""

from __future__ import annotations

import json
import random
from collections.abc import Generator
from pathlib import Path
from typing import Any

import agentgrpo as ag
from agentgrpo.tooling import Tool
from agentgrpo.tools.binding import bind
from agentgrpo.tools.http import HttpClient
from agentgrpo.tools.openapi import openapi_tools

HERE = Path(__file__).parent


class Desk(ag.ToolEnv):
    """Close the ticket a customer writes about, and no other."""

    def __init__(self, *, url: str = "http://127.0.0.1:8765", **options: Any) -> None:
        self.service = HttpClient(url, allow_private=True)
        self.api = openapi_tools(HERE / "tickets.json", self.service, include=["listTickets", "setStatus"])
        super().__init__(**options)

    def reset_task(self, task: dict[str, Any]) -> str:
        self.desk = self.service.ask("POST", "/desks", json={"tickets": task["tickets"]}).json()["desk"]
        return f"Close {task['customer']}'s ticket about the {task['topic']}."

    def extra_tools(self) -> list[Tool]:
        return [bind(tool, desk=self.desk) for tool in self.api]  # each episode has its own desk

    def reward(self) -> dict[str, float]:
        tickets = self.service.ask("GET", f"/desks/{self.desk}/tickets").json()
        closed = [ticket["id"] for ticket in tickets if ticket["status"] == "closed"]
        return {"outcome": float(closed == [self.task["ticket"]])}

    # Only for the warm start of a model that cannot act yet, and for checks.
    def oracle(
        self, *, quality: float = 1.0, rng: random.Random | None = None
    ) -> Generator[dict[str, Any], tuple[dict[str, Any], ...], None]:
        """Yield the actions that solve the task; below quality 1 it sometimes closes any of the customer's tickets."""
        rng = rng or random.Random(0)
        messages = yield self.call("listTickets", customer=self.task["customer"])
        tickets = [ticket["id"] for ticket in json.loads(messages[-1]["content"])]
        right = self.task["ticket"] if rng.random() < quality else rng.choice(tickets)
        yield self.call("setStatus", ticket=right, status="closed")
        yield self.say("done")
