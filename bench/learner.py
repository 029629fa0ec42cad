"""The learner's forward and backward pass: the shared prefix computed once against whole sequences."""

from __future__ import annotations

import torch

from agentgrpo.config.run import LoraConfig
from agentgrpo.learner.batch import Microbatch, Row, collate
from agentgrpo.learner.forward import trained_logprobs
from agentgrpo.learner.policy import LoraPolicy
from agentgrpo.types import Sequence
from bench.common import VOCABULARY, best_of, report, tiny_model

SAMPLED, ROWS = 80, 64


def _batch(prefix: int, own: int) -> Microbatch:
    generator = torch.Generator().manual_seed(0)
    shared = torch.randint(VOCABULARY, (prefix,), generator=generator).tolist()
    rows = []
    for index in range(ROWS):
        ids = [*shared, *torch.randint(VOCABULARY, (own,), generator=generator).tolist()]
        mask = [0] * (len(ids) - SAMPLED) + [1] * SAMPLED
        sequence = Sequence(
            token_ids=tuple(ids),
            loss_mask=tuple(mask),
            rollout_logprobs=(0.0,) * len(ids),
            turns=(0,) * len(ids),
        )
        rows.append(Row(sequence=sequence, advantage=1.0, episode=index))
    return collate(rows)


def main(*, quick: bool = False) -> None:
    """Print and write seconds per microbatch by length of the shared prefix."""
    torch.set_num_threads(1)
    policy = LoraPolicy(tiny_model(), LoraConfig(), seed=0)
    rows = []
    for prefix in (50, 200, 800):
        batch = _batch(prefix, 120)

        def run(share: bool, batch: Microbatch = batch) -> None:
            logprobs, _ = trained_logprobs(policy.causal_lm, batch, share_prefix=share)
            logprobs.sum().backward()  # type: ignore[no-untyped-call]

        once = best_of(1 if quick else 3, lambda run=run: run(True))  # type: ignore[misc]
        whole = best_of(1 if quick else 3, lambda run=run: run(False))  # type: ignore[misc]
        rows.append((prefix, 120, once, whole, whole / once))
    report("learner", ("prefix", "own tokens", "shared s", "whole s", "ratio"), rows, rows_per_microbatch=ROWS)
