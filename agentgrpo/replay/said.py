"""What was said in a recorded episode, turn by turn, ready to be said again; and the score its environment gave it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from agentgrpo.rollout.speaker import Given
from agentgrpo.types import AssistantMessage, FinishReason, Generation, Span, StopReason, Trajectory


def said_in(trajectory: Trajectory, *, with_ids: bool = True) -> list[Given]:
    """Return the message of every turn of an episode.

    Args:
        trajectory: The record.
        with_ids: Whether to give the ids that were sampled; those of another tokenizer would mean something else.
    """
    sampled = {s.turn: s for s in trajectory.spans if s.sampled} if with_ids else {}
    return [
        Given(
            message=AssistantMessage.from_message(turn.action),
            generation=as_generation(sampled[index], turn.finish_reason) if index in sampled else None,
            policy_version=sampled[index].policy_version if index in sampled else None,
            finish_reason=turn.finish_reason,
            seconds=turn.generate_seconds,
        )
        for index, turn in enumerate(trajectory.turns)
    ]


def unfinished(trajectory: Trajectory) -> Span | None:
    """Return what was sampled after the last turn: cut off before it was an action, or met by a failure."""
    left = [s for s in trajectory.spans if s.sampled and s.turn == len(trajectory.turns)]
    return left[0] if left else None


def as_generation(span: Span, finish_reason: FinishReason) -> Generation:
    """Return what an engine said in a span."""
    return Generation(token_ids=span.token_ids, logprobs=span.logprobs or (), finish_reason=finish_reason)


def environment_score(trajectory: Trajectory) -> tuple[float | None, Mapping[str, float]]:
    """Return the reward and the terms that the environment gave, whatever scored the episode after it."""
    info = trajectory.info
    if isinstance(own := info.get("env_reward"), dict):
        return own["reward"], own["terms"]
    reward, terms = trajectory.reward, dict(trajectory.reward_terms)
    if isinstance(judged := info.get("judge"), dict):
        reward = judged["own_reward"]
        terms.pop("judge", None)
    return reward, terms


def as_environment_scored(trajectory: Trajectory) -> Trajectory:
    """Return an episode with the score its environment gave it, and no other."""
    reward, terms = environment_score(trajectory)
    info = {name: value for name, value in trajectory.info.items() if name not in ("env_reward", "judge")}
    return replace(trajectory, reward=reward, reward_terms=terms, info=info)


def end_of(trajectory: Trajectory) -> StopReason:
    """Return what is said in place of a turn that is not in the record.

    An environment that had ended the episode is expected to do so again: where it does not, nothing more can be said.
    """
    stop_reason = trajectory.stop_reason
    return StopReason.CANCELLED if stop_reason in (StopReason.DONE, StopReason.ANSWERED) else stop_reason
