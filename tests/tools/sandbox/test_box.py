from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentgrpo.core import ToolEnv
from agentgrpo.errors import EnvError, ToolError
from agentgrpo.tools.sandbox import TIERS, Limits, Sandbox, examine, python_tool
from agentgrpo.tools.sandbox.tiers import Tier
from agentgrpo.tools.sandbox.usage import disk_of
from agentgrpo.tools.sandbox.user import is_open_to_others
from tests.tools.sandbox.bombs import running


@pytest.fixture(params=TIERS)
def tier(request: pytest.FixtureRequest) -> Tier:
    tier: Tier = request.param
    if missing := examine(tier).missing:
        pytest.skip(missing)
    return tier


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(minimum="process") as sandbox:
        yield sandbox


async def test_files_stay_between_calls_processes_and_variables_do_not(tier: Tier) -> None:
    with Sandbox(minimum="process", tier=tier) as sandbox:
        assert await sandbox.python("x = 1; open('a.txt', 'w').write('hello')") == "(no output)"
        assert await sandbox.shell("cat a.txt; sleep 61 &") == "hello"
        assert "NameError" in await sandbox.python("print(x)")
        assert sandbox.read("a.txt") == b"hello"
        assert running("sleep\x0061") == []


async def test_a_call_looks_the_same_in_every_tier(tier: Tier) -> None:
    with Sandbox(minimum="process", tier=tier) as sandbox:
        sandbox.write("tools/extra.py", "def twice(n): return 2 * n\n")
        told = await sandbox.python(
            "from tools.extra import twice; import sys; print(twice(21)); print('x', file=sys.stderr)"
        )
        assert sorted(told.splitlines()) == ["42", "x"]
        assert await sandbox.shell("echo out; echo err >&2; exit 3") == "out\nerr\n[exit code 3]"
        assert await sandbox.shell("kill -SEGV $$") == "[exit code 139: SIGSEGV]"
        assert "[exit code 127]" in await sandbox.shell("no-such-program")
        outcome = await sandbox.run(["no-such-program"])
        assert (outcome.exit_code, outcome.ended, outcome.tier) == (127, "exit", tier)
        outcome = await sandbox.run([sandbox.python_path, "-c", "print(input())"], stdin="é\n".encode())
        assert (outcome.output, outcome.is_success) == ("é\n", True)


@pytest.mark.parametrize("tier", ["namespace", "bubblewrap"], indirect=True)
def test_the_stronger_tiers_show_the_same_place_on_every_machine(tier: Tier) -> None:
    with Sandbox(minimum="process", tier=tier) as sandbox:
        told = sandbox.run_sync(["/bin/sh", "-c", "pwd; id -u; hostname; echo $HOME $TMPDIR"]).output
        assert told == "/tmp/work\n1000\nsandbox\n/tmp/work /tmp\n"


