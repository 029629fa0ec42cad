"""Environments: the Gymnasium contract for agents and the base class of environments whose actions are tool calls.

It does not know models, tokens or concurrency: an environment is stepped by whoever holds it, one action at a time.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import gymnasium
from gymnasium.spaces import Text

from agentgrpo.actions import parse_action
from agentgrpo.calls import error_type
from agentgrpo.errors import EnvError, TaskError, nearest
from agentgrpo.tasks import GIVE_TASKS, load_tasks
from agentgrpo.tooling import (
    Tool,
    ToolResult,
    as_tool,
    describe,
    encodable,
    error_result,
    is_tool,
    one_line,
)
from agentgrpo.types import BadCall, CallRecord, JsonObject, Message, Task, ToolCall

StepResult: TypeAlias = tuple[str, float, bool, bool, JsonObject]

_PRINTABLE = "".join(map(chr, range(32, 127)))
_SAMPLE_LENGTH = 64
_OVER = "the episode was over before this call, which was not made"


class UnicodeText(Text):
    """Any text of at most `max_length` characters; Gymnasium's own space allows letters and digits only.

    Samples are short and printable.
    """

    def __init__(self, max_length: int = 2**31 - 1, *, min_length: int = 0, seed: int | None = None) -> None:
        super().__init__(max_length, min_length=min_length, charset=_PRINTABLE, seed=seed)

    def contains(self, x: Any) -> bool:
        """Return whether `x` is a text of a length within the bounds."""
        return isinstance(x, str) and self.min_length <= len(x) <= self.max_length

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """Return a short printable text; masks are those of `gymnasium.spaces.Text`."""
        if mask is None and probability is None:
            longest = max(self.min_length, min(self.max_length, _SAMPLE_LENGTH))
            mask = (int(self.np_random.integers(self.min_length, longest + 1)), None)
        return super().sample(mask, probability)

    def __repr__(self) -> str:
        return f"UnicodeText({self.max_length}, min_length={self.min_length})"


class AgentEnv(gymnasium.Env[str, str]):
    """A `gymnasium.Env` of text. What is chat rather than text stands in `info`: messages, tools, reward_terms.

    Optional, and used where defined: `snapshot() -> bytes`, `restore(bytes)`, `state() -> Json`, `state_hash() -> str`,
    `state_diff() -> list` (JSON Patch operations since the last call), `score() -> dict` (named reward terms if the
    episode ended now), `oracle(*, quality, rng)` (a generator of actions that is sent the messages they led to) and
    `facts() -> dict` (what it is played in, such as the sandbox's tier; a run's record keeps it).
    `metadata["unchecked"]` maps checks of `check_env` that do not apply to why.
    """

    observation_space = UnicodeText()
    action_space = UnicodeText()
    metadata = {  # noqa: RUF012 (as Gymnasium declares it)
        "render_modes": ["ansi"],
        "render_fps": 1,
        "action_format": "message",  # "text": step gets the bare text
        "isolation": "thread",  # "inline": step never blocks; "process": global state, or code that may hang
    }
    splits: ClassVar[tuple[str, ...]] = ("train", "heldout")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # A subclass states what differs, not everything again.
        cls.metadata = {**super(cls, cls).metadata, **cls.__dict__.get("metadata", {})}

    @classmethod
    def tasks(cls, split: str = "train") -> Sequence[JsonObject]:
        """Return the rows the environment ships for a split; a row may have a "task_id" and a "weight"."""
        return ()


class ToolEnv(AgentEnv):
    """An environment whose actions are tool calls: write tools as methods, `reset_task` and `reward`.

    Args:
        tasks: Rows, or a file of rows, to train on instead of those the class ships.
        reward_weights: Weight of each named reward term; 1 where none is given.
        tools: Names of the tools to offer; None means all.
        render_mode: "ansi" or None, as in Gymnasium.
    """

    system_prompt: ClassVar[str] = ""  # "": no system message
    task: JsonObject
    answer: str | None  # the final message without calls

    def __init__(
        self,
        *,
        tasks: str | Path | Sequence[JsonObject] | None = None,
        reward_weights: Mapping[str, float] | None = None,
        tools: Sequence[str] | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.render_mode = render_mode
        self.reward_weights = dict(reward_weights or {})
        self.task, self.answer = {}, None
        self._own_tasks = tasks
        self._rows: dict[str, JsonObject] = {}
        self._ids: dict[str, list[str]] = {}  # by split
        self._wanted = None if tools is None else tuple(tools)
        self._call_log: list[CallRecord] = []
        self._shown = ""
        self._offered: list[Tool] = []
        self._extra: list[Tool] = []  # what `extra_tools` gave last
        self._schemas = "[]"  # of those offered, as JSON
        self._own_tools = _named(as_tool(getattr(self, name)) for name in _tool_names(type(self)))
        self.tools = self._own_tools
        self._has_extra_tools = type(self).extra_tools is not ToolEnv.extra_tools
        if not self._has_extra_tools:  # otherwise only a reset shows them all
            self._offer(())

    # What an author writes

    def reset_task(self, task: JsonObject) -> str | list[Message]:
        """Set up a task and return the first user message, or several messages."""
        raise EnvError(f"{type(self).__name__} has no reset_task(self, task): define it; it returns the user's message")

    def reward(self) -> Mapping[str, float] | float:
        """Return the named reward terms, or one number, of the episode as it stands."""
        raise EnvError(
            f"{type(self).__name__} has no reward(self): define it; it returns terms like {{'outcome': 1.0}}"
        )

    def is_done(self) -> bool:
        """Return whether the episode is over although the agent has not answered; asked after every call."""
        return False

    def respond(self, content: str) -> str | None:
        """Return a user's reply to a message without calls, or None to end the episode."""
        return None

    def extra_tools(self) -> Iterable[Tool | Callable[..., Any]]:
        """Return tools besides the marked methods, such as an app's functions; asked after each reset and step."""
        return ()

    # What an author reads

    @property
    def calls(self) -> tuple[CallRecord, ...]:
        """The episode's calls so far, in order, each with what came of it."""
        return tuple(self._call_log)

    def dump_episode(self) -> JsonObject:
        """Return task, answer and calls as JSON: what `snapshot` keeps besides the author's own state."""
        return {"task": self.task, "answer": self.answer, "calls": [asdict(call) for call in self._call_log]}

    def load_episode(self, dumped: JsonObject) -> None:
        """Go back to what `dump_episode` returned: for `restore`."""
        self.task, self.answer = dumped["task"], dumped["answer"]
        self._call_log = [CallRecord(**call) for call in dumped["calls"]]

    # Gymnasium

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, JsonObject]:
        """Start an episode.

        Args:
            seed: Seeds `self.np_random`.
            options: {"task": row} or {"task_id": id}; without either a training row is drawn.
        """
        super().reset(seed=seed)
        self.task, self.answer, self._call_log = copy.deepcopy(self._choose(options or {})), None, []
        opening = self._open()
        self._offer(self.extra_tools())
        messages = [{"role": "user", "content": opening}] if isinstance(opening, str) else list(opening)
        self._observe("state_diff")  # what was set up is no change
        self._shown = _joined(messages)
        system = [{"role": "system", "content": self.system_prompt}] if self.system_prompt else []
        return self._shown, self._info([*system, *messages]) | {"task_id": self.task["task_id"]}

    def step(self, action: str) -> StepResult:
        """Run the action's calls, or take its text as the answer; nothing a model writes can make this raise.

        Args:
            action: Canonical JSON of an assistant message, or text that may hold `<tool_call>{...}</tool_call>` blocks.
        """
        message = parse_action(action, first_id=len(self._call_log))
        if message.calls:
            messages = list(self._answers(message.calls))
            terminated = self.is_done()
        else:
            messages = self._hear(encodable(message.content))
            terminated = not messages or self.is_done()
        if not terminated and self._has_extra_tools:
            extra = list(map(as_tool, self.extra_tools()))
            if extra != self._extra:  # else what the author did to `self.tools` stands
                self._offer(extra, is_start=False)
        self._shown = _joined(messages)
        info, reward = self._info(messages), 0.0
        if self._has("state_diff"):
            info["state_diff"] = self._observe("state_diff")
        if terminated:
            info["reward_terms"] = self.score()
            reward = weigh(info["reward_terms"], self.reward_weights)
        return self._shown, reward, terminated, False, info

    def render(self) -> str | None:
        """Return the state as JSON, or the last observation, when the render mode is "ansi"."""
        if self.render_mode is None:
            return None
        return json.dumps(self._observe("state"), indent=1) if self._has("state") else self._shown

    def score(self) -> dict[str, float]:
        """Return the reward terms, unweighted, if the episode ended now.

        Raises:
            EnvError: `reward` returned something else than finite numbers.
        """
        terms = self.reward()
        named = dict(terms) if isinstance(terms, Mapping) else {"outcome": terms}
        for name, value in named.items():
            if not isinstance(value, Real) or not math.isfinite(value):
                raise EnvError(f"{type(self).__name__}.reward() gave {name} = {value!r}; expected a finite number")
        return {name: float(value) for name, value in named.items()}

    # Actions, for oracles, tests and people

    def call(self, name: str, /, **arguments: Any) -> JsonObject:
        """Return the canonical action that makes one call."""
        return {"content": "", "tool_calls": [ToolCall(id="call_0", name=name, arguments=arguments).to_message()]}

    def say(self, content: str) -> JsonObject:
        """Return the canonical action that only says something."""
        return {"content": content, "tool_calls": []}

    def _open(self) -> str | list[Message]:
        try:
            return self.reset_task(self.task)
        except (KeyError, IndexError) as error:
            raise TaskError(
                f"{type(self).__name__}.reset_task cannot use task '{self.task['task_id']}': {describe(error)}. "
                "Its row has "
                + (", ".join(self.task) if self._rows or len(self.task) > 1 else f"no data: {GIVE_TASKS}")
            ) from error

    def _choose(self, options: Mapping[str, Any]) -> JsonObject:
        if options.get("task") is not None:
            return {"task_id": "task", **options["task"]}
        if options.get("task_id") is not None:
            return self._row(str(options["task_id"]))
        ids = self._load("train")
        # Without any rows an environment may still make its episodes from the seed alone.
        return self._rows[ids[int(self.np_random.integers(len(ids)))]] if ids else {"task_id": "train-0"}

    def _row(self, task_id: str) -> JsonObject:
        for split in self.splits:
            if task_id in self._load(split):
                return self._rows[task_id]
        raise TaskError(f"{type(self).__name__} has no task '{task_id}'.{nearest(task_id, self._rows)}")

    def _load(self, split: str) -> list[str]:
        if split not in self._ids:
            is_own = split == "train" and self._own_tasks is not None
            tasks = load_tasks(self._own_tasks or (), split=split) if is_own else self._shipped(split)
            self._rows |= {task.id: task.row for task in tasks}
            self._ids[split] = [task.id for task in tasks]
        return self._ids[split]

    def _offer(self, extra: Iterable[Tool | Callable[..., Any]], *, is_start: bool = True) -> None:
        self._extra = list(map(as_tool, extra))
        tools = self._own_tools | _named(self._extra)
        for name in self._wanted or ():
            if name not in tools and is_start:  # later it may have vanished
                known = ", ".join(tools) or "none"
                raise EnvError(f"{type(self).__name__} has no tool '{name}'; it has {known}.{nearest(name, tools)}")
        self.tools = tools if self._wanted is None else {name: tools[name] for name in self._wanted if name in tools}

    def _answers(self, calls: Sequence[ToolCall | BadCall]) -> Iterator[Message]:
        """Answer calls in order; none is made after the end: else many guesses in one message would count as one."""
        is_over = False
        for index, call in enumerate(calls):
            is_over = is_over or (index > 0 and self.is_done())
            yield self._answer(call, error_result("tool_error", _OVER) if is_over else self._run(call))

    def _answer(self, call: ToolCall | BadCall, result: ToolResult) -> Message:
        arguments = call.arguments if isinstance(call, ToolCall) else None
        error = error_type(result.content) if result.is_error else None
        record = CallRecord(name=call.name or "", arguments=arguments, result=result.content, error=error)
        self._call_log.append(record)
        return {
            "role": "tool",
            "tool_call_id": encodable(call.id),
            "name": encodable(call.name or ""),
            "content": result.content,
            "is_error": result.is_error,
        }

    def _run(self, call: ToolCall | BadCall) -> ToolResult:
        if isinstance(call, BadCall):
            return error_result(call.error_type, call.error_message)
        if call.name not in self.tools:
            name, known = one_line(call.name[:40], 40), ", ".join(self.tools)
            told = f"there is no tool '{name}'; the tools are {known}.{nearest(name, self.tools)}"
            return error_result("unknown_tool", told)
        return self.tools[call.name].call(call.arguments)

    def _hear(self, content: str) -> list[Message]:
        self.answer = content
        reply = self.respond(content)
        return [] if reply is None else [{"role": "user", "content": reply}]

    def _info(self, messages: list[Message]) -> JsonObject:
        offered = list(self.tools.values())
        if offered != self._offered:  # the author may have changed them
            self._offered, self._schemas = offered, json.dumps([tool.schema for tool in offered])
        # Fresh objects each time: Gymnasium's users keep what they are given.
        info: JsonObject = {"messages": messages, "tools": json.loads(self._schemas)}
        return info | ({"state_hash": self._observe("state_hash")} if self._has("state_hash") else {})

    def _has(self, capability: str) -> bool:
        return callable(getattr(self, capability, None))

    def _observe(self, capability: str) -> Any:
        return getattr(self, capability)() if self._has(capability) else None

    def _shipped(self, split: str) -> tuple[Task, ...]:
        """Return the tasks of a split: its class's, unless the arguments of an environment choose its tasks."""
        return _shipped(type(self), split)  # type: ignore[arg-type]  # mypy takes classes for unhashable


