"""The tokens of an episode as the page draws them: what they are, where they came from, what was known of each.

Arrays are packed little-endian, because 32,000 tokens as JSON take longer to read than to draw.
"""

from __future__ import annotations

import base64
import json
import math
import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

from agentgrpo.store.rows import StoredEpisode
from agentgrpo.types import JsonObject, Trajectory
from agentgrpo.viewer.vocabulary import Vocabulary

_UNKNOWN = math.nan


def token_bytes(stored: StoredEpisode, vocabulary: Vocabulary) -> bytes:
    """Return an episode's tokens: the length of a JSON head, the head, then the arrays it announces.

    The head holds `spans` (parent, size, sampled, turn), `rows` (the spans of each training row, and which of them it
    trains), `untrained` (why none was), `pieces` (what each id says, a character per byte), `control` ids, and `arrays`
    (name, type, length).
    """
    head, arrays = _parts(stored, vocabulary)
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 4)  # arrays begin where a machine can read them in place
    return len(text).to_bytes(4, "little") + text + b"".join(arrays)


def token_data(stored: StoredEpisode, vocabulary: Vocabulary) -> str:
    """Return `token_bytes` as base64, for a page that holds its data itself."""
    return base64.b64encode(token_bytes(stored, vocabulary)).decode("ascii")


def _parts(stored: StoredEpisode, vocabulary: Vocabulary) -> tuple[JsonObject, list[bytes]]:
    trajectory = stored.trajectory
    ids = array("I", (number for span in trajectory.spans for number in span.token_ids))
    sampled = [span for span in trajectory.spans if span.sampled]
    logprobs = array("f", (value for span in sampled for value in span.logprobs or _unknown(span.token_ids)))
    arrays: list[tuple[str, str, array[int] | array[float]]] = [("ids", "u4", ids), ("logprobs", "f4", logprobs)]
    for name, known in (("learner", stored.learner_logprobs_of_spans()), ("entropy", stored.entropies_of_spans())):
        if known:
            arrays.append((name, "f4", _of_sampled(trajectory, known)))
    pieces = vocabulary.pieces(ids)
    head: JsonObject = {
        "spans": [[span.parent, len(span.token_ids), int(span.sampled), span.turn] for span in trajectory.spans],
        "rows": _rows(stored),
        "pieces": {number: piece.decode("latin-1") for number, piece in pieces.items()},
        "control": {number: text for number, text in vocabulary.control.items() if number in pieces},
        "names": sorted(set(vocabulary.control.values())),
        "has_tokenizer": vocabulary.tokenizer is not None,
        "advantage": stored.row.advantage,
        "untrained": stored.row.untrained,
        "arrays": [[name, kind, len(values)] for name, kind, values in arrays],
    }
    return head, [_little(values) for _, _, values in arrays]


def _rows(stored: StoredEpisode) -> list[JsonObject]:
    """Return the training rows as `Trajectory.sequences` makes them, in spans instead of tokens."""
    trajectory = stored.trajectory
    trained: set[int] = set()
    rows: list[JsonObject] = []
    for leaf in trajectory.leaves():
        path = trajectory.path(leaf)
        fresh = [i for i in path if trajectory.spans[i].sampled and i not in trained]
        trained.update(fresh)
        if fresh:
            rows.append({"spans": path, "trained": fresh})
    return rows


def _of_sampled(trajectory: Trajectory, known: Mapping[int, Sequence[float]]) -> array[float]:
    spans = enumerate(trajectory.spans)
    parts = (known.get(index, _unknown(span.token_ids)) for index, span in spans if span.sampled)
    return array("f", chain.from_iterable(parts))


def _unknown(values: Iterable[object]) -> list[float]:
    return [_UNKNOWN for _ in values]


def _little(values: array[int] | array[float]) -> bytes:
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()
