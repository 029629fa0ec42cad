"""Draws a run's learning curve: reward and success over train steps, and three signs of health below.

It reads `metrics.jsonl` and knows nothing of how the numbers came about.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agentgrpo.errors import UserError
from agentgrpo.store.run import read_metrics, writing
from agentgrpo.types import JsonObject

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 1400, 900  # pixels

_DPI = 100
_INK, _MUTED, _RULE = "#1b1f24", "#69707a", "#e4e7eb"
_HELDOUT, _SUCCESS, _REWARD = "#0f766e", "#2f6fde", "#c2701c"
_HEALTH = (
    ("train/tool_error_rate", "Tool calls that failed", "#b4443c", True),
    ("train/zero_variance_groups", "Groups without variance", "#7556b8", True),
    ("train/entropy", "Entropy, nats per token", "#4b5563", False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The steps at which a metric is known, and its values there."""

    steps: tuple[int, ...]
    values: tuple[float, ...]

    @classmethod
    def of(cls, rows: Sequence[JsonObject], key: str) -> Series:
        """Take one metric out of the rows of `read_metrics`."""
        known = [(row["step"], float(row[key])) for row in rows if row.get(key) is not None]
        return cls(steps=tuple(step for step, _ in known), values=tuple(value for _, value in known))

    def smoothed(self) -> tuple[float, ...]:
        """Return centred means over a twelfth of the run; at both ends the window is cut off."""
        windows = (self.values[max(0, i - self.reach) : i + self.reach + 1] for i in range(len(self)))
        return tuple(sum(window) / len(window) for window in windows)

    @property
    def reach(self) -> int:
        """How many values the smoothing takes in on either side."""
        return min(12, len(self.values) // 24)

    def __len__(self) -> int:
        return len(self.values)


def draw_curve(metrics: str | Path, path: str | Path, *, title: str = "") -> Path:
    """Draw the learning curve of a `metrics.jsonl` into a PNG of 1400 x 900 pixels and return its path.

    Raises:
        UserError: the file holds no metrics yet.
        RunError: the picture cannot be written; the one that was there is as it was.
    """
    rows = read_metrics(metrics) if Path(metrics).is_file() else []
    if not rows:
        raise UserError(f"no metrics in '{metrics}': the curve can be drawn after the first train step.")
    with _figure() as figure:
        above = figure.add_gridspec(1, 1, left=0.05, right=0.82, top=0.85, bottom=0.375)
        below = figure.add_gridspec(1, len(_HEALTH), left=0.05, right=0.965, top=0.24, bottom=0.065, wspace=0.19)
        top = figure.add_subplot(above[0])
        _draw_learning(top, rows)
        for column, (key, label, colour, is_share) in enumerate(_HEALTH):
            axes = figure.add_subplot(below[column], sharex=top)
            _draw_health(axes, Series.of(rows, key), label, colour, is_share)
        figure.text(0.05, 0.945, title or "Learning curve", fontsize=19, fontweight="bold", color=_INK, va="center")
        figure.text(0.05, 0.903, headline(rows), fontsize=12, color=_MUTED, va="center")
        with writing(Path(path).name, Path(path).parent):
            _save(figure, Path(path))
    return Path(path)


def headline(rows: Sequence[JsonObject]) -> str:
    """Return in one line what the curve shows: held-out success from first to last, or reward without evaluations."""
    heldout, reward = Series.of(rows, "eval/success"), Series.of(rows, "train/reward")
    steps = f"{rows[-1]['step']:,} train steps"
    if heldout:
        first, last, best = heldout.values[0], heldout.values[-1], max(heldout.values)
        return f"Held-out success {first:.1%} to {last:.1%} (best {best:.1%}) over {steps}"
    if reward:
        smooth = reward.smoothed()
        return f"Reward {smooth[0]:.2f} to {smooth[-1]:.2f} over {steps}, no evaluation yet"
    return steps


def _save(figure: Figure, path: Path) -> None:
    """Write the picture whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        figure.savefig(str(temporary), dpi=_DPI, format="png")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _figure() -> Iterator[Figure]:
    """Yield a figure of its own: no pyplot, no display, no state left behind."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 11, "axes.axisbelow": True}):
        figure = Figure(figsize=(WIDTH / _DPI, HEIGHT / _DPI), facecolor="white")
        FigureCanvasAgg(figure)
        yield figure


def _draw_learning(axes: Axes, rows: Sequence[JsonObject]) -> None:
    _dress(axes)
    ends: list[tuple[float, str, str]] = []
    for key, label, colour in (("train/reward", "train reward", _REWARD), ("train/success", "train success", _SUCCESS)):
        series = Series.of(rows, key)
        if series:
            smooth = series.smoothed()
            if series.reach:
                axes.plot(series.steps, series.values, color=colour, alpha=0.22, linewidth=1.0)
            axes.plot(series.steps, smooth, color=colour, linewidth=2.4, solid_capstyle="round")
            ends.append((smooth[-1], label, colour))
    ends += _draw_heldout(axes, rows)
    low, high = axes.dataLim.intervaly
    axes.set_ylim(min(0.0, low), max(1.0, high))
    axes.set_xlim(0, max(1, rows[-1]["step"]))
    axes.set_xlabel("train step", color=_MUTED, loc="right", fontsize=10, labelpad=2)
    _label_ends(axes, ends)
    _explain(axes, rows)


def _draw_heldout(axes: Axes, rows: Sequence[JsonObject]) -> list[tuple[float, str, str]]:
    heldout = Series.of(rows, "eval/success")
    if not heldout:
        return []
    by_step = {row["step"]: row for row in rows}
    bounds = [(by_step[step].get("eval/success_low"), by_step[step].get("eval/success_high")) for step in heldout.steps]
    below = [0.0 if low is None else max(0.0, v - low) for v, (low, _) in zip(heldout.values, bounds, strict=True)]
    above = [0.0 if high is None else max(0.0, high - v) for v, (_, high) in zip(heldout.values, bounds, strict=True)]
    axes.plot(heldout.steps, heldout.values, color=_HELDOUT, linewidth=1.4, alpha=0.55, zorder=4, clip_on=False)
    axes.errorbar(
        heldout.steps,
        heldout.values,
        yerr=[below, above],
        fmt="o",
        color=_HELDOUT,
        markersize=7,
        markeredgecolor="white",
        markeredgewidth=1.4,
        elinewidth=1.6,
        capsize=3.5,
        capthick=1.6,
        zorder=5,
        clip_on=False,
    )
    return [(heldout.values[-1], "held-out success", _HELDOUT)]


def _draw_health(axes: Axes, series: Series, label: str, colour: str, is_share: bool) -> None:
    _dress(axes)
    axes.set_title(label, loc="left", fontsize=11, color=_INK, pad=9)
    if not series:
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", va="center", color=_MUTED)
        axes.set_yticks([])
        return
    smooth = series.smoothed()
    if series.reach:
        axes.plot(series.steps, series.values, color=colour, alpha=0.25, linewidth=0.9)
    axes.plot(series.steps, smooth, color=colour, linewidth=2.0, solid_capstyle="round")
    last = f"{smooth[-1]:.1%}" if is_share else f"{smooth[-1]:.2f}"
    axes.set_title(last, loc="right", fontsize=11, color=colour, fontweight="bold", pad=9)
    axes.set_ylim(0, max(0.05 if is_share else 0.1, max(series.values) * 1.12))
    if is_share:
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")


def _dress(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#b8bec6")
    axes.grid(axis="y", color=_RULE, linewidth=1)
    axes.tick_params(colors=_MUTED, length=0, labelsize=10, pad=6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))


def _label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write each line's name and last value beside its end, pushed apart where they would overlap."""
    low, high = axes.get_ylim()
    gap = (high - low) * 0.058
    placed: list[float] = []
    for value, label, colour in sorted(ends, reverse=True):
        y = min(value, placed[-1] - gap) if placed else value
        placed.append(y)
        axes.annotate(
            f"{value:.2f}  {label}",
            (1, y),
            xycoords=("axes fraction", "data"),
            xytext=(16, 0),
            textcoords="offset points",
            color=colour,
            fontsize=11,
            fontweight="bold",
            va="center",
            annotation_clip=False,
        )


def _explain(axes: Axes, rows: Sequence[JsonObject]) -> None:
    """Say above the plot how it is to be read."""
    reach = max(Series.of(rows, "train/reward").reach, Series.of(rows, "train/success").reach)
    notes = [f"thin: each step, thick: mean of {2 * reach + 1} steps"] if reach else []
    notes += ["dots: held-out tasks with 95% intervals"] if Series.of(rows, "eval/success") else []
    axes.set_title("   ·   ".join(notes), loc="left", fontsize=10, color=_MUTED, pad=10)
