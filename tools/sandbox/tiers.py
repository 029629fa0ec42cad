"""The tiers of containment, and which of them this machine has: each is tried, and has to prove that it holds.

It does not know what runs in a sandbox. What each tier stops, probe by probe, is in docs/tools-sandbox.md.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from agentgrpo.errors import EnvError, ToolFailure, nearest
from agentgrpo.tools.sandbox import bubblewrap, kernel, landlock
from agentgrpo.tools.sandbox.client import Call
from agentgrpo.tools.sandbox.folder import Folder
from agentgrpo.tools.sandbox.job import Job, Limits
from agentgrpo.tools.sandbox.syscalls import ARCHITECTURES
from agentgrpo.tools.sandbox.user import own_user
from agentgrpo.types import JsonObject

Tier = Literal["process", "landlock", "namespace", "bubblewrap"]
TIERS: tuple[Tier, ...] = ("process", "landlock", "namespace", "bubblewrap")
"""From the weakest to the strongest: each stops what the ones before it stop."""

_TRIAL = 'if cat "$0" 2>/dev/null; then exit 9; fi; exit 7'  # 7: a file beside the sandbox cannot be read
_UNREAD, _READ = 7, 9
_END_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Whether a tier can be had on this machine, and if not, what is missing."""

    tier: Tier
    missing: str = ""

    @property
    def is_there(self) -> bool:
        return not self.missing


def strongest(minimum: str, exactly: str | None = None) -> Tier:
    """Return the strongest tier this machine has.

    Args:
        minimum: The weakest one that will do.
        exactly: The one to take, whatever else there is.

    Raises:
        EnvError: it has none that is as strong as `minimum`, or there is no tier of a name.
    """
    for name in (minimum, exactly or minimum):
        if name not in TIERS:
            raise EnvError(f"there is no tier '{name}', they are {', '.join(TIERS)}.{nearest(name, TIERS)}")
    enough = TIERS[TIERS.index(minimum) :]
    if exactly is not None:
        if exactly not in enough:
            raise EnvError(f"tier '{exactly}' is weaker than the minimum, '{minimum}': change one of them")
        enough = tuple(tier for tier in TIERS if tier == exactly)
    trials = []
    for tier in reversed(enough):
        trials.append(examine(tier))
        if trials[-1].is_there:
            return tier
    told = "; ".join(f"{trial.tier}: {trial.missing}" for trial in reversed(trials))
    raise EnvError(
        f"this machine has no sandbox of tier '{exactly or minimum}'{'' if exactly else ' or stronger'} ({told}). "
        "Provide what is missing, or name a weaker tier if what the model may do here is harmless"
    )


@cache
def examine(tier: Tier) -> Trial:
    """Return whether a tier can be had, by running a command in it that tries to read what it must not."""
    return Trial(tier=tier, missing=_lacks(tier) or _tried(tier))


def facts(tier: Tier) -> JsonObject:
    """Return what a record of a run should say of a tier on this machine."""
    row: JsonObject = {"tier": tier, "system": f"{platform.system()} {platform.release()} {kernel.machine()}"}
    row["own_user"] = own_user() is not None
    if tier in ("landlock", "namespace"):
        row["landlock"] = landlock.version()
    if tier == "bubblewrap":
        row["bubblewrap"] = _bubblewrap_version()
    return row


def _lacks(tier: Tier) -> str:
    """Return what is known to be missing, without trying."""
    if tier == "process":
        return ""
    if sys.platform != "linux":
        return f"it needs Linux, this is {platform.system()}"
    if kernel.machine() not in ARCHITECTURES:
        return f"it needs {' or '.join(ARCHITECTURES)}, this is {kernel.machine()}"
    if tier == "bubblewrap":
        return "" if bubblewrap.program() else "bubblewrap is not installed (apt install bubblewrap)"
    needed = 1 if tier == "namespace" else 3 if own_user() else landlock.SIGNALS
    found = landlock.version()
    if found >= needed:
        return ""
    kernels = {1: "5.13", 3: "6.2", landlock.SIGNALS: "6.12"}
    what = f"Landlock {needed} (Linux {kernels[needed]})"
    return f"it needs {what}; this kernel, {platform.release()}, has " + (str(found) if found else "none switched on")


def _tried(tier: Tier) -> str:
    """Return what went wrong when a command was run; "" if nothing did, and it could not read what it must not."""
    uid = own_user()
    folder = Folder(uid)
    try:
        secret = folder.beside / "secret"
        secret.write_text("readable", encoding="ascii")
        secret.chmod(0o644)
        job = Job(
            tier=tier,
            argv=("/bin/sh", "-c", _TRIAL, str(secret)),
            folder=folder.path,
            uid=uid,
            limits=Limits(seconds=20.0),
        )
        call = Call(job)
        try:
            answer = call.run_sync()
        finally:
            call.end()
            call.wait(_END_SECONDS)
    except ToolFailure as error:
        return _explained(str(error))
    finally:
        (folder.beside / "secret").unlink(missing_ok=True)
        folder.remove()
    code = answer["exit_code"]
    if code == _UNREAD or (tier == "process" and code == _READ):
        return ""
    return f"a command in it could read a file of the machine (it ended with {code}, {answer['ended']})"


def _explained(cause: str) -> str:
    if not any(word in cause for word in ("unshare", "uid_map", "uid map", "namespace")):
        return cause
    limit = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
    why = f"AppArmor restricts them, see {limit}" if _says(limit, "1") else "perhaps by a container's seccomp profile"
    return f"{cause}: user namespaces are forbidden here ({why})"


def _says(path: Path, value: str) -> bool:
    return path.exists() and path.read_text(encoding="ascii").strip() == value


@cache
def _bubblewrap_version() -> str:
    binary = bubblewrap.program()
    if binary is None:
        return "none"
    done = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, env={"PATH": os.defpath})
    return done.stdout.strip().removeprefix("bubblewrap ")
