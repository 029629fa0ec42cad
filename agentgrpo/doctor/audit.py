"""What must hold for every token of an episode, checked on real ones. Pure: records in, what is wrong with them out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agentgrpo.doctor.script import Call
from agentgrpo.types import Trajectory


def audit(trajectory: Trajectory, calls: Sequence[Call]) -> Iterator[str]:
    """Yield what is wrong with an episode's record, given what its engine was asked and answered, in order."""
    sampled = [index for index, span in enumerate(trajectory.spans) if span.sampled]
    if len(sampled) != len(calls):
        yield f"{trajectory.key}: {len(calls)} generations, but {len(sampled)} sampled spans"
        return
    for index, call in zip(sampled, calls, strict=True):
        path = [token for i in trajectory.path(index) for token in trajectory.spans[i].token_ids]
        if path != [*call.prompt_ids, *call.generation.token_ids]:
            yield f"{trajectory.key}: the path to span {index} is not what the engine saw and said"
        if trajectory.spans[index].logprobs != call.generation.logprobs:
            yield f"{trajectory.key}: span {index} holds other logprobs than the engine gave"
    expected = [
        (token, logprob)
        for call in calls
        for token, logprob in zip(call.generation.token_ids, call.generation.logprobs, strict=True)
    ]
    trained = [
        (token, logprob)
        for row in trajectory.sequences()
        for token, logprob, mask in zip(row.token_ids, row.rollout_logprobs, row.loss_mask, strict=True)
        if mask
    ]
    if sorted(trained) != sorted(expected):
        yield f"{trajectory.key}: {len(expected)} tokens were sampled, {len(trained)} are trained, and they differ"


def differences(engine: Sequence[float], learner: Sequence[float]) -> tuple[float, float]:
    """Return the largest and the mean difference of two lists of logprobs."""
    gaps = [abs(a - b) for a, b in zip(engine, learner, strict=True)]
    return max(gaps), sum(gaps) / len(gaps)
