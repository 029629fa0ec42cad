"""PROVE's tool-call reward as published (arXiv 2606.03892, "Synthesize and Reward"), for comparison.

Its means over the calls made can be farmed: padding a poor episode with good calls raises it (one of four required
calls made and one of no tool: 0.575; with the good one repeated twice more: 0.75). `toolcalls` is what the kit uses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentgrpo.rewards.toolcalls import RequiredCall, call_budget, cover, grade, has_arguments
from agentgrpo.types import CallRecord

PUBLISHED_WEIGHTS: Mapping[str, float] = {
    "validity": 0.5,
    "coverage": 0.5,
    "name": 0.2,
    "argument": 0.1,
    "inefficiency": -0.075,  # 0.15 * alpha, alpha = 0.5
}


def published_terms(calls: Sequence[CallRecord], required: Sequence[RequiredCall]) -> dict[str, float]:
    """Return PROVE's five terms, each in [0, 1]; weighted by `PUBLISHED_WEIGHTS` they sum to its R.

    R_val = mean of (name known + arguments right + ran) / 3; R_cov = required calls met in order / all;
    R_eff = -0.5 max(0, n - B) / B with B = g + ceil(g / 2); R_name = share of calls whose name is required;
    R_arg = mean share of arguments over the pairs found. Without required calls R is 1 for no call, else 0.
    Two deviations: a call that ended in an error meets no requirement (the paper does not say), and R_eff is bounded at
    twice the budget.
    """
    if not required:
        return dict.fromkeys(PUBLISHED_WEIGHTS, 0.0) | dict.fromkeys(("validity", "coverage"), float(not calls))
    budget, count = call_budget(required), len(calls)
    covered = cover(calls, required)
    wanted = {one.name for one in required}
    shares = _pairs(calls, required, covered)
    return {
        "validity": sum(map(grade, calls)) / count if count else 0.0,
        "coverage": len(covered) / len(required),
        "name": sum(call.name in wanted for call in calls) / count if count else 0.0,
        "argument": sum(shares) / len(shares) if shares else 0.0,
        "inefficiency": min(1.0, max(0, count - budget) / budget),
    }


def _pairs(calls: Sequence[CallRecord], required: Sequence[RequiredCall], covered: Mapping[int, int]) -> list[float]:
    """Return the share of arguments of each pair: a required call and the call that meets it, or its best namesake."""
    free = [index for index in range(len(calls)) if index not in covered.values()]
    shares = [1.0] * len(covered)
    for place, wanted in enumerate(required):
        namesakes = [index for index in free if calls[index].name == wanted.name]
        if place not in covered and namesakes:
            best = max(namesakes, key=lambda index: (has_arguments(calls[index], wanted), -index))
            shares.append(has_arguments(calls[best], wanted))
            free.remove(best)
    return shares
