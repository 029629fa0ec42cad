"""The filter language of the inspector and of `agentgrpo show`: `env:shop reward<0.2 -stop:done tool:refund "late"`.

Terms are separated by spaces and all of them must hold. A term is `field:value`, a comparison, or words to look for;
`-` before it means not. This module only reads and writes the language; what a filter means as SQL is in `query`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, get_args

from agentgrpo.errors import UserError, nearest
from agentgrpo.types import Boundary, Phase, StopReason

MOST_CHARACTERS = 2000
MOST_TERMS = 40


class FilterError(UserError):
    """A filter that cannot be read; `start` and `end` are the characters it is about."""

    def __init__(self, message: str, start: int, end: int) -> None:
        super().__init__(message)
        self.start, self.end = start, end


@dataclass(frozen=True, slots=True, kw_only=True)
class Between:
    """A span of numbers; None is no bound. `open_low` and `open_high` leave the bound itself out."""

    low: float | None = None
    high: float | None = None
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        is_above = self.low is None or (value > self.low if self.open_low else value >= self.low)
        return is_above and (self.high is None or (value < self.high if self.open_high else value <= self.high))


Test: TypeAlias = Between | str | None  # None: unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One condition: a field has one of the values, or (negated) none of them."""

    field: str
    values: tuple[Test, ...]
    negated: bool = False

    def __str__(self) -> str:
        return ("-" if self.negated else "") + _term_text(self.field, self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Conditions that must all hold."""

    terms: tuple[Term, ...] = ()

    def __str__(self) -> str:
        return " ".join(map(str, self.terms))

    def __and__(self, other: Filter) -> Filter:
        return Filter(terms=self.terms + other.terms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """What a filter can ask for. `words`: the values there are; None: any text (or number)."""

    about: str
    example: str
    is_number: bool = False
    has_unknown: bool = False  # `field:none` finds what is not known
    words: tuple[str, ...] | None = None


FIELDS = {
    "env": Field(about="environment, or a part of its name", example="env:shop"),
    "task": Field(about="task; * stands for anything", example="task:heldout-*"),
    "phase": Field(about="train, eval or fork", example="phase:eval", words=get_args(Phase)),
    "step": Field(about="train step", example="step:40..50", is_number=True),
    "sample": Field(about="number within its group", example="sample:0", is_number=True),
    "attempt": Field(about="0, or more when it was tried again", example="attempt>0", is_number=True),
    "policy": Field(about="name or version of the policy that sampled", example="policy:12"),
    "stale": Field(about="updates the policy was behind", example="stale>=2", is_number=True),
    "reward": Field(about="reward", example="reward<0.2", is_number=True, has_unknown=True),
    "advantage": Field(about="advantage against the group", example="advantage>0", is_number=True, has_unknown=True),
    "success": Field(
        about="yes, no, or none where it was not scored",
        example="success:no",
        has_unknown=True,
        words=("yes", "no"),
    ),
    "stop": Field(about="why it ended", example="stop:max_turns", words=tuple(StopReason)),
    "failed": Field(about="yes: it broke, or could not be scored", example="failed:yes", words=("yes", "no")),
    "boundary": Field(about="where it broke", example="boundary:tool", has_unknown=True, words=tuple(Boundary)),
    "cause": Field(about="words of what broke", example='cause:"timed out"', has_unknown=True),
    "filtered": Field(about="why it did not train; none: it did", example="filtered:zero_variance", has_unknown=True),
    "tool": Field(about="a tool it called, or a part of its name", example="tool:refund"),
    "error": Field(about="a tool whose call failed", example="error:refund"),
    "turns": Field(about="number of turns", example="turns>5", is_number=True),
    "calls": Field(about="number of tool calls", example="calls>=3", is_number=True),
    "errors": Field(about="number of failed calls", example="errors>0", is_number=True),
    "tokens": Field(about="tokens in all", example="tokens>8000", is_number=True),
    "sampled": Field(about="tokens the model sampled", example="sampled<10", is_number=True),
    "forks": Field(about="prompts rendered anew", example="forks>0", is_number=True),
    "seconds": Field(about="how long it took", example="seconds>30", is_number=True),
    "parent": Field(about="the episode it was forked from", example="parent:12", is_number=True, has_unknown=True),
    "id": Field(about="number in the list", example="id:1..99", is_number=True),
}
TEXT = "text"  # the field of bare words

_ALIASES = {"version": "policy", "run": "env", "is": "success", "staleness": "stale", "errors_in": "error"}
_YES = {"yes": "yes", "true": "yes", "1": "yes", "no": "no", "false": "no", "0": "no"}
_UNKNOWN = ("none", "unknown")
_EQUALS = (":", "=", "!=")
_HEAD = re.compile(r"([A-Za-z_]+)(<=|>=|!=|[:=<>])")
_VALUE = re.compile(r'"((?:[^"\\]|\\.)*)"|([^\s,"]+)', re.DOTALL)
_BARE = re.compile(r"[^\s,\"\\:<>=!-][^\s,\"\\]*")


@dataclass(slots=True)
class _Reader:
    text: str
    at: int = 0
    terms: list[Term] = field(default_factory=list)

    def skip(self) -> bool:
        """Go to the next term; False at the end."""
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        return self.at < len(self.text)


def parse_filter(text: str) -> Filter:
    """Return the filter a text describes; an empty text is no condition.

    Raises:
        FilterError: it says what was got and expected, and where.
    """
    if len(text) > MOST_CHARACTERS:
        raise FilterError(f"the filter has {len(text):,} characters, at most {MOST_CHARACTERS:,}", 0, len(text))
    reader = _Reader(text)
    while reader.skip():
        start = reader.at
        reader.terms.append(_term(reader))
        if len(reader.terms) > MOST_TERMS:
            raise FilterError(f"the filter has more than {MOST_TERMS} terms: leave some out", start, len(text))
    return Filter(terms=tuple(reader.terms))


def _term(reader: _Reader) -> Term:
    start = reader.at
    negated = reader.text[start] in "-!" and len(reader.text) > start + 1 and not reader.text[start + 1].isspace()
    reader.at += negated
    head = _HEAD.match(reader.text, reader.at)
    if head is None:
        return Term(field=TEXT, values=(_words(reader),), negated=negated)
    name = _field_name(head[1], reader.at, head.end(1))
    reader.at = head.end()
    values = tuple(_values(reader, name, head[2], start))
    return Term(field=name, values=values, negated=negated != (head[2] == "!="))


def _field_name(written: str, start: int, end: int) -> str:
    name = written.lower()
    name = _ALIASES.get(name, name)
    if name not in FIELDS and name != TEXT:
        raise FilterError(
            f"there is nothing called '{written}' to filter by.{nearest(name, FIELDS)} There are: {', '.join(FIELDS)}; "
            f'put words to look for into quotes: "{written}:"',
            start,
            end,
        )
    return name


def _words(reader: _Reader) -> str:
    match = _VALUE.match(reader.text, reader.at)
    if match is None:
        _refuse_quote(reader)
        reader.at += 1  # a lone comma
        return reader.text[reader.at - 1]
    reader.at = match.end()
    if match[2] is None:
        return _unescape(match[1])
    end = reader.at  # a word goes on to the next space: commas are part of it
    while end < len(reader.text) and not reader.text[end].isspace() and reader.text[end] != '"':
        end += 1
    word, reader.at = reader.text[match.start() : end], end
    return word


def _refuse_quote(reader: _Reader) -> None:
    if reader.text[reader.at : reader.at + 1] == '"':
        rest = reader.text[reader.at : reader.at + 24]
        raise FilterError(f'this quote is not closed: {rest} Expected another " after it.', reader.at, len(reader.text))


def _values(reader: _Reader, name: str, operator: str, start: int) -> Iterator[Test]:
    while True:
        match = _VALUE.match(reader.text, reader.at)
        if match is None:
            _refuse_quote(reader)
            example = FIELDS[name].example if name != TEXT else 'text:"two words"'
            got = reader.text[start : reader.at]
            raise FilterError(f"'{got}' has no value: expected something like {example}", start, reader.at)
        begin, reader.at = reader.at, match.end()
        quoted = match[2] is None
        yield _value(name, operator, _unescape(match[1]) if quoted else match[2], quoted, (begin, match.end()))
        if reader.text[reader.at : reader.at + 1] != ",":
            return
        reader.at += 1


def _value(name: str, operator: str, text: str, quoted: bool, where: tuple[int, int]) -> Test:
    known = FIELDS.get(name)
    can_be_unknown = known is not None and known.has_unknown and not quoted and operator in _EQUALS
    if can_be_unknown and text.lower() in _UNKNOWN:
        return None
    is_version = name == "policy" and not quoted and (operator not in _EQUALS or re.match(r"-?[\d.]", text) is not None)
    if known is not None and (known.is_number or is_version):
        return _number_test(name, operator, text, where)
    if operator not in _EQUALS:
        raise FilterError(f"'{name}' is no number, so {operator} says nothing: write {name}:{text}", *where)
    if name in ("success", "failed"):
        text = _YES.get(text.lower(), text)
    if known is not None and known.words is not None:
        return _word(name, text, known.words, where)
    return text


def _word(name: str, text: str, words: Sequence[str], where: tuple[int, int]) -> str:
    lowered = text.lower()
    if lowered not in words:
        raise FilterError(
            f"'{name}:{text}' cannot be: expected one of {', '.join(words)}.{nearest(lowered, words)}", *where
        )
    return str(lowered)


def _number_test(name: str, operator: str, text: str, where: tuple[int, int]) -> Between:
    first, dots, last = text.partition("..")
    if dots and operator in _EQUALS:
        low = _number(name, first, where) if first else None
        high = _number(name, last, where) if last else None
        if low is None and high is None:
            raise FilterError(f"'{name}:..' has no bound: expected {name}:1..5, {name}:1.. or {name}:..5", *where)
        return Between(low=low, high=high)
    value = _number(name, text, where)
    if operator in ("<", "<="):
        return Between(high=value, open_high=operator == "<")
    if operator in (">", ">="):
        return Between(low=value, open_low=operator == ">")
    return Between(low=value, high=value)


def _number(name: str, text: str, where: tuple[int, int]) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or "_" in text:
        example = FIELDS[name].example
        raise FilterError(f"'{text}' is no number: expected something like {example} or {name}:1..5", *where)
    return value


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)


def quote(text: str) -> str:
    """Return text as a value of the language, in quotes where it must be."""
    is_plain = _BARE.fullmatch(text) is not None and ".." not in text and text.lower() not in _UNKNOWN
    if is_plain and not re.match(r"[\d.]", text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _term_text(name: str, values: Sequence[Test]) -> str:
    if name == TEXT:
        text = str(values[0])
        is_word = _BARE.fullmatch(text) is not None and _HEAD.match(text) is None
        shown = text if is_word else quote(text)
        return shown if len(values) == 1 else f"{TEXT}:" + ",".join(quote(str(value)) for value in values)
    (first, *more) = values
    if not more and isinstance(first, Between) and (first.low is None) != (first.high is None):
        if first.low is None:
            return f"{name}{'<' if first.open_high else '<='}{_plain(first.high)}"
        return f"{name}{'>' if first.open_low else '>='}{_plain(first.low)}"
    return f"{name}:" + ",".join(_test_text(value) for value in values)


def _test_text(value: Test) -> str:
    if value is None:
        return _UNKNOWN[0]
    if isinstance(value, str):
        return quote(value)
    if value.low == value.high:
        return _plain(value.low)
    return f"{_plain(value.low)}..{_plain(value.high)}"


def _plain(value: float | None) -> str:
    if value is None:
        return ""
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
