"""The shop environment whose app is somewhere else: the same tasks, tools, oracle and reward over a face of the app."""

from __future__ import annotations

import inspect
import json
import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, cast

from agentgrpo.envs.shop.env import Shop
from agentgrpo.tools.shop import ShopApp
from agentgrpo.types import Json, JsonObject


class RemoteApp(ABC):
    """Stands where a ShopApp stands."""

    @abstractmethod
    def call(self, name: str, arguments: JsonObject) -> str:
        """Call a tool and return its text."""

    @abstractmethod
    def restore(self, snapshot: bytes) -> None:
        """Begin a session in this state."""

    @abstractmethod
    def state(self) -> JsonObject:
        """Return everything."""

    @abstractmethod
    def state_hash(self) -> str:
        """Return its hash."""

    @abstractmethod
    def close(self) -> None:
        """End the session."""

    def state_diff(self) -> list[JsonObject]:
        """Return nothing: a face has no diff."""
        return []

    def __getattr__(self, name: str) -> Callable[..., Json]:
        signature = inspect.signature(getattr(ShopApp, name))

        def remote(*arguments: Any) -> Json:
            bound = signature.bind(self, *arguments).arguments
            del bound["self"]
            return cast(Json, json.loads(self.call(name, dict(bound))))

        return remote


class RemoteShop(Shop):
    """A shop over another app."""

    def __init__(self, app: RemoteApp) -> None:
        super().__init__()
        self.app.close()
        self.app = cast(ShopApp, app)


def solve(env: Shop, row: JsonObject) -> tuple[float, list[str]]:
    """Let the oracle work; return the reward and the hash after the reset and each step."""
    info = env.reset(options={"task": row})[1]
    hashes, script = [info["state_hash"]], env.oracle(rng=random.Random(0))
    action = next(script)
    while True:
        _, reward, terminated, _, info = env.step(json.dumps(action))
        hashes.append(info["state_hash"])
        if terminated:
            return float(reward), hashes
        action = script.send(tuple(info["messages"]))
