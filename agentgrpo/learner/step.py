"""One train step: groups in, a better adapter out. It knows neither environments nor engines."""

from __future__ import annotations

import math
import threading
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor

from agentgrpo.config.run import LearnerConfig
from agentgrpo.errors import RunError
from agentgrpo.learner.advantage import advantages
from agentgrpo.learner.aggregation import gradient_scale, token_weights
from agentgrpo.learner.batch import Microbatch, Row, collate, cut, trained_count
from agentgrpo.learner.filters import Decision, count_reasons, filter_groups, no_signal
from agentgrpo.learner.loss import kl_penalty, token_loss
from agentgrpo.learner.mismatch import alarm_text, correct, mismatch_metrics
from agentgrpo.learner.policy import LoraPolicy
from agentgrpo.learner.ratio import effective_sample_size, kl_k3, log_ratio, ratio_sums
from agentgrpo.learner.schedule import learning_rate
from agentgrpo.seeds import derive_seed
from agentgrpo.tolerances import MISMATCH_ALARM
from agentgrpo.types import EpisodeKey, Group

MOST_SKIPPED = 5  # optimizer steps in a row whose gradient is no number, before the run stops
_NO_NUMBER = "the loss or the gradient is no number"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedTokens:
    """What the policy said of an episode's trained tokens just before their update, in the order of its sequences."""

    logprobs: array[float] = field(default_factory=lambda: array("f"))
    entropies: array[float] = field(default_factory=lambda: array("f"))  # nats


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnResult:
    """What one train step did."""

    metrics: dict[str, float]
    advantages: dict[EpisodeKey, float]
    decisions: tuple[Decision, ...]
    tokens: Mapping[EpisodeKey, TrainedTokens] = field(default_factory=dict)  # of the episodes it trained on
    note: str | None = None  # why it trained nothing, left an optimizer step out, or is not to be trusted


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerState:
    """A copy of what a learner is beside its adapter. `tensors` are the optimizer's, as "<parameter>.<name>"."""

    tensors: Mapping[str, Tensor]
    steps: int
    skipped: int
    skipped_in_a_row: int
    idle_in_a_row: int
    mismatch_alarms: int = 0

    @property
    def counters(self) -> dict[str, int]:
        """All but the tensors."""
        return {name: value for name, value in asdict(replace(self, tensors={})).items() if name != "tensors"}


