"""Environments that break at every call, and environments that give what no environment should."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest

from agentgrpo.activity import Activity
from agentgrpo.chat import Chat
from agentgrpo.config.run import RolloutConfig
from agentgrpo.engines.scripted import ScriptedEngine
from agentgrpo.errors import EnvError
from agentgrpo.registry import resolve_env
from agentgrpo.rollout import group, isolation
from agentgrpo.rollout.group import GroupResult
from agentgrpo.rollout.isolation import EnvHosts
from agentgrpo.rollout.manager import RolloutManager
from agentgrpo.tooling import tool
from agentgrpo.types import Boundary, JsonObject, Sampling, StopReason, Task
from tests.clock import leap
from tests.faults.conftest import Ledger
from tests.faults.outside import nothing_left_behind
from tests.rollout.stages import POLICY, Desk, acting, calls, play, says

TASKS = [Task(id=f"t{i}", row={"replies": i}) for i in range(3)]
SITES = ("__init__", "reset", "step", "score", "state_hash", "close")


class Planned(Desk):
    """Breaks at the k-th of all calls made to environments of this class."""

    plan: ClassVar[tuple[int, BaseException]] = (-1, RuntimeError())
    visited: ClassVar[list[str]] = []

    @classmethod
    def visit(cls, site: str) -> None:
        cls.visited.append(site)
        number, error = cls.plan
        if len(cls.visited) - 1 == number:
            raise error

    def __init__(self, **options: Any) -> None:
        self.visit("__init__")
        super().__init__(**options)

    def reset(self, **options: Any) -> Any:
        self.visit("reset")
        return super().reset(**options)

    def step(self, action: str) -> Any:
        self.visit("step")
        return super().step(action)

    def score(self) -> dict[str, float]:
        self.visit("score")
        return super().score()

    def state_hash(self) -> str:
        self.visit("state_hash")
        return "h"

    def close(self) -> None:
        self.visit("close")
        super().close()


class PlannedInThread(Planned):
    metadata = {"isolation": "thread"}  # noqa: RUF012


def answering(chat: Chat) -> ScriptedEngine:
    """Return an engine that calls a tool and then answers, whatever the order of the episodes."""

    def reply(prompt: Any, sampling: Sampling) -> list[int]:
        text = chat.decode(prompt)
        return chat.completion(says() if "<tool_response>" in text else calls("echo", text="a"))

    engine = ScriptedEngine(reply=reply)
    engine.live[POLICY] = None
    return engine


async def roll(chat: Chat, env: type[Planned], plan: tuple[int, BaseException]) -> tuple[list[GroupResult], Any]:
    source = resolve_env(env)
    env.visited.clear()
    env.plan = plan
    config = RolloutConfig(max_turns=3, max_tokens=200, max_turn_tokens=60, retries=1)
    async with RolloutManager(source, chat, answering(chat), config, seed=0) as manager:
        results = await manager.rollout(
            TASKS, policy=POLICY, phase="train", step=1, group_size=2, sampling=Sampling(max_tokens=0)
        )
    env.plan = (-1, RuntimeError())
    return results, manager


@pytest.mark.parametrize("env", [Planned, PlannedInThread])
async def test_an_environment_may_break_at_any_call(
    tiny_chat: Chat, ledger: Ledger, is_full: bool, env: type[Planned], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group, "LONGEST_PAUSE", 0.001)
    await roll(tiny_chat, env, (-1, RuntimeError()))
    sites = list(env.visited)
    assert set(sites) == set(SITES)
    errors: list[Callable[[], BaseException]] = [lambda: RuntimeError("planned"), lambda: SystemExit("planned")]
    injected = survived = lost = 0
    async with nothing_left_behind():
        for number in range(0, len(sites), 1 if is_full else 6):
            results, manager = await roll(tiny_chat, env, (number, errors[number % 2]()))
            injected += 1
            everything = [t for result in results for t in result.trajectories]
            broken = [t for t in everything if not t.is_scored]
            lost += sum(len(result.group.trajectories) != 2 for result in results)  # tried again, so none is missing
            lost += manager.counts.open
            if env.visited[number] == "close":
                survived += not broken and manager.activity.troubles["close_failures"] == 1
            else:
                causes = [t.failure.cause for t in broken if t.failure and t.failure.boundary is Boundary.ENV]
                survived += len(causes) == 1 and "planned" in causes[0] and "\n" not in causes[0]
    ledger.record(f"environment raises at call k ({env.metadata['isolation']})", injected=injected, survived=survived)
    assert lost == 0


class Slow(Desk):
    metadata = {"isolation": "thread"}  # noqa: RUF012
    begins: ClassVar[threading.Barrier]
    is_over: ClassVar[threading.Event]

    @tool
    def nap(self) -> str:
        """Take longer than an episode may."""
        self.begins.wait(60)
        self.is_over.wait()
        return "rested"


async def test_a_deadline_inside_a_step_ends_the_episode_once(tiny_chat: Chat, ledger: Ledger) -> None:
    engine, loop = acting(tiny_chat, *[calls("nap")] * 4), asyncio.get_running_loop()

    def strike() -> None:
        loop.call_soon_threadsafe(leap, 50)

    Slow.begins = threading.Barrier(4, strike)
    Slow.is_over = threading.Event()
    config = RolloutConfig(
        max_tokens=200, max_turn_tokens=60, retries=2, episode_seconds=50, max_failed_share=1.0, concurrency=4
    )
    async with nothing_left_behind(), RolloutManager(resolve_env(Slow), tiny_chat, engine, config, seed=0) as manager:
        (result,) = await manager.rollout(
            TASKS[:1], policy=POLICY, phase="train", step=1, group_size=4, sampling=Sampling(max_tokens=0)
        )
        Slow.is_over.set()
    assert result.group.trajectories == ()
    assert manager.counts.ends == {StopReason.DEADLINE: 4}
    assert manager.counts.open == 0
    causes = [t.failure.cause for t in result.failed if t.failure and t.key.attempt == 0 and not t.is_scored]
    survived = sum(c.startswith("the episode's 50 s were over: step (nap) was cut off; its thread") for c in causes)
    ledger.record("episode deadline inside a step", injected=4, survived=survived)


class Wrong(Desk):
    """Gives what its task says, in place of what it should: {"site", "value"}, looked up in `VALUES`."""

    def reset(self, **options: Any) -> Any:
        row = (options.get("options") or {}).get("task", {})
        self.site, self.case = row.get("site"), row.get("case")
        obs, info = super().reset(**options)
        return self.swap("reset", (obs, info), {"obs": 0, "info": 1})

    def step(self, action: str) -> Any:
        names = {"obs": 0, "reward": 1, "terminated": 2, "truncated": 3, "info": 4}
        return self.swap("step", super().step(action), names)

    def score(self) -> Any:
        return VALUES[self.case][0] if self.site == "score" else super().score()

    def swap(self, method: str, result: tuple[Any, ...], names: dict[str, int]) -> Any:
        where, _, part = str(self.site).partition(".")
        if where != method:
            return result
        value = VALUES[self.case][0]
        if not part:
            return value
        if part in names:
            return tuple(value if i == names[part] else item for i, item in enumerate(result))
        obs, *middle, info = result
        return (obs, *middle, {**info, part: value})


class _Odd:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def _deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(5000):
        value = [value]
    return value


_INFINITE, _NAN = math.inf, math.nan
CASES: list[tuple[str, Any, str]] = [
    ("reset", None, "reset is None, expected (observation, info)"),
    ("reset", "text", "expected (observation, info)"),
    ("reset.obs", 5, "reset's observation is 5 (int), expected a str"),
    ("reset.obs", b"x", "expected a str"),
    ("reset.obs", "x" * 1_000_001, "1,000,001 characters, at most 1,000,000"),
    ("reset.info", None, "reset's info is None, expected a dict"),
    ("reset.messages", "hello", "reset's info['messages'] is 'hello' (str), expected a list"),
    ("reset.messages", [5], "['messages'][0] is 5 (int), expected a dict with a role"),
    ("reset.messages", [{"role": "pirate", "content": "x"}], "expected a dict with a role (system, developer"),
    ("reset.messages", [{"role": "user", "content": 5}], "['messages'][0]['content'] is 5 (int), expected a str"),
    ("reset.messages", [{"role": "user", "content": "x" * 1_000_001}], "larger than 1,000,000 characters"),
    ("reset.messages", [{"role": "user", "content": "x", "extra": {1, 2}}], "a set, which JSON cannot hold"),
    ("reset.messages", [{"role": "user", "content": "x", "extra": _Odd()}], "a _Odd, which JSON cannot hold"),
    ("reset.messages", [{"role": "user", "content": "x", "extra": _NAN}], "nan, which JSON cannot hold"),
    ("reset.messages", [{"role": "user", "content": "x", "extra": 10**5000}], "a int, which JSON cannot hold"),
    ("reset.messages", [{"role": "user", "content": "x", "extra": _deep()}], "RecursionError"),
    ("reset.messages", [{"role": "user", "content": "x", "k" * 1_000_001: 1}], "larger than 1,000,000 characters"),
    ("reset.tools", "find", "reset's info['tools'] is 'find' (str), expected a list"),
    ("reset.tools", [{"name": "find"}], "expected {'type': 'function'"),
    ("reset.tools", [{"function": {"name": "f", "parameters": 5}}], "expected a JSON schema"),
    ("step", ("obs", 0.0, True, {}), "expected (observation, reward, terminated, truncated, info)"),
    ("step", 5, "step is 5 (int)"),
    ("step.obs", None, "step's observation is None, expected a str"),
    ("step.reward", _NAN, "step gave reward = nan, expected a finite number"),
    ("step.reward", -_INFINITE, "step gave reward = -inf, expected a finite number"),
    ("step.reward", np.float32(_NAN), "expected a finite number"),
    ("step.reward", "1.0", "step gave reward = '1.0' (str), expected a finite number"),
    ("step.reward", None, "step gave reward = None"),
    ("step.reward", np.array([1.0]), "step gave reward = a ndarray, expected a finite number"),
    ("step.terminated", "yes", "step's terminated is 'yes' (str), expected True or False"),
    ("step.terminated", None, "step's terminated is None"),
    ("step.terminated", 2, "step's terminated is 2 (int)"),
    ("step.truncated", np.array([True, False]), "step's truncated is a ndarray"),
    ("step.info", [], "step's info is [] (list), expected a dict"),
    ("step.messages", {"role": "user"}, "expected a list"),
    ("step.messages", [None], "step's info['messages'][0] is None, expected a dict with a role"),
    ("step.tools", 5, "step's info['tools'] is 5 (int), expected a list"),
    ("step.reward_terms", {"outcome": _NAN}, "reward_terms'] gave outcome = nan"),
    ("step.reward_terms", {"outcome": "high"}, "gave outcome = 'high' (str), expected a finite number"),
    ("step.reward_terms", {"outcome": 10**400}, "expected a finite number"),
    ("step.reward_terms", {"t" * 1_000_001: 1.0}, "['reward_terms'] is larger than 1,000,000 characters"),
    ("step.reward_terms", {"t" * 1_000: _NAN}, "more characters) = nan"),
    ("step.reward_terms", [1.0], "['reward_terms'] is [1.0] (list), expected a dict of named numbers"),
    ("step.state_diff", [{"k" * 1_000_001: 1}], "['state_diff'] is larger than 1,000,000 characters"),
    ("step.state_diff", "x", "['state_diff'] is 'x' (str), expected a list"),
    ("score", 1.0, "score is 1.0, expected a dict of named numbers"),
    ("score", {"outcome": _INFINITE}, "score gave outcome = inf"),
    ("score", {"outcome": 1 + 2j}, "score gave outcome = a complex"),
]
VALUES = [(value, cause) for _, value, cause in CASES]


async def test_what_no_environment_should_give_is_a_failure_with_its_cause(tiny_chat: Chat, ledger: Ledger) -> None:
    survived = 0
    for case, (site, _, cause) in enumerate(CASES):
        row: JsonObject = {"site": site, "case": case, "replies": 9}
        # The last turn allowed is cut off by the limit, and scored by `score`.
        engine = acting(tiny_chat, calls("finish") if site.startswith("step") else calls("echo"))
        ended = await play(tiny_chat, engine, env=Wrong, row=row, max_turns=1)
        assert ended.failure is not None, (site, cause)
        assert cause in ended.failure.cause, (site, ended.failure.cause)
        assert len(ended.failure.cause) < 400
        survived += (ended.stop_reason, ended.failure.boundary, ended.reward) == (
            StopReason.FAILED,
            Boundary.ENV,
            None,
        )
    ledger.record("environment gives what it should not", injected=len(CASES), survived=survived)


async def test_what_is_unusual_but_right_is_taken(tiny_chat: Chat) -> None:
    class Unusual(Desk):
        def step(self, action: str) -> Any:
            obs, _, terminated, _, info = super().step(action)
            parts = (
                {"role": "developer", "content": "Be brief."},
                {"role": "tool", "content": "half \ud800", "n": np.int64(3), "\ud800": 1},
            )
            terms = {"outcome": np.float32(0.5), "\ud800": 0}
            info = {"messages": parts, "custom": object(), "reward_terms": terms, "state_diff": [{"\ud800": 1}]}
            return np.str_(obs), np.float32(0.5), np.bool_(terminated), np.bool_(False), info

    ended = await play(tiny_chat, acting(tiny_chat, calls("finish")), env=Unusual)
    assert (ended.stop_reason, ended.reward) == (StopReason.DONE, 0.5)
    assert ended.reward_terms == {"outcome": 0.5, "?": 0.0}
    assert ended.turns[0].messages == (
        {"role": "developer", "content": "Be brief."},
        {"role": "tool", "content": "half ?", "n": 3, "?": 1},
    )
    assert ended.turns[0].state_diff == ({"?": 1},)


@pytest.mark.parametrize("error", [RuntimeError("planned"), SystemExit("planned")])
def test_an_environment_that_cannot_be_looked_at_is_the_users_to_mend(error: BaseException) -> None:
    class Shy(gymnasium.Env[str, str]):
        @property
        def metadata(self) -> dict[str, Any]:  # type: ignore[override]
            raise error

    class Stillborn(Desk):
        def __init__(self) -> None:
            raise error

    for env in (Shy, Stillborn):
        with pytest.raises(EnvError, match=r"cannot make the environment .*planned"):
            resolve_env(env)


class Clingy(Desk):
    """Closes only when it is over."""

    metadata = {"isolation": "thread"}  # noqa: RUF012
    closes: ClassVar[Callable[[], object]]
    is_over: ClassVar[threading.Event]

    def close(self) -> None:
        if hasattr(self, "heard"):  # else it was only looked at
            type(self).closes()
            self.is_over.wait()
        super().close()


async def test_an_environment_that_will_not_close_is_given_up(ledger: Ledger) -> None:
    told: list[str] = []
    activity, loop = Activity(told.append), asyncio.get_running_loop()
    Clingy.closes, Clingy.is_over = lambda: loop.call_soon_threadsafe(leap, 10), threading.Event()
    async with nothing_left_behind():
        hosts = EnvHosts(resolve_env(Clingy), concurrency=2, seconds=10, activity=activity)
        for _ in range(2):
            host = hosts.make()
            await host.reset()
            await host.close()
        hosts.close()
        Clingy.is_over.set()
    assert activity.troubles == {"abandoned_threads": 2, "close_failures": 2}
    assert [line.split(": ", 1)[1][:37] for line in told] == [
        "close did not return in time. Its thr",
        "close did not return within 10 s; its",
    ]
    ledger.record("environment will not close", injected=2, survived=2)


class Blocking(Desk):
    """Takes its time in the event loop, by the clock that is looked at there."""

    now: ClassVar[float] = 0.0

    @tool
    def nap(self) -> str:
        """Block."""
        Blocking.now += 1.1
        return "rested"


async def test_an_inline_environment_that_blocks_is_named(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    activity = Activity(told.append)
    monkeypatch.setattr(isolation, "BLOCKING_SECONDS", 1.0)
    monkeypatch.setattr(isolation, "time", SimpleNamespace(monotonic=lambda: Blocking.now))
    hosts = EnvHosts(resolve_env(Blocking), concurrency=2, seconds=60, activity=activity)
    host = hosts.make()
    await host.reset()
    await host.step(json.dumps(calls("nap")), calls="nap")
    hosts.close()
    assert activity.troubles == {"blocking_calls": 1}
    assert "step (nap) took 1.1 s in the event loop" in told[0]
    ledger.record("inline environment blocks", injected=1, survived=1)
