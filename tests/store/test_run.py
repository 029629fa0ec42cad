from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from agentgrpo.errors import UserError
from agentgrpo.store import Metrics, RunDirectory, read_metrics, write_json, write_text


def make_run(root: Path, name: str) -> Path:
    (root / name).mkdir(parents=True)
    write_json(root / name / "run.json", {"name": name})
    return root / name


def test_a_run_is_named_and_stamped_and_never_shared(tmp_path: Path) -> None:
    runs = [RunDirectory.create(tmp_path / "runs", "shop", now=1.75e9) for _ in range(3)]
    stem = runs[0].name
    assert stem.startswith("shop-2025061")
    assert [run.name for run in runs] == [stem, f"{stem}-2", f"{stem}-3"]
    assert runs[0].episodes == tmp_path / "runs" / stem / "episodes.sqlite"


def test_a_folder_that_cannot_be_made_is_the_user_s_to_fix(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file", encoding="utf-8")
    with pytest.raises(UserError, match="no run folder can be made"):
        RunDirectory.create(tmp_path / "runs", "shop")


def test_open_takes_a_run_or_the_newest_of_a_folder(tmp_path: Path) -> None:
    newest = make_run(tmp_path, "b-20250102-000000-2")
    make_run(tmp_path, "z-20250101-235959")
    older = make_run(tmp_path, "c-20250102-000000")
    (tmp_path / "notes").mkdir()
    assert RunDirectory.open(tmp_path).path == newest
    assert RunDirectory.open(older).path == older


def test_a_run_that_is_not_there_lists_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no run\. Expected the folder of a run"):
        RunDirectory.open(tmp_path)
    make_run(tmp_path, "shop-20250101-000000")
    make_run(tmp_path, "lock-20250102-000000")
    with pytest.raises(UserError) as caught:
        RunDirectory.open(tmp_path / "shop-20250101")
    assert "Did you mean 'shop-20250101-000000'?" in str(caught.value)
    assert "lock-20250102-000000, shop-20250101-000000." in str(caught.value)


def test_json_is_replaced_whole_and_secrets_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_json(path, {"a": 1})
    write_json(path, {"key": "hf_" + "a1" * 17, "loss": math.nan, "where": Path("x"), "steps": (1, 2)})
    assert json.loads(path.read_text()) == {"key": "[redacted]", "loss": None, "where": "x", "steps": [1, 2]}
    write_text(tmp_path / "config.toml", "key = 'hf_" + "a1" * 17 + "'")
    assert (tmp_path / "config.toml").read_text() == "key = '[redacted]'"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.toml", "summary.json"]


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \ud800")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


def test_metrics_of_a_step_add_up_and_the_unknown_is_null(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with Metrics(path) as metrics:
        metrics.write(2, {"train/reward": 0.5, "train/kl": math.inf})
        metrics.write(1, {"train/reward": 0.25})
        metrics.write(2, {"train/reward": 0.75, "eval/success": None})
        on_disk = path.read_text().splitlines()
    assert len(on_disk) == 3
    first, second = read_metrics(path)
    assert (first["step"], first["train/reward"]) == (1, 0.25)
    assert second | {"time": 0} == {"step": 2, "time": 0, "train/reward": 0.75, "train/kl": None, "eval/success": None}


@pytest.mark.parametrize("torn", ['{"step": 2, "train/rew', '{"step": 2', "[1, 2]", "7", '{"train/reward": 1}'])
def test_what_a_kill_left_of_a_line_is_dropped(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": 1}\n' + torn, encoding="utf-8")
    assert [row["step"] for row in read_metrics(path)] == [1]
    with Metrics(path) as metrics:
        metrics.write(2, {"a": 2})
    assert [row["a"] for row in read_metrics(path)] == [1, 2]
    assert len(path.read_text().splitlines()) == 2


def test_a_record_that_is_not_json_is_an_error_with_its_place(tmp_path: Path) -> None:
    run = RunDirectory(path=tmp_path)
    assert run.read_record() == {}
    run.record.write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"run.json' is not JSON"):
        run.read_record()
