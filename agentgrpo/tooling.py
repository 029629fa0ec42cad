"""Tools: a Python function becomes a schema the model reads and a call that cannot surprise the episode.

It knows neither environments nor models. What a model got wrong comes back as a result the model reads; what broke
behind a tool is raised as a ToolFailure, so that the episode is recorded as failed and never scored.
"""

from __future__ import annotations

import asyncio
import atexit
import inspect
import json
import re
import threading
import typing
from collections.abc import Callable, Coroutine, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Annotated, Any, NamedTuple, TypeVar, overload

import docstring_parser
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from agentgrpo.calls import flaw
from agentgrpo.errors import AgentGRPOError, EnvError, ToolError, ToolFailure, nearest
from agentgrpo.types import Json, JsonObject

DEADLINE = 30.0
MAX_OUTPUT = 8000
MAX_MESSAGE = 300  # characters of an error message
MAX_PROBLEMS = 5  # wrong arguments named in one message
_NAME = re.compile(r"[\w.:/-]{1,128}")
GRACE = 1.0  # seconds a cancelled tool has to clean up

F = TypeVar("F", bound=Callable[..., Any])
TOOL_LOOP: ContextVar[asyncio.AbstractEventLoop | None] = ContextVar("TOOL_LOOP", default=None)
"""The event loop `async def` tools run on, set by a rollout; None means one private loop in the background."""


