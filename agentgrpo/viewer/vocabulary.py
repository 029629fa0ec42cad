"""What token ids say, byte by byte: a character may be spread over several tokens.

It reads a tokenizer file with the `tokenizers` library alone, so it starts without torch or transformers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "\u2581"  # what SentencePiece writes for a space


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What ids say. Without a tokenizer nothing is known of them.

    Args:
        tokenizer: As the model folder has it.
        control: The ids of added tokens, which no text may produce, and their text.
        is_byte_level: Whether tokens spell bytes with the alphabet of GPT-2; otherwise they are text.
    """

    tokenizer: Tokenizer | None
    control: dict[int, str]
    is_byte_level: bool = False

    @classmethod
    def of(cls, model_path: str | None) -> Vocabulary:
        """Load the tokenizer of a model folder, if there is one."""
        path = Path(model_path or "") / "tokenizer.json"
        return _load(path, path.stat().st_mtime) if model_path is not None and path.is_file() else cls(None, {})

    def pieces(self, token_ids: Iterable[int]) -> dict[int, bytes]:
        """Return the bytes of each of the ids; an id that no token has is left out."""
        found = {number: self._bytes(number) for number in set(token_ids)}
        return {number: piece for number, piece in found.items() if piece is not None}

    def _bytes(self, number: int) -> bytes | None:
        if self.tokenizer is None or number < 0:
            return None
        token = self.tokenizer.id_to_token(number)
        if token is None:
            return None
        if number in self.control:
            return _encode(self.control[number])
        if self.is_byte_level:
            alphabet = _alphabet()
            if all(character in alphabet for character in token):
                return bytes(alphabet[character] for character in token)
            return _encode(token)
        byte = _BYTE.fullmatch(token)
        return bytes([int(byte[1], 16)]) if byte else _encode(token.replace(_SPACE, " "))


@lru_cache(maxsize=2)  # of large models they take 100 MB; runs tend to share one
def _load(path: Path, modified: float) -> Vocabulary:
    tokenizer = Tokenizer.from_file(str(path))
    control = {number: token.content for number, token in tokenizer.get_added_tokens_decoder().items()}
    return Vocabulary(tokenizer, control, "ByteLevel" in _decoders(tokenizer))


def _decoders(tokenizer: Tokenizer) -> set[str]:
    """Return the kinds of decoder a tokenizer has."""
    if tokenizer.decoder is None:
        return set()
    state = json.loads(tokenizer.decoder.__getstate__())
    return {str(part["type"]) for part in state.get("decoders", [state])}


@lru_cache(maxsize=1)
def _alphabet() -> dict[str, int]:
    """Return the byte of every character of GPT-2's alphabet, which gives each byte a printable one."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("\xa1"), ord("\xac") + 1), *range(ord("\xae"), ord("\xff") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(others)}


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "replace")
