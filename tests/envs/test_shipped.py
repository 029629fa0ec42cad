"""What holds for every environment with templates, levels and three splits."""

from __future__ import annotations

import hashlib
import json
from typing import TypeAlias

import pytest
from gymnasium.utils.env_checker import check_env

from agentgrpo.envs.countdown.env import Countdown
from agentgrpo.envs.files.env import Files
from agentgrpo.envs.rows import SPLITS
from agentgrpo.envs.shop.env import Shop
from agentgrpo.envs.workspace.env import Workspace
from agentgrpo.errors import EnvError, TaskError
from agentgrpo.registry import resolve_env
from tests.envs.playing import finish, row_of, solve, start

Env: TypeAlias = Shop | Files | Workspace | Countdown
# Changing the rows on purpose? Then figures of earlier runs no longer compare: say so, and put the new digest here.
DIGESTS: dict[type[Env], str] = {
    Shop: "fc5834304a5e2938a82451663f5ddf4dfa2512ecc43b07e7307bdfbd02f07ab8",
    Files: "f2717dcd8fd1be53e1e20cac94f86fd9d8fdf752165ed730f5566b8ccb6f18bc",
    Workspace: "6569c633b59531e809388325ad5e66c6bd15f196d8442e6aab0569a08b6395c6",
    Countdown: "83092c85b627f551a1d10fba9f64d1ea83d26d85832a940f0cdc3963157d9a85",
}
each_env = pytest.mark.parametrize("env_class", DIGESTS, ids=lambda env_class: env_class.__name__)
each_template = pytest.mark.parametrize(
    ("env_class", "template"),
    [(env_class, name) for env_class in DIGESTS for name in env_class.shipped.templates],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)


@each_env
def test_splits_have_their_sizes_levels_and_templates(env_class: type[Env]) -> None:
    rows = {split: env_class.tasks(split) for split in SPLITS}
    assert len(rows["train"]) >= 1000
    assert len(rows["heldout"]) >= 200
    assert len(rows["heldout_templates"]) >= 200
    names = {split: {row["template"] for row in rows[split]} for split in SPLITS}
    assert names["train"] == names["heldout"]
    assert not names["train"] & names["heldout_templates"]
    assert names["train"] | names["heldout_templates"] == set(env_class.shipped.templates)
    assert {row["level"] for row in rows["train"]} == {row["level"] for row in rows["heldout"]} == {1, 2, 3}
    ids = [row["task_id"] for split in SPLITS for row in rows[split]]
    assert len(ids) == len(set(ids))


@each_env
def test_rows_are_the_same_everywhere(env_class: type[Env]) -> None:
    rows = json.dumps([env_class.tasks(split) for split in SPLITS])
    assert hashlib.sha256(rows.encode()).hexdigest() == DIGESTS[env_class]


@each_env
def test_same_seed_same_episode(env_class: type[Env]) -> None:
    first, second = env_class(), env_class()
    for seed in range(5):
        assert first.reset(seed=seed) == second.reset(seed=seed)
        assert solve(first, first.task, 0.5, seed) == solve(second, second.task, 0.5, seed)
        assert first.state() == second.state()


@each_template
def test_doing_nothing_earns_exactly_nothing(env_class: type[Env], template: str) -> None:
    env = env_class()
    for answer in ("", "done"):
        start(env, row_of(env_class, template))
        reward, terms = finish(env, answer)
        assert reward == 0.0
        assert not any(terms.values())


@each_template
def test_a_right_state_is_no_success_before_the_agent_ends_the_episode(env_class: type[Env], template: str) -> None:
    env = env_class()
    start(env, row_of(env_class, template))
    script = env.oracle()
    action, reward, terminated = next(script), 0.0, False
    while not terminated:
        assert env.score()["outcome"] == 0.0  # the last time everything is done but to say so
        _, reward, terminated, _, info = env.step(json.dumps(action))
        action = action if terminated else script.send(tuple(info["messages"]))
    assert reward == env.score()["outcome"] == 1.0


@each_template
def test_snapshot_in_mid_episode_continues_exactly(env_class: type[Env], template: str) -> None:
    env, fork = env_class(), env_class()
    start(env, row_of(env_class, template))
    start(fork, env_class.tasks("train")[0])
    script = env.oracle()
    action = next(script)
    terminated = False
    while not terminated:
        fork.restore(env.snapshot())
        assert fork.state() == env.state()
        assert fork.calls == env.calls
        left, right = env.step(json.dumps(action)), fork.step(json.dumps(action))
        assert left == right
        terminated = left[2]
        if not terminated:
            action = script.send(tuple(left[4]["messages"]))
    assert left[1] == 1.0


@each_env
def test_a_name_and_levels_choose_all_splits(env_class: type[Env]) -> None:
    source = resolve_env(env_class.__name__.lower(), levels=[2])
    assert source.isolation == "inline"
    for split in SPLITS:
        assert {row["level"] for row in source.tasks(split)} == {2}
    env = source.make()
    messages = env.reset(seed=1, options={"task": source.tasks("heldout")[0]})[1]["messages"]
    assert [message["role"] for message in messages] == ["system", "user"]
    env.close()


@each_env
def test_it_follows_gymnasiums_rules(env_class: type[Env]) -> None:
    env = env_class(render_mode="ansi")
    check_env(env, skip_render_check=True)
    assert json.loads(str(env.render())) == env.state()


@each_env
def test_what_cannot_work_is_said(env_class: type[Env]) -> None:
    row = env_class.tasks("train")[0]
    name = row["template"]
    with pytest.raises(TaskError, match=f"Did you mean '{name}'"):
        env_class(templates=[name[:-1]])
    with pytest.raises(TaskError, match="no split 'test'"):
        env_class.tasks("test")
    with pytest.raises(TaskError, match=r"Levels are 1, 2, 3\."):
        env_class(templates=[name], levels=[3])
    with pytest.raises(EnvError, match="leave out tasks"):
        env_class(tasks=[row], levels=[1])


@pytest.mark.parametrize("env_class", [Shop, Files, Workspace])
def test_a_row_without_its_template_is_refused(env_class: type[Env]) -> None:
    row = env_class.tasks("train")[0]
    with pytest.raises(TaskError, match="no template 'x'"):
        env_class().reset(options={"task": row | {"template": "x"}})
    with pytest.raises(TaskError, match=rf"has no 'goal'.*{env_class.__name__}\.tasks"):
        env_class().reset(options={"task": {"template": row["template"], "seed": 0}})
    with pytest.raises(EnvError, match="call reset"):
        env_class().score()
