from __future__ import annotations

import tomllib
from datetime import UTC, date, time, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.config.file import validate
from agentgrpo.config.run import ALGORITHMS, Config, LearnerConfig, SftConfig, load_config
from agentgrpo.errors import ConfigError

Data = dict[str, Any]


def message(data: Data | str | Path, *overrides: str) -> str:
    """Return what a ConfigError says."""
    with pytest.raises(ConfigError) as caught:
        load_config(data, overrides=overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("data", "key", "meant"),
    [
        ({"sead": 1}, "sead", "seed"),
        ({"rollout": {"group_sise": 8}}, "rollout.group_sise", "group_size"),
        ({"model": {"lora": {"rnk": 8}}}, "model.lora.rnk", "rank"),
        ({"warm_start": {"tiny": {"layer": 2}}}, "warm_start.tiny.layer", "layers"),
        ({"warm_start": {"stf": {}}}, "warm_start.stf", "sft"),
        ({"eval": {"temprature": 1.0}}, "eval.temprature", "temperature"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(data: Data, key: str, meant: str) -> None:
    said = message(data)
    assert said.startswith(f"unknown key '{key}'. Did you mean '{meant}'? Known there: ")
    assert meant in said.partition("Known there: ")[2]


def test_every_wrong_key_is_named_at_once() -> None:
    said = message({"seed": -1, "rollout": {"group_size": 0, "nonsense": 1}}).splitlines()
    assert len(said) == 3
    assert "seed = -1: Input should be greater than or equal to 0" in said
    assert "rollout.group_size = 0: Input should be greater than 0" in said


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("seed=3", "seed", 3),
        ("rollout.group_size = 4", "rollout.group_size", 4),
        ("name=shop", "name", "shop"),
        ('name="shop"', "name", "shop"),
        ("env=locker:Locker", "env", "locker:Locker"),
        ("tasks=some folder/tasks.jsonl", "tasks", "some folder/tasks.jsonl"),
        ("learner.learning_rate=1e-3", "learner.learning_rate", 1e-3),
        ("learner.drop_zero_variance=false", "learner.drop_zero_variance", False),
        ("heldout=20", "heldout", 20),
        ("heldout=0.2", "heldout", 0.2),
        ("heldout=test", "heldout", "test"),
        ('model.lora.targets=["q_proj", "v_proj"]', "model.lora.targets", ["q_proj", "v_proj"]),
        ("model.lora={ rank = 4 }", "model.lora.rank", 4),
        ("train.track=['trackio']", "train.track", ["trackio"]),
        ("env_args.a.b=[1, 2.5, 'x']", "env_args", {"a": {"b": [1, 2.5, "x"]}}),
    ],
)
def test_set_takes_toml_values_and_plain_text(override: str, path: str, value: Any) -> None:
    found: Any = load_config({}, overrides=[override])
    for part in path.split("."):
        found = getattr(found, part)
    assert (found, type(found)) == (value, type(value))


def test_set_changes_neither_its_source_nor_the_neighbours_of_a_key() -> None:
    source = {"rollout": {"group_size": 4, "max_turns": 3}}
    config = load_config(source, overrides=["rollout.group_size=2", "rollout.group_size=6"])
    assert (config.rollout.group_size, config.rollout.max_turns) == (6, 3)
    assert source == {"rollout": {"group_size": 4, "max_turns": 3}}
    assert load_config(config, overrides=["rollout.max_turns=5"]).rollout.group_size == 6


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed", "--set takes section.key=value, got 'seed'"),
        ("=3", "--set takes section.key=value, got '=3'"),
        ("seed=x", "seed = 'x': Input should be a valid integer"),
        ("seeds=3", "unknown key 'seeds'. Did you mean 'seed'?"),
        ("rollout=3", "rollout = 3: Input should be"),
        ("rollout..group_size=3", "unknown key 'rollout.'"),
        ("name.first=x", "name = {'first': 'x'}: Input should be a valid string"),
        ("learner.algorithm=ppo", "learner.algorithm = 'ppo': Input should be 'trajectory_grpo' or 'grpo'"),
        ("name=a/b", "name = 'a/b': String should match pattern"),
    ],
)
def test_a_set_that_cannot_be_used_says_why(override: str, said: str) -> None:
    assert said in message({}, override)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"learner": {"loss_type": "reinforce", "epsilon": 0.1}}, "learner: epsilon has no effect with loss_type"),
        ({"learner": {"loss_type": "reinforce", "epsilon_high": 0.1}}, "epsilon_high has no effect with loss_type"),
        (
            {"learner": {"loss_type": "reinforce", "importance_level": "turn"}},
            "importance_level has no effect with loss_type",
        ),
        (
            {"learner": {"loss_type": "reinforce"}, "train": {"max_staleness": 1}},
            "nothing corrects for episodes that train.max_staleness = 1 lets grow old",
        ),
        (
            {"learner": {"old_logprobs": "learner", "epsilon_high": 0.3}},
            'epsilon and epsilon_high have no effect with old_logprobs = "learner" and minibatches = 1',
        ),
        (
            {"learner": {"minibatches": 5}, "rollout": {"tasks_per_step": 4}},
            "minibatches = 5 has no effect above rollout.tasks_per_step = 4",
        ),
        ({"learner": {"kl_estimator": "k2"}}, "kl_estimator has no effect while beta is 0: set beta or remove"),
        ({"learner": {"kl_estimator": "k1", "beta": 0.1}}, "its expected gradient is 0"),
        ({"learner": {"algorithm": "grpo", "kl_estimator": "k1"}}, "its expected gradient is 0"),
        ({"eval": {"top_p": 0.9}}, "eval: top_p has no effect at temperature 0 (greedy): set temperature or remove"),
        ({"eval": {"top_k": 5}}, "top_k has no effect at temperature 0"),
        ({"eval": {"samples": 4}}, "samples has no effect at temperature 0"),
        ({"eval": {"every": 0, "during_tasks": 8}}, "during_tasks has no effect while eval.every is 0"),
        ({"rollout": {"group_size": 1, "min_survivors": 1}}, "group_size = 1 gives every advantage 0"),
        ({"rollout": {"group_size": 2, "min_survivors": 3}}, "can never be met by rollout.group_size = 2"),
        ({"train": {"steps": 5}, "learner": {"warmup_steps": 6}}, "warmup_steps = 6 is longer than train.steps = 5"),
        (
            {"model": {"enable_thinking": False, "thinking_retention": "all"}},
            "thinking_retention has no effect while model.enable_thinking = false: remove it",
        ),
        (
            {"warm_start": {"sft": {"quality": 0.3, "perfect_fraction": 1.0}}},
            "quality has no effect while perfect_fraction is 1",
        ),
        (
            {"rollout": {"concurrency": 9}, "engine": {"max_sequences": 8}},
            "concurrency = 9 has no effect above engine.",
        ),
        ({"rollout": {"concurrency": 129}}, "above engine.max_sequences = 128: set both to the same number"),
        ({"rollout": {"generate_seconds": 601}}, "generate_seconds has no effect above rollout.episode_seconds = 600"),
        ({"rollout": {"max_turn_tokens": 99, "max_tokens": 98}}, "max_turn_tokens has no effect above rollout.max_tok"),
        ({"train": {"stall_seconds": 9, "stop_stalled_seconds": 8}}, "stall_seconds = 9 has no effect"),
    ],
)
def test_a_key_without_effect_is_an_error(data: Data, said: str) -> None:
    assert said in message(data)


