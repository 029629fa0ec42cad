"""Guesses at what comes next, from what was sampled before: tool calls repeat themselves, token for token.

A guess is fed together with the token before it and kept only where sampling draws that very token, from the same
logits with the same random number (speculative decoding, Leviathan et al. 2023, with a table for a draft model). What
is guessed therefore changes how fast tokens come, never which.
"""

from __future__ import annotations

import numpy as np

from agentgrpo.engines.attention import Ints

CONTEXT = 3  # tokens a guess looks back
MOST = 7  # tokens guessed ahead
_SURE, _SUREST = 2, 15
_BITS = 16
_MIX = np.array([0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D], dtype=np.int64)


class Drafts:
    """What followed the last tokens, most lately, and how often it did: one table for all sequences and policies."""

    def __init__(self) -> None:
        self._next = np.full(1 << _BITS, -1, dtype=np.int64)
        self._trust = np.zeros(1 << _BITS, dtype=np.int64)
        self.is_sure = False  # of anything

    def guess(self, contexts: Ints, most: int) -> Ints:
        """Return guesses [R, most] for what follows these tokens [R, CONTEXT]; from the first unsure one on, -1."""
        guesses = np.full((len(contexts), most), -1, dtype=np.int64)
        is_sure = np.ones(len(contexts), dtype=bool)
        for ahead in range(most):
            key = _key(contexts)
            is_sure &= self._trust[key] >= _SURE
            if not is_sure.any():
                break
            following = self._next[key]
            guesses[is_sure, ahead] = following[is_sure]
            contexts = np.concatenate([contexts[:, 1:], following[:, None]], axis=1)
        return guesses

    def learn(self, contexts: Ints, tokens: Ints) -> None:
        """Note that these tokens [N] followed these [N, CONTEXT]."""
        key = _key(contexts)
        is_right = self._next[key] == tokens
        trust = np.where(is_right, np.minimum(self._trust[key] + 1, _SUREST), self._trust[key] // 2)
        self._next[key] = np.where(is_right | (trust > 0), self._next[key], tokens)
        self._trust[key] = np.where(is_right | (trust > 0), trust, 1)
        self.is_sure = self.is_sure or bool((trust >= _SURE).any())


def _key(contexts: Ints) -> Ints:
    mixed: Ints = (contexts * _MIX).sum(axis=1)
    key: Ints = (mixed ^ (mixed >> 17)) & ((1 << _BITS) - 1)
    return key
