"""model tiny and model sft: the warm start's two halves, each on its own."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentgrpo import causal_lm
from agentgrpo.chat import Chat
from agentgrpo.config.file import validate
from agentgrpo.config.run import SftConfig, TinyConfig
from agentgrpo.errors import UserError
from agentgrpo.registry import resolve_env
from agentgrpo.run.report import ConsoleReporter, Reporter
from agentgrpo.store.run import RunDirectory
from agentgrpo.tasks import load_tasks
from agentgrpo.types import Sequence as TokenSequence
from agentgrpo.warm_start.demonstrations import demonstration_of, demonstrations, token_rows, tokenize
from agentgrpo.warm_start.good_episodes import good_episodes
from agentgrpo.warm_start.sft import save_model, whole_folder
from agentgrpo.warm_start.start import run_sft
from agentgrpo.warm_start.tiny import describe, make_tiny


def tiny(folder: Path, env: str, episodes: int, seed: int) -> None:
    """Write a tiny model with random weights."""
    _refuse_existing(folder)
    source = resolve_env(env)
    reporter: Reporter = ConsoleReporter()
    played = []
    with reporter.progress("demonstrations", episodes) as advance:
        for played_one in demonstrations(source, _tasks(env), count=episodes, quality=1.0, seed=seed):
            played.append(played_one)
            advance()
    with whole_folder(folder) as working:
        make_tiny(working, played, TinyConfig(), seed=seed)
    reporter.message(f"{folder}: {describe(folder)}")


def sft_from_run(model: str, folder: Path, run: Path, settings: Mapping[str, Any], seed: int) -> None:
    """Fine-tune a copy of a model on the successful episodes of a run."""
    _refuse_existing(folder)
    config, reporter = validate(SftConfig, settings), ConsoleReporter()
    chosen = good_episodes(RunDirectory.open(run), limit=config.episodes)
    reporter.message(str(chosen))
    chat = Chat.from_folder(model)
    rows = [tokenize(demonstration_of(trajectory), chat) for trajectory in chosen.trajectories]
    _fine_tune(model, folder, rows, config, seed, reporter)


def sft(model: str, folder: Path, env: str, settings: Mapping[str, Any], seed: int) -> None:
    """Fine-tune a copy of a model on oracle demonstrations."""
    _refuse_existing(folder)
    config, source = validate(SftConfig, settings), resolve_env(env)
    reporter: Reporter = ConsoleReporter()
    chat = Chat.from_folder(model)
    rows: list[TokenSequence] = []
    with reporter.progress("demonstrations", config.episodes) as advance:
        for played in demonstrations(source, _tasks(env), count=config.episodes, quality=config.quality, seed=seed):
            rows += token_rows(played, chat)
            advance()
    _fine_tune(model, folder, rows, config, seed, reporter)


def _fine_tune(
    model: str, folder: Path, rows: list[TokenSequence], config: SftConfig, seed: int, reporter: Reporter
) -> None:
    with whole_folder(folder) as working:
        _copy(model, working)
        run_sft(working, [(config.steps, rows)], config, seed=seed, reporter=reporter)
    reporter.message(f"{folder}: {describe(folder)}, fine-tuned for {config.steps} steps")


def _copy(model: str, folder: Path) -> None:
    if Path(model).is_dir():
        shutil.copytree(model, folder, dirs_exist_ok=True)
        return
    device = causal_lm.pick_device()
    save_model(
        causal_lm.load_model(model, device=device, dtype=causal_lm.pick_dtype("float32", device)),
        model,
        folder,
    )


def _tasks(env: str) -> Any:
    source = resolve_env(env)
    return load_tasks(source.tasks("train"), split="train")


def _refuse_existing(folder: Path) -> None:
    if folder.exists():
        raise UserError(f"'{folder}' exists: give a new folder, nothing is overwritten")
