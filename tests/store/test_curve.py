from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest

from agentgrpo.errors import UserError
from agentgrpo.store import Metrics, draw_curve
from agentgrpo.store.curve import HEIGHT, WIDTH, Series, headline


def size_of(png: Path) -> tuple[int, int]:
    data = png.read_bytes()
    assert data.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", data[16:24])
    return int(width), int(height)


def metrics_file(path: Path, steps: int, **values: float) -> Path:
    with Metrics(path) as metrics:
        for step in range(steps):
            metrics.write(step, {key.replace("__", "/"): value for key, value in values.items()})
    return path


@pytest.mark.parametrize("steps", [1, 2, 60])
def test_the_curve_is_a_png_of_the_size_that_was_said(tmp_path: Path, steps: int) -> None:
    values = {"train__reward": 0.5, "train__success": 0.4, "train__entropy": 1.2, "train__tool_error_rate": 0.0}
    heldout = {"eval__success": 0.5, "eval__success_low": 0.4, "eval__success_high": 0.6}
    source = metrics_file(tmp_path / "metrics.jsonl", steps, **values, **heldout)
    assert size_of(draw_curve(source, tmp_path / "curve.png", title="shop")) == (WIDTH, HEIGHT)


def test_metrics_that_were_not_recorded_leave_no_hole(tmp_path: Path) -> None:
    source = metrics_file(tmp_path / "metrics.jsonl", 3, eval__success=0.5)
    assert size_of(draw_curve(source, tmp_path / "curve.png")) == (WIDTH, HEIGHT)


def test_no_metrics_no_curve(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="after the first train step"):
        draw_curve(tmp_path / "metrics.jsonl", tmp_path / "curve.png")


def test_drawing_leaves_pyplot_alone(tmp_path: Path) -> None:
    source = metrics_file(tmp_path / "m.jsonl", 2, train__reward=1.0)
    # In a process of its own: in this one somebody else may have imported it.
    script = (
        "import sys; from pathlib import Path; from agentgrpo.store import draw_curve; "
        f"draw_curve(Path({str(source)!r}), Path({str(tmp_path / 'c.png')!r})); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    assert (tmp_path / "c.png").stat().st_size > 0


def test_smoothing_is_a_centred_mean() -> None:
    line = Series(steps=tuple(range(48)), values=tuple(float(i) for i in range(48)))
    assert line.reach == 2
    assert line.smoothed()[2:-2] == line.values[2:-2]
    assert line.smoothed()[0] == 1.0
    assert Series(steps=(0,), values=(0.5,)).smoothed() == (0.5,)


def test_the_headline_says_what_is_known() -> None:
    heldout = [{"step": 0, "eval/success": 0.1}, {"step": 1200, "eval/success": 0.8}]
    assert headline(heldout) == "Held-out success 10.0% to 80.0% (best 80.0%) over 1,200 train steps"
    assert headline([{"step": 4, "train/reward": 0.5}]).startswith("Reward 0.50 to 0.50 over 4")
    assert headline([{"step": 4}]) == "4 train steps"
