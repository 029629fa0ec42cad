"""Write tickets.jsonl: 300 rows, each the tickets of three customers and the one to close."""

from __future__ import annotations

import json
import random
from pathlib import Path

NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hal", "Ida", "Jon", "Kit", "Lou")
TOPICS = ("lamp", "rug", "desk", "sofa", "clock", "mirror", "shelf", "chair")


def main() -> None:
    """Write the file beside this one."""
    rng = random.Random(0)
    with (Path(__file__).parent / "tickets.jsonl").open("w", encoding="utf-8") as file:
        for index in range(300):
            owners = [name for name in rng.sample(NAMES, 3) for _ in range(2)]
            ids = rng.sample(range(100, 1000), len(owners))
            topics = [topic for _ in range(3) for topic in rng.sample(TOPICS, 2)]
            tickets = [
                {"id": str(number), "customer": owner, "topic": topic}
                for number, owner, topic in zip(ids, owners, topics, strict=True)
            ]
            wanted = rng.choice(tickets)
            row = {"task_id": f"ticket-{index:03d}", "customer": wanted["customer"], "topic": wanted["topic"]}
            file.write(json.dumps(row | {"ticket": wanted["id"], "tickets": tickets}) + "\n")


if __name__ == "__main__":
    main()
