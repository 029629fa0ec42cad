"""Draws the tokens of an episode as the learner consumed them, one colour each.

It reads a tokenizer file with the `tokenizers` library alone, so it starts without torch or transformers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path

from rich.console import RenderableType
from rich.rule import Rule
from rich.text import Text
from tokenizers import Tokenizer

from agentgrpo.cli.transcript import QUIET, number, printable
from agentgrpo.store.rows import StoredEpisode
from agentgrpo.types import Sequence as Row


class Colour(StrEnum):
    """What colours a token."""

    MASK = "mask"
    LOGPROB = "logprob"
    ADVANTAGE = "advantage"
    RATIO = "ratio"
    ENTROPY = "entropy"


_CONTROL = "#3b4754"
# Black on a tint reads on a light terminal and on a dark one.
_SAMPLED = "black on #a8dcb5"
_PROBABILITIES = (  # at least, what the legend says, style
    (0.9, "p >= 0.9", "black on #a8dcb5"),
    (0.5, ">= 0.5", "black on #dcecb0"),
    (0.2, ">= 0.2", "black on #ffeb99"),
    (0.05, ">= 0.05", "black on #ffc285"),
    (0.0, "< 0.05", "black on #ff9488"),
)
_ADVANTAGES = (
    (0.5, "A >= 0.5", "black on #7fb0f5"),
    (0.05, "> 0", "black on #c3dafa"),
    (-0.05, "about 0", "black on #d9dce1"),
    (-0.499, "< 0", "black on #fbd3b0"),
    (-math.inf, "<= -0.5", "black on #f5a25c"),
)
_RATIOS = (
    (1.2, "ratio >= 1.2", "black on #7fb0f5"),
    (1.02, "> 1", "black on #c3dafa"),
    (0.98, "about 1", "black on #d9dce1"),
    (0.8, "< 1", "black on #fbd3b0"),
    (0.0, "< 0.8", "black on #f5a25c"),
)
_ENTROPIES = (
    (2.0, ">= 2 nats", "black on #b48ae8"),
    (1.0, ">= 1", "black on #ccb1f0"),
    (0.5, ">= 0.5", "black on #dfcff6"),
    (0.1, ">= 0.1", "black on #ece3f9"),
    (0.0, "< 0.1", "black on #d9dce1"),
)
_UNKNOWN = "underline"
_LONGEST_RUN = 8  # tokens that may make up one character between them, and some to spare


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What ids say. Without a tokenizer they are shown as numbers."""

    tokenizer: Tokenizer | None
    control: frozenset[int]

    @classmethod
    def of(cls, model_path: str | None) -> Vocabulary:
        """Load the tokenizer of a model folder, if there is one."""
        path = Path(model_path or "") / "tokenizer.json"
        if model_path is None or not path.is_file():
            return cls(None, frozenset())
        tokenizer = Tokenizer.from_file(str(path))
        return cls(tokenizer, frozenset(tokenizer.get_added_tokens_decoder()))

    def pieces(self, token_ids: Sequence[int]) -> Iterator[tuple[int, str]]:
        """Yield (index of its first token, text) of every run of tokens that is whole characters."""
        start = 0
        for index, token_id in enumerate(token_ids):
            if self.tokenizer is None:
                yield index, f"{token_id} "
                continue
            is_last = index + 1 == len(token_ids) or token_ids[index + 1] in self.control or token_id in self.control
            text = self.tokenizer.decode(list(token_ids[start : index + 1]), skip_special_tokens=False)
            # A character may be spread over tokens: until it is whole, decoding ends in U+FFFD.
            if is_last or not text.endswith("\ufffd") or index - start >= _LONGEST_RUN:
                yield start, text
                start = index + 1


_SAMPLED_NONE = "The model sampled no tokens in this episode."


def token_view(stored: StoredEpisode, vocabulary: Vocabulary, colour: Colour) -> Iterator[RenderableType]:
    """Yield a legend, then every training row of an episode."""
    yield _legend(stored, vocabulary, colour)
    rows = stored.trajectory.sequences()
    if not rows:
        is_text = stored.trajectory.is_text
        why = "A chat endpoint played this episode: it is text, without tokens." if is_text else _SAMPLED_NONE
        yield Text(f"\n{why}", QUIET)
    learner = _by_row(rows, stored.learner_logprobs)
    entropies = _by_row(rows, stored.entropies)
    for index, row in enumerate(rows):
        untrained = stored.row.untrained
        what = "sampled and trained here" if untrained is None else f"sampled here, none trained ({untrained})"
        trained = f"{len(row.token_ids):,} tokens, {sum(row.loss_mask):,} {what}"
        title = Text.assemble((f"row {index + 1} of {len(rows)}", "bold"), (f"   {trained}", QUIET))
        yield Text()
        yield Rule(title, align="left", characters="─", style=QUIET)
        style_of = _styler(stored, row, colour, learner=learner[index], entropies=entropies[index])
        yield _tokens(row, vocabulary, style_of)


