"""Whether so many episodes broke that going on would train on what an outage left over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from agentgrpo.errors import RunError
from agentgrpo.rollout.group import GroupResult


def check_outage(results: Sequence[GroupResult], limit: float) -> None:
    """Refuse a rollout in which a larger share than `limit` of the episodes have no score, whatever was tried.

    Raises:
        RunError: with the most frequent cause.
    """
    total = sum(len({t.key.sample for t in result.trajectories}) for result in results)
    lost = sum(result.broken for result in results)  # what a group's deadline alone cut off did not break
    if not lost or lost <= limit * total:
        return
    causes = Counter(
        f"{t.failure.boundary}: {t.failure.cause}" for r in results for t in r.failed if t.failure is not None
    )
    (cause, count), attempts = causes.most_common(1)[0], sum(causes.values())
    raise RunError(
        f"{lost} of {total} episodes could not be scored ({lost / total:.0%}), more than rollout.max_failed_share = "
        f"{limit:.0%} allows: the rest would teach an outage. Most frequent cause ({count} of {attempts} failed "
        f"attempts), {cause}. Mend it and start again, or allow a larger share."
    )
