"""Content: text somebody wrote, which must never become control, whatever it spells.

Three defences, tried in this order, and a proof that decides. The proof: the control tokens of a prompt are those of
the same prompt with every suspicious character replaced by a letter. It needs to know nothing of the chat template.

1. Control tokens inside content are replaced by the plain tokens of their text: it reads the same.
2. Text that spells a control token is broken up by a space of no width after its first character.
3. So is every character a control token could begin or end with.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import renderers
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from agentgrpo.types import Json, Message

_GAP = "\u200b"
# Where Unicode keeps other forms of ASCII punctuation: a tokenizer may fold them.
_FORMS = [chr(c) for c in (*range(0x2000, 0x2300), *range(0xFE10, 0xFE70), *range(0xFF00, 0xFFF0))]


class Controls:
    """The control tokens of one tokenizer: added tokens that are special, or that look like a tag."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        added = {int(i): token for i, token in tokenizer.added_tokens_decoder.items()}
        self._texts = {i: str(token.content) for i, token in added.items() if _is_control(token)}
        self._broken = {text: f"{text[0]}{_GAP}{text[1:]}" for text in self._texts.values()}
        edges = {c for text in self._broken for c in (text[0], text[-1]) if not c.isalnum()}
        edges |= {form for form in _FORMS if edges & set(unicodedata.normalize("NFKD", form))}
        words = {text for text in self._broken if text.isalnum()}
        self._edges = re.compile("|".join(map(re.escape, sorted(edges) + sorted(words))) or "(?!)")
        self._inner = "\0".join(self._broken)
        self._plain_tokenizer = _without_added_tokens(tokenizer)

    def of(self, token_ids: Sequence[int]) -> list[int]:
        """Return the control tokens among ids, in order."""
        return [i for i in token_ids if i in self._texts]

    def harmless(self, text: str) -> str:
        """Return text of the same length and lines that can be no control token, nor its beginning or end.

        It is the same text unless it holds a character a control token could begin or end with.
        """
        if not self._edges.search(text):
            return text
        return re.sub(r"[^\x00-\x7f]", "x", self._edges.sub(lambda match: "x" * len(match[0]), text))

    def hidden(self, text: str) -> str:
        """Return harmless text that can be no middle of a control token either."""
        return "x" * len(text) if text in self._inner and text.strip() else self.harmless(text)

    def break_up(self, text: str) -> str:
        """Put a space of no width into whatever spells a control token."""
        if self._edges.search(text):
            for control, broken in self._broken.items():
                text = text.replace(control, broken)
        return text

    def break_all(self, text: str) -> str:
        """Put a space of no width after every character a control token could begin or end with, too."""
        return self._edges.sub(rf"\g<0>{_GAP}", self.break_up(text))

    def put_together(self, text: str) -> str:
        """Undo `break_up`, in what a model copied."""
        if _GAP in text:
            for control, broken in self._broken.items():
                text = text.replace(broken, control)
        return text

    def plain(self, rendered: renderers.RenderedTokens, start: int) -> list[int]:
        """Return the ids with control tokens inside content (from `start` on) as the plain tokens of their text."""
        ids, roles, owners = rendered.token_ids, rendered.message_roles, rendered.message_indices
        out: list[int] = []
        done = 0
        for k in range(start, len(ids)):
            if ids[k] in self._texts and rendered.is_content[k] and roles[owners[k]] != "assistant":
                out += [*ids[done:k], *self._plain_ids(self._texts[ids[k]])]
                done = k + 1
        out += ids[done:]
        return out

    def _plain_ids(self, text: str) -> list[int]:
        ids = self._plain_tokenizer.encode(text, add_special_tokens=False).ids
        if not self.of(ids):
            return list(ids)
        pieces = [self._plain_tokenizer.encode(c, add_special_tokens=False).ids for c in text]
        return [i for piece in pieces for i in piece if i not in self._texts]


def map_text(value: Json, change: Callable[[str], str]) -> Json:
    """Return a JSON value with every text in it changed, keys included; no two keys become one."""
    if isinstance(value, list):
        return [map_text(v, change) for v in value]
    if not isinstance(value, dict):
        return change(value) if isinstance(value, str) else value
    mapped: dict[str, Json] = {}
    for key, inner in value.items():
        changed = change(str(key))
        while changed in mapped:
            changed += "x"
        mapped[changed] = map_text(inner, change)
    return mapped


def map_message(message: Message, change: Callable[[str], str]) -> Message:
    """Return a message with every text in it changed but its role, its keys and the types of its calls."""
    mapped: Message = {}
    for key, value in message.items():
        if key == "tool_calls":
            mapped[key] = [map_call(call, change) for call in value or []]
        else:
            mapped[key] = value if key == "role" else map_text(value, change)
    return mapped


def map_call(call: Any, change: Callable[[str], str]) -> Any:
    """Return a call in OpenAI's form with every text in it changed but its type and its form's own keys."""
    keys = ("function", "arguments", "name", "id")
    changed = {
        k: map_call(call[k], change) if k == "function" else map_text(call[k], change) for k in keys if k in call
    }
    return {**call, **changed}


def _is_control(token: Any) -> bool:
    """Runs of spaces, which some tokenizers add, are no control, and neither are words."""
    return bool(token.special) or not all(c.isalnum() or c.isspace() or c == "▁" for c in token.content)


def _without_added_tokens(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    data = json.loads(tokenizer.backend_tokenizer.to_str())
    data["added_tokens"], data["post_processor"] = [], None
    return Tokenizer.from_str(json.dumps(data))