def weigh(terms: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Return the weighted sum of reward terms; a term without a weight counts once.

    Raises:
        EnvError: a weight is for a term that does not exist, so it would have no effect.
    """
    for name in weights:
        if name not in terms:
            raise EnvError(f"reward_weights has '{name}', the reward has {', '.join(terms)}.{nearest(name, terms)}")
    return float(sum(weights.get(name, 1.0) * value for name, value in terms.items()))


@lru_cache(maxsize=64)  # environments are made by the thousand
def _shipped(env_class: type[ToolEnv], split: str) -> tuple[Task, ...]:
    return load_tasks(env_class.tasks(split), split=split)


def _tool_names(env_class: type[ToolEnv]) -> list[str]:
    """Return the attributes marked as tools, in the order they were written, base classes first."""
    names = dict.fromkeys(name for base in reversed(env_class.__mro__) for name in vars(base))
    return [name for name in names if is_tool(getattr(env_class, name))]


def _named(tools: Iterable[Tool]) -> dict[str, Tool]:
    named: dict[str, Tool] = {}
    for tool in tools:
        if tool.name in named:
            raise EnvError(f"two tools are called '{tool.name}': rename one with @tool(name=...)")
        named[tool.name] = tool
    return named


def _joined(messages: Sequence[Message]) -> str:
    return "\n".join(str(message["content"]) for message in messages if message.get("role") != "system")
