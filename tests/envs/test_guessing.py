"""What an agent wins that gives one answer always and never looks: bounded, and what docs/apps.md says of it."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from agentgrpo.envs.files.env import Files
from agentgrpo.envs.shop.env import Shop
from agentgrpo.envs.template_env import TemplateEnv
from agentgrpo.envs.workspace.env import Workspace

GUESSED: dict[tuple[type[TemplateEnv], str], float] = {
    (Workspace, "free_name"): 0.65,
    (Files, "status_path"): 0.41,
    (Files, "status_name"): 0.43,
    (Files, "lines_path"): 0.27,
    (Files, "lines_owner"): 0.27,
    (Shop, "status_id"): 0.36,
    (Shop, "status_item"): 0.33,
}


@pytest.mark.slow  # all training rows are made
@pytest.mark.parametrize(("env_class", "template"), GUESSED)
def test_one_answer_always_wins_the_share_of_a_template_that_the_page_says(
    env_class: type[TemplateEnv], template: str
) -> None:
    env = env_class(templates=[template])
    cases = [env.case_of(row) for row in env_class.tasks() if row["template"] == template]
    assert all(case.answer is not None and not case.changes for case in cases)
    answers = Counter(json.dumps(case.answer) for case in cases)
    assert answers.most_common(1)[0][1] / len(cases) == pytest.approx(GUESSED[env_class, template], abs=0.005)
    env.close()
