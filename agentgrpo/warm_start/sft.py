"""Supervised fine-tuning on demonstrations: the warm start, top to bottom. Full weights; no reinforcement learning."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedModel

from agentgrpo.causal_lm import quiet_transformers
from agentgrpo.config.run import SftConfig
from agentgrpo.errors import RunError, UserError
from agentgrpo.learner.attention import use_causal_attention
from agentgrpo.learner.batch import Row, collate
from agentgrpo.learner.forward import can_share_prefix, trained_logprobs
from agentgrpo.learner.schedule import learning_rate
from agentgrpo.seeds import derive_seed
from agentgrpo.types import Sequence as TokenSequence

_POOL = 8  # batches sorted by length together
Progress = Callable[[int, float], None]


def fine_tune(
    model: PreTrainedModel,
    phases: Sequence[tuple[int, Sequence[TokenSequence]]],
    config: SftConfig,
    *,
    seed: int,
    on_step: Progress = lambda step, loss: None,
) -> None:
    """Train all weights of a model in place on token sequences, by the mean negative logprob of masked tokens.

    Args:
        model: The model to train.
        phases: (steps, sequences) one after the other, under one cosine schedule.
        config: Batch size and learning rate.
        seed: Decides the order of sequences.
        on_step: Called with the number of steps done and the loss.

    Raises:
        RunError: the loss is not finite.
    """
    total = sum(steps for steps, _ in phases)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    use_causal_attention(model)
    share_prefix = can_share_prefix(model)
    model.requires_grad_(True).train()
    done = 0
    for number, (steps, sequences) in enumerate(phases):
        batches = _batches(sequences, config.batch_size, random.Random(derive_seed(seed, "sft", number)))
        for _ in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(
                    done, peak=config.learning_rate, kind="cosine", warmup_steps=total // 20, total_steps=total
                )
            loss = _step(model, optimizer, next(batches), share_prefix=share_prefix)
            done += 1
            on_step(done, loss)
    model.requires_grad_(False).eval()


def _batches(sequences: Sequence[TokenSequence], size: int, rng: random.Random) -> Iterator[list[TokenSequence]]:
    """Yield batches of sequences of like length (padding costs as much as text), forever, in a seeded order."""
    size = min(size, len(sequences))
    while True:
        pool = sorted(rng.sample(sequences, min(size * _POOL, len(sequences))), key=lambda s: len(s.token_ids))
        batches = [pool[i : i + size] for i in range(0, len(pool) - size + 1, size)]
        rng.shuffle(batches)
        yield from batches


def _step(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    sequences: Sequence[TokenSequence],
    *,
    share_prefix: bool,
) -> float:
    rows = [Row(sequence=s, advantage=0.0, episode=i) for i, s in enumerate(sequences)]
    optimizer.zero_grad(set_to_none=True)
    logprobs, _ = trained_logprobs(model, collate(rows, share_prefix=share_prefix).to(model.device))
    loss = -logprobs.mean()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    if not torch.isfinite(norm):
        raise RunError(f"the loss of the warm start became {loss.item()}: lower [warm_start.sft] learning_rate")
    optimizer.step()
    return loss.item()


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a folder to write a model in; it takes its name when the block ends well, and vanishes when it does not.

    Raises:
        UserError: there are files already.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UserError(f"'{folder}' exists and is not empty: give another folder, or move it away")
    working = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(working, ignore_errors=True)
    try:
        working.mkdir(parents=True)
        yield working
        working.rename(folder)
    finally:
        shutil.rmtree(working, ignore_errors=True)


def save_model(model: PreTrainedModel, tokenizer_from: str | Path, folder: Path) -> None:
    """Write model and tokenizer as one folder."""
    with quiet_transformers():
        model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer_from).save_pretrained(folder)
