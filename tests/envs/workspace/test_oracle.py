from __future__ import annotations

import json
import random
import re

import pytest

from agentgrpo.envs.rows import SPLITS
from agentgrpo.envs.workspace.env import Workspace
from agentgrpo.envs.workspace.parts import Template
from agentgrpo.envs.workspace.templates import TEMPLATES, TRAIN_TEMPLATES
from agentgrpo.tools.workspace import DAYS, REPLIES
from agentgrpo.types import JsonObject
from tests.envs.playing import NOTHING, finish, say, solve, start, words
from tests.envs.workspace.playing import ONE_OF_EACH, ROWS, some_rows

# For the default run; every row is played in a slow test.
SOME = [*some_rows("train", 6), *some_rows("heldout", 2), *some_rows("heldout_templates", 3)]


@pytest.fixture(scope="module")
def solved(office: Workspace) -> dict[str, tuple[float, list[str]]]:
    """Some rows' reward and texts with the oracle at quality 1, by task id."""
    return {row["task_id"]: solve(office, row) for row in SOME}


def test_oracle_solves_rows_of_every_template(solved: dict[str, tuple[float, list[str]]]) -> None:
    assert {task_id.split("-")[1] for task_id in solved} == set(TEMPLATES)
    assert [task_id for task_id, (reward, _) in solved.items() if reward != 1.0] == []


@pytest.mark.slow
def test_oracle_solves_every_row_and_every_heldout_word_is_a_training_word(office: Workspace) -> None:
    said: dict[str, set[str]] = {}
    for split in SPLITS:
        played = [solve(office, row) for row in ROWS[split]]
        assert {reward for reward, _ in played} == {1.0}
        said[split] = words([text for _, texts in played for text in texts])
    assert said["heldout"] | said["heldout_templates"] <= said["train"]


def test_episodes_are_short(solved: dict[str, tuple[float, list[str]]]) -> None:
    sizes = [sum(map(len, said)) for _, said in solved.values()]
    assert max(sizes) < 1000
    assert sum(sizes) / len(sizes) < 500


@pytest.mark.parametrize("row", ONE_OF_EACH, ids=lambda row: row["template"])
def test_doing_nothing_earns_exactly_nothing(row: JsonObject) -> None:
    for progress in (0.0, 0.2):
        env = Workspace(progress=progress)
        start(env, row)
        reward, terms = finish(env)
        assert (reward, terms) == (0.0, NOTHING | ({"progress": 0.0} if progress else {}))
        env.close()


def test_random_assistant_earns_about_nothing(office: Workspace) -> None:
    rng = random.Random(0)
    rewards = []
    for row in SOME:
        info = office.reset(options={"task": row})[1]
        seen = [*DAYS, *REPLIES, *re.findall(r"\w+", row["instruction"])]
        reward, terminated = 0.0, False
        for _ in range(rng.randrange(6)):
            function = rng.choice(info["tools"])["function"]
            arguments = {name: rng.choice(seen) for name in function["parameters"]["properties"]}
            _, reward, terminated, _, info = office.step(json.dumps(office.call(function["name"], **arguments)))
            seen += re.findall(r"\w+", info["messages"][0]["content"])
            if terminated:
                break
        rewards.append(reward if terminated else finish(office)[0])
    assert len(rewards) > 300
    assert -0.2 < sum(rewards) / len(rewards) < 0.02
    assert sum(reward == 1.0 for reward in rewards) < 0.02 * len(rewards)


def test_who_only_asks_earns_nothing_and_is_left(office: Workspace) -> None:
    for row in (
        row for row in some_rows("train", 6) if row["template"].endswith(("_asked", "_agreed_name", "_changed"))
    ):
        start(office, row)
        replies = 0
        while say(office, "What day, hour, room and text do you want?") is not None:
            replies += 1
        assert replies == 10
        assert office.score() == NOTHING


def test_a_worse_assistant_earns_less(office: Workspace) -> None:
    for level in (1, 2, 3):
        rows = [row for row in ROWS["train"] if row["level"] == level][:60]
        means = [
            sum(solve(office, row, quality, i)[0] for i, row in enumerate(rows)) / len(rows) for quality in (1, 0.5, 0)
        ]
        assert means[0] == 1.0 > means[1] > means[2]
        assert means[2] < 0.15


def test_the_easiest_level_needs_few_tools() -> None:
    assert len(set().union(*(t.tools for t in TRAIN_TEMPLATES if t.level == 1))) <= 8


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=lambda template: template.name)
def test_a_template_needs_no_other_tools_than_it_says(template: Template) -> None:
    env = Workspace(templates=[template.name] if template in TRAIN_TEMPLATES else None)
    row = next(row for row in ONE_OF_EACH if row["template"] == template.name)
    env._chosen = frozenset(template.tools)
    for quality in (1.0, 0.0):
        _, texts = solve(env, row, quality)
        assert not any("unknown_tool" in text for text in texts)
    env.close()
