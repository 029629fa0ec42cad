"""What a run tells the person who started it: messages, progress bars, one line per train step.

It only prints; numbers are kept by the store.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_HEADER_EVERY = 20
_OPTIONAL = {"train/staleness"}  # only where there is such a metric: in asynchronous training
_COLUMNS: tuple[tuple[str, str, str], ...] = (  # heading, metric, format
    ("reward", "train/reward", "{:7.3f}"),
    ("success", "train/success", "{:7.3f}"),
    ("turns", "train/turns", "{:5.1f}"),
    ("calls", "train/tool_calls", "{:5.1f}"),
    ("err%", "train/tool_error_rate", "{:4.0%}"),
    ("flat%", "train/zero_variance_groups", "{:5.0%}"),
    ("kl", "train/kl", "{:7.0e}"),
    ("entropy", "train/entropy", "{:7.3f}"),
    ("grad", "train/grad_norm", "{:6.3f}"),
    ("failed", "train/failed", "{:6.0f}"),
    ("stale", "train/staleness", "{:5.2f}"),
    ("roll s", "time/rollout", "{:6.1f}"),
    ("learn s", "time/learn", "{:7.1f}"),
)


class Advance(Protocol):
    """Moves a progress bar on; `note` replaces the text beside it."""

    def __call__(self, count: int = 1, note: str = "") -> None:
        """Count `count` more."""
        ...


class Reporter(Protocol):
    """Where a run reports to."""

    def message(self, text: str) -> None:
        """Say something once."""
        ...

    def progress(self, text: str, total: int) -> AbstractContextManager[Advance]:
        """Show a bar while the context is open."""
        ...

    def step(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """Report one train step."""
        ...


class ConsoleReporter:
    """Reports to a terminal, or as plain lines where there is none."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._lines = 0

    def message(self, text: str) -> None:
        """Print one message, as it stands: brackets in a path are no markup."""
        self.console.print(text, soft_wrap=True, markup=False)

    @contextmanager
    def progress(self, text: str, total: int) -> Iterator[Advance]:
        """Show a bar with the time left; it vanishes when done."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as bars:
            bar = bars.add_task(text, total=total, note="")

            def advance(count: int = 1, note: str = "") -> None:
                fields: dict[str, Any] = {"note": note} if note else {}
                bars.update(bar, advance=count, **fields)

            yield advance

    def step(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """Print the line of a train step, and the headings every so often."""
        columns = [column for column in _COLUMNS if column[1] in metrics or column[1] not in _OPTIONAL]
        if self._lines % _HEADER_EVERY == 0:
            names = " ".join(heading.rjust(_width(form)) for heading, _, form in columns)
            self.console.print(f"[bold]{'step':>9} {names}[/bold]", soft_wrap=True)
        self._lines += 1
        cells = " ".join(_cell(metrics.get(key), form) for _, key, form in columns)
        self.console.print(f"{step:>4}/{total:<4} {cells}", soft_wrap=True)


class SilentReporter:
    """Reports nothing."""

    def message(self, text: str) -> None:
        """Say nothing."""

    @contextmanager
    def progress(self, text: str, total: int) -> Iterator[Advance]:
        """Show nothing."""

        def advance(count: int = 1, note: str = "") -> None:
            """Count nothing."""

        yield advance

    def step(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """Report nothing."""


class LastWordReporter:
    """Passes on what a run says, up to its last words: a thread it leaves behind may have more to say, unheard.

    Args:
        reporter: Where it is said.
    """

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._lock = threading.Lock()
        self._is_over = False

    def message(self, text: str) -> None:
        """Say something once."""
        with self._lock:
            if not self._is_over:
                self._reporter.message(text)

    def last_words(self, *texts: str) -> None:
        """Say these, with nothing between them and nothing after."""
        with self._lock:
            self._is_over = True
            for text in texts:
                self._reporter.message(text)

    def progress(self, text: str, total: int) -> AbstractContextManager[Advance]:
        """Show a bar while the context is open."""
        return self._reporter.progress(text, total)

    def step(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """Report one train step."""
        with self._lock:
            if not self._is_over:
                self._reporter.step(step, total, metrics)


def _width(form: str) -> int:
    return len(form.format(0.0))


def _cell(value: float | None, form: str) -> str:
    return "-".rjust(_width(form)) if value is None else form.format(value)