@pytest.mark.parametrize(
    "data",
    [
        {"learner": {"kl_estimator": "k2", "beta": 0.1}},
        {"learner": {"algorithm": "grpo", "kl_estimator": "k3"}},
        {"eval": {"temperature": 0.7, "top_p": 0.9, "top_k": 5, "samples": 4}},
        {"rollout": {"group_size": 1, "min_survivors": 1}, "train": {"steps": 0}},
        {"train": {"steps": 0}, "learner": {"warmup_steps": 6}},
        {
            "reward": "mine:score",
            "judge": {"endpoint": "http://h/v1", "model": "m", "rubric": "Be right.\n", "retries": 0},
        },
    ],
)
def test_the_same_keys_are_taken_where_they_have_one(data: Data) -> None:
    assert load_config(data) == load_config(tomllib.loads(load_config(data).to_toml()))


def test_presets_are_points_of_the_axes_and_each_axis_can_be_overridden() -> None:
    assert LearnerConfig().axes() == ALGORITHMS["trajectory_grpo"]
    assert LearnerConfig(algorithm="grpo").axes() == ALGORITHMS["grpo"]
    other = {
        "baseline": "leave_one_out",
        "scale_rewards": "batch",
        "importance_level": "sequence",
        "loss_type": "cispo",
        "aggregation": "constant",
        "epsilon": 0.5,
        "epsilon_high": 4.0,
        "beta": 0.0,
        "mask_truncated": True,
    }
    assert other.keys() == ALGORITHMS["grpo"].keys() == ALGORITHMS["trajectory_grpo"].keys()
    for key, value in other.items():
        changed = validate(LearnerConfig, {"algorithm": "grpo", key: value}).axes()
        assert changed == {**ALGORITHMS["grpo"], key: value}


