"""Part 5: the environment and its tasks."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence

from agentgrpo.doctor.report import Finding, fail, need, ok, warn
from agentgrpo.doctor.subject import Subject
from agentgrpo.envcheck import check_env
from agentgrpo.registry import EnvSource
from agentgrpo.run.rewarding import open_rewarding
from agentgrpo.run.workbench import check_eval_keys, open_env, open_tasks
from agentgrpo.seeds import derive_seed
from agentgrpo.types import JsonObject, Message, Task

_PLAYED = 5
_PROMPTS = 60  # tasks whose prompt is measured


def check_environment(subject: Subject) -> Iterator[Finding]:
    """Find the environment and its tasks, and whether they are sound."""
    open_rewarding(subject.config)
    subject.source = source = open_env(subject.config, None)
    train, heldout = open_tasks(subject.config, source, None, None)
    subject.train_tasks, subject.heldout_tasks = train, heldout
    if not heldout:
        check_eval_keys(subject.config)
    yield from check_tasks(train, heldout)
    yield from _sound(subject, source)
    facts = source.facts(train[0].row)
    if facts:
        yield ok("played in: " + ", ".join(f"{name} {value}" for name, value in facts.items()), facts)
    prompts = [reset(source, task, subject.config.seed) for task in _sample(train, _PROMPTS)]
    subject.prompts = [prompt for prompt, _ in prompts]
    subject.tools = max((tools for _, tools in prompts), key=len, default=())
    if prompts and not any(tools for _, tools in prompts):
        yield warn("the environment offers no tools", "give it methods marked @ag.tool, unless it is about text alone")


def check_tasks(train: Sequence[Task], heldout: Sequence[Task]) -> Iterator[Finding]:
    """Find tasks that are there twice, and whether there are held-out ones."""
    yield ok(f"{len(train)} training tasks, {len(heldout)} held out", {"train": len(train), "heldout": len(heldout)})
    twice = [name for name, count in Counter(map(_content, train)).items() if count > 1]
    if twice:
        yield warn(f"{len(twice)} training tasks are there more than once, such as {twice[0][:60]}", "drop the copies")
    shared = set(map(_content, train)) & set(map(_content, heldout))
    if shared:
        yield fail(
            f"{len(shared)} held-out tasks are also trained on, under another id: {min(shared)[:60]}",
            "take them out of one set: success on them says nothing",
        )
    if not heldout:
        yield warn("no task is held out: success is known on training tasks only", "set heldout = 0.1, or a file")


def reset(source: EnvSource, task: Task, seed: int) -> tuple[tuple[Message, ...], tuple[JsonObject, ...]]:
    """Return the messages and tools an episode of this task begins with, as a rollout would see them."""
    env = source.make()
    try:
        options = {"task": {**task.row, "task_id": task.id}}
        obs, info = env.reset(seed=derive_seed(seed, "env", task.id) % 2**31, options=options)
        messages = info.get("messages") or [{"role": "user", "content": obs}]
        return tuple(messages), tuple(info.get("tools") or ())
    finally:
        env.close()


def need_source(subject: Subject) -> EnvSource:
    """Return the environment, or say that it is missing."""
    return need(subject.source, "needs the environment")


def _sound(subject: Subject, source: EnvSource) -> Iterator[Finding]:
    results = [
        result
        for result in check_env(source, tasks=_PLAYED, train=subject.train_tasks, heldout=subject.heldout_tasks)
        if result.name not in ("tasks", "splits")  # said above, of all tasks
    ]
    failures: dict[str, list[str]] = {}
    for result in results:
        if result.passed is False:
            failures.setdefault(result.detail, []).append(result.name)
    for detail, names in failures.items():  # one cause fails many checks
        yield fail(f"{', '.join(names)}: {detail}", "agentgrpo env check looks at more of it, and again in seconds")
    passed = [result.name for result in results if result.passed]
    if passed:
        yield ok("env check: " + ", ".join(passed))


def _sample(tasks: Sequence[Task], count: int) -> list[Task]:
    return random.Random(0).sample(list(tasks), min(count, len(tasks)))


def _content(task: Task) -> str:
    return str(sorted((key, str(value)) for key, value in task.row.items() if key not in ("id", "task_id")))
