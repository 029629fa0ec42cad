"""A judge for tests: it reads what a judge is shown, and answers by a function in place of a mind."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import groupby
from typing import TypeAlias

from agentgrpo.endpoint.stub import Answer, says
from agentgrpo.types import Json, JsonObject, Message

Opinion: TypeAlias = Callable[[list[Message]], float]  # the messages of an attempt -> how good it is


def judging(opinion: Opinion) -> Answer:
    """Return the answers of a judge, for a `StubEndpoint`: the opinion as a score, or a ranking by it."""

    def answer(body: JsonObject) -> JsonObject:
        rows = shown_to(body)
        if "attempt" not in rows[-1]:
            return says(json.dumps({"reason": "so it seems", "score": opinion(rows[0]["messages"])}))
        shared = rows[0]["shared by all attempts"]
        opinions = {row["attempt"]: opinion(shared + row["messages"]) for row in rows[1:]}
        best_first = sorted(opinions, key=lambda number: -opinions[number])
        places = [list(place) for _, place in groupby(best_first, key=lambda number: opinions[number])]
        return says(json.dumps({"reason": "so it seems", "ranking": places}))

    return answer


def shown_to(body: JsonObject) -> list[Json]:
    """Return the rows of data in a request to a judge."""
    user = next(message["content"] for message in body["messages"] if message["role"] == "user")
    data = user.split(" =====\n", 1)[1].split("\n===== END OF DATA", 1)[0]
    return [json.loads(line) for line in data.split("\n")]