# Round trip

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
zones = st.none() | st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
dates = st.dates() | st.times() | st.datetimes(timezones=zones)
scalars = st.booleans() | numbers | text | dates
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3), max_leaves=8
)
configs = st.fixed_dictionaries(
    {"model": st.fixed_dictionaries({"path": text}, optional={"enable_thinking": st.booleans()})},
    optional={
        "seed": st.integers(0, 2**40),
        "env": text,
        "tasks": text,
        "heldout": text | st.integers(1, 9) | st.floats(0.0, 1.0),
        "env_args": st.dictionaries(text, values, max_size=3),
        "reward_weights": st.dictionaries(text, st.floats(allow_nan=False, allow_infinity=False), max_size=3),
        "warm_start": st.just({})
        | st.fixed_dictionaries(
            {
                "sft": st.fixed_dictionaries(
                    {"steps": st.integers(1, 9)}, optional={"perfect_fraction": st.sampled_from([0.2, 1.0])}
                )
            }
        ),
        "learner": st.fixed_dictionaries(
            {"algorithm": st.sampled_from(["grpo", "trajectory_grpo"])},
            optional={
                "beta": st.sampled_from([0.0, 0.1]),
                "loss_type": st.sampled_from(["clip", "cispo", "mask", "reinforce"]),
                "learning_rate": st.floats(1e-12, 1.0),
            },
        ),
        "eval": st.fixed_dictionaries({"temperature": st.sampled_from([0.0, 0.5]), "every": st.integers(0, 3)}),
    },
)


@given(configs)
def test_a_config_written_as_toml_is_read_as_the_same_config(data: Data) -> None:
    config = load_config(data)
    assert load_config(tomllib.loads(config.to_toml())) == config


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"limit": None}, "limit = None (NoneType)"),
        ({"a": {"b": [1, np.int64(2)]}}, "a.b[1] = np.int64(2) (int64)"),
        ({"cls": Config}, "cls = <class 'agentgrpo.config.run.Config'>"),
        ({"rate": np.float64(0.5)}, "rate = np.float64(0.5)"),
        ({"pair": (1, 2)}, "pair = (1, 2) (tuple)"),
        ({"by": {1: "a"}}, "by = {1: 'a'} (dict)"),
        ({"at": time(1, tzinfo=UTC)}, "at = datetime.time(1, 0"),
    ],
)
def test_an_argument_that_no_file_can_hold_is_named(arguments: Data, key: str) -> None:
    said = message({"env_args": arguments})
    assert said.startswith(f"env_args: {key}")
    assert "cannot be kept in a config file: expected text, numbers" in said


