"""Policies that need no model: the oracle, one that does nothing, one that acts at random. They say what rewards mean.

It knows environments only: neither tokens nor engines, and not what is good or bad about a score.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import gymnasium

from agentgrpo.actions import parse_action
from agentgrpo.core import StepResult, weigh
from agentgrpo.errors import EnvError
from agentgrpo.registry import EnvSource
from agentgrpo.seeds import derive_seed
from agentgrpo.types import Json, JsonObject, Message, Task

MOST_STEPS = 200  # of an episode, before it counts as one that never ends
RANDOM_CALLS = 6  # a random policy makes fewer than this many, then answers
RANDOM_STEPS = 20  # after so many its episode is scored as it stands
_WORD = re.compile(r"\w+")
_PLAIN = {"integer": 1, "number": 1.5, "boolean": True, "array": [], "object": {}, "null": None}

Env: TypeAlias = gymnasium.Env[Any, Any]
Actor: TypeAlias = Generator[str, StepResult, None]  # yields actions, is sent what each led to


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """An episode as it was played. `reward` is the sum of its steps, or what the state was worth at its last one."""

    prompt: tuple[Message, ...]
    tools: tuple[JsonObject, ...]
    turns: tuple[tuple[JsonObject, tuple[Message, ...]], ...]  # action, what came back
    actions: tuple[str, ...]  # as the environment got them
    reward: float
    terms: dict[str, float]
    has_ended: bool

    @property
    def is_success(self) -> bool:
        """Whether the outcome (or, without an outcome term, the reward) reached 1."""
        return self.terms.get("outcome", self.reward) >= 1.0 - 1e-9

    @property
    def call_count(self) -> int:
        return sum(len(action["tool_calls"]) for action, _ in self.turns)

    @property
    def error_count(self) -> int:
        return sum(bool(message.get("is_error")) for _, messages in self.turns for message in messages)


def start(source: EnvSource, task: Task | None, seed: int) -> tuple[Env, str, JsonObject]:
    """Make an environment and reset it to a task; without one it makes its episode of the seed."""
    env = source.make()
    return env, *reset(env, task, seed)


def reset(env: Env, task: Task | None, seed: int) -> tuple[str, JsonObject]:
    """Reset an environment to a task, with the seed that `start` takes for it."""
    own = derive_seed(seed, task.id if task else "") % 2**31
    obs, info = env.reset(seed=own, options={"task": task.row} if task else None)
    return obs, info


def play(source: EnvSource, task: Task | None, baseline: str, *, seed: int) -> Played:
    """Play an episode with the baseline "oracle", "nothing" or "random".

    Raises:
        EnvError: the oracle stopped before the episode's end, or the episode never ends.
    """
    env, obs, info = start(source, task, seed)
    try:
        actor = _ACTORS[baseline](env, obs, info, source, random.Random(derive_seed(seed, baseline, task and task.id)))
        steps = RANDOM_STEPS if baseline != "oracle" else MOST_STEPS
        played = follow(env, obs, info, actor, steps)
    finally:
        env.close()
    if baseline == "oracle" and not played.has_ended:
        told = "had not ended" if len(played.actions) == MOST_STEPS else "was left by its oracle before its end"
        raise EnvError(f"the episode {told} after {len(played.actions)} steps: let it end with self.say('done')")
    return played


def follow(env: Env, obs: str, info: JsonObject, actor: Actor, steps: int) -> Played:
    """Let an actor play an environment that was just reset, for so many steps at most."""
    prompt, tools = _messages(obs, info), tuple(info.get("tools") or ())
    turns: list[tuple[JsonObject, tuple[Message, ...]]] = []
    actions: list[str] = []
    total, terms, is_over = 0.0, {}, False
    action = next(actor, None)
    while action is not None and not is_over and len(actions) < steps:
        result = env.step(action)
        obs, reward, terminated, truncated, info = result
        actions.append(action)
        turns.append((parse_action(action).to_message(), _messages(obs, info)))
        total, terms, is_over = total + float(reward), dict(info.get("reward_terms") or {}), terminated or truncated
        action = None if is_over else _send(actor, result)
    if not is_over and (scored := score(env)) is not None:
        total, terms = scored
    return Played(
        prompt=prompt,
        tools=tools,
        turns=tuple(turns),
        actions=tuple(actions),
        reward=total,
        terms=terms,
        has_ended=is_over,
    )


def score(env: Env) -> tuple[float, dict[str, float]] | None:
    """Return the weighted reward and its terms if the episode ended now; None when the environment cannot tell."""
    inner: Any = env.unwrapped
    if not callable(getattr(inner, "score", None)):
        return None
    terms = dict(inner.score())
    return weigh(terms, getattr(inner, "reward_weights", None) or {}), terms


def nothing_action(source: EnvSource) -> str:
    """Return the action of an agent that says nothing and calls nothing."""
    return json.dumps({"content": "", "tool_calls": []}) if source.action_format == "message" else ""


def has_oracle(env: Env) -> bool:
    """Return whether an environment says how its tasks are solved."""
    return callable(getattr(env.unwrapped, "oracle", None))


def made_up(schema: JsonObject) -> Json:
    """Return a plain value that fits a JSON schema of one argument, the same each time."""
    if schema.get("enum"):
        return schema["enum"][0]
    if "const" in schema:
        return schema["const"]
    for key in ("anyOf", "oneOf"):
        if schema.get(key):
            return made_up(next((one for one in schema[key] if one.get("type") != "null"), schema[key][0]))
    if schema.get("type") == "object":
        properties = schema.get("properties", {})
        return {name: made_up(properties[name]) for name in schema.get("required", ()) if name in properties}
    if schema.get("type") in ("integer", "number") and "minimum" in schema:
        return schema["minimum"]
    return _PLAIN.get(schema.get("type", "string"), "a")


def made_up_call(tool: JsonObject, index: int) -> JsonObject:
    """Return a call of a tool with made-up arguments."""
    function = tool["function"]
    properties: JsonObject = function.get("parameters", {}).get("properties", {})
    arguments = {name: made_up(schema) for name, schema in properties.items()}
    return {"id": f"call_{index}", "name": function["name"], "arguments": arguments}


def random_value(schema: JsonObject, rng: random.Random, seen: Sequence[str]) -> Json:
    """Return a random value of the type a schema asks for; text is words of what was seen."""
    if schema.get("enum"):
        return rng.choice(schema["enum"])
    for key in ("anyOf", "oneOf"):
        if schema.get(key):
            return random_value(rng.choice(schema[key]), rng, seen)
    kind = schema.get("type", "string")
    if kind == "integer":
        low = schema.get("minimum", 0)
        return rng.randint(low, schema.get("maximum", low + rng.choice((9, 99, 999))))
    if kind == "number":
        return round(rng.uniform(schema.get("minimum", 0), schema.get("maximum", 100)), 2)
    if kind == "boolean":
        return rng.random() < 0.5
    if kind == "array":
        return [random_value(schema.get("items", {}), rng, seen) for _ in range(rng.randrange(3))]
    if kind == "object":
        return {name: random_value(one, rng, seen) for name, one in schema.get("properties", {}).items()}
    return None if kind == "null" else _words(rng, seen)


def _words(rng: random.Random, seen: Sequence[str]) -> str:
    """Return one to three words that stood beside each other."""
    words = _WORD.findall(rng.choice(seen)) if seen else []
    if not words:
        return rng.choice("abc")
    first = rng.randrange(len(words))
    return " ".join(words[first : first + rng.choice((1, 1, 2, 3))])


def _oracle(env: Env, obs: str, info: JsonObject, source: EnvSource, rng: random.Random) -> Actor:
    if not has_oracle(env):
        raise EnvError(f"{source.id} has no oracle(): nothing shows that its tasks can be solved")
    inner: Any = env.unwrapped
    script = inner.oracle(quality=1.0, rng=random.Random(0))
    action = next(script, None)
    while action is not None:
        result = yield action["content"] if source.action_format == "text" else json.dumps(action)
        action = _send(script, tuple(result[4].get("messages") or ()))


def _nothing(env: Env, obs: str, info: JsonObject, source: EnvSource, rng: random.Random) -> Actor:
    while True:
        yield nothing_action(source)


def _random(env: Env, obs: str, info: JsonObject, source: EnvSource, rng: random.Random) -> Actor:
    seen = [message["content"] for message in _messages(obs, info) if isinstance(message.get("content"), str)]
    tools, calls = list(info.get("tools") or ()), rng.randrange(RANDOM_CALLS)
    while True:
        if source.action_format == "text":
            action = _words(rng, seen)
        elif tools and calls:
            action, calls = _random_call(rng.choice(tools)["function"], rng, seen), calls - 1
        else:
            action = json.dumps({"content": _words(rng, seen), "tool_calls": []})
        obs, _, _, _, info = yield action
        tools = tools if info.get("tools") is None else list(info["tools"])
        seen += [m["content"] for m in _messages(obs, info) if isinstance(m.get("content"), str)]


def _random_call(function: JsonObject, rng: random.Random, seen: Sequence[str]) -> str:
    properties = function.get("parameters", {}).get("properties", {})
    arguments = {name: random_value(schema, rng, seen) for name, schema in properties.items()}
    call = {"id": "call_0", "name": function["name"], "arguments": arguments}
    return json.dumps({"content": "", "tool_calls": [call]})


def _messages(obs: str, info: JsonObject) -> tuple[Message, ...]:
    return tuple(info.get("messages") or ([{"role": "user", "content": obs}] if obs else []))


def _send(actor: Generator[Any, Any, None], value: Any) -> Any:
    try:
        return actor.send(value)
    except StopIteration:
        return None


_ACTORS: dict[str, Callable[[Env, str, JsonObject, EnvSource, random.Random], Actor]] = {
    "oracle": _oracle,
    "nothing": _nothing,
    "random": _random,
}
BASELINES = tuple(_ACTORS)
