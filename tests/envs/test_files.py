from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgrpo.envs.files.env import Files
from agentgrpo.envs.files.templates import HELDOUT_TEMPLATES, TEMPLATES, TRAIN_TEMPLATES
from agentgrpo.envs.files.world import (
    AMOUNTS,
    HELDOUT_SEED,
    ITEMS,
    KINDS,
    OWNERS,
    STATUSES,
    SUBS,
    TOPS,
    is_heldout_pair,
    make_world,
)
from agentgrpo.envs.rows import SPLITS
from agentgrpo.errors import EnvError
from agentgrpo.tools.appstate import patch
from agentgrpo.types import JsonObject
from tests.envs.playing import do, finish, one_of_each, row_of, solve, start, words
from tests.hostile_paths import hostile_paths

ONE_OF_EACH = one_of_each(Files)
ROWS = {split: Files.tasks(split) for split in SPLITS}


@pytest.fixture(scope="module")
def files() -> Iterator[Files]:
    env = Files()
    yield env
    env.close()


@pytest.fixture(scope="module")
def solved(files: Files) -> dict[str, list[tuple[JsonObject, float, list[str]]]]:
    """Rows with the oracle's reward at quality 1 and everything said, by split; of the rows one in five."""
    return {split: [(row, *solve(files, row)) for row in rows[::5]] for split, rows in ROWS.items()}


def test_heldout_parts_occur_in_training_and_heldout_paths_do_not() -> None:
    trained = {(t.selector.name, t.effect.name) for t in TRAIN_TEMPLATES}
    for template in HELDOUT_TEMPLATES:
        assert template.selector.name in {selector for selector, _ in trained}
        assert template.effect.name in {effect for _, effect in trained}
        assert (template.selector.name, template.effect.name) not in trained
    for split, rows in ROWS.items():
        for row in rows:
            assert pairs(row), row
            assert {is_heldout_pair(*pair) for pair in pairs(row)} == {split != "train"}
    said = {split: {row["instruction"] for row in rows} for split, rows in ROWS.items()}
    assert not said["train"] & (said["heldout"] | said["heldout_templates"])


def pairs(row: JsonObject) -> set[tuple[str, str]]:
    """Return the pairs of a top-level folder and a name below it that a goal speaks of."""
    goal = row["goal"]
    found = {(goal["top"].strip("/"), goal["name"])} if "name" in goal else set()
    for key in ("path", "folder", "to"):
        top, *below = goal.get(key, "/").strip("/").split("/")
        found |= {(top, name) for name in below}
    return found


@pytest.mark.parametrize("seed", [0, 7, HELDOUT_SEED, HELDOUT_SEED + 7])
def test_a_world_holds_pairs_of_its_own_kind_only(seed: int) -> None:
    world = make_world(seed)
    paths = [file.path for file in world.files] + list(world.free_folders)
    paths += [f"{folder.path}/{name}" for folder in world.folders for name in folder.free_names]
    for path in paths:
        top, *below = path.strip("/").split("/")
        assert {is_heldout_pair(top, name) for name in below} == {seed >= HELDOUT_SEED}
    for folder in world.folders:
        names = [file.name for other in world.folders if other.top == folder.top for file in other.files]
        assert len(names) == len(set(names))  # so that a name under a top-level folder means one file
        assert not set(names) & set(folder.free_names)


def test_rows_are_small_json_and_do_not_say_where_a_file_is_unless_by_path() -> None:
    for rows in ROWS.values():
        for row in rows:
            assert len(json.dumps(row)) < 400
            assert ("path" in row["goal"]) == row["template"].endswith("_path")


def test_inventory_has_no_word_with_two_meanings_and_none_that_grep_finds_in_another() -> None:
    everything = [*TOPS, *SUBS, *KINDS, *OWNERS, *ITEMS, *STATUSES, *map(str, AMOUNTS), "owner", "status", "amount"]
    assert len(everything) == len(set(everything))
    for sought in (*OWNERS, "draft"):
        assert [word for word in everything if sought in word] == [sought]


