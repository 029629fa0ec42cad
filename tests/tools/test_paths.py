from __future__ import annotations

import json
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentgrpo.errors import ToolError
from agentgrpo.tools.paths import MAX_DEPTH, MAX_NAME, MAX_PATH, join, name_of, normalize, parent_of
from tests.hostile_paths import LONG, ODD, PLAIN, SEPARATORS

ROOT = Path(__file__).parents[2]
# Any text at all, lone surrogates included, and texts that look like paths.
ANY = st.text(st.characters(categories=["L", "M", "N", "P", "S", "Z", "C"]))
PATHS = st.lists(st.one_of(st.sampled_from((*PLAIN, *ODD, "..", ".", *SEPARATORS)), ANY), max_size=12).map("/".join)


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        ("/", "/"),
        ("", "/"),
        (".", "/"),
        ("..", "/"),
        ("/../../etc/passwd", "/etc/passwd"),
        ("docs", "/docs"),
        ("/docs/", "/docs"),
        ("//docs///notes", "/docs/notes"),
        ("/docs/./notes/.", "/docs/notes"),
        ("/docs/../work", "/work"),
        ("/nowhere/../docs", "/docs"),
        ("/docs/../../../a", "/a"),
        ("...", "/..."),
        ("/a b/c-d_e.f", "/a b/c-d_e.f"),
        ("~", "/~"),
        ("file:///etc/passwd", "/file:/etc/passwd"),
        ("%2e%2e/x", "/%2e%2e/x"),
        ("caf\u00e9", "/caf\u00e9"),
        ("cafe\u0301", "/caf\u00e9"),
        ("\u4e2d\u6587", "/\u4e2d\u6587"),
        ("\u212b", None),
    ],
)
def test_each_path_has_one_normal_form(path: str, normal: str | None) -> None:
    if normal is None:
        path, normal = unicodedata.normalize("NFC", path), "/\u00c5"
    assert normalize(path) == normal


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("a\0b", "no symbols"),
        ("\0", "no symbols"),
        ("\ud800", "no symbols"),
        ("a\nb", "no symbols"),
        ("..\\..\\x", "no symbols"),
        ("\u202etxt", "no symbols"),
        ("\u200b", "no symbols"),
        ("\u2215etc\u2215passwd", "no symbols"),
        ("\u2044", "no symbols"),
        ("\U0001f600", "no symbols"),
        ("\uff0e\uff0e/x", "no symbols"),
        ("\uff41", "look like another"),
        ("\ufb01", "look like another"),
        ("\u0301a", "look like another"),
        (" a", "space"),
        ("a /b", "space"),
        ("x" * (MAX_NAME + 1), "at most 60 characters"),
        ("a/" * (MAX_DEPTH + 1), "at most 12 names"),
        ("/" * (MAX_PATH + 1), "at most 1000 characters"),
        ("a" * 10_000, "at most 1000 characters"),
    ],
)
def test_what_is_no_path_is_refused_and_said(path: str, told: str) -> None:
    with pytest.raises(ToolError, match=told):
        normalize(path)


@given(st.one_of(ANY, PATHS))
@example("\ufb1d" * 300)
@example(LONG[0])
@example("/".join(["\u0958" * 20] * 12))
def test_normalize_is_total_and_its_results_are_fixed_points(path: str) -> None:
    try:
        normal = normalize(path)
    except ToolError as error:
        assert str(error)
        return
    assert normalize(normal) == normal
    assert normal.startswith("/")
    assert not {"", ".", ".."} & set(normal.split("/")[1:]) or normal == "/"
    assert normal.isprintable()
    assert "\\" not in normal
    assert unicodedata.normalize("NFC", normal) == normal
    assert len(normal) <= MAX_PATH


@given(PATHS, PATHS)
def test_a_path_starts_again_nowhere(left: str, right: str) -> None:
    try:
        first, second = normalize(left), normalize(f"{left}/{right}")
    except ToolError:
        return
    assert second == normalize(f"{first}/{right}")


@given(st.lists(st.sampled_from(("..", ".", "", "a", "b")), max_size=20))
def test_dots_mean_what_they_mean_to_a_stack(parts: list[str]) -> None:
    stack: list[str] = []
    for part in parts:
        if part == "..":
            stack = stack[:-1]
        elif part.strip("."):
            stack = [*stack, part]
    if len(stack) <= MAX_DEPTH:
        assert normalize("/".join(parts)) == "/" + "/".join(stack)


def test_parts_of_a_path() -> None:
    assert (parent_of("/a/b"), name_of("/a/b"), join("/a", "b")) == ("/a", "b", "/a/b")
    assert (parent_of("/a"), name_of("/a"), join("/", "a")) == ("/", "a", "/a")
    assert (parent_of("/"), name_of("/")) == ("/", "")


def probed(count: int, folder: Path) -> dict[str, Any]:
    """Run the probe in a process of its own and return its report."""
    secret = folder / "secret.txt"
    secret.write_text("canary-7391")
    code = f"from tests.hostile_paths import probe; probe({count}, 1, {str(secret)!r}, 'canary-7391')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [path.name for path in folder.iterdir()] == ["secret.txt"]
    assert secret.read_text() == "canary-7391"
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def check(report: dict[str, Any], count: int) -> None:
    assert report["calls"] == count
    assert (report["faults"], report["events"], report["leaks"]) == ([], [], 0)
    assert 0.2 < report["refused"] / count < 0.95  # neither is everything refused, nor nothing
    assert report["most"] > 5  # some paths name files that can be made, inside


def test_hostile_paths_stay_inside_and_open_nothing(tmp_path: Path) -> None:
    check(probed(4000, tmp_path), 4000)


@pytest.mark.slow
def test_a_hundred_thousand_hostile_paths_stay_inside_and_open_nothing(tmp_path: Path) -> None:
    check(probed(100_000, tmp_path), 100_000)


def test_the_probe_would_tell_of_a_command_that_opens_files(tmp_path: Path) -> None:
    code = (
        "from agentgrpo.tools.files import FilesApp\n"
        "from tests.hostile_paths import probe\n"
        "def cat(self, path):\n"
        "    try:\n"
        "        return open(path).read()\n"
        "    except (OSError, ValueError):\n"
        "        return []\n"
        "FilesApp.cat = cat\n"
        "probe(400, 1, '/x', 'y')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert any("/etc/passwd" in event for event in json.loads(done.stdout)["events"])
