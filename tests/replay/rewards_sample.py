"""Rewards that score old episodes anew: found by name, as a user's are."""

from __future__ import annotations

from agentgrpo.rewards import Episode


def short(episode: Episode) -> float:
    """The fewer calls the better."""
    return 1.0 / (1 + len(episode.calls))


def flipped(episode: Episode) -> float:
    """The opposite of what it was."""
    return 1.0 - float(episode.terms["outcome"])


def named(episode: Episode) -> dict[str, float]:
    """Two terms."""
    return {"outcome": float(episode.terms["outcome"]), "calls": float(len(episode.calls))}


async def stateful(episode: Episode) -> float:
    """What stands in the environment's final state."""
    assert isinstance(episode.state, dict)
    return float(episode.state["total"])


def choosy(episode: Episode) -> float:
    """Breaks on some."""
    if episode.task["start"] == 1:
        raise ValueError("not this [one]")
    return 1.0


def none_at_all(episode: Episode) -> float:
    """Breaks on all."""
    raise KeyError("nothing")