def test_oracle_solves_every_template(solved: dict[str, list[tuple[JsonObject, float, list[str]]]]) -> None:
    assert [row["task_id"] for rows in solved.values() for row, reward, _ in rows if reward != 1.0] == []
    assert {row["template"] for rows in solved.values() for row, _, _ in rows} == set(TEMPLATES)


@pytest.mark.slow
def test_oracle_solves_every_row_and_doing_nothing_none(files: Files) -> None:
    for rows in ROWS.values():
        for row in rows:
            assert solve(files, row)[0] == 1.0
            start(files, row)
            assert finish(files, "done") == (0.0, {"outcome": 0.0, "side_effects": 0.0})


def test_every_heldout_word_is_a_training_word(solved: dict[str, list[tuple[JsonObject, float, list[str]]]]) -> None:
    known = words([text for _, _, said in solved["train"] for text in said])
    for split in SPLITS[1:]:
        copied = [said for row, _, said in solved[split] if not row["template"].startswith("total")]  # a sum is not
        assert words([text for said in copied for text in said]) <= known


def test_episodes_are_short(solved: dict[str, list[tuple[JsonObject, float, list[str]]]]) -> None:
    sizes = [sum(map(len, said)) for rows in solved.values() for _, _, said in rows]
    assert max(sizes) < 1000
    assert sum(sizes) / len(sizes) < 500


def test_random_commands_earn_about_nothing(files: Files) -> None:
    rng = random.Random(0)
    rewards = []
    for row in ROWS["train"][:220]:
        offered = files.reset(options={"task": row})[1]["tools"]
        seen: list[Any] = ["/", "ro", 1, *re.findall(r"[\w/]+", row["instruction"])]
        for _ in range(rng.randrange(6)):
            function = rng.choice(offered)["function"]
            arguments = {name: rng.choice(seen) for name in function["parameters"]["properties"]}
            seen += re.findall(r"[\w/]+", json.dumps(do(files, function["name"], **arguments)))
        rewards.append(finish(files, str(rng.choice(seen)))[0])
    assert -0.2 < sum(rewards) / len(rewards) < 0.05


def test_a_more_careless_keeper_earns_less(files: Files) -> None:
    rows = ROWS["train"][:110]
    means = [sum(solve(files, row, quality, i)[0] for i, row in enumerate(rows)) / 110 for quality in (1, 0.5, 0)]
    assert means[0] == 1.0 > means[1] > means[2] > 0


def test_a_side_effect_costs_and_voids_the_outcome(files: Files) -> None:
    row = row_of(Files, "delete_path")
    start(files, row)
    do(files, "rm", path=row["goal"]["path"])
    assert finish(files) == (1.0, {"outcome": 1.0, "side_effects": 0.0})
    do(files, "mkdir", path="/mine")
    assert finish(files) == (-0.5, {"outcome": 0.0, "side_effects": -0.5})


def test_what_is_taken_back_is_no_side_effect(files: Files) -> None:
    row = row_of(Files, "delete_path")
    start(files, row)
    do(files, "mkdir", path="/mine")
    do(files, "rm", path="/mine/../mine//")
    do(files, "rm", path=row["goal"]["path"])
    assert finish(files) == (1.0, {"outcome": 1.0, "side_effects": 0.0})


def test_part_of_the_way_is_no_side_effect(files: Files) -> None:
    row = row_of(Files, "move_new_last")
    start(files, row)
    do(files, "mkdir", path=row["goal"]["to"])
    assert finish(files) == (0.0, {"outcome": 0.0, "side_effects": 0.0})


@pytest.mark.parametrize(
    ("template", "tool", "arguments"),
    [
        ("append_path", "write", {"text": "item {item}"}),  # overwrites
        ("append_path", "append", {"text": "{item}"}),
        ("move_path", "cp", {"to": "{to}"}),  # leaves the original
        ("move_path", "mv", {"to": "/"}),
        ("lock_path", "chmod", {"mode": "rw"}),
        ("delete_path", "write", {"text": ""}),  # empty is not gone
    ],
)
def test_nearly_right_is_wrong(files: Files, template: str, tool: str, arguments: dict[str, str]) -> None:
    row = row_of(Files, template)
    start(files, row)
    goal = row["goal"]
    do(files, tool, path=goal["path"], **{name: value.format(**goal) for name, value in arguments.items()})
    assert finish(files)[0] <= 0.0


