"""Playing the workspace by hand: what its tests share."""

from __future__ import annotations

import json
import random
import re
from typing import Any

from agentgrpo.envs.rows import SPLITS
from agentgrpo.envs.workspace.env import Workspace
from agentgrpo.envs.workspace.templates import TEMPLATES
from agentgrpo.types import JsonObject

ROWS = {split: Workspace.tasks(split) for split in SPLITS}
ONE_OF_EACH = [next(row for rows in ROWS.values() for row in rows if row["template"] == name) for name in TEMPLATES]
NOTHING = {"outcome": 0.0, "side_effects": 0.0}


def start(env: Workspace, row: JsonObject) -> list[str]:
    """Reset to a row and return the texts of the first messages."""
    info = env.reset(options={"task": row})[1]
    return [message["content"] for message in info["messages"]]


def solve(env: Workspace, row: JsonObject, quality: float = 1.0, seed: int = 0) -> tuple[float, list[str]]:
    """Run the oracle; return the reward and everything that was said."""
    texts = start(env, row)
    assert not any(env.score().values())  # no goal is true from the start
    script = env.oracle(quality=quality, rng=random.Random(seed))
    action = next(script)
    while True:
        _, reward, terminated, _, info = env.step(json.dumps(action))
        texts += [action["content"], *(json.dumps(call["arguments"]) for call in action["tool_calls"])]
        texts += [message["content"] for message in info["messages"]]
        if terminated:
            return float(reward), texts
        action = script.send(tuple(info["messages"]))


def do(env: Workspace, tool: str, /, **arguments: Any) -> Any:
    """Make one call and return its parsed result."""
    info = env.step(json.dumps(env.call(tool, **arguments)))[4]
    content = info["messages"][0]["content"]
    return json.loads(content) if content != "ok" else content


def say(env: Workspace, content: str) -> str | None:
    """Say something and return the user's reply; None when that ended the episode."""
    _, _, terminated, _, info = env.step(json.dumps(env.say(content)))
    assert terminated == (not info["messages"])
    return None if terminated else str(info["messages"][0]["content"])


def finish(env: Workspace) -> tuple[float, JsonObject]:
    """Say that it is done until that ends the episode; return the reward and its terms."""
    for _ in range(3):
        _, reward, terminated, _, info = env.step(json.dumps(env.say("done")))
        if terminated:
            return float(reward), info["reward_terms"]
    raise AssertionError("the user goes on talking")


def offered(info: JsonObject) -> list[str]:
    return [tool["function"]["name"] for tool in info["tools"]]


def some_rows(split: str, count: int) -> list[JsonObject]:
    """Return the first rows of each template of a split."""
    return [row for row in ROWS[split] if int(row["task_id"][-3:]) < count]


def row_of(template: str, split: str = "train") -> JsonObject:
    return next(row for row in ROWS[split] if row["template"] == template)


def words(texts: list[str]) -> set[str]:
    return {word for text in texts for word in re.findall(r"\w+", text)}
