"""Engine and learner give the same tokens slightly different logprobs: what corrects the loss for it, and the alarm.

It knows neither models nor how a step is cut up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from agentgrpo.config.run import LearnerConfig
from agentgrpo.learner.batch import Microbatch
from agentgrpo.learner.ratio import kl_k3, truncated_weights
from agentgrpo.tolerances import MISMATCH_ALARM

_SAY_EVERY = 10  # train steps with too large a mismatch, from one message to the next


def correct(loss_N: Tensor, batch: Microbatch, config: LearnerConfig) -> tuple[Tensor, dict[str, float]]:
    """Return the loss times the weight learner / engine before the update, and sums over the tokens to be told.

    With `old_logprobs = "engine"` the loss stays as it is: its ratio holds that factor already.
    """
    if config.old_logprobs == "engine":
        return loss_N, {}
    weights_N, bound_N = truncated_weights(
        batch.old_N,
        batch.behaviour_N,
        batch.episode_N,
        kind=config.truncation,
        cap=config.truncation_cap,
        floor=config.truncation_floor,
    )
    mismatch = float(kl_k3(batch.old_N, batch.behaviour_N)) * len(loss_N)
    return loss_N * weights_N, {"truncated_fraction": float(bound_N.sum()), "mismatch_kl": mismatch}


def mismatch_metrics(stats: Sequence[Mapping[str, float]], config: LearnerConfig) -> dict[str, float]:
    """Return how far engine and learner were apart before the update, from what each optimizer step gave.

    With `old_logprobs = "engine"` only the first optimizer step saw the policy as it was.
    """
    if not stats:
        return {}
    if config.old_logprobs == "engine":
        return {"mismatch_kl": stats[0]["kl"]}
    tokens = sum(s["tokens"] for s in stats)
    return {name: sum(s[name] * s["tokens"] for s in stats) / tokens for name in ("mismatch_kl", "truncated_fraction")}


def alarm_text(kl: float, count: int) -> str | None:
    """Return what to say of the `count`th train step whose mismatch is too large; most are only counted."""
    if count % _SAY_EVERY != 1:
        return None
    return (
        f"engine and learner disagree: k3 KL {kl:.2g} a token before the update, expected at most {MISMATCH_ALARM:g} "
        f"({count} train steps so far). Either the episodes are older than the policy, or the two compute differently: "
        'see "When engine and learner disagree" in docs/training.md'
    )
