"""Checks that an environment is fit to train on; what is wrong with it comes back as text, never as an exception.

It knows the environment contract only: neither models nor rollouts. What it can find out is in `agentgrpo.checks`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from agentgrpo.checks import beginning, conduct, repeat, reward
from agentgrpo.checks.subject import NotApplicable, Problem, Subject, reason, subject_of
from agentgrpo.errors import EnvError, nearest
from agentgrpo.registry import EnvSource
from agentgrpo.types import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """What a check found. `passed` is None when it does not apply; `detail` says why, or what to do."""

    name: str
    passed: bool | None
    detail: str


CHECKS: dict[str, Callable[[Subject], str]] = {
    "begins": beginning.begins,
    "tasks": beginning.tasks,
    "splits": beginning.splits,
    "gymnasium": beginning.gymnasium,
    "tools": beginning.tools,
    "determinism": repeat.determinism,
    "leaks": repeat.leaks,
    "inline": conduct.inline,
    "garbage": conduct.garbage,
    "observations": conduct.observations,
    "rewards": reward.rewards,
    "snapshot": repeat.snapshot,
    "oracle": reward.oracle,
    "nothing": reward.nothing,
    "random": reward.chance,
}
BINDING = ("begins", "tasks", "garbage", "rewards")  # an environment cannot declare that these do not apply


def check_env(
    source: EnvSource,
    tasks: int = 20,
    seed: int = 0,
    *,
    train: Sequence[Task] | None = None,
    heldout: Sequence[Task] | None = None,
) -> list[CheckResult]:
    """Check an environment and return one result per check, in a fixed order; one that cannot begin gets only that.

    An environment declares what does not apply to it with `metadata = {"unchecked": {"oracle": "why"}}`.

    Args:
        source: What `resolve_env` returned.
        tasks: How many training tasks to play.
        seed: Chooses the tasks and seeds the episodes.
        train: The training tasks; None means those of the environment.
        heldout: The tasks held out; None means those of the other splits the environment ships.
    """
    try:
        declared = _declared(source)
        subject = subject_of(source, tasks, seed, train=train, heldout=heldout)
    except Exception as error:
        return [CheckResult(name="tasks", passed=False, detail=reason(error))]
    results: list[CheckResult] = []
    for name, check in CHECKS.items():
        results.append(_run(name, check, subject, declared.get(name)))
        if name == "begins" and not results[0].passed:
            break  # every other check would only say the same
    return results


def _run(name: str, check: Callable[[Subject], str], subject: Subject, waived: str | None) -> CheckResult:
    if waived is not None:
        return CheckResult(name=name, passed=None, detail=f"declared not to apply: {waived}")
    try:
        return CheckResult(name=name, passed=True, detail=check(subject))
    except NotApplicable as error:
        return CheckResult(name=name, passed=None, detail=str(error))
    except Problem as error:
        return CheckResult(name=name, passed=False, detail=str(error))
    except (Exception, SystemExit) as error:
        return CheckResult(name=name, passed=False, detail=reason(error))


def _declared(source: EnvSource) -> Mapping[str, str]:
    """Return the checks an environment declares not to apply to it, with its reasons."""
    env = source.make()
    declared = env.unwrapped.metadata.get("unchecked") or {}
    env.close()
    if not isinstance(declared, Mapping) or not all(isinstance(why, str) and why for why in declared.values()):
        raise EnvError(f"metadata['unchecked'] is {declared!r}, expected {{'oracle': 'why it does not apply'}}")
    for name in declared:
        if name not in CHECKS or name in BINDING:
            allowed = [known for known in CHECKS if known not in BINDING]
            raise EnvError(
                f"metadata['unchecked'] has '{name}', expected some of {', '.join(allowed)}{nearest(name, allowed)}"
            )
    return declared
