"""`agentgrpo doctor` as a person runs it, on a small sound set-up that each test breaks in its own way."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from agentgrpo.cli.main import main
from agentgrpo.config.run import load_config
from tests.small import small_model, small_run


class Examination(NamedTuple):
    """What `agentgrpo doctor --json` said."""

    code: int
    report: dict[str, Any]

    def failures(self) -> dict[str, list[dict[str, Any]]]:
        """Return the findings that failed, by part."""
        parts = self.report["parts"].items()
        found = {name: [f for f in part["findings"] if f["level"] == "fail"] for name, part in parts}
        return {name: findings for name, findings in found.items() if findings}

    def levels(self, part: str) -> list[str]:
        """Return the levels of a part's findings."""
        return [finding["level"] for finding in self.report["parts"][part]["findings"]]


Doctor = Callable[..., Examination]


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Run the command in this process."""

    def run(*words: object) -> Examination:
        monkeypatch.setattr(sys, "argv", ["agentgrpo", "doctor", "--json", *map(str, words)])
        monkeypatch.setattr(sys, "path", list(sys.path))
        with pytest.raises(SystemExit) as caught:
            main()
        code = caught.value.code
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return Examination(code if isinstance(code, int) else 0, json.loads(out))

    return run


@pytest.fixture(scope="session")
def sound_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.getbasetemp(), "lockbox")


@pytest.fixture
def project(sound_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with run.toml and a model, the working directory of the command."""
    shutil.copytree(sound_model, tmp_path / "model")
    config = load_config(small_run(Path("model"), Path("runs")))
    (tmp_path / "run.toml").write_text(config.to_toml())
    monkeypatch.chdir(tmp_path)
    return tmp_path
