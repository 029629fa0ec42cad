from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from agentgrpo.config.run import load_config
from agentgrpo.core import AgentEnv
from agentgrpo.envcheck import check_env
from agentgrpo.envs.mixture import Mixture
from agentgrpo.errors import EnvError, TaskError
from agentgrpo.registry import EnvSource, resolve_env
from agentgrpo.store.reader import EpisodeReader
from agentgrpo.store.run import RunDirectory
from agentgrpo.tasks import TaskSampler, load_tasks
from agentgrpo.training import train
from agentgrpo.types import JsonObject
from tests.small import small_model, small_run

BOXES: list[JsonObject] = [
    {"env": "lockbox", "args": {"turns": 2}},
    {"env": "shop", "weight": 3, "args": {"levels": [1]}},
]


class Parrot(AgentEnv):
    """Takes bare text, and rewards who says what it says."""

    metadata = {"action_format": "text", "isolation": "inline"}  # noqa: RUF012

    @classmethod
    def tasks(cls, split: str = "train") -> list[JsonObject]:
        return [{"word": f"{split} word {n}"} for n in range(40)]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, JsonObject]:
        super().reset(seed=seed)
        self.word = (options or {"task": {"word": "none"}})["task"]["word"]
        return self.word, {}

    def step(self, action: str) -> tuple[str, float, bool, bool, JsonObject]:
        return "said", float(action == self.word), True, False, {}


PARROT = {"env": f"{Path(__file__)}:Parrot", "name": "parrot"}


def mixture(*parts: JsonObject) -> EnvSource:
    return resolve_env(Mixture, parts=list(parts))


def test_an_episode_is_played_in_the_environment_its_task_names() -> None:
    source = mixture(*BOXES)
    env = source.make()
    for row, name, tool in zip(source.tasks("train"), ("lockbox", "shop"), ("press", "find_customer"), strict=False):
        assert source.id_of(row) == row["env"] == name and str(row["task_id"]).startswith(f"{name}/")
        _, info = env.reset(seed=1, options={"task": row})
        own = resolve_env(name, **BOXES[name == "shop"]["args"]).make()
        _, expected = own.reset(seed=1, options={"task_id": row["task_id"].partition("/")[2]})
        assert info["messages"] == expected["messages"] and info["tools"] == expected["tools"]
        assert tool in json.dumps(info["tools"]) and info["task_id"] == row["task_id"]


def test_parts_come_as_often_as_they_weigh() -> None:
    tasks = load_tasks(mixture(*BOXES).tasks("train"))
    sampler = TaskSampler(tasks, seed=0)
    drawn = Counter(str(task.row["env"]) for _ in range(50) for task in sampler.next(40))
    assert 0.70 < drawn["shop"] / drawn.total() < 0.80


def test_a_part_of_text_gets_bare_text() -> None:
    source = mixture(PARROT)
    env = source.make()
    obs, _ = env.reset(options={"task": source.tasks("heldout")[3]})
    assert obs == "heldout word 3"
    assert env.step(json.dumps({"content": obs, "tool_calls": []}))[1] == 1.0


def test_what_a_part_cannot_do_the_mixture_cannot_either() -> None:
    source = mixture(PARROT, *BOXES)
    env = source.make().unwrapped
    env.reset(options={"task": source.tasks("train")[0]})
    assert not hasattr(env, "snapshot") and not hasattr(env, "oracle")
    env.reset(options={"task": source.tasks("train")[2]})
    assert hasattr(env, "snapshot") and hasattr(env, "state_hash")


def test_it_is_isolated_as_the_part_that_needs_most() -> None:
    assert mixture(*BOXES).isolation == "inline"
    assert mixture(*BOXES, {"env": "lockbox", "name": "slow", "args": {"tool_kind": "async"}}).isolation == "thread"


def test_it_is_sound() -> None:
    found = check_env(mixture(*BOXES), tasks=6)
    assert not [check for check in found if check.passed is False]


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ([], "a mixture needs parts"),
        ([{"name": "x"}], "no 'env'"),
        ([{"env": "shop", "wieght": 2}], "unknown key 'wieght'"),
        ([{"env": "shop"}, {"env": "shop"}], "two parts are called 'shop'"),
        ([{"env": "shop", "weight": 0}], "weight 0"),
        ([{"env": "shop", "args": {"reward_weights": {"outcome": 2}}}], "reward_weights"),
        ([{"env": "shoop"}], "Did you mean 'shop'"),
    ],
)
def test_parts_that_cannot_be_are_refused(parts: list[JsonObject], told: str) -> None:
    with pytest.raises(EnvError, match=told):
        mixture(*parts)


def test_a_task_of_no_part_is_refused() -> None:
    with pytest.raises(TaskError, match="'bank'; there are lockbox, shop"):
        mixture(*BOXES).make().reset(options={"task": {"task_id": "bank/1", "env": "bank"}})


def test_files_and_modules_beside_a_config_are_found(tmp_path: Path) -> None:
    (tmp_path / "parrots.py").write_text(Path(__file__).read_text(), encoding="utf-8")
    (tmp_path / "words.jsonl").write_text('{"word": "yes"}\n', encoding="utf-8")
    text = 'env = "mixture"\n[[env_args.parts]]\nenv = "parrots:Parrot"\ntasks = "words.jsonl"\n'
    (tmp_path / "run.toml").write_text(text, encoding="utf-8")
    (part,) = load_config(tmp_path / "run.toml").env_args["parts"]
    assert part == {"env": f"{tmp_path / 'parrots.py'}:Parrot", "tasks": str(tmp_path / "words.jsonl")}


def test_a_run_trains_in_several_and_tells_them_apart(tmp_path: Path) -> None:
    parts = [*BOXES, PARROT]
    config = small_run(small_model(tmp_path, "lockbox"), tmp_path / "runs") | {"env": "mixture"}
    config["env_args"] = {"parts": parts}
    config["rollout"] |= {"tasks_per_step": 8, "group_size": 2, "max_turns": 3}
    config["eval"] = {"tasks": 6, "every": 0}
    run = train(config)
    names = {"lockbox", "shop", "parrot"}
    lines = [json.loads(line) for line in RunDirectory.open(run.path).metrics.read_text().splitlines()]
    assert names == {key.rpartition("/")[2] for key in lines[0] if key.startswith("eval/success/")}
    trained = {key.rpartition("/")[2] for line in lines for key in line if key.startswith("train/success/")}
    assert len(trained) >= 2 and trained <= names
    with EpisodeReader(RunDirectory.open(run.path).episodes) as reader:
        assert {row.env_id for row in reader.list()} == names


def test_it_is_a_gymnasium_environment() -> None:
    assert issubclass(Mixture, gymnasium.Env)
