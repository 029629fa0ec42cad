"""The warm start and its parts: demonstrations, the tiny model and its tokenizer, supervised fine-tuning."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from agentgrpo import causal_lm
from agentgrpo.chat import Chat, assistant_message
from agentgrpo.config.run import SftConfig, TinyConfig, WarmStartConfig, load_config
from agentgrpo.errors import ConfigError, ModelError, UserError
from agentgrpo.registry import EnvSource, resolve_env
from agentgrpo.run.report import SilentReporter
from agentgrpo.tasks import load_tasks
from agentgrpo.types import Task
from agentgrpo.warm_start.demonstrations import (
    Demonstration,
    demonstrate,
    demonstrations,
    token_rows,
    tokenize,
    value_words,
)
from agentgrpo.warm_start.sft import fine_tune, save_model, whole_folder
from agentgrpo.warm_start.start import reuse, run_sft, warm_start
from agentgrpo.warm_start.tiny import describe, make_tiny, make_tokenizer
from tests.small import EXAMPLE, TINY

ENVS = {"locker": f"{EXAMPLE / 'locker.py'}:Locker", "lockbox": "lockbox", "shop": "shop", "workspace": "workspace"}
COUNT = {"locker": 100, "lockbox": 40, "shop": 100, "workspace": 100}


def source_and_tasks(name: str) -> tuple[EnvSource, tuple[Task, ...]]:
    source = resolve_env(ENVS[name])
    return source, load_tasks(EXAMPLE / "lockers.jsonl" if name == "locker" else source.tasks("train"))


@pytest.fixture(scope="module", params=ENVS)
def episodes(request: pytest.FixtureRequest) -> list[Demonstration]:
    source, tasks = source_and_tasks(request.param)
    return list(demonstrations(source, tasks, count=COUNT[request.param], quality=1.0, seed=0))


@pytest.fixture(scope="module")
def folder(episodes: list[Demonstration], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder fitted to these episodes, random weights."""
    path = tmp_path_factory.mktemp("tiny")
    make_tiny(path, episodes, TinyConfig(**{**TINY.model_dump(), "vocab_size": 2400}), seed=0)
    return path


@pytest.fixture(scope="module")
def lockbox() -> list[Demonstration]:
    source, tasks = source_and_tasks("lockbox")
    return list(demonstrations(source, tasks, count=40, quality=1.0, seed=0))


