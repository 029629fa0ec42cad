"""A whole run whose clip is against the learner's own logprobs: those of the engine agree, so no weight is bound."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentgrpo.run.report import SilentReporter
from agentgrpo.store.run import read_metrics
from agentgrpo.training import train
from tests.small import small_model, small_run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.getbasetemp(), "lockbox")


def test_a_run_against_the_learners_logprobs_measures_no_mismatch(model: Path, tmp_path: Path) -> None:
    learner = {"learning_rate": 5e-3, "minibatches": 2, "old_logprobs": "learner", "drop_zero_variance": False}
    config = small_run(model, tmp_path, learner=learner, eval={"every": 0, "tasks": 1})
    run = train(config, reporter=SilentReporter())
    steps = [step for step in read_metrics(run.path / "metrics.jsonl") if "train/loss" in step]
    assert len(steps) == 2
    for step in steps:
        assert step["train/mismatch_kl"] < 1e-6
        assert (step["train/truncated_fraction"], step["train/mismatch_alarms"]) == (0.0, 0.0)
    assert 'truncation = "token_truncate"' in (run.path / "config.toml").read_text()
