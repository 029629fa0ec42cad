"""Proof of delivery: does an engine answer with the adapter it was given?

The learner says what logprobs a canary text has under version v; the engine scores the same text under what it loaded
as v. Pure: numbers in, a verdict out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from agentgrpo.errors import EngineFailure
from agentgrpo.tolerances import Tolerance
from agentgrpo.types import Policy

_CLEARLY_DIFFERENT = 4.0  # tolerances between two versions from which on an engine must be nearer one than the other


@dataclass(frozen=True, slots=True)
class Canary:
    """A text and the learner's logprobs of `token_ids[1:]`, each given those before, at temperature 1."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What was measured when a version was delivered to a server.

    `difference` is the largest |engine - learner(v)|; `previous` the largest |engine - learner(v - 1)|, None without an
    earlier version. "indistinguishable": within tolerance, but so would be the version before (version 0, a skipped
    step).
    """

    policy: Policy
    server: str
    difference: float
    previous: float | None
    verdict: Literal["proved", "indistinguishable"]
    seconds: float


def prove(
    measured: Sequence[float],
    canary: Canary,
    previous_canary: Canary | None,
    *,
    tolerance: Tolerance,
    policy: Policy,
    server: str,
    seconds: float,
) -> Proof:
    """Compare the engine's logprobs of the canary with the learner's.

    Args:
        measured: The engine's logprobs of `canary.token_ids[1:]` under what it loaded.
        canary: What the learner says of the version published.
        previous_canary: What it said of the version before, on the same text; None when there is none.
        tolerance: How far numbers of this precision may differ.
        policy: The version published.
        server: Which engine loaded it, in the words of the run.
        seconds: How long loading and scoring took.

    Raises:
        EngineFailure: the engine does not answer with this version.
    """
    if len(measured) != len(canary.logprobs):
        raise EngineFailure(
            f"{server} scored {len(measured)} tokens of a canary of {len(canary.logprobs)} under {policy}"
        )
    comparable = previous_canary is not None and previous_canary.token_ids == canary.token_ids
    before = previous_canary.logprobs if previous_canary is not None and comparable else None
    difference, previous = _largest(measured, canary.logprobs), _largest(measured, before) if before else None
    average = sum(_gaps(measured, canary.logprobs)) / max(len(measured), 1)
    # Written so that a number that is no number fails.
    if not (difference <= tolerance.each and average <= tolerance.mean):
        raise EngineFailure(_refusal(policy, server, difference, average, previous, tolerance))
    is_clear = before is not None and _largest(canary.logprobs, before) > _CLEARLY_DIFFERENT * tolerance.each
    return Proof(
        policy=policy,
        server=server,
        difference=difference,
        previous=previous,
        verdict="proved" if is_clear else "indistinguishable",
        seconds=seconds,
    )


def proof_metrics(proofs: Sequence[Proof]) -> dict[str, float]:
    """Return what a step's metrics say of a delivery; nothing where none had to be proved."""
    if not proofs:
        return {}
    return {
        "publish/difference": max(proof.difference for proof in proofs),
        "publish/proved": float(sum(proof.verdict == "proved" for proof in proofs)),
        "publish/indistinguishable": float(sum(proof.verdict == "indistinguishable" for proof in proofs)),
        "time/publish": max(proof.seconds for proof in proofs),
    }


def _gaps(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [abs(a - b) for a, b in zip(ours, theirs, strict=True)]


def _largest(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return max(_gaps(ours, theirs), default=0.0)


def _refusal(
    policy: Policy, server: str, difference: float, average: float, previous: float | None, tolerance: Tolerance
) -> str:
    is_stale = previous is not None and previous <= tolerance.each
    return (
        f"{server} does not answer with {policy}: its logprobs of the canary are up to {difference:.2g} from the "
        f"learner's ({average:.2g} on average), at most {tolerance.each:g} ({tolerance.mean:g}) was expected"
        + (f"; they are {previous:.2g} from the version before: it answers with that one" if is_stale else "")
    )