class ToolResult(NamedTuple):
    """What a call answers the model with."""

    content: str
    is_error: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A callable the model may use.

    `validate` returns the keyword arguments to call `function` with, or raises ValueError with what is wrong.
    """

    name: str
    description: str
    parameters: JsonObject  # JSON schema
    function: Callable[..., Any]
    validate: Callable[[JsonObject], dict[str, Any]]
    is_async: bool = False
    deadline: float = DEADLINE  # seconds; only an `async def` tool can be stopped from here
    max_output: int = MAX_OUTPUT  # characters

    def __post_init__(self) -> None:
        """Refuse a name that a model could not copy, or that could be taken for a control token."""
        if not _NAME.fullmatch(self.name):
            raise EnvError(f"a tool is called {self.name[:60]!r}; expected at most 128 letters, digits or _ . : / -")

    @property
    def schema(self) -> JsonObject:
        """The tool in OpenAI's form."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}

    def call(self, arguments: JsonObject) -> ToolResult:
        """Check the arguments, run the tool and return its answer; what the model got wrong is an answer too.

        Raises:
            ToolFailure: the tool, not the model, is at fault.
        """
        if (refused := flaw(arguments)) is not None:
            return error_result(refused.kind, refused.message)
        try:
            checked = self.validate(arguments)
        except ValueError as error:
            return error_result("invalid_arguments", _explain(error, self.parameters.get("properties", {})))
        try:
            value = self.function(**checked)
            if self.is_async or inspect.iscoroutine(value):  # a decorator may hide that a function is async
                value = wait_on_tool_loop(value, self.deadline)
            return ToolResult(_cap(_render(value), self.max_output))
        except ToolError as error:
            return error_result(error.kind, str(error))
        except _DeadlineExceeded:
            return error_result("timeout", f"{self.name} did not finish within {self.deadline:g} s and was stopped")
        except (AgentGRPOError, KeyboardInterrupt):
            raise
        except BaseException as error:  # sys.exit() ends a tool, not the program
            raise ToolFailure(f"tool '{self.name}' raised {describe(error)}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    name: str | None = None
    deadline: float | None = None
    max_output: int = MAX_OUTPUT


@overload
def tool(function: F, /) -> F: ...


@overload
def tool(
    *, name: str | None = None, deadline: float | None = None, max_output: int = MAX_OUTPUT
) -> Callable[[F], F]: ...


def tool(
    function: F | None = None,
    /,
    *,
    name: str | None = None,
    deadline: float | None = None,
    max_output: int = MAX_OUTPUT,
) -> F | Callable[[F], F]:
    """Mark a method or function, `def` or `async def`, as a tool; it stays callable as before.

    Its name, annotations and docstring are what the model sees.

    Args:
        function: The function, when used without parentheses.
        name: What the model calls it; by default the function's name.
        deadline: Seconds (30) after which an `async def` tool is cancelled and the model told. A `def` tool cannot be
            stopped from within Python: the rollout's own deadline holds for it.
        max_output: Longer results lose their middle.

    Raises:
        EnvError: a deadline for a `def` tool, where it would have no effect.
    """

    def mark(target: F) -> F:
        if deadline is not None and not inspect.iscoroutinefunction(target):
            raise EnvError(
                f"tool '{target.__name__}' has a deadline but is no `async def`: nothing could stop it. "
                "Make it async, or leave the deadline to the rollout ([rollout] tool_seconds)."
            )
        target.__agentgrpo_tool__ = _Options(  # type: ignore[attr-defined]
            name=name, deadline=deadline, max_output=max_output
        )
        return target

    return mark if function is None else mark(function)


def is_tool(candidate: object) -> bool:
    """Return whether `candidate` was marked with `@tool`."""
    return isinstance(getattr(candidate, "__agentgrpo_tool__", None), _Options)


def as_tool(function: Callable[..., Any] | Tool) -> Tool:
    """Return the tool of a function or bound method, marked or not; its schema is computed once.

    Raises:
        EnvError: the signature cannot be turned into a schema.
    """
    if isinstance(function, Tool):
        return function
    plain = getattr(function, "__func__", function)
    compiled = getattr(plain, "__agentgrpo_compiled__", None)
    if compiled is None:
        compiled = _compile(function)
        if inspect.isfunction(plain):
            setattr(plain, "__agentgrpo_compiled__", replace(compiled, function=plain))  # noqa: B010 (mypy)
    return replace(typing.cast(Tool, compiled), function=function)


def error_result(error_type: str, message: str) -> ToolResult:
    """Return an error as the model reads it: one short line."""
    error = {"type": error_type, "message": one_line(message)}
    return ToolResult(json.dumps({"error": error}, ensure_ascii=False), is_error=True)


def one_line(text: str, limit: int = MAX_MESSAGE) -> str:
    """Return text on one line, cut to about `limit` characters, encodable as UTF-8."""
    line = encodable(" ".join(text.split()))
    return line if len(line) <= limit else f"{line[:limit]}... ({len(line) - limit} more characters)"


def encodable(text: str) -> str:
    """Return text with lone surrogates, which no tokenizer or database takes, replaced."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def describe(error: BaseException) -> str:
    """Return an exception as one line: its type, its message, and where it was raised."""
    where = error.__traceback__
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    try:
        message = one_line(str(error))
    except Exception:  # its own __str__ is broken
        message = ""
    text = f"{type(error).__name__}: {message}".rstrip(": ")
    file = where.tb_frame.f_code.co_filename if where is not None else "<unknown>"
    return text if where is None or file.startswith("<") else f"{text} ({file.rsplit('/', 1)[-1]}:{where.tb_lineno})"


# Schema and validation


def _compile(function: Callable[..., Any]) -> Tool:
    options = getattr(function, "__agentgrpo_tool__", _Options())
    name = options.name or getattr(function, "__name__", None)
    if name is None:
        raise EnvError(f"{one_line(repr(function), 80)} is no function: write a `def` or `async def` that calls it")
    doc = docstring_parser.parse(inspect.getdoc(function) or "")
    model = _arguments_model(function, name)
    fields = {str(field.alias): key for key, field in model.model_fields.items()}
    is_async = inspect.iscoroutinefunction(function)

    def validate(arguments: JsonObject) -> dict[str, Any]:
        checked = model.model_validate(arguments)
        # What a text stood for ("inf", thousands of digits) is held to what a number is.
        if (refused := flaw(checked.model_dump(exclude_unset=True, warnings=False))) is not None:
            raise ValueError(f"in the arguments: {refused.message}")
        return {alias: getattr(checked, key) for alias, key in fields.items()}

    return Tool(
        name=name,
        description=(doc.description or "").strip(),
        parameters=_parameters(model, name, {p.arg_name: p.description or "" for p in doc.params}),
        function=function,
        validate=validate,
        is_async=is_async,
        deadline=DEADLINE if options.deadline is None else options.deadline,
        max_output=options.max_output,
    )


def _arguments_model(function: Callable[..., Any], name: str) -> type[BaseModel]:
    """Build the model of a signature. Fields are numbered and aliased: a parameter may be called `schema` or `_x`."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise EnvError(f"tool '{name}': {error}; its annotations must name types its module can see") from error
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise EnvError(f"tool '{name}': parameter '{parameter}' cannot be passed by name; use plain parameters")
        if parameter.name not in hints:
            raise EnvError(f"tool '{name}': parameter '{parameter.name}' has no type; write {parameter.name}: str")
        hint, default = hints[parameter.name], ... if parameter.default is parameter.empty else parameter.default
        if isinstance(default, FieldInfo):  # `= Field(3, ge=1)`, as in pydantic's own models
            hint, default = Annotated[hint, default], PydanticUndefined
        fields[f"argument_{len(fields)}"] = (hint, Field(default, alias=parameter.name))
    try:
        return create_model(name, __config__=ConfigDict(extra="forbid", allow_inf_nan=False), **fields)
    except PydanticUserError as error:
        raise EnvError(f"tool '{name}': {one_line(error.message)}; use types that have a JSON schema") from error


def _parameters(model: type[BaseModel], name: str, descriptions: dict[str, str]) -> JsonObject:
    try:
        schema = model.model_json_schema()
    except PydanticUserError as error:
        raise EnvError(f"tool '{name}': {one_line(error.message)}; use types that have a JSON schema") from error
    flat = _inline(schema, schema.get("$defs", {}), ())
    properties = flat.get("properties", {})
    for parameter, description in descriptions.items():
        if description and parameter in properties:
            properties[parameter].setdefault("description", " ".join(description.split()))
    # Without additionalProperties: the validation says it, and no model was trained to read it here.
    return {"type": "object", "properties": properties} | ({"required": flat["required"]} if "required" in flat else {})


def _inline(schema: Json, defs: JsonObject, path: tuple[str, ...]) -> Json:
    """Return a schema without `$ref` and titles: small models read references badly."""
    if isinstance(schema, list):
        return [_inline(item, defs, path) for item in schema]
    if not isinstance(schema, dict):
        return schema
    flat: JsonObject = {}
    for key, value in schema.items():
        if key == "$ref":
            target = value.rsplit("/", 1)[-1]
            if target in path:
                raise EnvError(f"type {target} contains itself, which has no flat JSON schema; use a list of rows")
            flat = _inline(defs[target], defs, (*path, target)) | flat
        elif key in ("properties", "patternProperties"):
            flat[key] = {name: _inline(item, defs, path) for name, item in value.items()}
        elif key in ("default", "const", "enum", "examples"):
            flat[key] = value
        elif key not in ("title", "$defs", "discriminator"):  # OpenAPI's: it maps to references
            flat[key] = _inline(value, defs, path)
    return flat


def _explain(error: ValueError, known: Iterable[str]) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    problems = [_problem(typing.cast(JsonObject, item), known) for item in error.errors(include_url=False)]
    more = f"; and {len(problems) - MAX_PROBLEMS} more" if len(problems) > MAX_PROBLEMS else ""
    return "; ".join(problems[:MAX_PROBLEMS]) + more


def _problem(item: JsonObject, known: Iterable[str]) -> str:
    name = ".".join(map(str, item["loc"]))
    place = f"argument '{one_line(name, 40)}'"
    if item["type"] == "missing":
        return f"{place} is missing"
    if item["type"] == "extra_forbidden":
        there = f"expected only {', '.join(known)}" if known and len(item["loc"]) == 1 else "it is not expected"
        return f"{place}: {there}.{nearest(name[:40], known)}"
    expected = item["msg"].replace("Input should be", "expected", 1)
    try:
        got = one_line(repr(item["input"]), 40)
    except ValueError:  # Python refuses to print an int of thousands of digits
        got = "a huge number"
    return f"{place}: got {got}, {expected}"


def _render(value: object) -> str:
    if value is None:
        return "ok"
    if not isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False, default=to_jsonable_python)
    return encodable(value)


