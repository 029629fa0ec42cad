"""Part 10: room for what a run writes, and leave to write it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from agentgrpo.doctor import machine
from agentgrpo.doctor.duration import episodes
from agentgrpo.doctor.report import Finding, Level, fail, ok, warn
from agentgrpo.doctor.subject import Subject

_RECORDS = 2_000_000  # config, metrics, curve, tasks: a generous guess
_FALLBACK = 4_000  # bytes of an episode, when none could be measured
_TIGHT = 0.5  # a run that takes more than this share of the free space is worth a word


def check_disk(subject: Subject) -> Iterator[Finding]:
    """Find whether the folder of runs can be written, and holds the run."""
    config, runs = subject.config, Path(subject.config.train.runs)
    found = list(_writable(runs, "train.runs"))
    yield from found
    if any(finding.level is Level.FAIL for finding in found):
        return
    if subject.warm_start is not None:
        yield from _writable(Path(config.model.path).parent, "model.path")
    measured = subject.step.disk_bytes if subject.step else float(_FALLBACK)
    count = episodes(config, len(subject.heldout_tasks))
    adapter = subject.model.adapter_parameters * 4 if subject.model else 0
    wanted = needed(count, measured, adapter, config.train.keep_checkpoints)
    yield from room(wanted, machine.disk_free(runs), f"{count} episodes of {measured / 1e3:.1f} kB", runs)


def needed(count: int, each: float, adapter: float, keep: int) -> float:
    """Return the bytes a run leaves behind: its episodes, and checkpoints Adam's moments included."""
    return count * each + (keep + 3) * adapter * 3 + _RECORDS


def room(wanted: float, free: int, what: str, folder: Path) -> Iterator[Finding]:
    """Find whether so many bytes fit."""
    text = f"{machine.size(wanted)} ({what}, checkpoints), {machine.size(free)} free in {folder}"
    values = {"bytes": wanted, "free": free}
    if wanted > free:
        yield fail(f"the run needs {text}", "free space, or write elsewhere: --set train.runs=/somewhere/else")
    elif wanted > _TIGHT * free:
        yield warn(f"the run needs {text}: that is tight", "free space, or --set train.runs=/somewhere/else")
    else:
        yield ok(f"the run needs {text}", values)


def _writable(folder: Path, key: str) -> Iterator[Finding]:
    there = machine.nearest_folder(folder)
    blocked = next((p for p in (folder, *folder.parents) if p.exists() and not p.is_dir()), None)
    if blocked is not None:
        yield fail(f"'{blocked}' is a file, {key} needs a folder there", f"move it away, or --set {key}=another/folder")
        return
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        yield fail(
            f"'{there}' cannot be written to: {error.strerror}", f"mend its rights, or --set {key}=another/folder"
        )
    else:
        yield ok(f"{folder} can be written to" if there == folder.absolute() else f"{folder} will be made in {there}")
