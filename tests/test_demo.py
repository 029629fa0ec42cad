"""The product's face: what the demo's config promises about its tasks, its tokens and its budget."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from agentgrpo.chat import Chat
from agentgrpo.config.run import Config, TinyConfig, load_config
from agentgrpo.registry import EnvSource, resolve_env
from agentgrpo.run.report import SilentReporter
from agentgrpo.tasks import load_tasks
from agentgrpo.training import train
from agentgrpo.warm_start.demonstrations import Demonstration, demonstrations, tokenize
from agentgrpo.warm_start.tiny import make_tiny

DEMONSTRATIONS = 3000


@pytest.fixture(scope="module")
def config() -> Config:
    with resources.as_file(resources.files("agentgrpo").joinpath("assets/demo.toml")) as path:
        return load_config(path)


@pytest.fixture(scope="module")
def source(config: Config) -> EnvSource:
    return resolve_env(config.env, **config.env_args)


@pytest.fixture(scope="module")
def played(source: EnvSource) -> list[Demonstration]:
    tasks = load_tasks(source.tasks("train"), split="train")
    return list(demonstrations(source, tasks, count=DEMONSTRATIONS, quality=1.0, seed=0))


@pytest.fixture(scope="module")
def chat(played: list[Demonstration], config: Config, tmp_path_factory: pytest.TempPathFactory) -> Chat:
    assert config.warm_start is not None
    folder: Path = tmp_path_factory.mktemp("demo") / "model"
    small = TinyConfig(
        hidden_size=16,
        layers=1,
        heads=1,
        kv_heads=1,
        intermediate_size=16,
        vocab_size=config.warm_start.tiny.vocab_size,
    )
    make_tiny(folder, played, small, seed=0)
    return Chat.from_folder(folder, enable_thinking=False)


def test_there_is_enough_to_learn_from_and_to_be_tested_on(source: EnvSource) -> None:
    assert len(source.tasks("train")) >= 1000
    assert len(source.tasks("heldout")) >= 200
    assert len(source.tasks("heldout_templates")) == 0  # the demo names training templates only


def test_at_least_three_templates_take_three_calls_or_more(source: EnvSource) -> None:
    calls: dict[str, int] = {}
    for task in load_tasks(source.tasks("heldout"), split="heldout"):
        (played,) = demonstrations(source, [task], count=1, quality=1.0, seed=0)
        count = sum(len(action["tool_calls"]) for action, _ in played.turns)
        calls[task.row["template"]] = min(count, calls.get(task.row["template"], count))
    assert sum(count >= 3 for count in calls.values()) >= 3


def test_the_system_block_and_the_episodes_fit_their_budget(played: list[Demonstration], chat: Chat) -> None:
    system = [m for m in played[0].prompt if m["role"] == "system"]
    question = [*system, {"role": "user", "content": ""}]
    assert len(chat.render(question, played[0].tools)) <= 200
    lengths = [len(tokenize(p, chat).token_ids) for p in played[:200]]
    assert max(lengths) <= 400


def test_every_token_of_the_held_out_tasks_occurs_in_the_warm_start(
    source: EnvSource, played: list[Demonstration], chat: Chat
) -> None:
    seen = {token for p in played for token in tokenize(p, chat).token_ids}
    heldout = load_tasks(source.tasks("heldout"), split="heldout")
    for p in demonstrations(source, heldout, count=len(heldout), quality=1.0, seed=1):
        row = tokenize(p, chat)
        unseen = [chat.decode([t]) for t in row.token_ids if t not in seen]
        assert not unseen, (p.prompt[-1], unseen)


def test_held_out_tasks_are_combinations_never_trained_on(source: EnvSource) -> None:
    trained = {row["instruction"] for row in source.tasks("train")}
    assert not trained & {row["instruction"] for row in source.tasks("heldout")}


@pytest.mark.slow
def test_the_demo_learns(tmp_path: Path) -> None:
    with resources.as_file(resources.files("agentgrpo").joinpath("assets/demo.toml")) as path:
        run = train(
            path,
            overrides=[f"model.path={tmp_path / 'model'}", f"train.runs={tmp_path / 'runs'}", "train.steps=30"],
            reporter=SilentReporter(),
        )
    assert run.summary["heldout_tasks"] >= 200
    assert run.summary["heldout_success_before"] <= 0.6
    assert run.summary["heldout_success_after"] >= 0.9
