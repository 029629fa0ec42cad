"""Checks of what episodes earn: the oracle 1, doing nothing 0, acting at random next to nothing, and always a number.

It does not know whether a reward wants the right thing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

from agentgrpo.baselines import Env, has_oracle, nothing_action, play, score
from agentgrpo.checks.subject import NotApplicable, Problem, Subject, name_of, seen
from agentgrpo.types import Task

NEAR = 1e-6
RANDOM_EARNS = 0.25  # on average, at most
RANDOM_EPISODES = 60


def rewards(subject: Subject) -> str:
    """Check that each step's reward and each term is a finite number, and that asking for the score changes nothing."""
    for task in subject.some(5):
        for actions in (subject.script(task), (nothing_action(subject.source),)):
            env, _, _ = subject.start(task)
            try:
                _check_episode(env, task, actions)
            finally:
                env.close()
    return "finite numbers, and the score says at any time what the episode is worth"


def _check_episode(env: Env, task: Task | None, actions: tuple[str, ...]) -> None:
    where, total, over = f"task {name_of(task)}", 0.0, False
    for number, action in enumerate(actions, 1):
        _, reward, terminated, truncated, info = env.step(action)
        total += _finite(reward, f"{where}: step {number} gave reward")
        for name, value in (info.get("reward_terms") or {}).items():
            _finite(value, f"{where}: step {number} gave the term {name}")
        _check_score(env, f"{where}: after step {number}")
        if over := terminated or truncated:
            break
    scored = score(env)
    if over and terminated and scored is not None and abs(scored[0] - total) > NEAR:
        raise Problem(
            f"{where}: the steps earned {total:g} in all, score() then says {scored[0]:g}: an episode that a limit "
            "cuts off would be scored by another measure"
        )


def _check_score(env: Env, where: str) -> None:
    inner: Any = env.unwrapped
    if not callable(getattr(inner, "score", None)):
        return
    terms = inner.score()
    if not isinstance(terms, Mapping):
        raise Problem(f"{where} score() gave a {type(terms).__name__}, expected named numbers like {{'outcome': 1.0}}")
    for name, value in terms.items():
        _finite(value, f"{where} score() gave {name} =")
    if seen(inner.score()) != seen(terms):
        raise Problem(f"{where} score() asked twice gave {terms} and then another: reward() must change nothing")


def _finite(value: object, what: str) -> float:
    if not isinstance(value, Real) or not math.isfinite(value):
        raise Problem(f"{what} {value!r}, expected a finite number")
    return float(value)


def oracle(subject: Subject) -> str:
    """Check that the oracle earns 1 on every task."""
    env, _, _ = subject.start(subject.some()[0])
    env.close()
    if not has_oracle(env):
        raise NotApplicable("no oracle(): nothing shows that the tasks can be solved")
    for task in subject.some():
        played = play(subject.source, task, "oracle", seed=subject.seed)
        if abs(played.reward - 1.0) > NEAR:
            terms = ", ".join(f"{name} {value:g}" for name, value in played.terms.items())
            raise Problem(
                f"task {name_of(task)}: the oracle earned {played.reward:g}, not 1{f' ({terms})' if terms else ''}: "
                "either it does not solve the task, or the reward does not see that it did"
            )
    return f"the oracle earns 1 on {len(subject.some())} tasks"


def nothing(subject: Subject) -> str:
    """Check that an agent earns nothing by doing nothing, whether it says so or is cut off."""
    for task in subject.some():
        env, _, _ = subject.start(task)
        begun = score(env)
        env.close()
        if begun is not None and abs(begun[0]) > NEAR:
            raise Problem(f"task {name_of(task)}: an episode cut off before its first action {_earns(begun[0])}")
        played = play(subject.source, task, "nothing", seed=subject.seed)
        if played.reward > NEAR or (played.reward < -NEAR and subject.source.action_format == "message"):
            raise Problem(f"task {name_of(task)}: an agent that does nothing {_earns(played.reward)}")
    return f"doing nothing earns 0 on {len(subject.some())} tasks"


def _earns(reward: float) -> str:
    more = ", more than the oracle may" if reward > 1 + NEAR else ""
    return (
        f"earns {reward:g}, not 0{more}: what was there at the start must not count; "
        "compare with the start state, or give the answer a value only when it is right"
    )


def chance(subject: Subject) -> str:
    """Check that acting at random earns next to nothing."""
    some = subject.some()
    rounds = max(1, RANDOM_EPISODES // len(some))
    earned = [
        play(subject.source, task, "random", seed=subject.seed + i).reward for task in some for i in range(rounds)
    ]
    mean = sum(earned) / len(earned)
    if mean > RANDOM_EARNS:
        raise Problem(
            f"random calls earn {mean:.2f} on average over {len(earned)} episodes, at most {RANDOM_EARNS:g}: the tasks "
            "can be guessed, or the reward pays for something else than solving them"
        )
    return f"random calls earn {mean:.2f} on average over {len(earned)} episodes"
