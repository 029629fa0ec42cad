from __future__ import annotations

import re
from pathlib import Path

import pytest

from agentgrpo.run.report import SilentReporter
from agentgrpo.store import EpisodeReader
from agentgrpo.store.filter import parse_filter
from agentgrpo.training import train
from tests.small import small_model, small_run


class Listens(SilentReporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, text: str) -> None:
        self.said.append(text)


def test_the_filter_a_run_ends_with_lists_what_it_missed(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model, listens = small_model(tmp_path_factory.getbasetemp(), "lockbox"), Listens()
    config = small_run(model, tmp_path, eval={"tasks": 12, "every": 1, "during_tasks": 12})
    run = train(config | {"learner": {"learning_rate": 1e-9}}, reporter=listens)
    (line,) = [text for text in listens.said if text.startswith("missed")]
    quoted = re.search(r"--filter '([^']+)'", line)
    assert quoted is not None
    with EpisodeReader(run.path / "episodes.sqlite") as reader:
        count = reader.count(parse_filter(quoted[1]))
    assert count == round(12 * (1 - run.summary["heldout_success_after"])) > 0
