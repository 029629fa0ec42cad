"""The screen: one mark and one line per finding, within the width, whatever a message holds."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from agentgrpo.doctor.report import Finding, Level, Part, Report, fail, ok, warn
from agentgrpo.doctor.screen import heading, part_view, verdict


def shown(*findings: Finding, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    heading(console, "run.toml")
    part = Part(name="memory", findings=findings, seconds=1.0)
    console.print(part_view(part))
    console.print(verdict(Report(config="run.toml", parts=(part,)), 3.0))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_a_failure_says_what_to_do_below_it() -> None:
    lines = shown(ok("fine"), fail("too much", "take less"))
    assert lines[1:] == [
        "memory        OK    fine",
        "              FAIL  too much",
        "                    →  take less",
        "1 failed, 0 warnings: mend what failed, then ask again.  (3 s)",
    ]


@pytest.mark.parametrize(
    ("findings", "said"),
    [
        ((ok("a"),), "Ready to train.  (3 s)"),
        ((warn("a"),), "Ready to train, 1 warning.  (3 s)"),
        ((Finding(level=Level.SKIP, text="a"), warn("a"), warn("b")), "Ready to train, 2 warnings.  (3 s)"),
    ],
)
def test_the_verdict(findings: tuple[Finding, ...], said: str) -> None:
    assert shown(*findings)[-1] == said


@pytest.mark.parametrize("width", [60, 80, 100])
def test_long_lines_and_brackets_stay_within_the_width(width: int) -> None:
    text = "[bold]no markup[/] " + "x" * 150 + " and words that go on for longer than any screen is wide"
    lines = shown(fail(text, text), ok("rows", rows=[("label", "12 MB  ████")]), width=width)
    assert max(map(len, lines)) <= width
    assert "[bold]no" in "".join(lines)
    assert any(line.strip() == "label  12 MB  ████" for line in lines)
