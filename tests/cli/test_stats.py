from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import agentgrpo as ag
from tests.cli.command import Command
from tests.small import EXAMPLE, small_model, small_run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.getbasetemp(), "lockbox")


def rows(out: str) -> dict[str, list[str]]:
    """Return the words of each line by its first word."""
    return {words[0]: words[1:] for line in out.splitlines() if (words := line.split())}


def test_an_environment_in_figures(agentgrpo: Command) -> None:
    done = agentgrpo("env", "stats", "shop", "--episodes", "6")
    assert (done.code, done.err) == (0, "")
    found = rows(done.out)
    assert found["train"] == ["4,500", "1,500", "1,500", "1,500"]
    assert found["heldout_templates"][0] == "252"
    assert found["oracle"][:4] == ["1.00", "(0.61-1.00)", "1.00", "±0.00"]
    assert found["nothing"][0] == found["random"][0] == "0.00"
    assert "tokens: one for 4 characters; --model FOLDER counts them" in done.out
    assert "(16 groups of 8)" in done.out
    assert "to 1.00 (oracle). Whether a model can learn from it depends on the model" in done.out


def test_it_fits_a_narrow_screen(agentgrpo: Command) -> None:
    done = agentgrpo("env", "stats", "lockbox", "--episodes", "3", columns=80)
    assert "…" not in done.out
    assert max(map(len, done.out.splitlines())) <= 80


def test_a_model_counts_tokens_and_says_whether_there_is_anything_to_learn(agentgrpo: Command, model: Path) -> None:
    words = ["--set", "model.enable_thinking=false", "--set", "rollout.group_size=4", "--set", "rollout.max_turns=5"]
    done = agentgrpo("env", "stats", "lockbox", "--model", model, "--groups", 4, "--episodes", 3, *words)
    assert done.code == 0, done.err
    assert f"tokens of {model}" in done.out
    assert "of 4 groups differ, by 0." in done.out
    last = done.out.split("Is there anything to learn from?")[1]
    assert last.split()[0] in ("Yes:", "Little:", "No:")


def test_a_run_is_asked_as_it_is(agentgrpo: Command, model: Path, tmp_path: Path) -> None:
    run = ag.train(small_run(model, tmp_path / "runs"))
    done = agentgrpo("env", "stats", "lockbox", "--run", run.path, "--groups", 4, "--episodes", 3)
    assert done.code == 0, done.err
    assert f"{run.path.name}, train steps 1 to 2" in done.out
    assert "Is there anything to learn from?" in done.out
    narrow = agentgrpo("env", "stats", "lockbox", "--run", run.path, "--groups", 4, "--episodes", 3, columns=80)
    assert "…" not in narrow.out  # a long name is broken, no number is cut


def test_a_config_gives_tasks_limits_and_tokenizer(
    agentgrpo: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "locker", ignore=shutil.ignore_patterns("models", "runs", "__pycache__"))
    monkeypatch.chdir(tmp_path / "locker")
    done = agentgrpo("env", "stats", "locker.toml", "--episodes", 3)
    assert done.code == 0, done.err
    assert rows(done.out)["heldout"] == ["80"]
    assert "at most 6,144 (8 groups of 8)" in done.out


def test_an_environment_without_tasks_or_oracle_is_measured_too(agentgrpo: Command, tmp_path: Path) -> None:
    (tmp_path / "bare.py").write_text(
        "import agentgrpo as ag\n"
        "class Bare(ag.ToolEnv):\n"
        '    """Nothing to do."""\n'
        "    def reset_task(self, task):\n"
        "        return f'Look at {self.np_random.integers(100)}.'\n"
        "    @ag.tool\n"
        "    def look(self) -> str:\n"
        '        """Look."""\n'
        "        return 'seen'\n"
        "    def reward(self):\n"
        "        return 0.0\n"
    )
    done = agentgrpo("env", "stats", f"{tmp_path / 'bare.py'}:Bare", "--episodes", 4)
    assert done.code == 0, done.err
    assert "no tasks: each seed makes an episode" in done.out
    assert "episodes of the random" in done.out
    assert "to what nobody knows: there is no oracle()" in done.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--endpoint", "http://localhost:1/v1"], "--endpoint takes --model NAME"),
        (["--api-key-env", "KEY"], "--api-key-env belongs to --endpoint URL"),
        (["--run", "x", "--model", "y"], "--run tells of recorded episodes: leave out --model"),
        (["--split", "test"], "has no tasks in a split 'test'"),
        (["--run", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_measured_is_told(agentgrpo: Command, words: list[str], told: str) -> None:
    done = agentgrpo("env", "stats", "lockbox", "--episodes", "2", *words)
    assert (done.code, told in " ".join(done.err.split())) == (2, True), done.err


def test_tasks_of_a_file_are_measured(agentgrpo: Command, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps({"seed": seed}) + "\n" for seed in range(7)))
    done = agentgrpo("env", "stats", "lockbox", "--tasks", file, "--episodes", 3)
    assert rows(done.out)["train"] == ["7"]
