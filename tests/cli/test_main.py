"""The command line as a person meets it: exit codes, messages, and what each command leaves behind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agentgrpo.config.run import load_config
from agentgrpo.envs import SHIPPED
from agentgrpo.errors import RunError, UserError
from tests.cli.command import Command
from tests.small import EXAMPLE, ROOT, small_model, small_run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.getbasetemp(), "lockbox")


@pytest.fixture(scope="module")
def project(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with run.toml and models/tiny, named relative to it as people do."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(model, folder / "models" / "tiny")
    config = load_config(small_run(Path("models/tiny"), Path("runs"), train={"steps": 1, "threads": 1}))
    (folder / "run.toml").write_text(config.to_toml())
    return folder


# Exit codes


def test_a_users_error_is_one_message_and_exit_code_2(agentgrpo: Command, tmp_path: Path) -> None:
    done = agentgrpo("train", tmp_path / "nowhere.toml")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: no config file")
    assert len(done.err.splitlines()) == 1


def test_python_can_be_asked_for_the_command_by_the_packages_name() -> None:
    def asked(*words: str) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "agentgrpo", *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        return done.returncode, done.stdout, done.stderr

    code, told, _ = asked("--help")
    assert code == 0 and "python -m agentgrpo" in told and "doctor" in told
    code, _, error = asked("train", "nowhere.toml")
    assert code == 2 and error.startswith("error: no config file")


def test_brackets_in_a_message_are_no_markup(agentgrpo: Command, tmp_path: Path) -> None:
    folder = tmp_path / "[bold]\\[x] [/]"
    done = agentgrpo("train", folder / "nowhere.toml")
    assert done.code == 2
    assert str(folder) in done.err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("mend [this]"), 2, "error: mend [this]\n"),
        (RunError("nothing [left]"), 1, "the run stopped: nothing [left]\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_each_kind_of_end_has_its_exit_code(
    agentgrpo: Command, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str
) -> None:
    def fail(name: str) -> None:
        raise error

    monkeypatch.setattr("agentgrpo.cli.main._load", fail)
    done = agentgrpo("env", "list")
    assert (done.code, done.err.lstrip("\n")) == (code, said)


@pytest.mark.parametrize("words", [["fly"], ["train"], ["env", "check"], ["eval", "x", "--no-such-option"]])
def test_a_command_that_is_mistyped_is_exit_code_2(agentgrpo: Command, words: list[str]) -> None:
    assert agentgrpo(*words).code == 2


def test_help_comes_without_torch() -> None:
    code = (
        "import sys; sys.argv = ['agentgrpo', '--help']\n"
        "from agentgrpo.cli.main import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    print('code', end.code)\n"
        "print('loaded', *{'torch', 'transformers', 'peft', 'matplotlib'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines()[-2:] == ["code 0", "loaded"], done.stderr
    for command in ("train", "eval", "show", "demo", "doctor", "env", "model"):
        assert command in done.stdout


# train, eval, show


@pytest.fixture
def trained(project: Path, agentgrpo: Command, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run of `agentgrpo train run.toml`, made once."""
    monkeypatch.chdir(project)
    if not (project / "runs").exists():
        done = agentgrpo("train", "run.toml", "--set", "name=first", "--set", "eval.tasks=3", "--max-hours", "1")
        assert done.code == 0, done.err
        assert "1/1 " in done.out
        assert "agentgrpo eval runs/first-" in done.out
    (run,) = (project / "runs").glob("first-*")
    return run


def test_train_takes_set_and_hours(trained: Path) -> None:
    config = load_config(trained / "config.toml")
    assert (config.name, config.eval.tasks, config.train.max_hours, config.train.steps) == ("first", 3, 1.0, 1)
    assert json.loads((trained / "summary.json").read_text())["heldout_tasks"] == 3
    assert config.model.path == "models/tiny"


def test_train_with_a_key_that_is_wrong_makes_nothing(project: Path, agentgrpo: Command, tmp_path: Path) -> None:
    done = agentgrpo("train", project / "run.toml", "--set", "rollout.group_sise=4", "--set", f"train.runs={tmp_path}")
    assert done.code == 2
    assert "unknown key 'rollout.group_sise'. Did you mean 'group_size'?" in done.err
    assert list(tmp_path.iterdir()) == []


