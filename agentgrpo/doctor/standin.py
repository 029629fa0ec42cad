"""A throw-away model for a run that will make its own: a small share of the warm start, measured, in a folder apart.

The user's folders are not touched.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from agentgrpo import causal_lm
from agentgrpo.chat import Chat
from agentgrpo.config.run import Config, SftConfig, WarmStartConfig
from agentgrpo.doctor import machine
from agentgrpo.doctor.environment import need_source
from agentgrpo.doctor.model import find_folder
from agentgrpo.doctor.report import Finding, need, ok, warn
from agentgrpo.doctor.subject import Subject, WarmStart
from agentgrpo.run.report import SilentReporter
from agentgrpo.seeds import derive_seed
from agentgrpo.types import Sequence as TokenSequence
from agentgrpo.warm_start.demonstrations import Demonstration, demonstrations, token_rows
from agentgrpo.warm_start.sft import fine_tune
from agentgrpo.warm_start.start import reuse
from agentgrpo.warm_start.tiny import make_tiny

_DEMONSTRATIONS = 300
_STEPS = 40
_TRACED = 60  # demonstrations whose size is measured
_UNSTEADY = 6  # supervised steps that are slower than those that follow


def prepare_model(subject: Subject) -> Iterator[Finding]:
    """Find the model's folder; make a throw-away one when the run would make its own."""
    config, path = subject.config, Path(subject.config.model.path)
    settings = config.warm_start
    if settings is None:
        subject.model_path = find_folder(config.model.path)
        return
    if (path / "config.json").exists():
        reuse(settings, path, config.seed, SilentReporter())
        subject.model_path = path
        return
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        yield warn(f"'{path}' is there but holds no model: the warm start will refuse to write into it", "move it away")
    need(subject.train_tasks or None, "needs the environment and its tasks, to make the model")
    folder = subject.folder / "model"
    subject.warm_start = measure_warm_start(subject, settings, folder)
    subject.model_path = folder
    yield ok(f"{path} is not there: the run will make it; a throw-away model stands in")


def measure_warm_start(subject: Subject, settings: WarmStartConfig, folder: Path) -> WarmStart:
    """Make a model as the warm start does, with a small share of its demonstrations and steps, and measure it."""
    config, sft = subject.config, settings.sft
    count = min(_DEMONSTRATIONS, sft.episodes)
    watch = machine.Stopwatch()
    played = _play(subject, count, sft.quality)
    demonstration_seconds = watch.seconds / count
    watch = machine.Stopwatch()
    make_tiny(folder, played, settings.tiny, seed=derive_seed(config.seed, "tiny"))
    fit_seconds = watch.seconds
    chat = Chat.from_folder(folder, enable_thinking=config.model.enable_thinking)
    watch = machine.Stopwatch()
    rows = [row for demonstration in played for row in token_rows(demonstration, chat)]
    tokenize_seconds = watch.seconds / count
    with machine.watch_peak() as peak:
        step_seconds = _supervise(folder, rows, sft, config)
    return WarmStart(
        count=count,
        demonstration_seconds=demonstration_seconds,
        tokenize_seconds=tokenize_seconds,
        fit_seconds=fit_seconds,
        step_seconds=step_seconds,
        demonstration_bytes=_bytes_kept(subject, chat, sft.quality),
        step_bytes=peak.added,
    )


def _play(subject: Subject, count: int, quality: float) -> list[Demonstration]:
    """Return demonstrations, half of them perfect: the tokenizer must know what both kinds say."""
    source, half = need_source(subject), count // 2
    return [
        played
        for share, how_well in ((count - half, 1.0), (half, quality))
        for played in demonstrations(
            source, subject.train_tasks, count=share, quality=how_well, seed=subject.config.seed
        )
    ]


def _supervise(folder: Path, rows: Sequence[TokenSequence], sft: SftConfig, config: Config) -> float:
    """Return the seconds of a supervised step. The weights are left as they are: nothing learned here is of use."""
    model = causal_lm.load_model(folder, device=causal_lm.pick_device(config.model.device), dtype=torch.float32)
    steps = min(_STEPS, sft.steps)
    first = min(_UNSTEADY, steps - 1)
    watches = [machine.Stopwatch()]

    def note(step: int, loss: float) -> None:
        if step == first:
            watches.append(machine.Stopwatch())

    fine_tune(
        model,
        [(steps, rows)],
        sft.model_copy(update={"steps": steps}),
        seed=config.seed,
        on_step=note,
    )
    return watches[-1].seconds / (steps - first)


def _bytes_kept(subject: Subject, chat: Chat, quality: float) -> float:
    """Return the bytes a demonstration and its row take while they are kept: the process's size is too coarse."""
    tracemalloc.start()
    try:
        played = _play(subject, _TRACED, quality)
        rows = [token_rows(demonstration, chat) for demonstration in played]
        gc.collect()  # environments that were played in are garbage with cycles
        return tracemalloc.get_traced_memory()[0] / len(rows)
    finally:
        tracemalloc.stop()
