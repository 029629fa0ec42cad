from __future__ import annotations

import json
from array import array
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.store import EpisodeReader, EpisodeStore, TrainingRow
from agentgrpo.types import Trajectory
from agentgrpo.viewer.tokens import token_bytes
from agentgrpo.viewer.vocabulary import Vocabulary
from tests.store.strategies import make_trajectory, trajectories
from tests.viewer.shop_run import CONTROL, tokenizer_of


def unpack(data: bytes) -> tuple[dict[str, Any], dict[str, list[float]]]:
    size = int.from_bytes(data[:4], "little")
    head, at = json.loads(data[4 : 4 + size]), 4 + size
    arrays: dict[str, list[float]] = {}
    for name, kind, length in head["arrays"]:
        values: array[Any] = array("I" if kind == "u4" else "f", data[at : at + 4 * length])
        arrays[name], at = list(values), at + 4 * length
    assert at == len(data)
    assert (4 + size) % 4 == 0
    return head, arrays


def stored(folder: Path, trajectory: Trajectory, *rows: TrainingRow) -> Any:
    path = folder / "episodes.sqlite"
    with EpisodeStore(path) as store:
        store.add_sync([trajectory])
        store.add_sync(rows)
    with EpisodeReader(path) as reader:
        return reader.get(trajectory.key)


def test_ids_logprobs_and_rows_are_those_the_learner_had(tmp_path: Path) -> None:
    trajectory = make_trajectory()
    (sequence,) = trajectory.sequences()
    learner = [-0.25] * sum(sequence.loss_mask)
    row = TrainingRow(key=trajectory.key, advantage=0.5, logprobs=learner, entropies=[1.0] * len(learner))
    head, arrays = unpack(token_bytes(stored(tmp_path, trajectory, row), Vocabulary(None, {})))
    assert arrays["ids"] == list(sequence.token_ids)
    assert arrays["learner"] == learner
    assert arrays["entropy"] == [1.0] * len(learner)
    sampled = [value for span in trajectory.spans for value in span.logprobs or ()]
    assert arrays["logprobs"] == pytest.approx(sampled, abs=1e-6)
    assert (head["advantage"], head["untrained"]) == (0.5, None)
    (only,) = head["rows"]
    mask = [int(i in only["trained"]) for i in only["spans"] for _ in range(head["spans"][i][1])]
    assert mask == list(sequence.loss_mask)


@given(trajectories())
def test_every_trajectory_can_be_packed_and_its_rows_are_those_of_training(trajectory: Trajectory) -> None:
    class Stored:
        def __init__(self) -> None:
            self.trajectory = trajectory
            self.row = type("Row", (), {"advantage": None, "untrained": None})()

        def learner_logprobs_of_spans(self) -> dict[int, tuple[float, ...]]:
            return {}

        entropies_of_spans = learner_logprobs_of_spans

    fake: Any = Stored()
    head, arrays = unpack(token_bytes(fake, Vocabulary(None, {})))
    ids = iter(arrays["ids"])
    spans = [[next(ids) for _ in range(size)] for _, size, _, _ in head["spans"]]
    rows = [[number for span in row["spans"] for number in spans[span]] for row in head["rows"]]
    assert rows == [list(sequence.token_ids) for sequence in trajectory.sequences()]


TEXTS = [
    "Refund order 1017, please. ",
    "na\u00efve \u20ac5 \U0001f600 ",
    "\u65e5\u672c\u8a9e",
    "<tool_call> <|im_end|>",
]


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_pieces_put_together_are_the_text(text: str) -> None:
    tokenizer = tokenizer_of(TEXTS, size=300)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    known = Vocabulary(tokenizer, {}, is_byte_level=True)
    pieces = known.pieces(ids)
    assert b"".join(pieces[number] for number in ids).decode("utf-8") == text


def test_added_tokens_are_control_tokens_and_their_look_alikes_are_not(tmp_path: Path) -> None:
    tokenizer_of(TEXTS).save(str(tmp_path / "tokenizer.json"))
    known = Vocabulary.of(str(tmp_path))
    assert known.is_byte_level
    assert set(known.control.values()) == set(CONTROL)
    assert known.tokenizer is not None
    real = known.tokenizer.token_to_id("<|im_end|>")
    assert real is not None
    assert known.pieces([real]) == {real: b"<|im_end|>"}
    assert known.pieces([10**6, -1]) == {}


def test_without_a_tokenizer_nothing_is_known_of_ids(tmp_path: Path) -> None:
    assert Vocabulary.of(None).pieces([1, 2]) == {}
    assert Vocabulary.of(str(tmp_path / "gone")).control == {}
