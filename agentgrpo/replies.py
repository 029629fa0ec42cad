"""Replies: what a model sampled, taken apart into reasoning, content and calls. Nothing here raises on it.

The renderer's parser finds the parts; it never sees the JSON of a call, on some of which it raises: that is read here,
so that a call that cannot be read voids itself alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import renderers
from transformers import PreTrainedTokenizerBase

from agentgrpo.calls import MAX_BYTES, bad_call, make_call, read_call
from agentgrpo.types import AssistantMessage, BadCall, ToolCall

logger = logging.getLogger(__name__)

Parse: TypeAlias = Callable[[list[int]], renderers.ParsedResponse]

_MALFORMED = "the call is not in the form the system message describes; expected exactly that form"
_WRONG = {  # the kind of error and the line the model reads, by what the renderers' parsers say
    "invalid_json": ("invalid_json", "the arguments are not valid JSON where the schema expects it"),
    "unclosed_block": ("unclosed", "the call was cut off before its end; write it again, shorter"),
    "missing_name": ("missing_name", "the call names no tool; expected a name"),
    "malformed_structure": ("malformed", _MALFORMED),
}
_TAGS = (
    ("<tool_call>", "</tool_call>"),
    ("<|tool_call_begin|>", "<|tool_call_end|>"),
    ("<|tool_call>", "<tool_call|>"),
    ("<\uff5ctool\u2581call\u2581begin\uff5c>", "<\uff5ctool\u2581call\u2581end\uff5c>"),
)
_PROBE = '<tool_call>\n{"name": "look", "arguments": {"at": 1}}\n</tool_call>'


class _Block(NamedTuple):
    """Where a call stands in sampled ids: its opening tag, and its closing tag or whatever ended it."""

    start: int
    end: int
    is_closed: bool


class ReplyReader:
    """Reads replies in the form one renderer's models write."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, renderer: renderers.Renderer) -> None:
        self._tokenizer = tokenizer
        self._renderer = renderer
        self._stop_token_ids = list(renderer.get_stop_token_ids())
        vocabulary = {str(text): int(i) for text, i in tokenizer.get_added_vocab().items()}
        self._opening, self._closing = next(
            ((vocabulary[a], vocabulary[b]) for a, b in _TAGS if a in vocabulary and b in vocabulary), (-1, -1)
        )
        self._added = frozenset(vocabulary.values())
        probed = renderer.parse_response(tokenizer.encode(_PROBE, add_special_tokens=False)).tool_calls
        self._is_json = [(call.name, call.arguments) for call in probed] == [("look", {"at": 1})]

    def read(
        self,
        completion_ids: Sequence[int],
        prompt_ids: Sequence[int],
        specs: list[Any] | None,
        call_prefix: str,
    ) -> AssistantMessage:
        """Return the message that sampled ids stand for; a call that cannot be read is a `BadCall`."""
        ids, prompt = list(completion_ids), list(prompt_ids)
        del ids[min((_find(ids, stop) for stop in self._stop_token_ids), default=len(ids)) :]

        def parse(ids: list[int]) -> renderers.ParsedResponse:
            return self._renderer.parse_response(ids, tools=specs, prompt_ids=prompt)

        try:
            parsed, begins = self._parts(ids, parse)
        except Exception as error:  # a bug of the parser is no reason to end a run
            logger.warning("the parser raised %r; the reply counts as one malformed call", error)
            raw = self._text(ids[: MAX_BYTES + 1])
            return AssistantMessage(content="", calls=(bad_call(f"{call_prefix}_0", raw, "malformed", _MALFORMED),))
        calls = [
            self._call(f"{call_prefix}_{i}", call, ids, begins.get(call.token_span[0]) if call.token_span else None)
            for i, call in enumerate(parsed.tool_calls)
        ]
        return AssistantMessage(content=parsed.content, calls=tuple(calls), reasoning=parsed.reasoning_content)

    def _parts(self, ids: list[int], parse: Parse) -> tuple[renderers.ParsedResponse, dict[int, _Block]]:
        """Return what the parser found, and the blocks whose text was kept from it by the token each began at."""
        blocks = self._blocks(ids)
        if self._is_json and blocks:
            bare, begins = self._without(ids, blocks)
            parsed = parse(bare)
            called = [begins[call.token_span[0]] for call in parsed.tool_calls]
            if len(called) == len(blocks):
                return parsed, begins
            bare, begins = self._without(ids, called)  # calls drafted while reasoning stay in it
            return parse(bare), begins
        try:
            return parse(ids), {}
        except Exception:
            alone = (self._without(ids, [b for b in blocks if b != block])[0] for block in blocks)
            broken = [block for block, with_it in zip(blocks, alone, strict=True) if not _survives(parse, with_it)]
            bare, begins = self._without(ids, broken)
            return parse(bare), begins

    def _blocks(self, ids: list[int]) -> list[_Block]:
        """Return where calls stand; one that was not closed ends where the next begins."""
        blocks: list[_Block] = []
        start = _find(ids, self._opening)
        while start < len(ids):
            end, following = _find(ids, self._closing, start), _find(ids, self._opening, start + 1)
            blocks.append(_Block(start, min(end, following), end < following))
            start = following
        return blocks

    def _without(self, ids: list[int], blocks: Sequence[_Block]) -> tuple[list[int], dict[int, _Block]]:
        """Return ids with these blocks closed and emptied of all but added tokens, and where each now begins."""
        bare: list[int] = []
        begins: dict[int, _Block] = {}
        end = 0
        for block in blocks:
            bare += ids[end : block.start]
            begins[len(bare)] = block
            inside = ids[block.start + 1 : block.end]
            kept = [] if self._added.isdisjoint(inside) else [i for i in inside if i in self._added]
            bare += [self._opening, *kept, self._closing]
            end = block.end + block.is_closed
        return bare + ids[end:], begins

    def _call(
        self, call_id: str, parsed: renderers.ParsedToolCall, ids: list[int], block: _Block | None
    ) -> ToolCall | BadCall:
        if block is not None:
            # No token is shorter than a byte: so many are enough to see that a call is too large.
            text = self._text(ids[block.start + 1 : block.end][: MAX_BYTES + 1])
            if self._is_json:
                return read_call(text, call_id, is_closed=block.is_closed)
            return bad_call(call_id, text, "malformed", _MALFORMED)
        if str(parsed.status) in _WRONG:
            kind, told = _WRONG[str(parsed.status)]
            return bad_call(call_id, parsed.raw, kind, told, parsed.name if isinstance(parsed.name, str) else None)
        return make_call(parsed.name, parsed.arguments, call_id, parsed.raw)

    def _text(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))


def _find(ids: list[int], token: int, start: int = 0) -> int:
    """Return where a token is next, or the length: as fast as lists are, for a reply may be long."""
    try:
        return ids.index(token, start)
    except ValueError:
        return len(ids)


def _survives(parse: Parse, ids: list[int]) -> bool:
    try:
        parse(ids)
    except Exception:
        return False
    return True
