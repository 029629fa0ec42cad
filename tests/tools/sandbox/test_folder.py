from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgrpo.errors import EnvError, ToolFailure
from agentgrpo.tools.sandbox.folder import Folder, sweep
from agentgrpo.tools.sandbox.job import MB, WORK


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = Folder(None)
    yield folder
    folder.remove()
    assert list(tmp_path.iterdir()) == []


def work(folder: Folder) -> Path:
    return Path(folder.path, WORK)


def test_what_is_written_can_be_read(folder: Folder) -> None:
    folder.write("a/b/c.txt", b"one")
    folder.write("a/b/c.txt", b"two")
    assert folder.read("a/b/c.txt", 10) == b"two"
    assert (work(folder) / "a/b/c.txt").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["", ".", "/etc/passwd", "../x", "a/../../x", "a/\0", "/"])
def test_names_that_lead_out_are_refused(folder: Folder, name: str) -> None:
    for action in (lambda: folder.write(name, b""), lambda: folder.read(name, 1)):
        with pytest.raises(EnvError, match="no path inside"):
            action()


@settings(max_examples=40)
@given(name=st.text(st.sampled_from("a./\0é\\~ "), max_size=12))
def test_no_name_leads_out(name: str) -> None:
    folder = Folder(None)
    try:
        folder.write(name, b"x")
    except (EnvError, OSError) as error:
        assert str(error)  # refused, and told why
    else:
        assert folder.read(name, 1) == b"x"
    finally:
        assert {path.name for path in folder.beside.iterdir()} == {"lock", "box"}
        assert {path.name for path in Path(folder.path).iterdir()} == {"shm", "work"}
        folder.remove()


def test_links_are_not_followed(folder: Folder, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (work(folder) / "link").symlink_to(secret)
    (work(folder) / "out").symlink_to(tmp_path)
    for name in ("link", "out/secret"):
        with pytest.raises(FileNotFoundError, match="no file"):
            folder.read(name, 100)
    with pytest.raises(OSError):
        folder.write("out/new", b"x")
    folder.write("link", b"mine")  # in its place
    assert folder.read("link", 10) == b"mine"
    assert secret.read_text() == "secret"
    secret.unlink()
    assert {path.name for path in tmp_path.iterdir()} == {folder.beside.name}


def test_only_plain_files_up_to_a_size_are_read(folder: Folder) -> None:
    os.mkfifo(work(folder) / "pipe")
    (work(folder) / "folder").mkdir()
    folder.write("large", b"x" * 11)
    for name in ("pipe", "folder", "large", "nothing"):
        with pytest.raises(FileNotFoundError):
            folder.read(name, 10)


def test_a_snapshot_brings_back_files_links_and_modes(folder: Folder) -> None:
    folder.write("a/run.sh", b"#!/bin/sh\n")
    (work(folder) / "a/run.sh").chmod(0o755)
    (work(folder) / "a/link").symlink_to("run.sh")
    (work(folder) / "a/broken").symlink_to("/nowhere")
    (work(folder) / "empty").mkdir()
    (work(folder) / os.fsdecode(b"not-utf8-\xff")).write_bytes(b"\0")
    os.mkfifo(work(folder) / "pipe")
    data = folder.pack(MB)
    folder.empty()
    assert list(work(folder).iterdir()) == []
    folder.unpack(data)
    assert folder.pack(MB) == data
    assert (work(folder) / "a/run.sh").stat().st_mode & 0o777 == 0o755
    assert (work(folder) / "a/link").readlink() == Path("run.sh")
    assert (work(folder) / "empty").is_dir()
    assert not (work(folder) / "pipe").exists()


def test_equal_content_gives_equal_snapshots_whatever_its_history(folder: Folder) -> None:
    folder.write("a", b"1")
    folder.write("b", b"2")
    first = folder.pack(MB)
    folder.empty()
    folder.write("b", b"3")
    folder.write("c/d", b"")
    folder.write("b", b"2")
    folder.write("a", b"1")
    (work(folder) / "c/d").unlink()
    (work(folder) / "c").rmdir()
    assert folder.pack(MB) == first


def test_a_snapshot_has_a_size(folder: Folder) -> None:
    folder.write("a", b"x" * 1000)
    with pytest.raises(ToolFailure, match="more than 900 bytes"):
        folder.pack(900)
    with (work(folder) / "hole").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ToolFailure, match="more than"):
        folder.pack(MB)


def archive(*members: tuple[str, bytes, str, bytes]) -> bytes:
    result = io.BytesIO()
    with tarfile.open(fileobj=result, mode="w") as made:
        for name, kind, target, data in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, target, len(data)
            made.addfile(member, io.BytesIO(data))
    return result.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"no archive",
        archive(("../evil", tarfile.REGTYPE, "", b"x")),
        archive(("/tmp/evil", tarfile.REGTYPE, "", b"x")),
        archive(("a/../../evil", tarfile.DIRTYPE, "", b"")),
        archive(("a", tarfile.REGTYPE, "", b"x"), ("a/b", tarfile.REGTYPE, "", b"x")),
    ],
)
def test_a_hostile_snapshot_is_refused(folder: Folder, data: bytes) -> None:
    with pytest.raises(EnvError, match="no snapshot"):
        folder.unpack(data)


def test_a_snapshots_links_lead_nothing_out(folder: Folder, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    data = archive(
        ("out", tarfile.SYMTYPE, str(outside), b""),
        ("device", tarfile.CHRTYPE, "", b""),
        ("hard", tarfile.LNKTYPE, "/etc/passwd", b""),
    )
    folder.unpack(data)
    assert [path.name for path in work(folder).iterdir()] == ["out"]
    with pytest.raises(EnvError, match="no snapshot"):  # a link where its folder was made for a file
        folder.unpack(archive(("out", tarfile.SYMTYPE, str(outside), b""), ("out/evil", tarfile.REGTYPE, "", b"x")))
    assert list(outside.iterdir()) == []
    outside.rmdir()


def test_folders_that_are_deep_or_closed_are_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    if Path("/dev/shm").is_dir():  # deleting a folder takes milliseconds on some disks
        monkeypatch.setattr("tempfile.tempdir", "/dev/shm")
    folder = Folder(None)
    code = "import os\nfor _ in range(3000): os.mkdir('d'); os.chdir('d')\nopen('f', 'w')"
    subprocess.run([sys.executable, "-c", code], cwd=work(folder), check=True, timeout=300)
    (work(folder) / "closed/inner").mkdir(parents=True)
    (work(folder) / "closed/inner").chmod(0)
    (work(folder) / "closed").chmod(0)
    folder.empty()
    assert list(work(folder).iterdir()) == []
    folder.remove()
    assert not folder.beside.exists()


def test_what_a_killed_process_left_is_deleted_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code = (
        "import os, signal, tempfile; from agentgrpo.tools.sandbox.folder import Folder; "
        f"tempfile.tempdir = {str(tmp_path)!r}; Folder(None).write('a', b'x'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code], timeout=60)
    mine = Folder(None)
    assert len(list(tmp_path.iterdir())) == 2
    sweep()
    assert list(tmp_path.iterdir()) == [mine.beside]
    mine.write("still", b"here")
    mine.remove()
