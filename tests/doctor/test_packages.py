"""Packages that cannot be imported are found before anything heavy trips over them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agentgrpo.doctor import machine, packages
from agentgrpo.doctor.report import Level
from tests.small import ROOT


def test_this_installation_is_sound() -> None:
    assert {finding.level for finding in packages.check_packages()} == {Level.OK}


@pytest.fixture
def broken_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a torchvision as it is when it was built for another torch."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    info = tmp_path / "torchvision-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_torchvision_of_another_torch(broken_torchvision: Path) -> None:
    found = next(f for f in packages.check_packages() if f.level is Level.FAIL)
    assert "torchvision 0.1 does not work with torch" in found.text
    assert "nms does not exist" in found.text
    assert "pip uninstall torchvision" in found.fix


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_NEEDED", ("no_such_package",))
    found = [f for f in packages.check_packages() if f.level is Level.FAIL]
    assert [f.text for f in found] == ["no_such_package: it is not installed"]


def test_the_command_itself_survives_a_broken_package(broken_torchvision: Path) -> None:
    """The whole command in a process of its own: what it imports must not need what is broken."""
    code = "import sys; sys.argv = ['agentgrpo', 'doctor']; from agentgrpo.cli.main import main; main()"
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{broken_torchvision}:{ROOT}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "pip uninstall torchvision" in done.stdout


def test_a_busy_or_small_machine_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "load", lambda: 50.0)
    monkeypatch.setattr(machine, "disk_free", lambda folder: 1000)
    monkeypatch.setattr(machine, "cores", lambda: 2.0)
    found = list(packages.check_machine(8, "CPU"))
    assert [f.level for f in found] == [Level.OK, Level.WARN, Level.WARN, Level.WARN]
    assert "set train.threads=2" in found[1].fix