class Stopped(Exception):
    """A train step was given up half-way: the adapter and the optimizer are of no more use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Totals:
    tokens: int
    episodes: int
    per_episode: Tensor
    scale: float  # of the loss while its gradient is computed


class Learner:
    """Updates a policy from groups of scored episodes; keeps the optimizer and the counters."""

    def __init__(
        self,
        policy: LoraPolicy,
        config: LearnerConfig,
        *,
        total_steps: int,
        temperature: float = 1.0,
        max_episode_tokens: int | None = None,
        min_survivors: int = 2,
        seed: int = 0,
    ) -> None:
        self.policy = policy
        self.config = config
        self.axes = config.axes()
        self.total_steps = total_steps
        self.temperature = temperature
        self.max_episode_tokens = max_episode_tokens
        self.min_survivors = min_survivors
        self.seed = seed
        self.steps = 0  # train steps begun, skipped ones included: drives the schedule
        self.skipped = 0  # optimizer steps refused because a gradient was not finite
        self.mismatch_alarms = 0  # train steps whose episodes the engine sampled from a policy too far from this one
        self.on_microbatch: Callable[[], None] = lambda: None
        self._skipped_in_a_row = 0
        self._idle_in_a_row = 0  # train steps with nothing to train on
        self.optimizer = torch.optim.AdamW(
            policy.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.999)
        )

    def step(self, groups: Sequence[Group], stop: threading.Event | None = None) -> LearnResult:
        """Make one train step. Groups without signal train nothing; a step with nothing to train changes nothing.

        Raises:
            Stopped: `stop` was set; asked between microbatches.
            RunError: too many optimizer steps in a row had to be left out.
        """
        # Dropout must be a function of the step: what ran before in this process plays no part.
        devices = [self.policy.device] if self.policy.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(derive_seed(self.seed, "dropout", self.steps))
            return self._step(groups, stop or threading.Event())

    def _step(self, groups: Sequence[Group], stop: threading.Event) -> LearnResult:
        rate, skipped = self._set_learning_rate(), self.skipped
        self.steps += 1
        decisions = tuple(
            filter_groups(
                groups,
                drop_zero_variance=self.config.drop_zero_variance,
                mask_truncated=self.axes["mask_truncated"],
                min_survivors=self.min_survivors,
            )
        )
        by_episode = self._advantages(groups)
        kept = {d.key for d in decisions if d.trains}
        batches = [rows for rows in self._minibatches(groups, by_episode, kept) if rows]
        if self.config.old_logprobs == "learner":
            batches = [self._with_old_logprobs(rows, stop) for rows in batches]
        tokens: dict[EpisodeKey, TrainedTokens] = {}
        stats = [self._optimize(rows, stop, tokens) for rows in batches]
        mismatch = mismatch_metrics(stats, self.config)
        alarm = self._alarm(mismatch.get("mismatch_kl", 0.0))
        metrics = self._summarize(stats, decisions, groups) | mismatch
        metrics |= {"mismatch_alarms": float(self.mismatch_alarms), "learning_rate": rate}
        note = self._note(groups, decisions, has_trained=bool(stats), skipped=self.skipped - skipped)
        notes = "; ".join(filter(None, (note, alarm))) or None
        return LearnResult(metrics=metrics, advantages=by_episode, decisions=decisions, tokens=tokens, note=notes)

    def _alarm(self, mismatch: float) -> str | None:
        if not mismatch > MISMATCH_ALARM:
            return None
        self.mismatch_alarms += 1
        return alarm_text(mismatch, self.mismatch_alarms)

    def _note(
        self, groups: Sequence[Group], decisions: Sequence[Decision], *, has_trained: bool, skipped: int
    ) -> str | None:
        self._idle_in_a_row = 0 if has_trained else self._idle_in_a_row + 1
        if not has_trained:
            return no_signal(groups, decisions, self._idle_in_a_row)
        return f"{skipped} optimizer steps left out: {_NO_NUMBER}" if skipped else None

    def _skip(self) -> None:
        self.skipped += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= MOST_SKIPPED:
            rate = self.optimizer.param_groups[0]["lr"]
            raise RunError(
                f"{self._skipped_in_a_row} optimizer steps in a row left out: {_NO_NUMBER}. The adapter is as it was "
                f"before them. Lower learner.learning_rate (now {rate:g}), set "
                'model.dtype = "float32", or go on from an earlier checkpoint'
            )

    def state(self) -> LearnerState:
        """Return a copy of what a checkpoint needs beside the adapter: optimizer and counters."""
        tensors = {
            f"{index}.{name}": value.detach().cpu().clone()
            for index, values in self.optimizer.state_dict()["state"].items()
            for name, value in values.items()
        }
        return LearnerState(
            tensors=tensors,
            steps=self.steps,
            skipped=self.skipped,
            skipped_in_a_row=self._skipped_in_a_row,
            idle_in_a_row=self._idle_in_a_row,
            mismatch_alarms=self.mismatch_alarms,
        )

    def restore(self, state: LearnerState) -> None:
        """Continue from `state()`."""
        tensors: dict[int, dict[str, Tensor]] = {}
        for key, value in state.tensors.items():
            index, _, name = key.partition(".")
            tensors.setdefault(int(index), {})[name] = value.clone()  # torch would go on writing into the caller's
        groups = self.optimizer.state_dict()["param_groups"]  # the config's; the learning rate is set at each step
        self.optimizer.load_state_dict({"state": tensors, "param_groups": groups})
        self.steps, self.skipped = state.steps, state.skipped
        self._skipped_in_a_row, self._idle_in_a_row = state.skipped_in_a_row, state.idle_in_a_row
        self.mismatch_alarms = state.mismatch_alarms

    def _set_learning_rate(self) -> float:
        rate = learning_rate(
            self.steps,
            peak=self.config.learning_rate,
            kind=self.config.schedule,
            warmup_steps=self.config.warmup_steps,
            total_steps=self.total_steps,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _advantages(self, groups: Sequence[Group]) -> dict[EpisodeKey, float]:
        rewards = [torch.tensor(group.rewards, dtype=torch.float64) for group in groups]
        values = advantages(rewards, baseline=self.axes["baseline"], scale_rewards=self.axes["scale_rewards"])
        return {
            trajectory.key: float(value)
            for group, group_values in zip(groups, values, strict=True)
            for trajectory, value in zip(group.trajectories, group_values, strict=True)
        }

    def _minibatches(
        self, groups: Sequence[Group], by_episode: dict[EpisodeKey, float], kept: set[EpisodeKey]
    ) -> list[list[Row]]:
        """Return the rows of each optimizer step; groups are dealt in order, so that none is split."""
        trajectories = [[t for t in group.trajectories if t.key in kept] for group in groups]
        trajectories = [group for group in trajectories if group]
        count = min(self.config.minibatches, len(trajectories))
        bounds = [len(trajectories) * i // count for i in range(count + 1)] if count else []
        chunks = [trajectories[start:end] for start, end in pairwise(bounds)]
        return [
            [
                Row(sequence=sequence, advantage=by_episode[trajectory.key], episode=index, key=trajectory.key)
                for index, trajectory in enumerate(t for group in chunk for t in group)
                for sequence in trajectory.sequences()
                if any(sequence.loss_mask)  # an engine may have returned no token at all
            ]
            for chunk in chunks
        ]

    def _microbatches(self, rows: Sequence[Row], stop: threading.Event) -> Iterator[tuple[list[Row], Microbatch]]:
        budget, is_shared = self.config.tokens_per_microbatch, self.policy.shares_prefix
        for chunk in cut(rows, token_budget=budget, share_prefix=is_shared):
            if stop.is_set():
                raise Stopped
            yield chunk, collate(chunk, share_prefix=is_shared).to(self.policy.device)
            self.on_microbatch()

    def _with_old_logprobs(self, rows: Sequence[Row], stop: threading.Event) -> list[Row]:
        """Return the rows with the logprobs of the policy as it is before the update."""
        known = []
        for chunk, batch in self._microbatches(rows, stop):
            values = iter(self.policy.frozen_logprobs(batch, temperature=self.temperature).tolist())
            for row in chunk:
                old = tuple(next(values) if m else 0.0 for m in row.sequence.loss_mask)
                known.append(replace(row, old_logprobs=old))
        return known

    def _optimize(
        self, rows: Sequence[Row], stop: threading.Event, tokens: dict[EpisodeKey, TrainedTokens]
    ) -> dict[str, float]:
        """Accumulate the gradient of all rows and make one optimizer step; note in `tokens` what it trained."""
        self.optimizer.zero_grad(set_to_none=True)
        totals = self._totals(rows)
        sums: Counter[str] = Counter()
        for chunk, batch in self._microbatches(rows, stop):
            told, logprobs, entropy = self._backward(batch, totals)
            sums.update(told)
            _note_tokens(tokens, chunk, logprobs, entropy)
        for parameter in self.policy.parameters() if totals.scale != 1 else ():
            if parameter.grad is not None:
                parameter.grad /= totals.scale
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.config.max_grad_norm)
        is_finite = bool(torch.isfinite(norm)) and math.isfinite(sums["loss"])
        if is_finite:
            self.optimizer.step()
            self._skipped_in_a_row = 0
        else:
            self._skip()
        self.optimizer.zero_grad(set_to_none=True)
        ratios = effective_sample_size(sums.pop("ratio"), sums.pop("ratio_squared"), totals.tokens)
        means = {name: value if name == "loss" else value / totals.tokens for name, value in sums.items()}
        counts = {"tokens": totals.tokens, "episodes": totals.episodes}
        return {**means, **counts, "grad_norm": float(norm), "effective_sample_size": ratios}

    def _totals(self, rows: Sequence[Row]) -> _Totals:
        per_episode = torch.zeros(max(row.episode for row in rows) + 1, dtype=torch.long)
        for row in rows:
            per_episode[row.episode] += trained_count(row)
        tokens, episodes = int(per_episode.sum()), len(per_episode)
        denominator = episodes * (self.max_episode_tokens or 1) if self.axes["aggregation"] == "constant" else tokens
        scale = gradient_scale(self.policy.causal_lm.dtype, denominator)
        return _Totals(tokens=tokens, episodes=episodes, per_episode=per_episode, scale=scale)

    def _backward(self, batch: Microbatch, totals: _Totals) -> tuple[dict[str, float], Tensor, Tensor]:
        """Backpropagate a microbatch's share of the loss.

        Returns:
            Sums over its tokens (the loss is its share), and their logprobs and entropies.
        """
        axes = self.axes
        logprobs, entropy = self.policy.logprobs(batch, temperature=self.temperature)
        ratio = log_ratio(logprobs, batch.old_N, batch.episode_N, batch.turn_N, axes["importance_level"])
        loss, clipped = token_loss(
            logprobs,
            ratio,
            batch.advantage_N,
            loss_type=axes["loss_type"],
            epsilon=axes["epsilon"],
            epsilon_high=axes["epsilon_high"],
        )
        loss, told = correct(loss, batch, self.config)
        if axes["beta"]:
            reference = self.policy.reference_logprobs(batch, temperature=self.temperature)
            penalty = kl_penalty(logprobs, reference, self.config.kl_estimator)
            loss, told = loss + axes["beta"] * penalty, {**told, "reference_kl": float(penalty.detach().sum())}
        weights = token_weights(
            batch.episode_N,
            kind=axes["aggregation"],
            total_tokens=totals.tokens,
            total_episodes=totals.episodes,
            tokens_per_episode=totals.per_episode.to(batch.episode_N.device),
            max_tokens=self.max_episode_tokens,
        )
        total = (loss * weights).sum()
        (total * totals.scale).backward()
        count = len(logprobs)
        ratios, squares = ratio_sums(logprobs, batch.behaviour_N)
        sums = {
            "loss": float(total.detach()),
            "entropy": float(entropy.sum()),
            "kl": float(kl_k3(logprobs, batch.behaviour_N)) * count,
            "clip_fraction": float(clipped.float().sum()),
            "ratio": ratios,
            "ratio_squared": squares,
            **told,
        }
        return sums, logprobs.detach(), entropy

    def _summarize(
        self, stats: Sequence[dict[str, float]], decisions: Sequence[Decision], groups: Sequence[Group]
    ) -> dict[str, float]:
        reasons = count_reasons(decisions)
        groups = [group for group in groups if len(group.trajectories) >= self.min_survivors]
        flat = sum(1 for group in groups if len(set(group.rewards)) <= 1)
        metrics: dict[str, float] = {
            "zero_variance_groups": flat / len(groups) if groups else 0.0,
            "skipped_steps": float(self.skipped),
            "empty_step": float(not stats),
            "trained_tokens": sum(s["tokens"] for s in stats),
            "trained_episodes": sum(s["episodes"] for s in stats),
            **{f"filtered_{reason}": float(count) for reason, count in reasons.items()},
        }
        names = ("loss", "grad_norm", "entropy", "kl", "reference_kl", "clip_fraction", "effective_sample_size")
        for name in names if stats else ():
            if name in stats[0]:
                metrics[name] = sum(s[name] for s in stats) / len(stats)
        return metrics


def _note_tokens(
    tokens: dict[EpisodeKey, TrainedTokens], rows: Sequence[Row], logprobs_N: Tensor, entropy_N: Tensor
) -> None:
    """Add what is known of a microbatch's tokens to their episodes. Rows of an episode come in their order."""
    logprobs, entropies = logprobs_N.tolist(), entropy_N.tolist()
    start = 0
    for row in rows:
        end = start + trained_count(row)
        if row.key is not None:
            known = tokens.setdefault(row.key, TrainedTokens())
            known.logprobs.extend(logprobs[start:end])
            known.entropies.extend(entropies[start:end])
        start = end
