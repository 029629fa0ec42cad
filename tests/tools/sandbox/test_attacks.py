"""Every attack in every tier this machine has, as root and as an ordinary user; and what the page says of it."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from agentgrpo.tools.sandbox import TIERS, examine
from tests.tools.sandbox.attacks import ATTACKS, Attack
from tests.tools.sandbox.siege import is_promised
from tests.tools.sandbox.users import ordinary, root

pytestmark = pytest.mark.skipif(os.name != "posix" or not Path("/proc/self").exists(), reason="needs Linux")
PAGE = Path(__file__).parents[3] / "docs" / "tools-sandbox.md"
BEGIN, END = "<!-- attacks: made by tests/tools/sandbox/test_attacks.py -->\n", "<!-- end -->"
# Reached without any sandbox, whatever the kernel: those that even the weakest tier stops are attacks too.
ALWAYS_ATTACKS = {"environment", "open_files", "trace_parent", "lock_memory", "read_file", "tcp", "send_signal"}


@pytest.fixture(scope="module")
def set_user_id() -> Iterator[str]:
    """A program that tells who it runs as, which is root whoever runs it; "" where none can be made."""
    if os.geteuid() != 0:
        yield ""
        return
    path = Path("/var/tmp", f"agentgrpo-siege-id-{os.getpid()}")
    shutil.copy("/usr/bin/id", path)
    path.chmod(0o755 | stat.S_ISUID)
    yield str(path)
    path.unlink()


@cache
def reports(name: str, program: str) -> dict[str, dict[str, str]]:
    user = {"root": root, "ordinary": ordinary}[name]()
    # Nothing is tried as root without a sandbox.
    tiers = [tier for tier in TIERS if examine(tier).is_there]
    found: dict[str, dict[str, str]] = user.run(
        "tests.tools.sandbox.siege", program, *([] if user.has_own else ["none"]), *tiers
    )
    return found


@pytest.mark.parametrize("name", ["root", "ordinary"])
@pytest.mark.parametrize("tier", TIERS)
def test_a_tier_stops_what_it_promises_to_stop(tier: str, name: str, set_user_id: str) -> None:
    if missing := examine(tier).missing:
        pytest.skip(missing)
    user = {"root": root, "ordinary": ordinary}[name]()
    report = reports(name, set_user_id)[tier]
    assert report.keys() == ATTACKS.keys()
    through = {
        item.name: report[item.name]
        for item in ATTACKS.values()
        if is_promised(item, tier, has_own=user.has_own) and not report[item.name].startswith("denied")
    }
    assert through == {}


def test_each_tier_promises_to_stop_at_least_forty_attacks() -> None:
    assert len(ATTACKS) >= 80
    for tier in TIERS:
        # The weakest stops what an ordinary user may not do anyway, and what this process would hand on.
        assert sum(is_promised(item, tier, has_own=False) for item in ATTACKS.values()) >= (
            30 if tier == "process" else 40
        )


def test_what_the_weakest_tier_does_not_stop_gets_through_it(set_user_id: str) -> None:
    report = reports("ordinary", set_user_id)["process"]
    held = {
        item.name: report[item.name]
        for item in ATTACKS.values()
        if item.stopped_by != "process" and not item.may_fail_anyway and not report[item.name].startswith("reached")
    }
    assert held == {}  # otherwise the attack is none, or the page says too little of the tier


def test_without_a_sandbox_they_get_through(set_user_id: str) -> None:
    report = reports("ordinary", set_user_id)["none"]
    expected = ALWAYS_ATTACKS | ({"set_user_id"} if set_user_id else set())
    assert {name for name in expected if not report[name].startswith("reached")} == set()


def table() -> str:
    """Return what the page says of each attack."""
    lines = ["| what is tried | process | landlock | namespace | bubblewrap |", "|---|---|---|---|---|"]
    kind = ""
    kinds = list(dict.fromkeys(item.kind for item in ATTACKS.values()))
    for item in sorted(ATTACKS.values(), key=lambda item: kinds.index(item.kind)):
        if item.kind != kind:
            kind = item.kind
            lines.append(f"| **{kind}** | | | | |")
        lines.append(f"| {item.does} | " + " | ".join(cell(item, tier) for tier in TIERS) + " |")
    return "\n".join(lines) + "\n"


def cell(item: Attack, tier: str) -> str:
    if is_promised(item, tier, has_own=False):
        return "stopped"
    return "own user" if is_promised(item, tier, has_own=True) else "**no**"


def test_the_page_says_what_these_tests_hold() -> None:
    text = PAGE.read_text(encoding="utf-8")
    made = text.split(BEGIN)[1].split(END)[0]
    if made != table() and os.environ.get("AGENTGRPO_WRITE_PAGES"):
        PAGE.write_text(text.replace(BEGIN + made, BEGIN + table()), encoding="utf-8")
    assert made == table(), "AGENTGRPO_WRITE_PAGES=1 writes it anew"
