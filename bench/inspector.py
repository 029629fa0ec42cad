"""How quick the inspector is: a run of 100,000 episodes in a real headless Chromium, and what storing them takes.

The page is measured in the page itself, from the key or the navigation to the frame after what was asked for is drawn;
the server is a process of its own, as users start it. Needs playwright and /usr/bin/chromium.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from agentgrpo.store import EpisodeReader, RunDirectory, parse_filter
from bench.common import best_of, last_line, report
from bench.inspector_run import Author, describe, large_run, writing_cost

CHROMIUM = Path("/usr/bin/chromium")
HOW = "the bench of the inspector needs playwright and Debian's chromium: pip install playwright; apt install chromium"
EPISODES, QUICK_EPISODES, MILLION = 100_000, 5_000, 1_000_000
LONG = {"tokens-8k": 8_000, "tokens-32k": 32_000}
TARGETS = {
    "first_rows_ms": 300.0,
    "filter_ms": 150.0,
    "query_p99_ms": 5.0,
    "open_ms": 200.0,
    "tokens_8k_ms": 250.0,
    "tokens_32k_ms": 400.0,
    "group_ms": 1000.0,
    "rss_mb": 150.0,
    "bytes_per_token": 2.5,
}
WRITE_MS = 0.5  # of CPU per episode of 1k tokens

# Runs `act`, and returns the ms until `found` holds and a frame has been drawn since. Looks at every change.
MEASURE = """
window.measure = (act, found) => new Promise((done) => {
  const start = performance.now();
  const end = () => requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));
  const observer = new MutationObserver(() => { if (found()) { observer.disconnect(); end(); } });
  observer.observe(document.body, { childList: true, subtree: true, characterData: true, attributes: true });
  act();
});
window.press = (key) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
window.visit = (href) => {
  const link = document.createElement("a");
  link.href = href;
  document.body.append(link);
  link.click();
  link.remove();
};
new MutationObserver((_, observer) => {
  if (!document.querySelector(".list-row")) return;
  observer.disconnect();
  requestAnimationFrame(() => setTimeout(() => (window.firstRows = performance.now())));
}).observe(document, { childList: true, subtree: true });
"""
FILTER = """(text) => measure(() => {
  const input = document.querySelector(".filter-input");
  input.value = text;
  input.dispatchEvent(new Event("input", { bubbles: true }));
  window.wanted = text;
}, () => location.search.includes(encodeURIComponent(window.wanted).slice(0, 6).split("%")[0])
   && document.querySelector(".filter-note").textContent.includes(" of "))"""
OPEN = '() => measure(() => press("Enter"), () => document.querySelector(".turn") && document.querySelector(".facts"))'
TOKENS = """(size) => measure(() => press("t"), () => document.querySelectorAll(".tokens i").length >= size)"""
GROUP = """(href) => measure(() => visit(href), () => document.querySelectorAll(".columns-head").length === 8
  && document.querySelector(".columns-row.is-end"))"""


@contextmanager
def served(root: Path) -> Iterator[tuple[str, int]]:
    """Start the server as a user does; yield its address and its process id."""
    command = [sys.executable, "-m", "agentgrpo.cli.main", "view", str(root), "--port", "0", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://[\d.:]+", process.stdout.readline())
            if found is None:
                sys.exit("the server did not start")
            yield found[0], process.pid
        finally:
            process.terminate()


def peak_mb(pid: int) -> float:
    """Return the most memory a process has had resident."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


def queries_p99_ms(run: RunDirectory, rounds: int) -> dict[str, float]:
    """Return the 99th percentile of each kind of query of the index."""
    with EpisodeReader(run.episodes) as reader:
        ids = [row.id for row in reader.list(order="reward", limit=400)]
        kinds: dict[str, Callable[[int], Any]] = {
            "newest page": lambda _: reader.list(limit=100),
            "page by reward": lambda i: reader.list(order="reward", after=ids[i % len(ids)], limit=100),
            "filter by step": lambda i: reader.list(parse_filter(f"step:{1 + i % 9}"), limit=100),
            "filter by reward": lambda i: reader.list(parse_filter(f"reward<{i % 2}"), order="reward", limit=100),
            "filter by tool": lambda _: reader.list(parse_filter("tool:refund stop:max_turns"), limit=100),
            "filter by task": lambda i: reader.list(parse_filter(f"task:refund_item-{i % 500:04d}"), limit=100),
            "text": lambda i: reader.list(parse_filter(f'"call{i % 10}"'), limit=100),
            "group": lambda i: reader.group(reader.find(ids[i % len(ids)]).key),
            "sums of steps": lambda _: reader.steps(),
        }
        found = {}
        for name, ask in kinds.items():
            ask(0)
            found[name] = statistics.quantiles([_ms(ask, i) for i in range(rounds)], n=100)[98]
        return found


