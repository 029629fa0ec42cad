from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentgrpo.errors import EnvError
from agentgrpo.tools.sandbox import landlock, tiers
from agentgrpo.tools.sandbox.tiers import TIERS, Trial, examine, facts, strongest
from agentgrpo.tools.sandbox.user import default_python, homes_of, is_open_to_others, own_user

ROOT = Path(__file__).parents[3]


def fake(monkeypatch: pytest.MonkeyPatch, *there: str) -> None:
    """Make a machine that has some tiers: what a tier needs is missing on no machine that runs all the tests."""
    found = {tier: Trial(tier=tier, missing="" if tier in there else f"no {tier} here") for tier in TIERS}
    monkeypatch.setattr(tiers, "examine", found.__getitem__)


def test_the_strongest_that_is_there_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, "process", "landlock")
    assert strongest("process") == strongest("landlock") == "landlock"
    assert strongest("process", "process") == "process"


def test_a_weaker_one_is_never_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, "process", "bubblewrap")
    assert strongest("landlock") == "bubblewrap"
    fake(monkeypatch, "process", "landlock")
    with pytest.raises(
        EnvError, match=r"no sandbox of tier 'namespace' or stronger \(namespace: no namespace here; bub"
    ):
        strongest("namespace")
    with pytest.raises(EnvError, match=r"no sandbox of tier 'bubblewrap' \(bubblewrap: no bubblewrap here\)"):
        strongest("process", "bubblewrap")


def test_an_old_kernel_is_named_with_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "version", lambda: 4)
    monkeypatch.setattr(tiers, "own_user", lambda: None)
    assert "needs Landlock 6 (Linux 6.12); this kernel" in tiers._lacks("landlock")
    assert tiers._lacks("namespace") == ""
    monkeypatch.setattr(tiers, "own_user", lambda: 1)  # a user of its own can signal nobody anyway
    assert tiers._lacks("landlock") == ""
    monkeypatch.setattr(landlock, "version", lambda: 0)
    assert tiers._lacks("namespace").endswith("has none switched on")


def test_other_systems_have_the_weakest_tier_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    assert tiers._lacks("process") == ""
    assert all("it needs Linux" in tiers._lacks(tier) for tier in TIERS[1:])


def test_forbidden_namespaces_are_explained() -> None:
    told = tiers._explained("PermissionError: [Errno 1] unshare: Operation not permitted")
    assert "user namespaces are forbidden here" in told
    assert tiers._explained("no space left") == "no space left"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")
def test_where_namespaces_are_forbidden_the_tiers_that_need_them_are_not_there() -> None:
    # Inside a sandbox of ours that is so: the filter refuses them.
    code = (
        "from agentgrpo.tools.sandbox import kernel, seccomp\n"
        "kernel.no_new_privileges()\n"
        "kernel.install_filter(seccomp.program(kernel.machine(), keeps_metadata=False))\n"
        "from agentgrpo.tools.sandbox import examine, TIERS\n"
        "print({tier: examine(tier).missing for tier in TIERS})"
    )
    # The launcher needs sockets, which the filter refuses too: allow all but namespaces.
    code = code.replace(
        "from agentgrpo.tools.sandbox import kernel, seccomp\n",
        "from agentgrpo.tools.sandbox import kernel, seccomp, syscalls\n"
        "for name in list(syscalls.NUMBERS):\n"
        "    if name not in ('unshare', 'clone', 'clone3', 'mount'): del syscalls.NUMBERS[name]\n",
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=100)
    assert done.returncode == 0, done.stderr
    missing = eval(done.stdout)
    assert missing["process"] == ""
    assert "unshare: Operation not permitted: user namespaces are forbidden here" in missing["namespace"]
    assert missing["bubblewrap"] != ""


def test_what_is_recorded_says_what_a_tier_rests_on() -> None:
    for tier in TIERS:
        if examine(tier).is_there:
            row = facts(tier)
            assert row["tier"] == tier
            assert ("landlock" in row) == (tier in ("landlock", "namespace"))
            assert ("bubblewrap" in row) == (tier == "bubblewrap")


def test_only_root_gives_sandboxes_users_of_their_own() -> None:
    users = {own_user() for _ in range(20)}
    assert users == {None} if os.geteuid() != 0 else len(users) == 20


def test_the_python_of_sandboxes_is_no_environment() -> None:
    python = default_python(os.geteuid() == 0)
    assert not Path(python).is_relative_to(sys.prefix) or sys.prefix == sys.base_prefix
    assert os.geteuid() != 0 or is_open_to_others(python)
    assert all(Path(path).is_dir() for path in homes_of(python))


def test_an_environments_python_shows_the_environment_and_its_installation(tmp_path: Path) -> None:
    installation = tmp_path / "installed/bin"
    installation.mkdir(parents=True)
    (installation / "python3.11").touch()
    (tmp_path / "alias").symlink_to("installed")
    environment = tmp_path / "venv/bin"
    environment.mkdir(parents=True)
    (tmp_path / "venv/pyvenv.cfg").touch()
    (environment / "python").symlink_to("python3")
    (environment / "python3").symlink_to(tmp_path / "alias/bin/python3.11")
    shown = homes_of(str(environment / "python"))
    assert shown == tuple(str(tmp_path / name) for name in ("venv", "alias", "installed"))


def test_an_installation_that_is_the_whole_machine_or_home_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").touch()
    with pytest.raises(EnvError, match="could read all of it"):
        homes_of(str(tmp_path / "bin/python"))
