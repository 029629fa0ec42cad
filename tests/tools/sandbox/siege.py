"""What the attacks aim at: files, processes and sockets outside, all as open as this user can make them.

As a program, `siege.py TIER...` runs every attack in each tier and prints what became of them; "none" is no sandbox at
all, to see that an attack is one.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from agentgrpo.errors import ToolFailure
from agentgrpo.family import is_alive
from agentgrpo.tools.sandbox.box import Sandbox
from agentgrpo.tools.sandbox.job import WORK, Limits
from agentgrpo.tools.sandbox.tiers import TIERS
from tests.tools.sandbox.attacks import ALONE, ATTACKS, Attack

PROGRAM = Path(__file__).with_name("attacks.py")
MARK = "agentgrpo-siege-mark"
VICTIM = """
import ctypes, time
secret = ctypes.create_string_buffer(b"secret of the victim")
print(ctypes.addressof(secret), flush=True)
time.sleep(600)
"""
OUTSIDE = {"write_tmp": "/tmp", "write_shm": "/dev/shm"}  # whether these got through is seen from outside
LIMITS = Limits(seconds=60.0, cpu_seconds=60)


@contextmanager
def targets(set_user_id: str = "") -> Iterator[dict[str, Any]]:
    """Make everything there is to attack."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="agentgrpo-siege-", dir="/var/tmp"))
        stack.callback(shutil.rmtree, folder)
        found = {**_files(folder), "mark": folder.name, "environment_mark": MARK, "set_user_id": set_user_id}
        found |= _sockets(stack, folder) | _victim(stack) | _library(stack)
        os.environ["AGENT_API_KEY"] = MARK
        inherited = stack.enter_context(Path(found["secret"]).open())
        os.set_inheritable(inherited.fileno(), True)
        other = stack.enter_context(Sandbox(minimum="process"))
        other.write("secret", "secret of another sandbox")
        yield found | {"other_sandbox": f"{other._folder.path}/{WORK}/secret"}


def _files(folder: Path) -> dict[str, Any]:
    folder.chmod(0o755)
    (folder / "secret").write_text("secret of the machine")
    (folder / ".bashrc").write_text("# harmless\n")
    (folder / "open_file").write_text("harmless")
    (folder / "open_file").chmod(0o666)
    (folder / "open").mkdir()
    (folder / "open").chmod(0o777)
    for name in ("deleted", "renamed", "moved"):
        (folder / "open" / name).write_text("harmless")
    names = {"secret": "secret", "bashrc": ".bashrc", "open_file": "open_file", "open_folder": "open"}
    return {key: str(folder / name) for key, name in names.items()}


def _library(stack: ExitStack) -> dict[str, Any]:
    """Make a folder that sandboxes may read, not beside what they must not."""
    library = Path(tempfile.mkdtemp(prefix="agentgrpo-siege-library-", dir="/var/tmp"))
    stack.callback(shutil.rmtree, library)
    library.chmod(0o755)
    (library / "module").write_text("harmless")
    return {"library": str(library), "shown": str(library / "module")}


def _victim(stack: ExitStack) -> dict[str, Any]:
    victim = subprocess.Popen([sys.executable, "-c", VICTIM], stdout=subprocess.PIPE, text=True)
    stack.callback(victim.wait)
    stack.callback(victim.kill)
    assert victim.stdout is not None
    stack.callback(victim.stdout.close)
    return {"victim": victim.pid, "victim_uid": os.getuid(), "victim_address": int(victim.stdout.readline())}


