"""Findings, and what a check that breaks becomes: never a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from agentgrpo.doctor.report import Finding, Level, Missing, Part, Report, examine_part, fail, need, ok, warn
from agentgrpo.errors import ModelError


def raising(error: BaseException) -> Callable[[], Iterator[Finding]]:
    def check() -> Iterator[Finding]:
        yield ok("first")
        raise error

    return check


def test_what_was_found_before_a_check_broke_is_kept() -> None:
    part = examine_part("model", raising(ModelError("it is broken\nFetch it\nagain")))
    assert [(f.level, f.text, f.fix) for f in part.findings] == [
        (Level.OK, "first", ""),
        (Level.FAIL, "it is broken", "Fetch it again"),
    ]


@pytest.mark.parametrize("error", [RuntimeError("one\ntwo"), SystemExit("one"), ExceptionGroup("x", [KeyError("one")])])
def test_anything_raised_is_one_line(error: BaseException) -> None:
    found = examine_part("x", raising(error)).findings[-1]
    assert found.level is Level.FAIL
    assert "one" in found.text
    assert "\n" not in found.text


def test_a_part_whose_need_is_not_met_is_skipped() -> None:
    found = examine_part("x", raising(Missing("needs the model"))).findings[-1]
    assert (found.level, found.text) == (Level.SKIP, "not looked at: needs the model")
    with pytest.raises(Missing, match="a thing"):
        need(None, "a thing")
    assert need(0, "a thing") == 0


def test_an_interrupt_is_no_finding() -> None:
    with pytest.raises(KeyboardInterrupt):
        examine_part("x", raising(KeyboardInterrupt()))


@pytest.mark.parametrize(("finding", "code"), [(ok("a"), 0), (warn("a"), 0), (fail("a"), 1)])
def test_only_a_failure_changes_the_exit_code(finding: Finding, code: int) -> None:
    report = Report(config="c", parts=(Part(name="p", findings=(finding,), seconds=1.0),))
    assert report.exit_code == code
    data = json.loads(json.dumps(report.to_json()))
    assert data["exit_code"] == code
    assert data["parts"]["p"]["findings"] == [{"level": str(finding.level), "text": "a"}]
