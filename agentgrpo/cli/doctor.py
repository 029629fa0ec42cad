"""doctor: from a config to a screen or to JSON. Heavy modules come only after the packages were looked at."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from importlib import import_module, resources
from pathlib import Path

import typer
from rich.console import Console

from agentgrpo.config.run import Config, load_config
from agentgrpo.doctor.machine import Stopwatch
from agentgrpo.doctor.packages import check_packages
from agentgrpo.doctor.report import Level, Part, Report, examine_part, fail
from agentgrpo.doctor.screen import WIDTH, heading, part_view, verdict
from agentgrpo.errors import UserError


def doctor(config: Path | None, overrides: Sequence[str], *, as_json: bool) -> None:
    """Examine everything a run needs; exit code 1 when something fails, 2 when the config cannot be read."""
    watch = Stopwatch()
    name = str(config or "the demo's config")
    try:
        resolved = _read(config, overrides)
    except UserError as error:
        if as_json:
            print(json.dumps({"config": name, "exit_code": 2, "error": str(error)}))
            raise typer.Exit(2) from error
        raise
    console = Console(highlight=False, quiet=as_json)
    console.width = min(console.width, WIDTH)
    heading(console, name)
    parts = []
    with console.status("looking ...", spinner="dots"):
        for part in _examine(resolved, watch):
            parts.append(part)
            console.print(part_view(part))
    report = Report(config=name, parts=tuple(parts))
    console.print()
    console.print(verdict(report, watch.wall))
    if as_json:
        print(json.dumps(report.to_json(), indent=1))
    raise typer.Exit(report.exit_code)


def _read(config: Path | None, overrides: Sequence[str]) -> Config:
    if config is not None:
        return load_config(config, overrides=overrides)
    with resources.as_file(resources.files("agentgrpo").joinpath("assets/demo.toml")) as demo:
        return load_config(demo, overrides=overrides)


def _examine(config: Config, watch: Stopwatch) -> Iterator[Part]:
    packages = examine_part("packages", check_packages)
    yield packages
    if any(finding.level is Level.FAIL for finding in packages.findings):
        text = "the rest was not looked at: it needs these packages"
        yield Part(name="", findings=(fail(text, "mend them, then ask again"),), seconds=0.0)
        return
    examine = import_module("agentgrpo.doctor.examine").examine
    yield from examine(config, start_seconds=watch.seconds)
