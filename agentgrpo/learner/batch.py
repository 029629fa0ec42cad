"""Training rows and microbatches: which tokens are trained, with what, and the prefix they all share.

It knows tokens and advantages, neither models nor losses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from agentgrpo import types

_MIN_PREFIX = 16  # sharing less than this costs more than it saves


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One training sequence of one episode."""

    sequence: types.Sequence
    advantage: float
    episode: int
    key: types.EpisodeKey | None = None  # of its episode; None: nobody asks what came of its tokens
    old_logprobs: tuple[float, ...] | None = None  # of its tokens, what the ratio is against; None: the engine's


@dataclass(frozen=True, slots=True, kw_only=True)
class Microbatch:
    """B sequences that share a prefix of P tokens, right-padded to T, and the N tokens of them that are trained.

    A trained token is predicted from row `row_N` at column `column_N` of the suffixes.
    """

    prefix_ids: Tensor  # [P]; P may be 0
    suffix_ids: Tensor  # [B, T]
    row_N: Tensor
    column_N: Tensor
    target_N: Tensor
    behaviour_N: Tensor  # the engine's logprobs
    old_N: Tensor  # the logprobs the ratio is against
    advantage_N: Tensor
    episode_N: Tensor
    turn_N: Tensor

    @property
    def token_count(self) -> int:
        """Tokens a forward pass computes, padding included."""
        return len(self.prefix_ids) + self.suffix_ids.numel()

    def to(self, device: torch.device) -> Microbatch:
        """Return a copy on another device."""
        return Microbatch(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def trained_count(row: Row) -> int:
    """Return the number of trained tokens of a row."""
    return sum(row.sequence.loss_mask)


def shared_prefix(rows: Sequence[Row]) -> int:
    """Return how many leading tokens all rows share, leaving each row the token that predicts its first trained one."""
    first = rows[0].sequence.token_ids
    shared = min(row.sequence.loss_mask.index(1) - 1 for row in rows)
    for row in rows[1:]:
        ids = row.sequence.token_ids
        if ids[:shared] != first[:shared]:
            shared = next(i for i in range(shared) if ids[i] != first[i])
    return shared if shared >= _MIN_PREFIX else 0


def pack(rows: Sequence[Row], *, token_budget: int, share_prefix: bool = True) -> list[Microbatch]:
    """Pack rows into microbatches; see `cut`."""
    batches = cut(rows, token_budget=token_budget, share_prefix=share_prefix)
    return [collate(batch, share_prefix=share_prefix) for batch in batches]


def cut(rows: Sequence[Row], *, token_budget: int, share_prefix: bool = True) -> list[list[Row]]:
    """Cut rows into batches of at most `token_budget` computed tokens (a longer episode gets its own).

    Rows of an episode stay together, so that turn and sequence ratios see all of it. Episodes are ordered by length:
    the order, like the packing, is a function of the rows alone. Where prefixes are not shared, each row costs its own.
    """
    episodes: dict[int, list[Row]] = {}
    for row in rows:
        episodes.setdefault(row.episode, []).append(row)
    ordered = sorted(episodes.values(), key=lambda e: (max(len(r.sequence.token_ids) for r in e), e[0].episode))
    batches: list[list[Row]] = []
    for episode in ordered:
        candidate = [*batches[-1], *episode] if batches else episode
        if batches and _cost(candidate, share_prefix=share_prefix) <= token_budget:
            batches[-1] = candidate
        else:
            batches.append(episode)
    return batches


def _cost(rows: Sequence[Row], *, share_prefix: bool) -> int:
    prefix = shared_prefix(rows) if share_prefix and len(rows) > 1 else 0
    return prefix + len(rows) * (max(len(r.sequence.token_ids) for r in rows) - prefix)


def collate(rows: Sequence[Row], *, share_prefix: bool = True) -> Microbatch:
    """Build a microbatch. Every row must train at least one token, and never its first."""
    prefix = shared_prefix(rows) if share_prefix and len(rows) > 1 else 0
    suffixes = [row.sequence.token_ids[prefix:] for row in rows]
    width = max(map(len, suffixes))
    padded = torch.tensor([[*ids, *([0] * (width - len(ids)))] for ids in suffixes])
    old = [row.sequence.rollout_logprobs if row.old_logprobs is None else row.old_logprobs for row in rows]
    places = [(b, t) for b, row in enumerate(rows) for t, m in enumerate(row.sequence.loss_mask) if m]
    return Microbatch(
        prefix_ids=torch.tensor(rows[0].sequence.token_ids[:prefix], dtype=torch.long),
        suffix_ids=padded,
        row_N=_long(b for b, _ in places),
        column_N=_long(t - 1 - prefix for _, t in places),
        target_N=_long(rows[b].sequence.token_ids[t] for b, t in places),
        behaviour_N=torch.tensor([rows[b].sequence.rollout_logprobs[t] for b, t in places], dtype=torch.float32),
        old_N=torch.tensor([old[b][t] for b, t in places], dtype=torch.float32),
        advantage_N=torch.tensor([rows[b].advantage for b, _ in places], dtype=torch.float32),
        episode_N=_long(rows[b].episode for b, _ in places),
        turn_N=_long(rows[b].sequence.turns[t] for b, t in places),
    )


def _long(values: Iterable[int]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.long)
