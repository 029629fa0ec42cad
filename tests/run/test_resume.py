"""A run that was killed goes on as if it had not been: the same bytes, whatever moment it was killed at.

A kill is a copy of the run's folder, taken while it runs: what a process that died there would have left on the disk.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import agentgrpo as ag
from agentgrpo.engines.embedded import EmbeddedEngine
from agentgrpo.errors import ConfigError, EnvError, ModelError, RunError, TaskError, UserError
from agentgrpo.run.checkpoint import MANIFEST, Checkpoints
from agentgrpo.run.report import SilentReporter
from agentgrpo.store import EpisodeReader, EpisodeStore, Metrics
from agentgrpo.store.lock import RunLock
from agentgrpo.training import train
from tests.small import small_model, small_run

SILENT = SilentReporter()
STEPS = 3


class Listens(SilentReporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def lockbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.getbasetemp(), "lockbox")


def settings(model: Path, runs: Path, **more: Any) -> dict[str, Any]:
    config = small_run(model, runs, **more)
    config["model"] |= {"lora": {"rank": 4, "dropout": 0.1}}
    config["train"] |= {"steps": STEPS, "checkpoint_every": 2}
    return config


def outcome(run: Path) -> dict[str, Any]:
    """Return all that two equal runs have in common."""
    last = run / "checkpoints" / "last"
    trainer = json.loads((last / "trainer.json").read_text())
    del trainer["progress"]["elapsed"], trainer["progress"]["metrics_bytes"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((run / "summary.json").read_text())
    with EpisodeReader(run / "episodes.sqlite") as reader:
        rows = reader.list(limit=1000)
    return {
        "adapter": (last / "adapter_model.safetensors").read_bytes(),
        "optimizer": (last / "optimizer.safetensors").read_bytes(),
        "trainer": trainer,
        "best": (run / "checkpoints" / "best").readlink(),
        "metrics": [{k: v for k, v in line.items() if not k.startswith(("time", "trouble"))} for line in lines],
        "summary": {k: v for k, v in summary.items() if "second" not in k and k != "troubles"},
        "curve": (run / "curve.png").read_bytes(),
        "episodes": sorted((str(row.key), row.reward, row.tokens, row.advantage, row.filter_reason) for row in rows),
        "exact": json.loads((run / "run.json").read_text())["exact"],
    }


@pytest.fixture(scope="module")
def killed(lockbox: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    """A run that nothing stopped, and copies of its folder by the moment they were taken at."""
    runs, copies = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("copies")
    taken: dict[str, Path] = {}

    def take(moment: str) -> None:
        (run,) = runs.iterdir()
        name = f"{len(taken):03d}-{moment}"
        taken[name] = Path(shutil.copytree(run, copies / name, symlinks=True))

    with pytest.MonkeyPatch.context() as patch:
        for owner, method in (
            (EpisodeStore, "add"),
            (EpisodeStore, "set_training"),
            (Metrics, "write"),
            (Checkpoints, "_write"),
            (Checkpoints, "_link"),
            (Checkpoints, "_discard"),
        ):
            watch(patch, owner, method, take)
        patch.setattr("agentgrpo.run.ending.draw_curve", watched("curve", take))
        run = train(settings(lockbox, runs), reporter=SILENT)
    return run.path, taken


def watch(patch: pytest.MonkeyPatch, owner: type, method: str, take: Callable[[str], None]) -> None:
    original = getattr(owner, method)

    async def coroutine(self: Any, *args: Any) -> Any:
        result = await original(self, *args)
        take(method)
        return result

    def function(self: Any, *args: Any) -> Any:
        take(f"before-{method}")
        result = original(self, *args)
        take(method)
        return result

    patch.setattr(owner, method, coroutine if method in ("add", "set_training") else function)


def watched(name: str, take: Callable[[str], None]) -> Callable[..., Any]:
    from agentgrpo.store.curve import draw_curve

    def draw(*args: Any, **kwargs: Any) -> Any:
        take(f"before-{name}")
        return draw_curve(*args, **kwargs)

    return draw


def moments(count: int) -> list[int]:
    return sorted(random.Random(7).sample(range(1000), count))


@pytest.mark.parametrize("place", moments(5))
def test_a_killed_run_ends_as_if_it_had_not_been(
    killed: tuple[Path, dict[str, Path]], place: int, tmp_path: Path
) -> None:
    run, copies = killed
    name = sorted(copies)[place * len(copies) // 1000]
    copy = tmp_path / "run"
    shutil.copytree(copies[name], copy, symlinks=True)
    again = train(resume=copy, reporter=SILENT)
    assert again.path == copy
    expected, found = outcome(run), outcome(copy)
    for what, value in expected.items():
        assert found[what] == value, (name, what)


def test_the_moments_are_of_every_kind(killed: tuple[Path, dict[str, Path]]) -> None:
    kinds = {name.split("-", 1)[1] for name in killed[1]}
    assert {"add", "set_training", "write", "before-_write", "_write", "_link", "before-curve"} <= kinds


@pytest.mark.slow
def test_whatever_the_moment(killed: tuple[Path, dict[str, Path]], tmp_path: Path) -> None:
    run, copies = killed
    expected = outcome(run)
    for name, path in copies.items():
        train(resume=path, reporter=SILENT)
        assert outcome(path) == expected, name


@pytest.fixture
def half(killed: tuple[Path, dict[str, Path]], tmp_path: Path) -> Path:
    """A run that was killed in the rollout of its second step, which has a checkpoint of the first."""
    _, copies = killed
    names = [name for name in copies if name.endswith("-add")]
    copy = tmp_path / "half"
    for name in reversed(names):
        with EpisodeReader(copies[name] / "episodes.sqlite") as reader:
            row = reader.list(limit=1)[0]
        if (row.phase, row.step) == ("train", 2):
            return Path(shutil.copytree(copies[name], copy, symlinks=True))
    raise AssertionError("no copy was taken in the rollout of step 2")


def test_what_had_ended_is_not_run_again(half: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with EpisodeReader(half / "episodes.sqlite") as reader:
        before = {str(row.key): row.id for row in reader.list(limit=1000)}
    train(resume=half, reporter=SILENT)
    with EpisodeReader(half / "episodes.sqlite") as reader:
        after = {str(row.key): row.id for row in reader.list(limit=1000)}
    assert before.items() <= after.items()


def test_the_clock_goes_on(half: Path) -> None:
    checkpoint = half / "checkpoints" / "last"
    before = json.loads((checkpoint / "trainer.json").read_text())["progress"]["elapsed"]
    run = train(resume=half, reporter=SILENT)
    assert run.summary["wall_seconds"] >= round(before, 1)
    record = json.loads((half / "run.json").read_text())
    assert (record["status"], [r["step"] for r in record["resumes"]]) == ("finished", [1])


# What may and may not change


def test_a_finished_run_says_so_and_can_be_trained_for_longer(
    killed: tuple[Path, dict[str, Path]], lockbox: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(killed[0], tmp_path / "copy", symlinks=True))
    with pytest.raises(UserError, match=r"is finished \(3 train steps\).*--set train.steps=6"):
        train(resume=copy, reporter=SILENT)
    longer = train(resume=copy, overrides=["train.steps=4"], reporter=SILENT)
    config = settings(lockbox, tmp_path / "runs")
    config["train"] |= {"steps": 4}
    whole = outcome(train(config, reporter=SILENT).path)
    found = outcome(longer.path)
    for what in ("adapter", "optimizer", "metrics", "curve"):
        assert found[what] == whole[what]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("learner.learning_rate=0.1", "learner.learning_rate was 0.005, cannot become 0.1"),
        ("rollout.group_size=2", "rollout.group_size was 4, cannot become 2"),
        ("model.lora.rank=8", "model.lora.rank was 4, cannot become 8"),
        ("seed=1", "seed was 0, cannot become 1"),
    ],
)
def test_a_key_that_would_make_it_another_run_is_named(half: Path, override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        train(resume=half, overrides=[override], reporter=SILENT)


def test_the_length_of_a_schedule_that_is_not_constant_stays(lockbox: Path, tmp_path: Path) -> None:
    config = settings(lockbox, tmp_path, learner={"schedule": "linear"})
    run = train(config, overrides=["train.steps=1"], reporter=SILENT)
    with pytest.raises(ConfigError, match=r"train\.steps was 1, cannot become 2: the learning rate of every step"):
        train(resume=run.path, overrides=["train.steps=2"], reporter=SILENT)


def test_the_same_config_may_be_given_once_more(half: Path, lockbox: Path, tmp_path: Path) -> None:
    config = settings(lockbox, tmp_path)
    config["train"] |= {"runs": json.loads((half / "run.json").read_text())["config"]["train"]["runs"]}
    assert train(config, resume=half, reporter=SILENT).summary["train_steps"] == STEPS


def test_another_model_is_refused(half: Path, lockbox: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(lockbox, tmp_path / "other"))
    (other / "config.json").write_text((other / "config.json").read_text() + " ")
    with pytest.raises(ModelError, match="has other files or weights than when the run began"):
        train(resume=half, overrides=[f"model.path={other}"], reporter=SILENT)
    moved = Path(shutil.copytree(lockbox, tmp_path / "moved"))
    assert train(resume=half, overrides=[f"model.path={moved}"], reporter=SILENT).summary["train_steps"] == STEPS


def test_other_tasks_are_refused_and_lost_ones_are_read_again(half: Path) -> None:
    (half / "tasks.jsonl").write_text((half / "tasks.jsonl").read_text()[20:])
    with pytest.raises(TaskError, match="the tasks are not those the run"):
        train(resume=half, tasks=[{"task_id": "a"}, {"task_id": "b"}, {"task_id": "c"}], reporter=SILENT)
    assert train(resume=half, reporter=SILENT).summary["train_steps"] == STEPS


class Presser(ag.ToolEnv):
    """Is found by no name from another process."""

    @classmethod
    def tasks(cls, split: str = "train") -> list[dict[str, Any]]:
        return [{"task_id": f"{split}-{i}"} for i in range(4)]

    def reset_task(self, task: dict[str, Any]) -> str:
        return "digit: 3"

    @ag.tool
    def press(self, digit: int) -> str:
        """Press one digit."""
        return "done"

    def reward(self) -> float:
        return float(len(self.task["task_id"]))


def test_a_class_that_no_name_reaches_must_be_passed(lockbox: Path, tmp_path: Path) -> None:
    class Local(Presser):
        """Lives in a function."""

    config = settings(lockbox, tmp_path, env="", env_args={})
    run = train(config, env=Local, overrides=["train.steps=1"], reporter=SILENT)
    with pytest.raises(EnvError, match=r"given as a class that no name can reach.*train\(resume=.*, env=Local\)"):
        train(resume=run.path, overrides=["train.steps=2"], reporter=SILENT)
    again = train(resume=run.path, env=Local, overrides=["train.steps=2"], reporter=SILENT)
    assert again.summary["train_steps"] == 2


def test_changed_code_is_noted(lockbox: Path, tmp_path: Path) -> None:
    code = "from tests.run.test_resume import Presser\nclass Mine(Presser):\n    pass\n"
    (tmp_path / "one.py").write_text(code)
    config = settings(lockbox, tmp_path / "runs", env=f"{tmp_path}/one.py:Mine", env_args={})
    run = train(config, overrides=["train.steps=1"], reporter=SILENT)
    (tmp_path / "two.py").write_text(code + "# another reward\n")
    listens = Listens()
    overrides = ["train.steps=2", f"env={tmp_path}/two.py:Mine"]
    train(resume=run.path, overrides=overrides, reporter=listens)
    assert any("the code of the environment two:Mine was changed" in said for said in listens.said)
    record = json.loads((run.path / "run.json").read_text())
    assert record["exact"] is False
    assert "was changed" in record["inexact"][0]


def test_a_machine_that_makes_other_numbers_is_noted(half: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = json.loads((half / "run.json").read_text())
    here, record["numbers"] = record["numbers"], dict.fromkeys(("device", "dtype", "threads", "processor"), "other")
    (half / "run.json").write_text(json.dumps(record))
    monkeypatch.setattr(EmbeddedEngine, "is_batch_invariant", False)
    listens = Listens()
    train(resume=half, reporter=listens)
    record = json.loads((half / "run.json").read_text())
    reasons = [f"the {key} was other, is {value}" for key, value in here.items()]
    assert [said.startswith(f"note: {reasons[0]}: ") for said in listens.said].count(True) == 1
    assert (record["exact"], record["inexact"][:4]) == (False, reasons)
    assert "self-check failed" in record["inexact"][4]


def test_only_one_process_trains_in_a_folder(half: Path) -> None:
    with RunLock(half), pytest.raises(UserError, match=r"is being trained by process \d+"):
        train(resume=half, reporter=SILENT)
    assert train(resume=half, reporter=SILENT).summary["train_steps"] == STEPS


# What a disk may have done


@pytest.mark.parametrize("file", [MANIFEST, "optimizer.safetensors"])
def test_a_damaged_checkpoint_is_named_and_an_older_one_taken(
    killed: tuple[Path, dict[str, Path]], half: Path, file: str
) -> None:
    path = half / "checkpoints" / "step-000001" / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    listens = Listens()
    train(resume=half, reporter=listens)
    assert sum("checkpoint step-000001 is damaged" in said for said in listens.said) == 1
    assert outcome(half) == outcome(killed[0])


def test_without_any_whole_checkpoint_nothing_is_made_up(half: Path) -> None:
    for manifest in half.glob(f"checkpoints/step-*/{MANIFEST}"):
        manifest.unlink()
    with pytest.raises(UserError, match=r"no checkpoint in .* is whole"):
        train(resume=half, reporter=SILENT)


def test_cut_off_episodes_are_set_aside_and_made_again(killed: tuple[Path, dict[str, Path]], half: Path) -> None:
    path = half / "episodes.sqlite"
    EpisodeStore(path).close()
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    listens = Listens()
    train(resume=half, reporter=listens)
    assert any("episodes.sqlite was damaged" in said for said in listens.said)
    assert list(half.glob("episodes.damaged-*.sqlite"))
    found, expected = outcome(half), outcome(killed[0])
    for what in ("adapter", "metrics", "summary", "curve"):
        assert found[what] == expected[what]


def test_a_torn_line_of_metrics_is_made_again(killed: tuple[Path, dict[str, Path]], half: Path) -> None:
    with (half / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1, "eval/succ')
    train(resume=half, reporter=SILENT)
    assert outcome(half)["metrics"] == outcome(killed[0])["metrics"]


def test_a_folder_without_a_beginning_cannot_go_on(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(UserError, match="was stopped before it began"):
        train(resume=tmp_path, reporter=SILENT)
    with pytest.raises(ConfigError, match="nothing to train"):
        train(reporter=SILENT)


class Sleepy(Presser):
    """Is down until somebody wakes it."""

    metadata = {"isolation": "inline"}  # noqa: RUF012
    is_awake = False

    def reset_task(self, task: dict[str, Any]) -> str:
        if not Sleepy.is_awake and "train" in task["task_id"]:
            raise ag.ToolFailure("the database is asleep")
        return super().reset_task(task)


def test_what_failed_in_a_run_that_failed_is_tried_again(lockbox: Path, tmp_path: Path) -> None:
    config = settings(lockbox, tmp_path, env="", env_args={})
    with pytest.raises(RunError, match="the database is asleep"):
        train(config, env=Sleepy, reporter=SILENT)
    (run,) = tmp_path.iterdir()
    Sleepy.is_awake = True
    try:
        assert train(resume=run, env=Sleepy, reporter=SILENT).summary["train_steps"] == STEPS
    finally:
        Sleepy.is_awake = False
