"""One forward pass over tokens of many sequences at once.

Prompts of any length and single tokens of running sequences share the pass: as one flat row of tokens they go through
the model's linear layers together, and only attention knows whose they are.

Batch invariance, by construction: what a token gets depends on its own sequence alone, bit for bit.
- A row of a matrix product does not depend on the other rows, once there are a few: they are padded to multiples of 8.
- Attention adds up the blocks of a query's own sequence in order, one query at a time.
So tokens may be fed one by one, in pieces, guessed ahead, or copied from another sequence that begins alike.
`selfcheck` verifies it on the machine at hand; `docs/determinism.md` says what voids it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from agentgrpo import causal_lm
from agentgrpo.engines import attention
from agentgrpo.engines.attention import Feed, Ints
from agentgrpo.engines.lean import LeanDecoder
from agentgrpo.engines.slots import SlotCache

ROWS = 8  # linear layers are fed a multiple of this many tokens
_PROBE = np.arange(24)


def use_slots(model: PreTrainedModel) -> None:
    """Let a model of our own (see `causal_lm.share_weights`) attend to a slot cache, the shortest way it can."""
    model.set_attn_implementation(attention.NAME)
    causal_lm.fuse_norms(model)
    lean = LeanDecoder.of(model)
    if lean is None:
        return
    decoder = model.base_model
    own, expected = decoder.forward, _probe(model)
    decoder.forward = lean
    try:
        is_same = bool((_probe(model) - expected).abs().max() <= 1e-4 * expected.abs().max())
    except (AttributeError, RuntimeError, TypeError, ValueError):  # of the family by its parts only
        is_same = False
    if not is_same:
        decoder.forward = own


@torch.inference_mode()
def _probe(model: PreTrainedModel) -> Tensor:
    """Return the hidden states of some tokens, fed in two pieces."""
    cache, slots = SlotCache(model, slots=1, max_length=len(_PROBE)), np.zeros_like(_PROBE)
    tokens = _PROBE % model.config.vocab_size
    pieces = (slice(0, 9), slice(9, len(_PROBE)))
    return torch.cat([run_pass(model, tokens[p], Feed(cache, slots[p], _PROBE[p]))[: len(tokens[p])] for p in pieces])


def run_pass(model: PreTrainedModel, tokens: Ints, feed: Feed) -> Tensor:
    """Feed N tokens, whoever's they are; return their hidden states [N, D], followed by rows of padding."""
    ids, positions = (torch.from_numpy(np.pad(a, (0, -len(a) % ROWS))) for a in (tokens, feed.positions))
    return causal_lm.hidden_states(
        model, ids[None].to(model.device), position_ids=positions[None].to(model.device), feed=feed, use_cache=False
    )[0]