def _cap(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    head, tail = (limit + 1) // 2, limit // 2
    return f"{text[:head]}\n[... {len(text) - limit} characters left out ...]\n{text[len(text) - tail :]}"


class _DeadlineExceeded(TimeoutError):
    """An async tool was cancelled at its deadline."""


def wait_on_tool_loop(coroutine: Coroutine[Any, Any, Any], deadline: float) -> Any:
    """Run a coroutine on the tools' loop and block until it is done; TimeoutError after `deadline` seconds."""
    loop = TOOL_LOOP.get() or background_loop()
    if _is_running_here(loop):
        coroutine.close()
        raise EnvError("an `async def` tool would wait for the event loop it blocks: use isolation 'thread'")
    future = asyncio.run_coroutine_threadsafe(_within(coroutine, deadline), loop)
    try:
        return future.result(deadline + GRACE)
    except TimeoutError:
        if future.done():  # the tool's own TimeoutError
            raise
        future.cancel()
        raise _DeadlineExceeded from None


async def _within(coroutine: Coroutine[Any, Any, Any], deadline: float) -> Any:
    limit = asyncio.timeout(deadline)
    try:
        async with limit:
            return await coroutine
    except (SystemExit, KeyboardInterrupt, GeneratorExit) as error:  # would end the loop of all episodes
        raise ToolFailure(f"the tool raised {describe(error)}") from error
    except TimeoutError:
        if limit.expired():
            raise _DeadlineExceeded from None
        raise


def _is_running_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


_background: list[asyncio.AbstractEventLoop] = []
_background_lock = threading.Lock()


def background_loop() -> asyncio.AbstractEventLoop:
    """Return this process's own loop, started on first use: a notebook's loop cannot be waited for from inside it."""
    with _background_lock:
        if not _background:
            loop = asyncio.new_event_loop()
            thread = threading.Thread(target=loop.run_forever, name="agentgrpo-tools", daemon=True)
            thread.start()
            atexit.register(_stop, loop, thread)
            _background.append(loop)
        return _background[0]


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    loop.call_soon_threadsafe(loop.stop)
    thread.join(GRACE)
    if not thread.is_alive():
        loop.close()