def test_a_lock_that_was_opened_has_to_be_closed(files: Files) -> None:
    row = row_of(Files, "append_locked_path")
    start(files, row)
    path, text = row["goal"]["path"], f"item {row['goal']['item']}"
    assert "read-only" in do(files, "append", path=path, text=text)["error"]["message"]
    do(files, "chmod", path=path, mode="rw")
    do(files, "append", path=path, text=text)
    assert finish(files) == (-0.5, {"outcome": 0.0, "side_effects": -0.5})
    do(files, "chmod", path=path, mode="ro")
    assert finish(files)[0] == 1.0


@pytest.mark.parametrize(("said", "reward"), [("{}", 1.0), (" {}. ", 1.0), ("about {}", 0.0), ("", 0.0), ("0", 0.0)])
def test_the_answer_counts(files: Files, said: str, reward: float) -> None:
    row = row_of(Files, "lines_path")
    start(files, row)
    lines = do(files, "wc", path=row["goal"]["path"])["lines"]
    assert finish(files, said.format(lines))[0] == reward


def test_a_refused_call_is_told_and_changes_nothing(files: Files) -> None:
    start(files, row_of(Files, "delete_path"))
    before = files.state_hash()
    result = do(files, "rm", path="/")
    assert result["error"]["type"] == "tool_error"
    assert files.state_hash() == before


def test_hostile_paths_are_answered_by_every_tool(files: Files) -> None:
    start(files, ROWS["train"][0])
    names = [name for name in files.tools if name not in ("rm", "mv")]  # so that there is something left to read
    for number, path in enumerate(hostile_paths(3, 400)):
        schema = files.tools[names[number % len(names)]].parameters["properties"]
        arguments = {name: 1 if schema[name]["type"] == "integer" else path for name in schema}
        info = files.step(json.dumps(files.call(names[number % len(names)], **arguments)))[4]
        assert "root:" not in info["messages"][0]["content"]


def test_a_fork_is_independent() -> None:
    env, fork = Files(), Files()
    row = row_of(Files, "delete_path")
    start(env, row)
    fork.restore(env.snapshot())
    do(fork, "rm", path=row["goal"]["path"])
    assert fork.state_hash() != env.state_hash()
    assert finish(env)[0] == 0.0
    assert finish(fork)[0] == 1.0


TOOLS = st.sampled_from(("rm", "mv", "cp", "mkdir", "write", "append", "chmod"))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(ONE_OF_EACH), st.lists(TOOLS, max_size=8), st.randoms(use_true_random=False))
def test_hash_and_diff_stay_exact(row: JsonObject, tools: list[str], rng: random.Random) -> None:
    env = Files()
    start(env, row)
    before = env.state()
    paths = [*before["nodes"], "/new", "/new/file"]
    for name in tools:
        given = {"path": rng.choice(paths), "to": rng.choice(paths), "text": rng.choice(ITEMS), "mode": "ro"}
        schema = env.tools[name].parameters["properties"]
        env.step(json.dumps(env.call(name, **{key: given[key] for key in schema})))
        assert env.state_hash() == env.app.content_hash()
    fresh = Files()
    fresh.restore(env.snapshot())
    assert fresh.state_hash() == env.state_hash()
    assert patch(before, env.state()) == patch(before, fresh.state())


def test_templates_levels_and_tools_choose() -> None:
    rows = Files.tasks("train", templates=["delete_path", "delete_name"], levels=[2])
    assert {row["template"] for row in rows} == {"delete_name"}
    env = Files(templates=["delete_name"], tools=["find", "rm"])
    info = env.reset(seed=1)[1]
    assert env.task["template"] == "delete_name"
    assert [tool["function"]["name"] for tool in info["tools"]] == ["find", "rm"]


def test_tools_that_do_not_do_are_refused() -> None:
    with pytest.raises(EnvError, match="need the tool 'find'"):
        Files(templates=["delete_path", "delete_name"], tools=["rm"])
