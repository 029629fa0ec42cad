"""A run's `metrics.jsonl` as columns of numbers, read on from where the last look ended.

It knows no metric by name. A million values are 8 MB.
"""

from __future__ import annotations

import json
import math
from array import array
from bisect import bisect_left
from pathlib import Path

from agentgrpo.types import JsonObject

_MOST_COLUMNS = 400  # a run that names a metric after every task would take all memory


class MetricsFile:
    """The columns of a file that grows; one that was cut off is read anew."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.steps: list[int] = []
        self.columns: dict[str, array[float]] = {}
        self._offset = 0

    def refresh(self) -> bool:
        """Read what was added; return whether anything was."""
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            size = 0
        if size < self._offset:
            self.steps, self.columns, self._offset = [], {}, 0
        if size <= self._offset:
            return False
        with self.path.open("rb") as file:
            file.seek(self._offset)
            data = file.read(size - self._offset)
        whole = data[: data.rfind(b"\n") + 1]  # half a line is read when it is whole
        self._offset += len(whole)
        for line in whole.splitlines():
            self._take(line)
        return bool(whole)

    def column(self, name: str) -> list[float | None]:
        """Return a metric at every step, None where it is not known."""
        values = self.columns.get(name)
        if values is None:
            return [None] * len(self.steps)
        return [value if math.isfinite(value) else None for value in values]

    def _take(self, line: bytes) -> None:
        try:
            values: JsonObject = json.loads(line)
            step = int(values["step"])
        except (ValueError, KeyError, TypeError):
            return  # torn by a kill: the step is made again
        place = self._place(step)
        for name, value in values.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if name == "step" or not is_number:
                continue
            if name not in self.columns:
                if len(self.columns) >= _MOST_COLUMNS:
                    continue
                self.columns[name] = array("d", [math.nan] * len(self.steps))
            self.columns[name][place] = value

    def _place(self, step: int) -> int:
        place = bisect_left(self.steps, step)
        if place == len(self.steps) or self.steps[place] != step:
            self.steps.insert(place, step)
            for values in self.columns.values():
                values.insert(place, math.nan)
        return place
