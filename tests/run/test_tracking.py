from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agentgrpo.config.run import Config, load_config
from agentgrpo.errors import ConfigError
from agentgrpo.run.tracking import Trackers, check_trackers

# A tracker package as wandb and trackio are shaped: init() returns a run with log() and finish().
PACKAGE = """
calls = []
class Run:
    def log(self, metrics, step):
        calls.append(("log", step, metrics))
    def finish(self):
        calls.append(("finish",))
def init(*, project, name, config):
    calls.append(("init", project, name, config["seed"]))
    return Run()
"""


def tracked(name: str) -> Config:
    return load_config({"seed": 7, "train": {"track": [name]}})


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_tracker_that_is_not_installed_is_named_with_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard" if name == "tensorboard" else name, None)
    with pytest.raises(
        ConfigError, match=rf"asks for '{name}', which is not installed: pip install 'agentgrpo\[track\]'"
    ):
        check_trackers([name])
    with pytest.raises(ConfigError, match="not installed"):
        Trackers(tracked(name), Path())


@pytest.fixture
def trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "trackio.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    check_trackers(["trackio"])
    yield sys.modules["trackio"]
    del sys.modules["trackio"]


def test_metrics_reach_a_tracker_step_by_step(trackio: Any, tmp_path: Path) -> None:
    trackers = Trackers(tracked("trackio"), tmp_path / "shop-1")
    values: Mapping[str, float] = {"train/reward": 0.5}
    trackers.write(1, values)
    trackers.close()
    assert trackio.calls == [
        ("init", "agentgrpo", "shop-1", 7),
        ("log", 1, {"train/reward": 0.5}),
        ("finish",),
    ]


def test_tensorboard_writes_beside_the_run(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    trackers = Trackers(tracked("tensorboard"), tmp_path)
    trackers.write(1, {"train/reward": 0.5})
    trackers.close()
    assert any((tmp_path / "tensorboard").iterdir())


def test_without_trackers_nothing_is_imported(tmp_path: Path) -> None:
    trackers = Trackers(Config(), tmp_path)
    trackers.write(1, {"train/reward": 0.5})
    trackers.close()
    assert list(tmp_path.iterdir()) == []
