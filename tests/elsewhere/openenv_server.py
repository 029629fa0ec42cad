"""Two environments on OpenEnv's own server, as authors write them; run by an interpreter that has openenv-core."""

from __future__ import annotations

import random
import sys
from typing import Any

import uvicorn
from fastmcp import FastMCP
from openenv.core.env_server import Action, Environment, Observation, State, create_fastapi_app
from openenv.core.env_server.mcp_environment import MCPEnvironment
from openenv.core.env_server.mcp_types import CallToolAction, CallToolObservation


class Guess(Action):
    """Guess the number."""

    number: int


class Hint(Observation):
    hint: str


class GuessEnv(Environment[Guess, Hint, State]):
    """Guess a number of 0 to 9: typed actions, a reward at the end."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        super().__init__()
        self._secret, self._state = 0, State()

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Hint:
        self._secret = random.Random(seed).randrange(10)
        self._state = State(episode_id=episode_id, step_count=0)
        return Hint(hint="a number from 0 to 9")

    def step(self, action: Guess, timeout_s: float | None = None, **kwargs: Any) -> Hint:
        if action.number == 13:
            raise RuntimeError("the backend is down")
        self._state.step_count += 1
        if action.number == self._secret:
            return Hint(hint="right", done=True, reward=1.0)
        return Hint(hint="higher" if action.number < self._secret else "lower", reward=-0.25)

    @property
    def state(self) -> State:
        return self._state


class DoorEnv(MCPEnvironment):
    """A door with a code: MCP tools, a reward when it is open."""

    SUPPORTS_CONCURRENT_SESSIONS = True
    _code: int
    _is_open: bool

    def __init__(self) -> None:
        server = FastMCP("door")

        @server.tool
        def look() -> str:
            """Read the code beside the door."""
            return str(self._code)

        @server.tool
        def enter(code: int) -> str:
            """Enter a code."""
            if code < 0:
                raise ValueError("a code is not negative")
            self._is_open = self._is_open or code == self._code
            return "open" if self._is_open else "closed"

        super().__init__(server)
        self._code, self._is_open, self._state = 0, False, State()

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Observation:
        self._code, self._is_open = random.Random(seed).randrange(1000), False
        self._state = State(episode_id=episode_id, step_count=0)
        return Observation()

    async def step_async(self, action: Action, timeout_s: float | None = None, **kwargs: Any) -> Observation:
        found = await super().step_async(action, timeout_s=timeout_s, **kwargs)
        found.done, found.reward = self._is_open, float(self._is_open)
        return found

    def _step_impl(self, action: Action, timeout_s: float | None = None, **kwargs: Any) -> Observation:
        return Observation()

    @property
    def state(self) -> State:
        return self._state


if __name__ == "__main__":
    port = int(sys.argv[2])
    if sys.argv[1] == "guess":
        app = create_fastapi_app(GuessEnv, Guess, Hint, max_concurrent_envs=4)
    else:
        app = create_fastapi_app(DoorEnv, CallToolAction, CallToolObservation, max_concurrent_envs=4)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")
