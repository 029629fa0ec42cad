"""What the benchmarks share: a tiny random model, timing, and where results go."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from rich.console import Console
from rich.table import Table
from transformers import Qwen3Config, Qwen3ForCausalLM

RESULTS = Path(__file__).parent / "results"
VOCABULARY = 2000
WIDTH = 160  # of tables, also where no terminal says one
T = TypeVar("T")


class Spread(NamedTuple):
    """A median and the quartiles around it."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g}..{self.high:.3g})"


def tiny_model() -> Qwen3ForCausalLM:
    """Return the demo's architecture with random weights."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=24,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    return Qwen3ForCausalLM(config).requires_grad_(False).eval()


def best_of(runs: int, work: Callable[[], Any]) -> float:
    """Return the fewest seconds of several runs: the machine is shared, the minimum is the least disturbed."""
    seconds = []
    for _ in range(runs):
        clock = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - clock)
    return min(seconds)


def alternate(sides: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Run the sides in turn, `rounds` times, and return what each gave: both see the same noise of the machine.

    Every second round goes backwards (A B B A), so that neither always runs after the other.
    """
    results: dict[str, list[T]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: -1 if number % 2 else 1]:
            results[name].append(sides[name]())
    return results


def spread(values: Sequence[float]) -> Spread:
    """Return the median and the quartiles."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else (values[0],) * 3
    return Spread(median, low, high)


def paired(numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
    """Return the spread of the ratios of what was measured in the same round."""
    return spread([a / b for a, b in zip(numerators, denominators, strict=True)])


def last_line(facts: Mapping[str, Any]) -> None:
    """Print what was found as one JSON object: the last line of a benchmark's output, for programs to read."""
    print(json.dumps(facts), flush=True)


def report(name: str, headings: Sequence[str], rows: Sequence[Sequence[Any]], **facts: Any) -> None:
    """Print a table and write it, with what it was measured on, to results/<name>.json."""
    table = Table(title=name, title_justify="left", box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row))
    Console(highlight=False, width=WIDTH).print(table)
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "torch": torch.__version__}
    machine["threads"] = torch.get_num_threads()
    data: Mapping[str, Any] = {
        "name": name,
        "machine": machine,
        "rows": [dict(zip(headings, r, strict=True)) for r in rows],
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({**data, **facts}, indent=1), encoding="utf-8")
