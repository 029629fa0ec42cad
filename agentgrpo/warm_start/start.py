"""The warm start: a tiny model from nothing, fine-tuned on oracle demonstrations until it can act, not yet well."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from agentgrpo import causal_lm
from agentgrpo.chat import Chat
from agentgrpo.config.run import Config, SftConfig, WarmStartConfig
from agentgrpo.errors import ConfigError
from agentgrpo.registry import EnvSource
from agentgrpo.run.report import Reporter
from agentgrpo.seeds import derive_seed
from agentgrpo.types import Sequence as TokenSequence
from agentgrpo.types import Task
from agentgrpo.warm_start.demonstrations import Demonstration, demonstrations, token_rows
from agentgrpo.warm_start.sft import fine_tune, save_model, whole_folder
from agentgrpo.warm_start.tiny import describe, make_tiny

_RECORD = "warm_start.json"


def warm_start(
    config: Config,
    settings: WarmStartConfig,
    source: EnvSource,
    tasks: Sequence[Task],
    folder: Path,
    reporter: Reporter,
) -> None:
    """Make the model folder of a run: tokenizer and weights fitted to the environment, then fine-tuned.

    Written beside the target and renamed, so that a folder that is there is complete.
    """
    sft, seed = settings.sft, config.seed
    reporter.message(f"{folder} is not there: making a tiny model, taught by {sft.episodes} demonstrations")
    with whole_folder(folder) as working:
        perfect = _play(source, tasks, sft, 1.0, seed, reporter)
        make_tiny(working, perfect, settings.tiny, seed=derive_seed(seed, "tiny"))
        reporter.message(f"made {describe(working)}; {sft.steps} steps of supervised warm start follow")
        chat = Chat.from_folder(working, enable_thinking=config.model.enable_thinking)
        phases = _phases(source, tasks, perfect, chat, sft, seed, reporter)
        run_sft(working, phases, sft, seed=seed, reporter=reporter, device=config.model.device)
        (working / _RECORD).write_text(
            json.dumps({"seed": seed, "env": source.id, **settings.model_dump()}, indent=1), encoding="utf-8"
        )


def reuse(settings: WarmStartConfig, folder: Path, seed: int, reporter: Reporter) -> None:
    """Say that a model folder that is there is taken as it is.

    Raises:
        ConfigError: it was made with other settings than those of the config, which would have no effect.
    """
    record = folder / _RECORD
    made = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    for section, wanted in settings.model_dump().items():
        for key, value in wanted.items():
            if key in made.get(section, {}) and made[section][key] != value:
                raise ConfigError(
                    f"warm_start.{section}.{key} = {value!r} would have no effect: {folder} is there, made with "
                    f"{made[section][key]!r}. Delete it, or set model.path to a new folder."
                )
    of_seed = f" of seed {made['seed']}" if made.get("seed", seed) != seed else ""
    reporter.message(f"taking the model{of_seed} in {folder} as it is; delete the folder to make it anew")


def run_sft(
    folder: Path,
    phases: Sequence[tuple[int, Sequence[TokenSequence]]],
    config: SftConfig,
    *,
    seed: int,
    reporter: Reporter,
    device: str = "auto",
) -> None:
    """Fine-tune the model of a folder in place."""
    model = causal_lm.load_model(folder, device=causal_lm.pick_device(device), dtype=torch.float32)
    total = sum(steps for steps, _ in phases)
    with reporter.progress("warm start", total) as advance:
        fine_tune(model, phases, config, seed=seed, on_step=lambda done, loss: advance(1, f"loss {loss:.3f}"))
    save_model(model, folder, folder)


def _phases(
    source: EnvSource,
    tasks: Sequence[Task],
    perfect: Sequence[Demonstration],
    chat: Chat,
    sft: SftConfig,
    seed: int,
    reporter: Reporter,
) -> list[tuple[int, list[TokenSequence]]]:
    """Return (steps, rows): perfect demonstrations first, so that copying is learned, then those of `quality`."""
    first = round(sft.steps * sft.perfect_fraction)
    phases = [(first, [row for d in perfect for row in token_rows(d, chat)])] if first else []
    if sft.steps > first:
        flawed = _play(source, tasks, sft, sft.quality, seed, reporter)
        phases.append((sft.steps - first, [row for d in flawed for row in token_rows(d, chat)]))
    return phases


def _play(
    source: EnvSource, tasks: Sequence[Task], sft: SftConfig, quality: float, seed: int, reporter: Reporter
) -> list[Demonstration]:
    played = []
    with reporter.progress(f"demonstrations of quality {quality:g}", sft.episodes) as advance:
        for demonstration in demonstrations(source, tasks, count=sft.episodes, quality=quality, seed=seed):
            played.append(demonstration)
            advance()
    return played
