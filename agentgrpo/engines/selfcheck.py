"""Does this machine keep the promise that a sequence gets the same bits alone and in any batch? Try it.

The promise rests on how the installed linear algebra multiplies (see `passes.py`); another processor or library may
do it differently, and then a run says so instead of claiming to be exact. Logits are compared before any rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from agentgrpo import causal_lm
from agentgrpo.engines import passes
from agentgrpo.engines.attention import Feed, Ints
from agentgrpo.engines.slots import SlotCache
from agentgrpo.errors import ModelError
from agentgrpo.tooling import describe

_PROMPTS = (3, 45, 20, 100, 64, 9, 31, 300)  # lengths around the sizes that things are padded to, and a long one
_NEW = 4  # tokens fed singly after each prompt
_REFUSED = (
    "the embedded engine cannot run a model of type '{}': take one with plain attention, such as Qwen3 or Llama 3"
)
_PIECES = (19, 6, 3)  # as prompts are fed, and as guesses are


@torch.inference_mode()
def check_model(model: PreTrainedModel) -> None:
    """Refuse a model that this engine would not sample from truly: compare its logits with the model's own.

    Raises:
        ModelError: the logits differ, or the model cannot be run this way at all.
    """
    kind, tolerance = model.config.model_type, 1e-3 if model.dtype == torch.float32 else 0.1
    try:
        difference = _difference(model)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(f"{_REFUSED.format(kind)} ({describe(error)})") from error
    if not difference <= tolerance:
        raise ModelError(f"{_REFUSED.format(kind)} (its logits differ by {difference:.1g})")


def _difference(model: PreTrainedModel) -> float:
    """Return how far the engine's logits are from the model's own, relative to the largest."""
    most = causal_lm.context_length(model)
    sequences = [np.arange(1, n + _NEW + 1)[:most] % model.config.vocab_size for n in (5, 17)]
    shared = causal_lm.share_weights(model)
    passes.use_slots(shared)
    differences = []
    for found, ids in zip(_logits(shared, sequences, piece=7), sequences, strict=True):
        own = model(torch.from_numpy(ids)[None].to(model.device)).logits[0].float()
        differences.append(float((found - own).abs().max() / own.abs().max().clamp(min=1)))
    return max(differences)


def is_batch_invariant(model: PreTrainedModel) -> bool:
    """Return whether some sequences get equal logits alone, together, and with their prompts fed in pieces."""
    model = causal_lm.share_weights(model)
    passes.use_slots(model)
    most = causal_lm.context_length(model)
    draw = np.random.default_rng(0)
    sequences = [draw.integers(0, model.config.vocab_size, n + _NEW)[:most] for n in _PROMPTS]
    together = _logits(model, sequences, piece=most)
    alone = [_logits(model, [tokens], piece=most)[0] for tokens in sequences]
    in_pieces = (_logits(model, sequences[::-1], piece)[::-1] for piece in _PIECES)
    return all(torch.equal(a, b) for found in (together, *in_pieces) for a, b in zip(alone, found, strict=True))


def _logits(model: PreTrainedModel, sequences: Sequence[Ints], piece: int) -> list[Tensor]:
    """Return the logits [n, V] after every token of each sequence, all of them fed at once, a piece at a time."""
    cache = SlotCache(model, slots=len(_PROMPTS), max_length=max(map(len, sequences)))
    fed, found = [0] * len(sequences), [list[Tensor]() for _ in sequences]
    while any(n < len(tokens) for n, tokens in zip(fed, sequences, strict=True)):
        single = [i for i, tokens in enumerate(sequences) if len(tokens) - _NEW <= fed[i] < len(tokens)]
        prompts = [i for i, tokens in enumerate(sequences) if fed[i] < len(tokens) - _NEW]
        counts = [1] * len(single) + [min(piece, len(sequences[i]) - _NEW - fed[i]) for i in prompts]
        rows = [*single, *prompts]
        slots = np.repeat(np.array(rows), counts)
        positions = np.concatenate([np.arange(fed[i], fed[i] + n) for i, n in zip(rows, counts, strict=True)])
        tokens = np.array([sequences[i][p] for i, p in zip(slots, positions, strict=True)])
        hidden = passes.run_pass(model, tokens, Feed(cache, slots, positions))
        logits = causal_lm.logits(model, hidden)[: len(tokens)]
        for i, part in zip(rows, logits.split(counts), strict=True):
            found[i].append(part)
            fed[i] += len(part)
    return [torch.cat(parts) for parts in found]
