"""Episodes a warm start learns from: an oracle's, or good ones of a run. It knows no model and no engine."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agentgrpo.chat import Chat, assistant_message
from agentgrpo.errors import EnvError, EpisodeError
from agentgrpo.registry import EnvSource
from agentgrpo.seeds import derive_seed
from agentgrpo.types import JsonObject, Message, Task, Trajectory
from agentgrpo.types import Sequence as TokenSequence

_MOST_TURNS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    """One episode: the prompt, then (action, what the environment answered) per turn.

    `changes` are the tools from a number of turns on, where they changed in mid-episode.
    """

    prompt: tuple[Message, ...]
    tools: tuple[JsonObject, ...]
    turns: tuple[tuple[JsonObject, tuple[Message, ...]], ...]
    reward: float
    changes: tuple[tuple[int, tuple[JsonObject, ...]], ...] = ()


def demonstrate(source: EnvSource, task: Task, *, quality: float, seed: int) -> Demonstration:
    """Play one episode with the environment's oracle.

    Raises:
        EnvError: the environment has no oracle, or the episode broke or never ends.
    """
    env = source.make()
    oracle_env: Any = env.unwrapped
    if not callable(getattr(oracle_env, "oracle", None)):
        raise EnvError(
            f"{source.id} has no oracle() to learn from: define one, "
            "or give [model] path a model that can act already (and leave out [warm_start])"
        )
    try:
        obs, info = env.reset(seed=derive_seed(seed, "env", task.id) % 2**31, options=_options(task))
        prompt = tuple(info.get("messages") or [{"role": "user", "content": obs}])
        oracle = oracle_env.oracle(quality=quality, rng=random.Random(derive_seed(seed, "oracle", task.id, quality)))
        tools = tuple(info.get("tools") or ())
        played = Demonstration(prompt=prompt, tools=tools, turns=(), reward=0.0)
        return _play(env, oracle, played, f"the oracle of {source.id}, on task '{task.id}',")
    except EpisodeError as error:
        raise EnvError(f"{source.id} broke while its oracle played task '{task.id}': {error}") from error
    finally:
        env.close()


def _play(env: Any, oracle: Any, begun: Demonstration, who: str) -> Demonstration:
    """Return an episode that has begun as it went on to its end."""
    turns: list[tuple[JsonObject, tuple[Message, ...]]] = []
    changes: list[tuple[int, tuple[JsonObject, ...]]] = []
    tools, reward = begun.tools, 0.0
    try:
        action = next(oracle)
        while len(turns) < _MOST_TURNS:
            _, step_reward, terminated, truncated, info = env.step(json.dumps(action))
            messages = tuple(info.get("messages") or ())
            turns.append((action, messages))
            reward += float(step_reward)
            if terminated or truncated:
                return replace(begun, turns=tuple(turns), reward=reward, changes=tuple(changes))
            if info.get("tools") is not None and tuple(info["tools"]) != tools:
                tools = tuple(info["tools"])
                changes.append((len(turns), tools))
            action = oracle.send(messages)
    except StopIteration:
        raise EnvError(
            f"{who} stopped after {len(turns)} actions, before the episode's end: let it end with self.say('done')"
        ) from None
    raise EnvError(f"{who} was not done after {_MOST_TURNS} actions: let it end with self.say('done')")


def demonstration_of(trajectory: Trajectory) -> Demonstration:
    """Return a recorded episode as a demonstration."""
    return Demonstration(
        prompt=trajectory.prompt,
        tools=trajectory.tools,
        turns=tuple((turn.action, turn.messages) for turn in trajectory.turns),
        reward=trajectory.reward or 0.0,
    )


def demonstrations(
    source: EnvSource, tasks: Sequence[Task], *, count: int, quality: float, seed: int
) -> Iterator[Demonstration]:
    """Yield `count` demonstrations, going round the tasks in a seeded order.

    Raises:
        EnvError: there is no task, or as for `demonstrate`.
    """
    if not tasks:
        raise EnvError(f"{source.id} has no training tasks to demonstrate: return rows from tasks('train')")
    rng = random.Random(derive_seed(seed, "demonstrations", quality))
    order: list[Task] = []
    for index in range(count):
        if not order:
            order = list(tasks)
            rng.shuffle(order)
        yield demonstrate(source, order.pop(), quality=quality, seed=derive_seed(seed, index))


def token_rows(demonstration: Demonstration, chat: Chat) -> list[TokenSequence]:
    """Return the ids of a demonstration in rows: a new one begins where the tools changed, as a rollout forks there.

    Raises:
        EnvError: as for `tokenize`.
    """
    return [tokenize(stretch, chat) for stretch in _stretches(demonstration)]


def _stretches(demonstration: Demonstration) -> Iterator[Demonstration]:
    prompt, tools, begin = list(demonstration.prompt), demonstration.tools, 0
    for end, new_tools in (*demonstration.changes, (len(demonstration.turns), ())):
        turns = demonstration.turns[begin:end]
        if turns:
            yield replace(demonstration, prompt=tuple(prompt), tools=tools, turns=turns, changes=())
        for action, messages in turns:
            prompt += [assistant_message(action), *messages]
        tools, begin = new_tools, end


def tokenize(demonstration: Demonstration, chat: Chat) -> TokenSequence:
    """Return the ids of a demonstration whose tools stay the same; the mask is on what the agent said.

    Raises:
        EnvError: the chat template cannot extend this conversation turn by turn.
    """
    prompt = chat.render(demonstration.prompt, demonstration.tools)
    ids, mask, turns = list(prompt), [0] * len(prompt), [0] * len(prompt)
    for number, (action, messages) in enumerate(demonstration.turns):
        said = chat.completion(action)
        is_last = number == len(demonstration.turns) - 1
        extended = None if is_last else chat.extend(ids, said, messages, demonstration.tools)
        if extended is None and not is_last:
            raise EnvError("this chat template rewrites earlier turns, so demonstrations cannot be joined into one row")
        follow = [] if extended is None else extended[len(ids) + len(said) :]
        ids += said + follow
        mask += [1] * len(said) + [0] * len(follow)
        turns += [number] * len(said) + [number + 1] * len(follow)
    return TokenSequence(
        token_ids=tuple(ids), loss_mask=tuple(mask), rollout_logprobs=(0.0,) * len(ids), turns=tuple(turns)
    )


def value_words(demonstration: Demonstration) -> Iterator[str]:
    """Yield the words of all values in calls and results: what an agent has to copy, not to phrase."""
    for action, messages in demonstration.turns:
        for call in action["tool_calls"]:
            yield from _words(call.get("arguments"))
        for message in messages:
            try:
                yield from _words(json.loads(message["content"]))
            except (ValueError, TypeError):
                continue  # plain text: its words are phrased by the tool


def _words(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from _all_words(v for k, v in value.items() if k != "error")
    elif isinstance(value, list):
        yield from _all_words(value)
    elif isinstance(value, str):
        yield from ("".join(c if c.isalnum() else " " for c in value)).split()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from str(value).lstrip("-").split(".")


def _all_words(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        yield from _words(value)


def _options(task: Task) -> dict[str, Any]:
    return {"task": {"task_id": task.id, **task.row}}