def test_eval_works_from_the_project_and_from_anywhere_else(
    trained: Path, agentgrpo: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = agentgrpo("eval", "runs")
    monkeypatch.chdir(tmp_path)
    there = agentgrpo("eval", trained, "--checkpoint", "last", "--set", "eval.tasks=2")
    assert (here.code, there.code) == (0, 0), there.err
    assert "best, heldout: success " in here.out
    assert "2 episodes of 2 tasks" in there.out
    assert list(tmp_path.iterdir()) == []
    wrong = agentgrpo("eval", trained, "--split", "tset")
    assert (wrong.code, "no split 'tset'" in wrong.err) == (2, True)


def test_show_lists_what_the_run_stored(trained: Path, agentgrpo: Command) -> None:
    done = agentgrpo("show", trained, "--phase", "train")
    assert done.code == 0
    assert "finished" in done.out
    assert "8 of 8 episodes that match, 14 in all" in done.out
    one = agentgrpo("show", trained, "1", "--tokens", "mask")
    assert one.code == 0
    assert "<|im_start|>" in one.out


# env


def test_env_list_names_what_is_shipped(agentgrpo: Command) -> None:
    done = agentgrpo("env", "list")
    assert done.code == 0
    shown = [line.split()[0] for line in done.out.splitlines() if not line.startswith(" ")]  # the others go on
    assert shown == ["name", *SHIPPED]


def test_env_check_finds_a_shipped_environment_sound(agentgrpo: Command) -> None:
    done = agentgrpo("env", "check", "lockbox", "--count", "3")
    assert (done.code, "lockbox is sound" in done.out) == (0, True)
    assert "FAILED" not in done.out


BROKEN = '''
import agentgrpo as ag

class Generous(ag.ToolEnv):
    """Pays whoever does nothing."""
    @classmethod
    def tasks(cls, split="train"):
        return [{"task_id": f"[{split}] {i}"} for i in range(3)]
    def reset_task(self, task):
        return "Do nothing."
    @ag.tool
    def act(self) -> str:
        """Act."""
        return "acted"
    def reward(self):
        return 1.0
'''


def test_env_check_says_what_is_wrong_with_one_in_this_folder(
    agentgrpo: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "generous_env.py").write_text(BROKEN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    done = agentgrpo("env", "check", "generous_env:Generous")
    del sys.modules["generous_env"]
    assert done.code == 1
    line, also = [line for line in done.out.splitlines() if "FAILED" in line]
    assert line.split()[:2] == ["FAILED", "nothing"]
    assert also.split()[:2] == ["FAILED", "random"]
    assert "'[train] " in line  # printed as it stands
    assert "an episode cut off before its first action earns 1, not 0" in line
    assert done.out.splitlines()[-1] == "generous_env:Generous: 2 of 15 checks failed"


def test_env_check_says_a_reason_once_however_many_checks_it_fails(
    agentgrpo: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wordy_env.py").write_text(BROKEN.replace("Generous", "Wordy").replace("return 1.0", "return 'good'"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    done = agentgrpo("env", "check", "wordy_env:Wordy")
    del sys.modules["wordy_env"]
    first, *others = [line for line in done.out.splitlines() if "FAILED" in line]
    assert "gave outcome = 'good'; expected a finite number" in first
    assert len(others) > 5
    assert {line.split(maxsplit=2)[2].strip() for line in others} == {f"for the same reason as {first.split()[1]}"}


def test_an_environment_without_tasks_of_its_own_is_checked_on_a_file(agentgrpo: Command) -> None:
    done = agentgrpo(
        "env", "check", f"{EXAMPLE / 'locker.py'}:Locker", "--tasks", str(EXAMPLE / "lockers.jsonl"), "--count", "2"
    )
    assert (done.code, done.out.splitlines()[-1].rsplit(maxsplit=2)[1:]) == (0, ["is", "sound"])


def test_env_check_of_what_is_not_there(agentgrpo: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = agentgrpo("env", "check", "no_such_module:Env")
    assert (done.code, "cannot import the module 'no_such_module'" in done.err) == (2, True)


# model


def test_model_tiny_and_sft_make_new_folders_only(agentgrpo: Command, tmp_path: Path) -> None:
    tiny, tuned = tmp_path / "tiny", tmp_path / "tuned"
    done = agentgrpo("model", "tiny", tiny, "--env", "lockbox", "--episodes", 20)
    assert done.code == 0, done.err
    assert "qwen3, 0." in done.out
    before = (tiny / "model.safetensors").read_bytes()
    again = agentgrpo("model", "tiny", tiny, "--env", "lockbox", "--episodes", 20)
    assert (again.code, "exists" in again.err) == (2, True)
    done = agentgrpo("model", "sft", tiny, tuned, "--env", "lockbox", "--steps", 2, "--episodes", 8, "--batch-size", 4)
    assert done.code == 0, done.err
    assert "fine-tuned for 2 steps" in done.out
    assert (tiny / "model.safetensors").read_bytes() == before != (tuned / "model.safetensors").read_bytes()
    assert {p.name for p in tiny.iterdir()} == {p.name for p in tuned.iterdir()}
    assert {p.name for p in tmp_path.iterdir()} == {"tiny", "tuned"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model", "sft", "nowhere", "out", "--env", "lockbox"], "cannot load a tokenizer from 'nowhere'"),
        (["model", "sft", "nowhere", "out", "--steps", "0"], "steps = 0: Input should be greater than 0"),
        (["model", "tiny", "out", "--env", "lokbox"], "Did you mean 'lockbox'"),
    ],
)
def test_model_says_what_is_wrong_and_makes_nothing(
    agentgrpo: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = agentgrpo(*words)
    assert (done.code, said in done.err) == (2, True), done.err
    assert list(tmp_path.iterdir()) == []
