"""The tiny examples: what their configs promise about tasks, tokens and budget, and that each is learned."""

from __future__ import annotations

from dataclasses import dataclass
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
from tests.small import ROOT

DEMONSTRATIONS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What an example keeps to: the tokens of its system block and of an episode, and what it learns."""

    name: str
    system_tokens: int
    episode_tokens: int
    before: float  # held-out success at most
    after: float  # at least


PROMISES = (
    Promise(name="workspace_tiny", system_tokens=60, episode_tokens=220, before=0.6, after=0.9),
    Promise(name="files_tiny", system_tokens=60, episode_tokens=160, before=0.6, after=0.9),
    Promise(name="countdown_tiny", system_tokens=60, episode_tokens=220, before=0.35, after=0.45),
)


each_promise = pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """An example whose demonstrations were played, with a chat fitted to them."""

    promise: Promise
    config: Config
    source: EnvSource
    played: list[Demonstration]
    chat: Chat


def path_of(promise: Promise) -> Path:
    return ROOT / "examples" / f"{promise.name}.toml"


def make_example(promise: Promise, folder: Path, demonstrated: int) -> Example:
    """Play so many demonstrations and fit a chat to them."""
    config = load_config(path_of(promise))
    assert config.warm_start is not None
    source = resolve_env(config.env, **config.env_args)
    tasks = load_tasks(source.tasks("train"), split="train")
    played = list(demonstrations(source, tasks, count=demonstrated, quality=1.0, seed=0))
    vocabulary = config.warm_start.tiny.vocab_size
    small = TinyConfig(hidden_size=16, layers=1, heads=1, kv_heads=1, intermediate_size=16, vocab_size=vocabulary)
    make_tiny(folder, played, small, seed=0)
    chat = Chat.from_folder(folder, enable_thinking=False)
    return Example(promise=promise, config=config, source=source, played=played, chat=chat)


@pytest.fixture(scope="module", params=PROMISES, ids=lambda promise: promise.name)
def example(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Example:
    return make_example(request.param, tmp_path_factory.mktemp("example") / "model", DEMONSTRATIONS)


def test_there_is_enough_to_learn_from_and_to_be_tested_on(example: Example) -> None:
    assert len(example.source.tasks("train")) >= 400
    assert len(example.source.tasks("heldout")) >= 100


def test_the_system_block_and_the_episodes_fit_their_budget(example: Example) -> None:
    first = example.played[0]
    system = [message for message in first.prompt if message["role"] == "system"]
    block = example.chat.render([*system, {"role": "user", "content": ""}], first.tools)
    lengths = [len(tokenize(played, example.chat).token_ids) for played in example.played[:200]]
    assert len(block) <= example.promise.system_tokens
    assert max(lengths) <= example.promise.episode_tokens
    turns = max(len(played.turns) for played in example.played)
    assert turns < example.config.rollout.max_turns


@pytest.mark.slow
@each_promise
def test_every_token_of_the_held_out_tasks_occurs_in_the_warm_start(promise: Promise, tmp_path: Path) -> None:
    config = load_config(path_of(promise))
    count = len(resolve_env(config.env, **config.env_args).tasks("train"))
    example = make_example(promise, tmp_path / "model", count)  # each training task once
    seen = {token for played in example.played for token in tokenize(played, example.chat).token_ids}
    heldout = load_tasks(example.source.tasks("heldout"), split="heldout")
    for played in demonstrations(example.source, heldout, count=len(heldout), quality=1.0, seed=1):
        unseen = [t for t in tokenize(played, example.chat).token_ids if t not in seen]
        assert not unseen, (played.prompt[-1], example.chat.decode(unseen))


@pytest.mark.slow
@pytest.mark.timeout(3000)
@each_promise
def test_it_is_learned(promise: Promise, tmp_path: Path) -> None:
    run = train(
        path_of(promise),
        overrides=[f"model.path={tmp_path / 'model'}", f"train.runs={tmp_path / 'runs'}"],
        reporter=SilentReporter(),
    )
    assert run.summary["heldout_tasks"] >= 100
    assert run.summary["heldout_success_before"] <= promise.before
    assert run.summary["heldout_success_after"] >= promise.after
