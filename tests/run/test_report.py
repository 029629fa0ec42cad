from __future__ import annotations

import io
import threading
from collections.abc import Mapping

from rich.console import Console

from agentgrpo.run.report import ConsoleReporter, LastWordReporter, Reporter, SilentReporter


def reporter(*, terminal: bool = False) -> tuple[ConsoleReporter, io.StringIO]:
    file = io.StringIO()
    return ConsoleReporter(Console(file=file, highlight=False, force_terminal=terminal, width=200)), file


def test_a_message_is_printed_as_it_stands() -> None:
    tell, file = reporter()
    text = "runs/[bold]x[/bold]-[/] " + "long " * 60
    tell.message(text)
    assert file.getvalue() == text + "\n"


def test_a_step_is_one_line_under_headings_and_what_is_unknown_is_a_dash() -> None:
    tell, file = reporter()
    for step in range(1, 23):
        tell.step(step, 40, {"train/reward": 0.5, "train/tool_error_rate": 0.25})
    lines = file.getvalue().splitlines()
    assert len(lines) == 24
    assert lines[0].split()[:2] == lines[21].split()[:2] == ["step", "reward"]
    cells = lines[1].split()
    assert cells[:3] == ["1/40", "0.500", "-"]
    assert "25%" in cells
    assert len({len(line) for line in lines}) == 1


def test_how_stale_episodes_were_is_shown_where_they_can_be() -> None:
    for metrics, is_shown in (({"train/reward": 0.5}, False), ({"train/reward": 0.5, "train/staleness": 1.25}, True)):
        tell, file = reporter()
        tell.step(1, 2, metrics)
        headings, cells = (line.split() for line in file.getvalue().splitlines())
        assert ("stale" in headings) is ("1.25" in cells) is is_shown


def test_progress_shows_in_a_terminal_and_is_silent_elsewhere() -> None:
    tell, file = reporter()
    with tell.progress("rollout", 3) as advance:
        advance(2, "loss 0.1")
    assert file.getvalue() == ""
    tell, file = reporter(terminal=True)
    with tell.progress("rollout", 3) as advance:
        advance(2, "loss 0.1")
        advance()
    assert "rollout" in file.getvalue()
    assert "3/3" in file.getvalue()


def test_what_is_said_beside_the_last_words_of_a_run_comes_before_them_or_not_at_all() -> None:
    said, begun, waits = list[str](), threading.Event(), threading.Event()

    class Slow(SilentReporter):
        def message(self, text: str) -> None:
            said.append(text)
            begun.set()
            waits.wait(0.2 if text == "stopped" else 0)

        def step(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
            said.append("step")

    def left_behind() -> None:
        begun.wait(60)
        tell.message("abandoned")
        tell.step(1, 2, {})

    tell = LastWordReporter(Slow())
    tell.step(1, 2, {})
    thread = threading.Thread(target=left_behind)
    thread.start()
    tell.last_words("stopped", "go on")
    thread.join(60)
    assert said == ["step", "stopped", "go on"]


def test_a_silent_reporter_takes_everything_and_prints_nothing(capsys: object) -> None:
    silent: Reporter = SilentReporter()
    silent.message("hello")
    silent.step(1, 2, {})
    with silent.progress("x", 2) as advance:
        advance(1, note="y")
    out, err = capsys.readouterr()  # type: ignore[attr-defined]
    assert (out, err) == ("", "")
