"""Metrics to TensorBoard, Weights & Biases or trackio, when asked for. `metrics.jsonl` is written without it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agentgrpo.config.run import Config
from agentgrpo.errors import ConfigError

_MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "trackio": "trackio"}


def tracker_module(name: str) -> Any:
    """Import what a tracker needs.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(_MODULES[name])
    except ImportError as error:
        raise ConfigError(
            f"train.track asks for '{name}', which is not installed: "
            f"pip install 'agentgrpo[track]', or take '{name}' out of train.track"
        ) from error


def check_trackers(names: Sequence[str]) -> None:
    """Raise ConfigError unless all these trackers can be used; worth knowing before a model is made."""
    for name in names:
        tracker_module(name)


class Trackers:
    """The trackers of one run."""

    def __init__(self, config: Config, folder: Path) -> None:
        self._writers: list[Callable[[int, Mapping[str, float]], Any]] = []
        self._closers: list[Callable[[], Any]] = []
        for name in config.train.track:
            self._open(name, config, folder)

    def _open(self, name: str, config: Config, folder: Path) -> None:
        module = tracker_module(name)
        if name == "tensorboard":
            writer = module.SummaryWriter(str(folder / "tensorboard"))
            self._writers.append(lambda step, metrics: [writer.add_scalar(k, v, step) for k, v in metrics.items()])
            self._closers.append(writer.close)
            return
        run = module.init(project="agentgrpo", name=folder.name, config=config.model_dump(mode="json"))
        self._writers.append(lambda step, metrics: run.log(dict(metrics), step=step))
        self._closers.append(run.finish)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of a step."""
        for write in self._writers:
            write(step, metrics)

    def close(self) -> None:
        """Flush and end."""
        for close in self._closers:
            close()
