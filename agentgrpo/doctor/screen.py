"""The examination on a screen: a mark and a line per finding, what to do below a failure, nothing else."""

from __future__ import annotations

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from agentgrpo.doctor.report import Finding, Level, Part, Report

WIDTH = 100
_MARKS = {
    Level.OK: ("OK", "green"),
    Level.WARN: ("WARN", "bold yellow"),
    Level.FAIL: ("FAIL", "bold red"),
    Level.SKIP: ("-", "dim"),
}


def part_view(part: Part) -> RenderableType:
    """Return the lines of a part."""
    table = Table.grid(padding=(0, 2))
    table.add_column(width=12, style="bold")
    table.add_column(width=4)
    table.add_column(ratio=1, overflow="fold")
    for index, finding in enumerate(part.findings):
        mark, style = _MARKS[finding.level]
        table.add_row(part.name if index == 0 else "", Text(mark, style=style), _line(finding))
    return table


def verdict(report: Report, seconds: float) -> RenderableType:
    """Return the last lines: what it comes to."""
    failed, warned = report.count(Level.FAIL), report.count(Level.WARN)
    if failed:
        text = Text(f"{failed} failed", style="bold red")
        text.append(f", {warned} warnings: mend what failed, then ask again.", style="default")
    else:
        text = Text("Ready to train", style="bold green")
        text.append(f", {warned} warning{'s' * (warned != 1)}." if warned else ".", style="default")
    text.append(f"  ({seconds:.0f} s)", style="dim")
    return text


def heading(console: Console, config: str) -> None:
    """Print what is examined."""
    console.print(Rule(Text.assemble(("agentgrpo doctor", "bold"), f"  {config}"), align="left", style="dim"))


def _line(finding: Finding) -> RenderableType:
    table = Table.grid()
    table.add_column(ratio=1, overflow="fold")
    table.add_row(Text(finding.text, style="dim" if finding.level is Level.SKIP else ""))
    if finding.rows:
        table.add_row(_rows(finding))
    if finding.fix:
        fix = Table.grid()
        fix.add_column(width=3)
        fix.add_column(ratio=1, overflow="fold")
        fix.add_row(Text("→", style="cyan"), Text(finding.fix, style="cyan"))
        table.add_row(fix)
    return table


def _rows(finding: Finding) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for label, value in finding.rows:
        table.add_row(Text(label, style="dim"), Text(value))
    return Padding(table, (0, 0, 0, 2))
