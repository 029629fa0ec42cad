"""Checks that an episode is the same one whenever it is played: again, beside others, after others, from its middle.

It compares texts; it does not know which of two that differ is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from agentgrpo.baselines import Env, score
from agentgrpo.checks.subject import NotApplicable, Problem, Subject, act, difference, name_of, seen, transcript
from agentgrpo.types import Task

_REPEATED = 5  # tasks that are played twice
_CUTS = 3  # snapshots of an episode


def determinism(subject: Subject) -> str:
    """Check that the same seed, task and actions give the same episode."""
    for task in subject.some(_REPEATED):
        first, second = transcript(subject, task), transcript(subject, task)
        if (told := difference(second, first)) is not None:
            raise Problem(
                f"task {name_of(task)}: with the same seed and actions {told}, as it had been before; draw only from "
                "self.np_random, read no clock, and keep nothing on the class or the module"
            )
    return "same seed, task and actions: same episode"


def leaks(subject: Subject) -> str:
    """Check that episodes do not see each other: side by side, and one after the other in one environment."""
    left, right = _two(subject)
    alone = {id(task): transcript(subject, task) for task in (left, right)}
    if difference(transcript(subject, left), alone[id(left)]) is not None:
        raise NotApplicable("not even an episode that is alone repeats: see determinism")
    if subject.source.isolation != "process":
        for task, said in zip((left, right), _interleave(subject, left, right), strict=True):
            if (told := difference(said, alone[id(task)])) is not None:
                raise Problem(
                    f"task {name_of(task)}: while another episode ran {told}: episodes share state; keep it on self, "
                    "not on the class, the module or a global random generator (or declare isolation 'process')"
                )
    for steps in (None, 1):
        if (told := difference(_after(subject, right, left, steps), alone[id(left)])) is not None:
            raise Problem(
                f"task {name_of(left)}: in an environment that was used before {told}: reset_task leaves something of "
                "the episode before; set every attribute anew"
            )
    beside = "each in a process of its own" if subject.source.isolation == "process" else "side by side"
    return f"episodes {beside} and one after another are as alone"


def snapshot(subject: Subject) -> str:
    """Check that going back to a snapshot, in this environment or another, goes back to everything."""
    task = subject.some()[0]
    env, _, _ = subject.start(task)
    try:
        inner: Any = env.unwrapped
        if not (callable(getattr(inner, "snapshot", None)) and callable(getattr(inner, "restore", None))):
            raise NotApplicable("no snapshot() and restore(): an episode cannot be re-entered in its middle")
    finally:
        env.close()
    actions = subject.script(task)[: len(transcript(subject, task)) - 1]  # as far as the episode goes
    for cut in sorted({len(actions) * part // _CUTS for part in range(_CUTS)}):
        _check_cut(subject, task, actions, cut)
    return "going back to a snapshot and acting the same gives the same, in another environment too"


def _two(subject: Subject) -> tuple[Task | None, Task | None]:
    """Return two tasks, which are one when there are no more."""
    some = subject.some()
    return some[0], some[-1]


def _interleave(subject: Subject, left: Task | None, right: Task | None) -> tuple[list[str], list[str]]:
    """Play two episodes, a step of one after a step of the other; return what each said."""
    scripts = subject.script(left), subject.script(right)
    started = [subject.start(task) for task in (left, right)]
    said = tuple([seen((obs, info))] for _, obs, info in started)
    over = [False, False]
    try:
        for actions in zip_longest(*scripts):
            for index, action in enumerate(actions):
                if action is not None and not over[index]:
                    result = started[index][0].step(action)
                    said[index].append(seen(result))
                    over[index] = result[2] or result[3]
    finally:
        for env, _, _ in started:
            env.close()
    return said[0], said[1]


def _after(subject: Subject, first: Task | None, task: Task | None, steps: int | None) -> list[str]:
    """Play an episode in an environment where another was played, for so many steps; return what it said."""
    env, _, _ = subject.start(first)
    try:
        act(env, subject.script(first)[:steps])
        obs, info = subject.reset(env, task)
        return [seen((obs, info)), *act(env, subject.script(task))]
    finally:
        env.close()


def _check_cut(subject: Subject, task: Task | None, actions: Sequence[str], cut: int) -> None:
    """Compare what follows a snapshot after `cut` steps with what follows going back to it."""
    env, _, _ = subject.start(task)
    other, _, _ = subject.start(_two(subject)[1])
    try:
        act(env, actions[:cut])
        inner: Any = env.unwrapped
        saved, before = inner.snapshot(), _standing(env)
        first = act(env, actions[cut:])
        for who, target in (("", env), ("another environment's ", other)):
            copy: Any = target.unwrapped
            copy.restore(saved)
            if (told := _differs(_standing(target), before)) is not None:
                raise Problem(f"after {cut} steps, {who}restore(snapshot()) gave {told}: restore what reset_task sets")
            _compare(first, act(target, actions[cut:]), cut, who)
    finally:
        env.close()
        other.close()


def _compare(first: Sequence[str], second: Sequence[str], cut: int, who: str) -> None:
    told = difference(["", *second], ["", *first])
    if told is not None:
        step = f"{cut} steps in" if cut else "at the start"
        raise Problem(f"after {who}restore(snapshot()), {step}, {told}: restore everything that reset_task sets")


def _standing(env: Env) -> dict[str, str]:
    """Return what can be asked of an episode as it stands, as text."""
    inner: Any = env.unwrapped
    asked = {name: getattr(inner, name, None) for name in ("state", "state_hash")}
    told = {name: seen(method()) for name, method in asked.items() if callable(method)}
    return told | {"tools": seen(sorted(getattr(inner, "tools", None) or ())), "score": seen(score(env))}


def _differs(now: dict[str, str], before: dict[str, str]) -> str | None:
    changed = next((name for name in before if now[name] != before[name]), None)
    return None if changed is None else f"another {changed}: {now[changed][:120]} instead of {before[changed][:120]}"
