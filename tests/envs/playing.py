"""Playing environments with shipped rows by hand: what their tests share."""

from __future__ import annotations

import json
import random
import re
from typing import Any

from agentgrpo.core import ToolEnv
from agentgrpo.envs.rows import SPLITS, ShippedEnv
from agentgrpo.types import JsonObject

NOTHING = {"outcome": 0.0, "side_effects": 0.0}


def one_of_each(env_class: type[ShippedEnv]) -> list[JsonObject]:
    """Return the first row of each template."""
    found: dict[str, JsonObject] = {}
    for split in SPLITS:
        for row in env_class.tasks(split):
            found.setdefault(row["template"], row)
    return list(found.values())


def row_of(env_class: type[ShippedEnv], template: str) -> JsonObject:
    return next(row for split in SPLITS for row in env_class.tasks(split) if row["template"] == template)


def start(env: ToolEnv, row: JsonObject) -> list[str]:
    """Reset to a row and return the texts of the first messages."""
    info = env.reset(options={"task": row})[1]
    return [message["content"] for message in info["messages"]]


def solve(env: ToolEnv, row: JsonObject, quality: float = 1.0, seed: int = 0) -> tuple[float, list[str]]:
    """Run the oracle; return the reward and everything that was said."""
    texts = start(env, row)
    assert not any(env.score().values())  # no goal is true from the start
    script = env.oracle(quality=quality, rng=random.Random(seed))  # type: ignore[attr-defined]  # optional
    action = next(script)
    while True:
        _, reward, terminated, _, info = env.step(json.dumps(action))
        texts += [action["content"], *(json.dumps(call["arguments"]) for call in action["tool_calls"])]
        texts += [message["content"] for message in info["messages"]]
        if terminated:
            return float(reward), texts
        action = script.send(tuple(info["messages"]))


def do(env: ToolEnv, tool: str, /, **arguments: Any) -> Any:
    """Make one call and return its parsed result."""
    info = env.step(json.dumps(env.call(tool, **arguments)))[4]
    content = info["messages"][0]["content"]
    return json.loads(content) if content != "ok" else content


def say(env: ToolEnv, content: str) -> str | None:
    """Say something and return the user's reply; None when that ended the episode."""
    _, _, terminated, _, info = env.step(json.dumps(env.say(content)))
    assert terminated == (not info["messages"])
    return None if terminated else str(info["messages"][0]["content"])


def finish(env: ToolEnv, answer: str = "done") -> tuple[float, JsonObject]:
    """Answer, again until that ends the episode; return the reward and its terms."""
    for _ in range(3):
        _, reward, terminated, _, info = env.step(json.dumps(env.say(answer)))
        if terminated:
            return float(reward), info["reward_terms"]
    raise AssertionError("the user goes on talking")


def words(texts: list[str]) -> set[str]:
    return {word for text in texts for word in re.findall(r"\w+", text)}
