"""`agentgrpo env play`: a person acts in an environment, with what a model is shown and what it is worth.

It knows no model. Lines come from a terminal or a pipe.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.json import JSON
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from agentgrpo.actions import parse_action
from agentgrpo.cli.hand import Hand, Heard
from agentgrpo.cli.play_input import COMMANDS, Action, Command, Form, NotUnderstood, Read, call_forms, fill, understand
from agentgrpo.cli.target import Target, open_target
from agentgrpo.cli.transcript import (
    BAD,
    CALL,
    GOOD,
    QUIET,
    WARN,
    State,
    answer,
    call_text,
    content_text,
    dotted,
    grid,
    number,
    printable,
    rule,
)
from agentgrpo.errors import EpisodeError, TaskError, nearest
from agentgrpo.types import JsonObject, Message, Task

WIDTH = 100
_AFTER = "undo, again, next or quit"


def play(
    env: str, tasks: Path | None, task: str | None, split: str | None, seed: int, overrides: Sequence[str] = ()
) -> None:
    """Let a person play the tasks of an environment."""
    target = open_target(env, tasks, overrides)
    rows = _choose(target, task, split)
    console = Console(highlight=False)
    console.width = min(console.width, WIDTH)
    game = Game(target, rows, seed, console, _reader(console))
    try:
        game.run()
    finally:
        game.close()


class Game:
    """The tasks, one after the other, until the person leaves.

    Args:
        target: The environment.
        tasks: The tasks; [None] lets the environment make one of each seed.
        seed: Of the first episode.
        console: Where to draw.
        read: Asks for a line; raises EOFError at the end.
    """

    def __init__(self, target: Target, tasks: Sequence[Task | None], seed: int, console: Console, read: Read) -> None:
        self.target, self.tasks, self.seed = target, tasks, seed
        self.console, self.read = console, read
        self.index = 0
        self.hand = self._deal()
        self._shown: tuple[JsonObject, ...] = ()  # the tools the person has seen
        self._commands: dict[str, Callable[[str], None]] = {
            "help": self._help,
            "tools": lambda _: self._show_tools(),
            "schema": self._schema,
            "score": lambda _: self._print(_worth(self.hand.last)),
            "state": self._state,
            "undo": self._undo,
            "again": lambda _: self._begin(),
            "next": lambda _: self._next(),
        }

    @property
    def is_text(self) -> bool:
        return self.target.source.action_format == "text"

    def run(self) -> None:
        """Play until the person leaves."""
        self._begin()
        while True:
            try:
                line = self.read(f"turn {len(self.hand.actions) + 1} > " if not self.hand.last.is_over else "over > ")
                if not line.strip():
                    continue
                asked = understand(line, self.hand.last.tools, is_text=self.is_text)
                if isinstance(asked, Command) and asked.name == "quit":
                    return
                self._do(asked)
            except NotUnderstood as error:
                self._print(Text(str(error), WARN))
            except EOFError:
                return

    def close(self) -> None:
        """Close the environment."""
        self.hand.close()

    def _do(self, asked: Command | Action | Form) -> None:
        if isinstance(asked, Command):
            self._commands[asked.name](asked.rest)
            return
        if self.hand.last.is_over:
            raise NotUnderstood(f"this episode is over: {_AFTER}")
        action = (
            fill(asked.function, self.read, lambda told: self._print(Text(told, WARN)))
            if isinstance(asked, Form)
            else asked
        )
        if action is not None:
            self._step(action)

    def _step(self, action: Action) -> None:
        before = self.hand.last
        try:
            heard = self.hand.step(action.text)
        except EpisodeError as error:
            # In a run the episode would be recorded as failed and tried again; nothing here can be gone on with.
            self._print(Text(f"the environment broke, the episode would count as failed: {error}", BAD))
            self._begin()
            return
        self._print(grid(self._lines(action, heard, before)))
        self.console.print()
        if heard.is_over:
            self._print(_end(heard, len(self.hand.actions), action))
            self._print(Text(_AFTER, QUIET))

    def _lines(self, action: Action, heard: Heard, before: Heard) -> Iterator[tuple[str, Text]]:
        message = parse_action(action.text).to_message()
        if message["content"] or not message["tool_calls"]:
            yield "you say", content_text(message)
        pending = list(heard.messages)
        for call in message["tool_calls"]:
            yield "call", call_text(call)
            if pending:
                yield answer(pending.pop(0))
        yield from (answer(message) for message in pending)
        yield from (("state", line) for line in State().lines(heard.diff))
        if (changed := _changed_tools(before.tools, heard.tools)) is not None:
            yield "tools", changed
        if not heard.is_over and (heard.terms != before.terms or heard.reward != before.reward):
            yield "reward", _worth(heard)

    def _begin(self) -> None:
        heard = self.hand.begin()
        task, source = self.hand.task, self.target.source
        of = f"   {self.index + 1} of {len(self.tasks)}" if task is not None else ""
        name = f"{task.id}" if task is not None else f"seed {self.hand.seed}"
        self.console.print()
        self._print(rule(Text.assemble((printable(source.id), "bold"), f"   {printable(name)}", (of, QUIET))))
        self._print(grid((str(m.get("role", "?")), content_text(m)) for m in heard.messages))
        self.console.print()
        if heard.tools != self._shown:
            self._show_tools()
            self.console.print()
        self._print(Text("anything typed is the action; /help for commands" if self.is_text else _HINT, QUIET))

    def _next(self) -> None:
        self.close()
        self.index = (self.index + 1) % len(self.tasks)
        self.seed += self.tasks[0] is None
        self.hand = self._deal()
        self._begin()

    def _deal(self) -> Hand:
        return Hand(self.target.source, self.tasks[self.index], self.seed)

    def _undo(self, _: str) -> None:
        if not self.hand.undo():
            raise NotUnderstood("nothing was done yet")
        said = f"back at turn {len(self.hand.actions) + 1}" if self.hand.actions else "back at the start"
        self._print(Text(said, QUIET))
        self._print(grid(map(_said, self.hand.last.messages)))

    def _help(self, _: str) -> None:
        lines = Table.grid(padding=(0, 2))
        for name, about in COMMANDS.items():
            if not self.is_text or name not in ("tools", "schema", "say", "raw"):
                lines.add_row(Text(f"/{name}" if self.is_text else name, CALL), Text(about))
        self._print(lines)
        if not self.is_text:
            self._print(_calls_help(self.hand.last.tools))

    def _show_tools(self) -> None:
        self._shown = self.hand.last.tools
        self._print(_tool_table(self.hand.last.tools))

    def _schema(self, name: str) -> None:
        functions = {tool["function"]["name"]: tool["function"] for tool in self.hand.last.tools}
        if name not in functions:
            raise NotUnderstood(f"there is no tool '{name}'.{nearest(name, functions)} Expected schema NAME")
        self._print(Padding(JSON(json.dumps(functions[name])), (0, 0, 0, 2)))

    def _state(self, _: str) -> None:
        state = self.hand.state
        if state is None:
            raise NotUnderstood("this environment does not tell its state: it has no state()")
        self._print(Padding(JSON(json.dumps(state, default=str)), (0, 0, 0, 2)))

    def _print(self, what: object) -> None:
        self.console.print(what)


_HINT = "call a tool by its name or number  ·  say TEXT  ·  help  ·  quit"


def _calls_help(tools: Sequence[JsonObject]) -> Table:
    """Return how calls are written, by the example of a tool that is there."""
    lines = Table.grid(padding=(0, 2))
    lines.add_column(style=QUIET)
    lines.add_column(style=QUIET)
    functions = [tool["function"] for tool in tools]
    example = next((each for each in functions if each.get("parameters", {}).get("properties")), None)
    if example is not None:
        named, as_json = map(printable, call_forms(example))
        lines.add_row(named, "a call with its arguments; without any you are asked for each")
        lines.add_row(as_json, "the same as JSON")
    lines.add_row("<tool_call>{...}</tool_call>", "as a model writes it; a whole message as JSON works too")
    return lines


def _choose(target: Target, task: str | None, split: str | None) -> Sequence[Task | None]:
    """Return the tasks to play, the wanted one first."""
    there = target.splits()
    rows: Sequence[Task | None] = target.split(split or next(iter(there), "train")) if split or there else [None]
    if task is None:
        return rows
    searched = [rows] if split is not None else list(there.values())
    for tasks in searched:
        for index, one in enumerate(tasks):
            if one is not None and one.id == task:
                return [*tasks[index:], *tasks[:index]]
    known = [one.id for tasks in searched for one in tasks if one is not None]
    raise TaskError(f"{target.name} has no task '{task}'.{nearest(task, known)}")


def _reader(console: Console) -> Read:
    """Return what asks for a line. From a pipe, what was read is repeated, so that the output can be followed."""
    if sys.stdin.isatty():
        return input

    def read(prompt: str) -> str:
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        console.print(Text.assemble((prompt, QUIET), printable(line.rstrip("\n"))))
        return line.rstrip("\n")

    return read


def _tool_table(tools: Sequence[JsonObject]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", width=9, style=QUIET)
    table.add_column(no_wrap=True)
    table.add_column()
    for index, tool in enumerate(tools, 1):
        function = tool["function"]
        about = str(function.get("description") or "").strip().partition("\n")[0]
        table.add_row(str(index), _signature(function), Text(printable(about)))
    return table


def _signature(function: JsonObject) -> Text:
    parameters = function.get("parameters", {})
    required = set(parameters.get("required", ()))
    names = ", ".join(name if name in required else f"{name}?" for name in parameters.get("properties", {}))
    return Text.assemble((printable(function["name"]), CALL), (f"({printable(names)})", QUIET))


def _changed_tools(before: Sequence[JsonObject], after: Sequence[JsonObject]) -> Text | None:
    old, new = ([tool["function"]["name"] for tool in tools] for tools in (before, after))
    gone, come = [name for name in old if name not in new], [name for name in new if name not in old]
    parts = [Text(f"+ {printable(name)}", GOOD) for name in come] + [Text(f"- {printable(name)}", BAD) for name in gone]
    return dotted(parts) if parts else None


def _said(message: Message) -> tuple[str, Text]:
    return answer(message) if message.get("role") == "tool" else (str(message.get("role", "?")), content_text(message))


def _worth(heard: Heard) -> Text:
    parts = [Text(f"{printable(name)} {value:g}") for name, value in (heard.terms or {}).items()]
    total = Text(number(heard.reward), GOOD if heard.reward > 0 else BAD if heard.reward < 0 else "")
    return dotted([total, *parts])


def _end(heard: Heard, turns: int, action: Action) -> object:
    why = "max_turns" if heard.is_truncated else "done" if parse_action(action.text).calls else "answered"
    count = f"{turns} turn{'s' if turns > 1 else ''}"
    return rule(Text.assemble(("end   ", "bold"), why, ("   reward ", QUIET), _worth(heard), (f"   {count}", QUIET)))
