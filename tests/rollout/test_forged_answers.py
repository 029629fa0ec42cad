"""What an environment in a process of its own writes to the connection it is asked through."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentgrpo.errors import EnvFailure
from agentgrpo.registry import resolve_env
from tests.rollout.hosting import hosting

FORGER = '''
import os, socket
import agentgrpo as ag

class Forger(ag.AgentEnv):
    """Writes to every connection it finds."""
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.payload = options["payload"].encode() if options else b""
        return "hi", {}
    def forge(self):
        for descriptor in range(3, 30):
            try:
                socket.socket(fileno=os.dup(descriptor)).sendall(self.payload)
            except OSError:
                pass
    def step(self, action):
        self.forge()
        return "true", 0.0, True, False, {}
    def score(self):
        self.forge()
        return {"outcome": 0.0}
    def snapshot(self):
        self.forge()
        return b""
'''


@pytest.mark.parametrize(
    ("method", "payload", "cause"),
    [
        ("step", '{"result": 1}', "wrote to the connection itself"),
        ("step", "[" * 100_000, "RecursionError"),
        ("step", "[]", "wrote to the connection itself"),
        ("step", '{"failure": 1, "boundary": []}', "wrote to the connection itself"),
        ("step", '{"result": ["x", NaN, true, false, {}]}', "reward = nan"),
        ("step", '{"result": ["x", 1.0, true, false, {"reward_terms": {"a": NaN}}]}', "a = nan"),
        ("step", '{"result": ["x", 1' + "0" * 400 + ", true, false, {}]}", "expected a finite number"),
        ("score", '{"result": [NaN, {"outcome": NaN}]}', "outcome = nan"),
        ("score", '{"result": 1}', "wrote to the connection itself"),
        ("snapshot", '{"result": "h"}', "base64"),
    ],
)
async def test_what_an_environment_writes_to_the_connection_costs_its_episode_only(
    tmp_path: Path, method: str, payload: str, cause: str
) -> None:
    (tmp_path / "forger.py").write_text(FORGER)
    async with hosting(resolve_env(f"{tmp_path / 'forger.py'}:Forger"), "process") as hosts:
        host = hosts.make()
        await host.reset(options={"payload": payload + "\n"})
        with pytest.raises(EnvFailure, match=cause):
            await (host.step("x") if method == "step" else getattr(host, method)())
        await host.close()
        fresh = hosts.make()  # the lines that were left are no answers to the next episode
        assert await fresh.reset() == ("hi", {})
        assert (await fresh.step("x"))[0] == "true"


async def test_a_forged_answer_that_passes_costs_no_later_episode(tmp_path: Path) -> None:
    (tmp_path / "forger.py").write_text(FORGER)
    async with hosting(resolve_env(f"{tmp_path / 'forger.py'}:Forger"), "process") as hosts:
        host = hosts.make()
        await host.reset(options={"payload": '{"result": ["forged", 1.0, true, false, {}]}\n'})
        assert (await host.step("x"))[0] == "forged"
        await host.close()
        assert hosts.activity.troubles == {"close_failures": 1}
        assert await hosts.make().reset() == ("hi", {})