def _sockets(stack: ExitStack, folder: Path) -> dict[str, Any]:
    servers = {name: socket.socket(family) for name, family in _FAMILIES.items()}
    datagrams = {"udp": socket.AF_INET, "unix_datagram": socket.AF_UNIX}
    servers |= {name: socket.socket(family, socket.SOCK_DGRAM) for name, family in datagrams.items()}
    addresses = {
        "tcp": ("127.0.0.1", 0),
        "udp": ("127.0.0.1", 0),
        "unix": f"{folder}/socket",
        "unix_datagram": f"{folder}/datagrams",
        "abstract": f"\0{folder.name}",
    }
    for name, server in servers.items():
        stack.enter_context(server)
        server.bind(addresses[name])  # type: ignore[arg-type]
        if name.startswith("unix"):
            Path(str(addresses[name])).chmod(0o777)
        serve = _answer_datagrams if name in datagrams else _answer
        if name not in datagrams:
            server.listen()
        threading.Thread(target=serve, args=(server,), daemon=True).start()
    ports = {name: servers[name].getsockname()[1] for name in ("tcp", "udp")}
    return {**addresses, **ports, "abstract": folder.name}


_FAMILIES = {"tcp": socket.AF_INET, "unix": socket.AF_UNIX, "abstract": socket.AF_UNIX}


def _answer(server: socket.socket) -> None:
    with suppress(OSError):  # closed
        while True:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"inside")


def _answer_datagrams(server: socket.socket) -> None:
    with suppress(OSError):  # closed
        while True:
            _, sender = server.recvfrom(100)
            if sender:
                server.sendto(b"inside", sender)


def besiege(tier: str, found: dict[str, Any]) -> dict[str, str]:
    """Return what became of each attack in a tier."""
    with Sandbox(minimum="process", tier=tier, limits=LIMITS, readable=[found["library"]]) as sandbox:
        sandbox.write("attacks.py", PROGRAM.read_bytes())
        outcome = sandbox.run_sync([sandbox.python_path, "attacks.py", json.dumps(found)])
        assert outcome.is_success, outcome
        report = seen_from_outside(json.loads(outcome.output), found)
        for name, code in ALONE.items():
            if is_promised(ATTACKS[name], tier, has_own=sandbox.facts["own_user"]):
                report[name] = _kill(sandbox, code, found["victim"])
    return report


def _kill(sandbox: Sandbox, code: str, victim: int) -> str:
    """Return whether a command that kills whom it can has killed anybody outside."""
    code = (
        f"import os, signal, time\ntry: {code}\nexcept OSError as error: print(error)\ntime.sleep(0.1); print('alive')"
    )
    try:
        outcome = sandbox.run_sync([sandbox.python_path, "-c", code])
    except ToolFailure as error:
        return f"reached: {error}"
    if not is_alive(victim):
        return "reached: another process was killed"
    return f"denied: {outcome.output}" if "alive" in outcome.output else f"reached: {outcome}"


def is_promised(item: Attack, tier: str, *, has_own: bool) -> bool:
    """Return whether a tier is said to stop an attack, where sandboxes have users of their own or not."""
    order: list[str] = list(TIERS)
    return order.index(tier) >= order.index(item.stopped_for_own_user if has_own else item.stopped_by)


def unconfined(found: dict[str, Any]) -> dict[str, str]:
    """Return what becomes of each attack when nothing stops it but the user it runs as."""
    with tempfile.TemporaryDirectory() as folder:
        argv = [sys.executable, str(PROGRAM), json.dumps(found)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=300, cwd=folder, close_fds=False)
    assert done.returncode == 0, done.stderr
    return seen_from_outside(json.loads(done.stdout), found)


def seen_from_outside(report: dict[str, str], found: dict[str, Any]) -> dict[str, str]:
    for name, folder in OUTSIDE.items():
        path = Path(folder, found["mark"])
        report[name] = f"reached: {path}" if path.exists() else f"denied: not outside ({report[name]})"
        path.unlink(missing_ok=True)
    return report


def main(set_user_id: str, *tiers: str) -> None:
    reports: dict[str, dict[str, str]] = {}
    ways: dict[str, Callable[[dict[str, Any]], dict[str, str]]] = {"none": unconfined}
    for tier in tiers:
        with targets(set_user_id) as found:
            reports[tier] = ways[tier](found) if tier in ways else besiege(tier, found)
    print(json.dumps(reports))


if __name__ == "__main__":
    main(*sys.argv[1:])
