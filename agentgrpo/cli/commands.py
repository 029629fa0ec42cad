"""train, demo and eval: from arguments to the library and back to a screen."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from agentgrpo.endpoint.client import Endpoint
from agentgrpo.evaluate.endpoint import evaluate_endpoint
from agentgrpo.evaluate.run import evaluate_checkpoint
from agentgrpo.run.report import ConsoleReporter
from agentgrpo.training import train as run_training


def train(config: Path | None, resume: Path | None, overrides: Sequence[str], max_hours: float | None) -> None:
    """Train as a config file says, or go on with a run."""
    run_training(config, resume=resume, overrides=_with_hours(overrides, max_hours))


def demo(overrides: Sequence[str], max_hours: float | None) -> None:
    """Train the shipped shop run."""
    with resources.as_file(resources.files("agentgrpo").joinpath("assets/demo.toml")) as config:
        run_training(config, overrides=_with_hours(overrides, max_hours))


def evaluate_run(run: Path, checkpoint: str, split: str, overrides: Sequence[str]) -> None:
    """Evaluate a checkpoint of a run and print what was found."""
    evaluate_checkpoint(run, checkpoint=checkpoint, split=split, overrides=overrides, reporter=ConsoleReporter())


def evaluate_model(
    target: str,
    url: str,
    model: str,
    api_key_env: str | None,
    concurrency: int,
    split: str,
    overrides: Sequence[str],
) -> None:
    """Let a chat model behind an endpoint play an environment and print how it did."""
    endpoint = Endpoint(url, model, api_key_env=api_key_env, concurrency=concurrency)
    evaluate_endpoint(target, endpoint, split=split, overrides=overrides, reporter=ConsoleReporter())


def _with_hours(overrides: Sequence[str], max_hours: float | None) -> list[str]:
    return [*overrides, *([f"train.max_hours={max_hours}"] if max_hours is not None else [])]