def _by_row(rows: Sequence[Row], values: Sequence[float] | None) -> list[dict[int, float]]:
    """Return what the learner knew of each row's trained tokens by their place in it; nothing where it was not kept."""
    known = iter(values or ())
    trained = [[index for index, mask in enumerate(row.loss_mask) if mask] for row in rows]
    return [dict(zip(indices, islice(known, len(indices)), strict=False)) for indices in trained]


def _tokens(row: Row, vocabulary: Vocabulary, style_of: Callable[[int], str]) -> Text:
    line = Text(overflow="fold")
    is_box = False
    for index, piece in vocabulary.pieces(row.token_ids):
        style = style_of(index) if row.loss_mask[index] else QUIET
        was_box, is_box = is_box, row.token_ids[index] in vocabulary.control
        if is_box:
            line.append(" " if was_box else "").append(f" {printable(piece)} ", _box(style))
            continue
        for part in printable(piece).replace("\t", "⇥").splitlines(keepends=True):
            line.append(part.removesuffix("\n") + ("⏎" if part.endswith("\n") else ""), style)
            line.append("\n" if part.endswith("\n") else "")
    return line


def _box(style: str) -> str:
    """Return the style of a control token: its colour and its ground change places, context is plainly reversed."""
    tint = style.removeprefix("black on ")
    return f"bold {tint} on {_CONTROL}" if tint != style else "reverse"


def _styler(
    stored: StoredEpisode,
    row: Row,
    colour: Colour,
    *,
    learner: Mapping[int, float],
    entropies: Mapping[int, float],
) -> Callable[[int], str]:
    if colour is Colour.LOGPROB:
        return lambda index: _band(_PROBABILITIES, math.exp(min(0.0, row.rollout_logprobs[index])))
    if colour is Colour.ADVANTAGE:
        advantage = stored.row.advantage
        style = _UNKNOWN if advantage is None else _band(_ADVANTAGES, advantage)
        return lambda index: style
    if colour is Colour.RATIO:
        ratios = {index: math.exp(value - row.rollout_logprobs[index]) for index, value in learner.items()}
        return lambda index: _known_band(_RATIOS, ratios.get(index))
    if colour is Colour.ENTROPY:
        return lambda index: _known_band(_ENTROPIES, entropies.get(index))
    return lambda index: _SAMPLED


def _known_band(bands: Sequence[tuple[float, str, str]], value: float | None) -> str:
    return _UNKNOWN if value is None or math.isnan(value) else _band(bands, value)


def _band(bands: Sequence[tuple[float, str, str]], value: float) -> str:
    return next((style for least, _, style in bands if value >= least), bands[-1][2])


def _legend(stored: StoredEpisode, vocabulary: Vocabulary, colour: Colour) -> Text:
    line = Text("  ").join(Text(f" {name} ", style) for name, style in _swatches(stored, colour))
    line.append("   ").append("context, not trained", QUIET)
    if vocabulary.tokenizer is None:
        return line.append("\nno tokenizer in the run's model folder: ids are shown", "yellow")
    return line.append("   ").append(" control token ", "reverse")


def _swatches(stored: StoredEpisode, colour: Colour) -> Iterator[tuple[str, str]]:
    if colour is Colour.MASK:
        yield "sampled by the model" + (", trained" if stored.row.untrained is None else ""), _SAMPLED
    elif colour is Colour.LOGPROB:
        yield from ((name, style) for _, name, style in _PROBABILITIES)
    elif colour is Colour.RATIO:
        yield from _learned(_RATIOS, "logprobs", stored.learner_logprobs)
    elif colour is Colour.ENTROPY:
        yield from _learned(_ENTROPIES, "entropy", stored.entropies)
    elif stored.row.advantage is None:
        yield f"no advantage ({stored.row.filter_reason or 'not trained on'})", "underline"
    else:
        value = stored.row.advantage
        yield f"advantage {number(value, sign=True)}", _band(_ADVANTAGES, value)


def _learned(
    bands: Sequence[tuple[float, str, str]], what: str, values: Sequence[float] | None
) -> Iterator[tuple[str, str]]:
    if values is None:
        yield f"not recorded: {what} of the learner", _UNKNOWN
    else:
        yield from ((name, style) for _, name, style in bands)