@pytest.fixture(scope="module")
def lockbox_folder(lockbox: list[Demonstration], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lockbox")
    make_tiny(path, lockbox, TINY, seed=0)
    return path


# Demonstrations


def test_oracle_episodes_of_quality_one_earn_one(episodes: list[Demonstration]) -> None:
    assert [round(e.reward, 9) for e in episodes] == [1.0] * len(episodes)
    assert all(e.prompt[-1]["role"] == "user" and e.tools and e.turns for e in episodes)


def test_demonstrations_are_a_function_of_the_seed_and_go_round_the_tasks() -> None:
    source, tasks = source_and_tasks("locker")
    first = list(demonstrations(source, tasks[:3], count=6, quality=0.5, seed=1))
    again = list(demonstrations(source, tasks[:3], count=6, quality=0.5, seed=1))
    other = list(demonstrations(source, tasks[:3], count=6, quality=0.5, seed=2))
    assert first == again != other
    for turn in (first[:3], first[3:]):
        assert len({e.prompt[-1]["content"] for e in turn}) == 3


def test_lower_quality_earns_less() -> None:
    source, tasks = source_and_tasks("locker")
    rewards = [e.reward for e in demonstrations(source, tasks, count=60, quality=0.3, seed=0)]
    assert 0.2 < sum(rewards) / len(rewards) < 0.8  # chance: 0.3 + 0.7 / 4


# The tokenizer


def test_every_value_word_is_one_token(episodes: list[Demonstration], folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    words = {word for e in episodes for word in value_words(e)}
    assert words
    split = {word: ids for word in words if len(ids := tokenizer.encode(word, add_special_tokens=False)) != 1}
    assert not split


def test_value_words_are_those_of_arguments_and_results_not_of_errors_or_prose() -> None:
    def call(**arguments: Any) -> dict[str, Any]:
        return {"content": "", "tool_calls": [{"id": "0", "name": "f", "arguments": arguments}]}

    def said(content: str) -> tuple[dict[str, str], ...]:
        return ({"role": "tool", "content": content},)

    bad = {"content": "", "tool_calls": [{"id": "0", "name": "f", "raw": "x", "error": {"type": "t", "message": "m"}}]}
    turns = (
        (call(name="Ada Lovelace", number=-12.5, flag=True, nothing=None), said('[{"id": "A-17", "n": 3}]')),
        (call(tags=["red", {"deep": "blue"}]), said('{"error": {"type": "tool_error", "message": "no"}}')),
        (bad, said("plain prose 99")),
    )
    episode = Demonstration(prompt=(), tools=(), turns=turns, reward=0.0)
    assert sorted(value_words(episode)) == sorted("Ada Lovelace 12 5 A 17 3 red blue".split())  # noqa: SIM905


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
markup = st.sampled_from(
    ["<|im_end|>", "<tool_call>", "</think>", "digit: 7", "\n\n", "  ", "press", "\u200b", "<|im_"]
)


@given(st.lists(texts | markup, max_size=5).map("".join))
def test_any_text_comes_back_from_its_ids(lockbox_folder: Path, text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(lockbox_folder) if not TOKENIZERS else TOKENIZERS[0]
    TOKENIZERS[:] = [tokenizer]
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False), skip_special_tokens=False) == text


TOKENIZERS: list[Any] = []  # loading one takes longer than all examples


def test_the_same_episodes_make_the_same_tokenizer(lockbox: list[Demonstration]) -> None:
    made = [make_tokenizer(lockbox, TINY).backend_tokenizer.to_str() for _ in range(2)]
    assert made[0] == made[1]


@pytest.mark.parametrize("enable_thinking", [False, None])
def test_demonstrations_render_as_the_models_own_template_does(
    episodes: list[Demonstration], folder: Path, enable_thinking: bool | None
) -> None:
    chat = Chat.from_folder(folder, enable_thinking=enable_thinking)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    options: Any = {} if enable_thinking is None else {"enable_thinking": enable_thinking}
    for episode in episodes[:5]:
        messages = [{k: v for k, v in m.items() if k != "is_error"} for m in episode.prompt]
        for action, answers in [*episode.turns, ({"content": "", "tool_calls": []}, ())]:
            expected = tokenizer.apply_chat_template(
                messages, tools=list(episode.tools), add_generation_prompt=True, return_dict=False, **options
            )
            assert chat.render(messages, episode.tools) == expected
            messages += [assistant_message(action), *({k: v for k, v in a.items() if k != "is_error"} for a in answers)]


def test_a_demonstration_trains_on_what_the_agent_said_and_on_nothing_else(
    episodes: list[Demonstration], folder: Path
) -> None:
    chat = Chat.from_folder(folder, enable_thinking=False)
    for episode in episodes[:5]:
        row = tokenize(episode, chat)
        assert list(row.token_ids[: row.loss_mask.index(1)]) == chat.render(episode.prompt, episode.tools)
        said = [chat.completion(action) for action, _ in episode.turns]
        assert [t for t, trained in zip(row.token_ids, row.loss_mask, strict=True) if trained] == list(
            itertools.chain(*said)
        )
        assert set(row.rollout_logprobs) == {0.0}
        assert max(row.turns) == len(episode.turns) - 1


def test_where_tools_change_a_new_row_begins_as_a_rollout_forks_there(tmp_path: Path) -> None:
    source = resolve_env("workspace", templates=["when_with_closed"])
    (played,) = demonstrations(source, load_tasks(source.tasks("train"))[:1], count=1, quality=1.0, seed=0)
    ((opened, tools),) = played.changes
    names = [[tool["function"]["name"] for tool in offered] for offered in (played.tools, tools)]
    assert ("open_calendar" in names[0], "find_meeting" in names[0]) == (True, False)
    assert ("open_calendar" in names[1], "find_meeting" in names[1]) == (False, True)
    make_tiny(tmp_path / "tiny", [played] * 3, TinyConfig(vocab_size=2400), seed=0)
    chat = Chat.from_folder(tmp_path / "tiny", enable_thinking=False)
    first, second = token_rows(played, chat)
    messages = list(played.prompt)
    for action, answers in played.turns[:opened]:
        messages += [assistant_message(action), *answers]
    assert list(first.token_ids[: first.loss_mask.index(1)]) == chat.render(played.prompt, played.tools)
    assert list(second.token_ids[: second.loss_mask.index(1)]) == chat.render(messages, tools)
    said = [token for action, _ in played.turns for token in chat.completion(action)]
    trained = [t for row in (first, second) for t, is_said in zip(row.token_ids, row.loss_mask, strict=True) if is_said]
    assert trained == said


# The model


def test_a_tiny_model_is_a_qwen3_folder_that_transformers_loads(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.model_type == "qwen3"
    assert model.config.hidden_size == TINY.hidden_size
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(folder))
    assert describe(folder).startswith("qwen3, 0.")


def test_the_same_seed_makes_the_same_bytes_and_disturbs_no_one(lockbox: list[Demonstration], tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        make_tiny(tmp_path / name, lockbox, TINY, seed=seed)
    assert torch.equal(torch.random.get_rng_state(), state)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c


SFT = SftConfig(steps=12, batch_size=8, episodes=16, learning_rate=1e-2)


def test_fine_tuning_lowers_the_loss_and_is_a_function_of_the_seed(
    lockbox: list[Demonstration], lockbox_folder: Path, tmp_path: Path
) -> None:
    chat = Chat.from_folder(lockbox_folder, enable_thinking=False)
    rows = [tokenize(episode, chat) for episode in lockbox]
    losses: dict[str, list[float]] = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        model = causal_lm.load_model(lockbox_folder, device=torch.device("cpu"), dtype=torch.float32)
        seen = losses[name] = []
        fine_tune(model, [(12, rows)], SFT, seed=seed, on_step=lambda done, loss, seen=seen: seen.append(loss))  # type: ignore[misc]
        assert not any(p.requires_grad for p in model.parameters())
        save_model(model, lockbox_folder, tmp_path / name)
    assert len(losses["a"]) == 12
    assert losses["a"][-1] < 0.5 * losses["a"][0]
    assert losses["a"] == losses["b"] != losses["c"]
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c


def test_phases_follow_each_other_under_one_count(lockbox: list[Demonstration], lockbox_folder: Path) -> None:
    chat = Chat.from_folder(lockbox_folder, enable_thinking=False)
    rows = [tokenize(episode, chat) for episode in lockbox[:3]]  # fewer than a batch
    model = causal_lm.load_model(lockbox_folder, device=torch.device("cpu"), dtype=torch.float32)
    steps: list[int] = []
    fine_tune(model, [(2, rows), (1, rows[:1])], SFT, seed=0, on_step=lambda done, loss: steps.append(done))
    assert steps == [1, 2, 3]


# The whole


def lockbox_warm_start(folder: Path, reporter: Any = None, **model: Any) -> None:
    source, tasks = source_and_tasks("lockbox")
    config = load_config({"model": {"enable_thinking": False, **model}})
    settings = WarmStartConfig(tiny=TINY, sft=SFT.model_copy(update={"steps": 4}))
    warm_start(config, settings, source, tasks, folder, reporter or SilentReporter())


def test_a_warm_start_leaves_a_complete_folder_twice_the_same(tmp_path: Path) -> None:
    lockbox_warm_start(tmp_path / "new" / "a")
    lockbox_warm_start(tmp_path / "b")
    assert {p.name for p in tmp_path.iterdir()} == {"new", "b"}
    weights = [(p / "model.safetensors").read_bytes() for p in (tmp_path / "new" / "a", tmp_path / "b")]
    assert weights[0] == weights[1]
    said = json.loads((tmp_path / "b" / "warm_start.json").read_text())
    assert (said["env"], said["sft"]["steps"], said["tiny"]["hidden_size"]) == ("agentgrpo/Lockbox-v0", 4, 32)


def test_a_warm_start_runs_where_the_model_is_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, pick = list[str](), causal_lm.pick_device

    def noted(name: str = "auto") -> torch.device:
        asked.append(name)
        return pick(name)

    monkeypatch.setattr(causal_lm, "pick_device", noted)
    lockbox_warm_start(tmp_path / "model", device="cpu")
    assert asked == ["cpu"]


class Interrupted(SilentReporter):
    def message(self, text: str) -> None:
        raise KeyboardInterrupt


def test_an_interrupted_warm_start_leaves_nothing_under_the_models_name(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        lockbox_warm_start(tmp_path / "model", Interrupted())
    assert list(tmp_path.iterdir()) == []
    half = tmp_path / ".model.tmp"  # of a run that was killed
    half.mkdir()
    (half / "stray").write_text("")
    lockbox_warm_start(tmp_path / "model")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert not (tmp_path / "model" / "stray").exists()


def test_a_folder_with_files_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(UserError, match="exists and is not empty: give another folder"):
        lockbox_warm_start(tmp_path / "mine")
    with pytest.raises(UserError, match="exists and is not empty"), whole_folder(tmp_path / "mine" / "thesis.txt"):
        pass
    (tmp_path / "empty").mkdir()
    with whole_folder(tmp_path / "empty") as working:
        (working / "file").write_text("")
    assert (tmp_path / "empty" / "file").is_file()


def test_a_model_that_is_not_there_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no model folder '.*nowhere'"):
        run_sft(tmp_path / "nowhere", [], SFT, seed=0, reporter=SilentReporter())


def test_one_task_can_be_demonstrated_alone() -> None:
    source, tasks = source_and_tasks("lockbox")
    assert demonstrate(source, tasks[0], quality=1.0, seed=0).reward == 1.0


def test_a_model_that_is_there_is_taken_as_it_is_and_settings_it_was_not_made_with_are_refused(tmp_path: Path) -> None:
    said: list[str] = []

    class Listener(SilentReporter):
        def message(self, text: str) -> None:
            said.append(text)

    made = WarmStartConfig(sft=SftConfig(steps=7))
    (tmp_path / "warm_start.json").write_text(json.dumps({"seed": 3, "env": "x", **made.model_dump()}))
    reuse(made, tmp_path, 3, Listener())
    reuse(made, tmp_path, 4, Listener())
    assert "of seed 3" not in said[0]
    assert "of seed 3" in said[1]
    with pytest.raises(ConfigError, match=r"warm_start\.sft\.steps = 8 would have no effect.*made with 7"):
        reuse(WarmStartConfig(sft=SftConfig(steps=8)), tmp_path, 3, Listener())
    (tmp_path / "warm_start.json").unlink()  # a model of somebody else's making: nothing is known of it
    reuse(WarmStartConfig(sft=SftConfig(steps=8)), tmp_path, 3, Listener())
    assert len(said) == 3