def test_a_date_stays_one(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[env_args]\nstart = 2024-02-29\n")
    written = load_config(file).to_toml()
    assert "start = 2024-02-29\n" in written
    assert tomllib.loads(written)["env_args"] == {"start": date(2024, 2, 29)}


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize(
    "key", ["rollout.temperature", "rollout.tool_seconds", "train.max_hours", "learner.beta", "reward_weights.a"]
)
def test_a_number_must_be_finite(key: str, number: float) -> None:
    assert f"{key} = {number}: Input should be" in message({}, f"{key}={number}")


def test_a_limit_that_a_default_leaves_without_effect_is_no_error() -> None:
    data = {"engine": {"max_sequences": 3}, "rollout": {"episode_seconds": 9.0, "max_tokens": 99}}
    written = load_config(data).to_toml()
    assert written.count("concurrency") + written.count("generate_seconds") + written.count("max_turn_tokens") == 0
    assert load_config(tomllib.loads(written)) == load_config(data)


def test_what_is_written_holds_every_default_that_has_an_effect() -> None:
    written = tomllib.loads(Config().to_toml())
    assert written["rollout"]["group_size"] == 8
    assert "kl_estimator" not in written["learner"]
    assert "top_p" not in written["eval"]


# Files


def test_neighbours_of_a_config_file_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "project"
    (folder / "inner").mkdir(parents=True)
    for name in ("rows.jsonl", "test.jsonl", "mine.py", "inner/env.py"):
        (folder / name).write_text("")
    file = folder / "run.toml"
    file.write_text('env = "mine:Env"\ntasks = "rows.jsonl"\nheldout = "test.jsonl"\n')
    monkeypatch.chdir(tmp_path)
    config = load_config(file)
    assert config.env == f"{folder / 'mine.py'}:Env"
    assert (config.tasks, config.heldout) == (str(folder / "rows.jsonl"), str(folder / "test.jsonl"))
    file.write_text('env = "inner.env:Env"\ntasks = "elsewhere.jsonl"\nheldout = "heldout"\n')
    config = load_config("project/run.toml")
    assert config.env == f"{folder / 'inner' / 'env.py'}:Env"
    assert (config.tasks, config.heldout) == ("elsewhere.jsonl", "heldout")


def test_the_reward_and_the_rubric_beside_a_config_file_are_found_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    for name in ("mine.py", "rubric.md"):
        (folder / name).write_text("x")
    file = folder / "run.toml"
    judge = '[judge]\nendpoint = "http://h"\nmodel = "m"\nrubric_file = "rubric.md"\n'
    monkeypatch.chdir(tmp_path)
    for name in ("mine:score", "mine.py:score"):
        file.write_text(f'reward = "{name}"\n{judge}')
        config = load_config(file)
        assert config.reward == f"{folder / 'mine.py'}:score"
        assert config.judge is not None
        assert config.judge.rubric_file == str(folder / "rubric.md")
    file.write_text(f'reward = "elsewhere:score"\n{judge.replace("rubric.md", "other.md")}')
    config = load_config(file)
    assert config.judge is not None
    assert (config.reward, config.judge.rubric_file) == ("elsewhere:score", "other.md")


def test_a_shipped_name_and_a_module_elsewhere_stay_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    for env in ("shop", "agentgrpo/Shop-v0", "package.module:Env"):
        file.write_text(f'env = "{env}"\n')
        assert load_config(file).env == env


def test_keys_given_beside_a_file_win_and_none_is_no_key(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('env = "shop"\nname = "a"\n')
    config = load_config(file, overrides=["env=lockbox"], env="mine:Env", name=None)
    assert (config.env, config.name) == ("mine:Env", "a")


def test_a_file_that_is_missing_is_answered_with_those_there(tmp_path: Path) -> None:
    (tmp_path / "locker.toml").write_text("")
    said = message(tmp_path / "lokcer.toml")
    assert "no config file" in said
    assert "TOML files there: locker.toml." in said
    assert "TOML files there: none." in message(tmp_path / "nowhere" / "x.toml")


@pytest.mark.parametrize("content", [b"seed = ", b"seed = 1\nseed = 2", b"name = '\xff\xfe'", b"\x00"])
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "bad.toml"
    file.write_bytes(content)
    said = message(file)
    assert str(file) in said
    assert "is not a readable TOML file" in said


def test_a_folder_is_no_config_file(tmp_path: Path) -> None:
    assert "is not a readable TOML file" in message(tmp_path)


def test_a_section_can_be_validated_alone() -> None:
    with pytest.raises(ConfigError, match=r"\[sft\] steps = 0: Input should be greater than 0"):
        validate(SftConfig, {"steps": 0}, where="[sft] ")