def _ms(ask: Callable[[int], Any], number: int) -> float:
    """Return the ms of one query, the least of three: other work on a shared machine is not the query's."""
    return 1000 * best_of(3, lambda: ask(number))


def page_ms(url: str, run: RunDirectory, rounds: int) -> dict[str, float]:
    """Return how long the page takes, the median of several times."""
    from playwright.sync_api import sync_playwright

    found: dict[str, list[float]] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for number in range(rounds + 1):
            context = browser.new_context(viewport={"width": 1280, "height": 900}, base_url=url)
            context.add_init_script(MEASURE)
            for name, value in _look(context.new_page(), run).items():
                found.setdefault(name, []).extend([value] if number else [])  # the first round warms up
            context.close()
        browser.close()
    return {name: statistics.median(values) for name, values in found.items()}


def _look(page: Any, run: RunDirectory) -> dict[str, float]:
    """Do what a user does, once."""
    here, found = f"/r/{run.path.name}", {}
    page.goto(f"{here}/episodes")
    page.wait_for_function("() => window.firstRows > 0")
    found["first_rows_ms"] = float(page.evaluate("() => window.firstRows"))
    page.wait_for_function("() => document.querySelector('.filter-note').textContent.includes('episodes')")
    found["filter_ms"] = float(page.evaluate(FILTER, "reward<0.2 tool:refund"))
    found["open_ms"] = float(page.evaluate(OPEN))
    with EpisodeReader(run.episodes) as reader:
        longs = {task: reader.list(parse_filter(f"task:{task}"), limit=1)[0] for task in LONG}
    for task, name in (("tokens-8k", "tokens_8k_ms"), ("tokens-32k", "tokens_32k_ms")):
        page.goto(f"{here}/episode?key={longs[task].id}")
        page.wait_for_selector(".turn")
        found[name] = float(page.evaluate(TOKENS, longs[task].tokens))
    page.goto(f"{here}/steps")
    page.wait_for_selector(".chart-large")
    key = longs["tokens-8k"].key
    found["group_ms"] = float(page.evaluate(GROUP, f"{here}/group?key=train/{key.step}/{key.task_id}"))
    return found


def measure(folder: Path, author: Author, count: int, rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return what a run of `count` episodes takes to look at, and the 99th percentile of each kind of query."""
    clock = time.perf_counter()
    run = large_run(folder / str(count), author, count, LONG)
    print(f"{count:,} episodes made in {time.perf_counter() - clock:.0f} s, {describe(run)}", flush=True)
    queries = queries_p99_ms(run, 20 * rounds)
    with served(run.path.parent) as (url, pid):
        found = page_ms(url, run, rounds)
        found["rss_mb"] = peak_mb(pid)
    return {**found, "query_p99_ms": max(queries.values())}, queries


def main(options: list[str]) -> None:
    """Measure, print, and write results; `--million` adds a run of 1,000,000 episodes (some 15 minutes)."""
    if find_spec("playwright") is None or not CHROMIUM.is_file():
        print(HOW)
        return
    quick = "--quick" in options
    rounds = 3 if quick else 9
    sizes = [QUICK_EPISODES if quick else EPISODES, *([MILLION] if "--million" in options else [])]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        author = Author.of_the_repository()
        cost = writing_cost(folder, author, 136 if quick else 520)
        measured = [measure(folder, author, size, rounds) for size in sizes]
    found = [{**page, "bytes_per_token": cost.tokens} for page, _ in measured]
    rows = [[name, *(each[name] for each in found), target] for name, target in TARGETS.items()]
    rows.append(["write_ms_per_1k_tokens", *(cost.ms for _ in found), WRITE_MS])
    rows.append(["learner_bytes_per_token", *(cost.learner for _ in found), "-"])
    rows.append(["file_bytes_per_token", *(cost.file for _ in found), "-"])
    rows += [[f"p99 of {kind}, ms", *(queries[kind] for _, queries in measured), 5.0] for kind in measured[0][1]]
    report("inspector", ["what", *(f"{size:,} episodes" for size in sizes), "at most"], rows, targets=TARGETS)
    last_line({name: round(found[0][name], 3) for name in TARGETS})
