"""What an environment costs beside its model: reset, fork, a tool call, and a thousand of them at once.

`python -m bench envs [--quick]`. The shop as it ships is a few kilobytes; its app is also measured with databases of
0.75 and 4 MB, for apps of others are larger.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from agentgrpo.envs.shop.env import Shop
from agentgrpo.tools.shop import ShopApp
from bench.common import last_line, report

MB = 1 << 20
SIZES = {"0.75 MB": 0.75 * MB, "4 MB": 4 * MB}
AT_ONCE = 1000
_PAGE_BYTES = 4096  # of /proc's numbers


def main(*, quick: bool = False) -> None:
    """Print and write milliseconds and gigabytes."""
    rounds = 200 if quick else 1000
    env = Shop()
    task = env.tasks("train")[0]
    env.reset(seed=0, options={"task": task})
    rows: list[tuple[Any, ...]] = [_row("shop as it ships", env.app, rounds, lambda: _reset(env, task))]
    for name, size in SIZES.items():
        app = grown(size)
        rows.append(_row(f"its app with {name}", app, rounds // 10, partial(app.restore, app.snapshot())))
    overhead = call_overhead(rounds)
    memory = {name: gigabytes(size) for name, size in SIZES.items() if not quick or name == "0.75 MB"}
    for name, used in memory.items():
        rows.append((f"{AT_ONCE} shops of {name} at once", "", "", "", used))
    rows.append(("a tool call, beside the tool", "", "", overhead, ""))
    worst = rows[1]
    summary = {
        "reset_ms": round(worst[2], 3),
        "fork_ms": round(worst[3], 3),
        "call_overhead_ms": round(overhead, 4),
        "gb_at_1000": round(memory["0.75 MB"], 3),
    }
    report("envs", ("what", "database kB", "reset ms", "fork ms / call ms", "GB"), rows, summary=summary)
    last_line(summary)


def _row(name: str, app: ShopApp, rounds: int, reset: Callable[[], Any]) -> tuple[Any, ...]:
    def fork() -> None:
        app.fork().close()

    return name, len(app.snapshot()) / 1024, median_ms(reset, rounds), median_ms(fork, rounds), ""


def _reset(env: Shop, task: dict[str, Any]) -> None:
    env.reset(seed=0, options={"task": task})


def median_ms(work: Callable[[], Any], rounds: int) -> float:
    """Return the median of some rounds: others share the machine."""
    times = []
    for _ in range(max(5, rounds)):
        clock = time.perf_counter()
        work()
        times.append(time.perf_counter() - clock)
    return 1000 * statistics.median(times)


def call_overhead(rounds: int) -> float:
    """Return the milliseconds a call of a tool takes through the environment, less those of the tool itself."""
    env = Shop()
    env.reset(seed=0, options={"task": env.tasks("train")[0]})
    action = json.dumps(env.call("get_product", item="lamp"))
    whole = median_ms(lambda: env.step(action), rounds)
    return whole - median_ms(lambda: env.app.get_product("lamp"), rounds)


def grown(size: float) -> ShopApp:
    """Return a shop whose database has about so many bytes."""
    app = ShopApp()
    for customers in _customers():
        app.insert("customers", customers)
        app.insert("orders", [_order(customer["id"], n) for customer in customers for n in range(3)])
        if len(app.snapshot()) >= 0.97 * size:
            return app
    raise AssertionError("customers do not end")


def _customers() -> Iterator[list[dict[str, Any]]]:
    number = 0
    while True:
        yield [{"id": f"C{i}", "name": f"Name{i % 977} Family{i % 991}"} for i in range(number, number + 50)]
        number += 50


def _order(customer: str, number: int) -> dict[str, Any]:
    return {
        "id": f"{customer}-{number}",
        "customer": customer,
        "day": number,
        "status": "pending",
        "street": "Elm",
        "paid": 15 + number,
    }


def gigabytes(size: float) -> float:
    """Return what a process of its own holds in memory when a thousand apps are open, less what it began with."""
    script = f"from bench.envs import hold; hold({size})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return float(done.stdout)


def hold(size: float) -> None:
    """Open a thousand apps of a size, each after a call and a change, and print the gigabytes they take."""
    snapshot = grown(size).snapshot()
    before = _resident()
    envs = [Shop() for _ in range(AT_ONCE)]
    for env in envs:
        env.app.restore(snapshot)
        env.app.find_customer("Name1 Family1")
        env.app.insert("customers", [{"id": "new", "name": "Ann Poe"}])
        env.app.state_hash()
    print((_resident() - before) / 1e9)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES


if __name__ == "__main__":
    main(quick="--quick" in sys.argv[1:])