def test_a_command_sees_a_fixed_list_of_variables(tier: Tier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with Sandbox(minimum="process", tier=tier) as sandbox:
        lines = sandbox.run_sync(["/usr/bin/env"]).output.splitlines()
    names = "GIT_CONFIG_NOSYSTEM HOME LANG OMP_NUM_THREADS OPENBLAS_NUM_THREADS PATH"
    names += " PYTHONDONTWRITEBYTECODE PYTHONHASHSEED PYTHONUTF8 TMPDIR"
    assert {line.split("=")[0] for line in lines} - {"PWD"} == set(names.split())


def test_a_limit_that_is_reached_is_told_to_the_model() -> None:
    with Sandbox(minimum="process", limits=Limits(seconds=3.0)) as sandbox:
        assert asyncio.run(sandbox.shell("echo begin; sleep 60")) == "begin\n[stopped: not finished within 3 s]"
    with Sandbox(minimum="process", limits=Limits(seconds=60.0, output=100, processes=8)) as sandbox:
        told = asyncio.run(sandbox.python("print('a' * 300)"))
        assert told == "a" * 50 + "\n[... 201 bytes left out ...]\n" + "a" * 49 + "\n"
        outcome = sandbox.run_sync([sandbox.python_path, "-c", "print('a' * 300)"])
        assert outcome.left_out == 201


def test_output_that_is_no_text_is_readable_all_the_same(sandbox: Sandbox) -> None:
    code = "import os; os.write(1, b'\\xff\\x00ok\\xc3')"
    assert asyncio.run(sandbox.python(code)) == "\ufffd\x00ok\ufffd"


def test_a_full_sandbox_can_be_tidied_up() -> None:
    with Sandbox(minimum="process", limits=Limits(disk=2**20)) as sandbox:
        fill = "for i in range(3): open(str(i), 'wb').write(b'x' * 2**19)"
        assert "take more than 1 MB; delete some" in asyncio.run(sandbox.python(fill))
        assert asyncio.run(sandbox.shell("rm 1 2; ls")) == "0\n"
        assert "delete some" in asyncio.run(sandbox.python(fill))


def test_a_full_sandbox_does_not_grow_from_call_to_call(tier: Tier) -> None:
    with Sandbox(minimum="process", tier=tier, limits=Limits(disk=2**20)) as sandbox:
        fill = "import os\nfor i in range(3): open(os.urandom(4).hex(), 'wb').write(b'x' * 2**20)"
        sizes = []
        for _ in range(4):
            assert "take more than 1 MB; delete some" in asyncio.run(sandbox.python(fill))
            sizes.append(disk_of(sandbox._folder.path))
        assert sizes[0] > 2**20
        assert max(sizes) <= sizes[0] + 3 * 3 * 4096  # three calls, three files that are next to empty


def test_a_snapshot_goes_to_another_sandbox(sandbox: Sandbox) -> None:
    sandbox.run_sync(["/bin/sh", "-c", "mkdir d && echo 1 > d/f && ln -s d/f l"])
    data = sandbox.snapshot()
    sandbox.clear()
    assert sandbox.run_sync(["/bin/ls"]).output == ""
    with Sandbox(minimum="process") as other:
        other.restore(data)
        assert other.run_sync(["/bin/sh", "-c", "cat l && echo 2 >> d/f && rm l"]).output == "1\n"
        assert other.snapshot() != data
    sandbox.restore(data)
    assert sandbox.snapshot() == data


async def test_one_command_at_a_time(sandbox: Sandbox) -> None:
    first = asyncio.create_task(sandbox.shell("sleep 3; echo done"))
    await asyncio.sleep(0)
    with pytest.raises(EnvError, match="one thing at a time"):
        await sandbox.shell("true")
    with pytest.raises(EnvError, match="one thing at a time"):
        sandbox.snapshot()
    assert await first == "done\n"


async def test_sandboxes_run_side_by_side() -> None:
    boxes = [Sandbox(minimum="process") for _ in range(8)]
    start = time.monotonic()
    told = await asyncio.gather(*[box.shell(f"echo {n} > n; sleep 2; cat n; ls") for n, box in enumerate(boxes)])
    assert time.monotonic() - start < 14  # one after the other: 16
    assert told == [f"{n}\nn\n" for n in range(8)]
    for box in boxes:
        box.close()


async def test_a_cancelled_call_is_over_before_the_next_begins(sandbox: Sandbox) -> None:
    call = asyncio.create_task(sandbox.shell("trap '' TERM; (sleep 62; echo late > late) & sleep 62"))
    await asyncio.sleep(0.3)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await sandbox.shell("ls") == "(no output)"
    assert running("sleep\x0062") == []


def test_a_closed_sandbox_is_gone(sandbox: Sandbox) -> None:
    folder = Path(sandbox._folder.path)
    sandbox.close()
    sandbox.close()
    assert not folder.exists()
    with pytest.raises(EnvError, match="closed: make one per episode"):
        sandbox.run_sync(["/bin/true"])


def test_what_no_program_takes_is_told_to_the_model(sandbox: Sandbox) -> None:
    with pytest.raises(ToolError, match="NUL"):
        asyncio.run(sandbox.python("print(1)\0"))
    tool = python_tool(sandbox)
    assert tool.call({"code": "\ud800"}).is_error
    with pytest.raises(ToolError, match="262,144 bytes, at most 131,071"):
        asyncio.run(sandbox.shell("x" * 2**18))
    with pytest.raises(EnvError, match="pass it as stdin or in a file"):
        sandbox.run_sync(["/bin/echo", "x" * 2**18])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"minimum": "landlok"}, "there is no tier 'landlok'.*Did you mean 'landlock'"),
        ({"tier": "docker"}, "there is no tier 'docker'"),
        ({"minimum": "namespace", "tier": "landlock"}, "'landlock' is weaker than the minimum, 'namespace'"),
        ({"minimum": "process", "readable": ["/tmp/data"]}, "/tmp/data cannot be shown.*has a /tmp of its own"),
        ({"minimum": "process", "python": "/no/python"}, "there is no /no/python"),
    ],
)
def test_what_cannot_be_had_is_said(options: dict[str, object], message: str) -> None:
    with pytest.raises(EnvError, match=message):
        Sandbox(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("limits", [{"seconds": 0}, {"memory": -1}, {"output": 2**30}, {"seconds": float("nan")}])
def test_limits_that_cannot_be_kept_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(EnvError, match="a sandbox's limit"):
        Limits(**limits)  # type: ignore[arg-type]


def test_more_can_be_shown_to_read_and_nothing_else(tier: Tier) -> None:
    readable = Path(__file__).resolve()
    if os.geteuid() == 0 and not is_open_to_others(str(readable)):
        pytest.skip("only root can read the tests")
    if readable.is_relative_to("/tmp"):
        pytest.skip("the tests are in /tmp")
    with Sandbox(minimum="process", tier=tier, readable=[readable]) as sandbox:
        command = f"head -c 6 {readable}; cat {readable.with_name('attacks.py')} | wc -c; echo >> {readable}"
        told = sandbox.run_sync(["/bin/sh", "-c", command]).output
        assert told.startswith("from _")
        assert tier == "process" or "\n0\n" in told


def test_the_packages_of_this_program_are_not_there(tier: Tier) -> None:
    with Sandbox(minimum="process", tier=tier) as sandbox:
        code = "import sys; print([p for p in sys.path if 'site-packages' in p]); import agentgrpo"
        outcome = sandbox.run_sync([sandbox.python_path, "-s", "-c", code])
        assert sys.prefix == sys.base_prefix or sys.prefix not in outcome.output
        assert "No module named 'agentgrpo'" in outcome.output or sys.prefix == sys.base_prefix


def test_what_is_in_force_is_recorded(sandbox: Sandbox) -> None:
    facts = sandbox.facts
    assert facts["tier"] == sandbox.tier == next(tier for tier in reversed(TIERS) if examine(tier).is_there)
    assert facts["python"] == sandbox.python_path
    assert facts["own_user"] == (os.geteuid() == 0)


PAGE = Path(__file__).parents[3] / "docs" / "tools-sandbox.md"
TASK = {"goal": "Print the sum of the numbers you read.", "cases": [["1 2 3", "6"], ["", "0"], ["-1 1 10", "10"]]}
RIGHT = "print(sum(map(int, input_text.split())))"
SOLUTIONS = {
    "import sys; input_text = sys.stdin.read(); " + RIGHT: 1.0,
    "print(6)": 1 / 3,
    "print('6\\n0\\n10')": 0.0,  # all of them, every time
    "import os; os._exit(0)": 0.0,
    "raise SystemExit(0)": 0.0,
    "print('all tests passed')": 0.0,
}


@pytest.fixture(scope="module")
def coder() -> type[ToolEnv]:
    """The environment of the page."""
    code = PAGE.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {"LIMITS": Limits(seconds=1.0)}
    exec(code.replace('minimum="landlock"', 'minimum="process", limits=LIMITS'), names)
    made: type[ToolEnv] = names["Coder"]
    return made


def write(env: ToolEnv, path: str, text: str) -> str:
    code = f"open({path!r}, 'w').write({text!r})"
    return env.step(json.dumps(env.call("python", code=code)))[0]


@pytest.mark.parametrize("solution", SOLUTIONS)
def test_the_pages_environment_pays_for_right_answers_only(coder: type[ToolEnv], solution: str) -> None:
    env = coder()
    _, info = env.reset(seed=1, options={"task": TASK})
    assert [tool["function"]["name"] for tool in info["tools"]] == ["python", "shell"]
    assert info["tools"][0]["function"]["parameters"]["properties"]["code"] == {
        "type": "string",
        "description": "The program.",
    }
    assert write(env, "solution.py", solution) == "(no output)"
    assert env.step("done")[1] == pytest.approx(SOLUTIONS[solution])
    env.close()


def test_doing_nothing_pays_nothing(coder: type[ToolEnv]) -> None:
    env = coder()
    env.reset(seed=1, options={"task": TASK})
    assert env.step("done")[1] == 0.0
    env.close()


def test_modules_of_the_agent_pay_only_what_they_answer(coder: type[ToolEnv]) -> None:
    env = coder()
    env.reset(seed=1, options={"task": TASK})
    write(env, "sys.py", "raise SystemExit")
    write(env, "unittest.py", "def main(): print('OK')")
    write(env, "solution.py", "import unittest; unittest.main()")
    assert env.step("done")[1] == 0.0
    env.close()
