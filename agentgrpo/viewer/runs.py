"""The runs of a folder, opened for reading when somebody looks at them.

It knows files and connections, not what is shown of them. Names are looked up, never made into paths.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path

from agentgrpo.errors import UserError, nearest
from agentgrpo.store.reader import EpisodeReader
from agentgrpo.store.run import RunDirectory, is_run, runs_in
from agentgrpo.types import JsonObject
from agentgrpo.viewer.series import MetricsFile
from agentgrpo.viewer.vocabulary import Vocabulary

MOST_OPEN = 12  # runs; the one not looked at for longest is closed


class OpenRun:
    """One run: its record, its metrics, and connections to its episodes, one for each thread that reads."""

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory
        self.name = directory.name
        self.metrics = MetricsFile(directory.metrics)
        self._idle: queue.LifoQueue[EpisodeReader] = queue.LifoQueue()

    @property
    def has_episodes(self) -> bool:
        return self.directory.episodes.is_file()

    def record(self) -> JsonObject:
        """Return what `run.json` says; {} where it cannot be read just now."""
        try:
            return self.directory.read_record()
        except UserError:
            return {}

    @contextmanager
    def reader(self) -> Iterator[EpisodeReader]:
        """Lend a connection.

        Raises:
            UserError: the run has no episodes yet.
        """
        try:
            reader = self._idle.get_nowait()
        except queue.Empty:
            reader = EpisodeReader(self.directory.episodes)
        try:
            yield reader
        finally:
            self._idle.put(reader)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """What the tokens of the run's model say."""
        return Vocabulary.of(self.record().get("model_path"))

    def close(self) -> None:
        """Close the connections nobody is using."""
        with suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()


class NoRunError(UserError):
    """There is no run of that name: a link may be older than the run's folder."""


class Runs:
    """The runs of a folder, or one run, by the name of their folders.

    Raises:
        UserError: there is no run.
    """

    def __init__(self, root: Path) -> None:
        RunDirectory.open(root)  # says what is wrong
        self.root = root
        self._open: dict[str, OpenRun] = {}

    def paths(self) -> dict[str, Path]:
        """Return where each run is, the newest last; runs made meanwhile are found too."""
        found = [self.root] if is_run(self.root) else runs_in(self.root)
        return {path.resolve().name: path for path in found}

    def get(self, name: str) -> OpenRun:
        """Return a run by name.

        Raises:
            NoRunError: there is none of that name.
        """
        run = self._open.pop(name, None)
        if run is None:
            paths = self.paths()
            if name not in paths:
                raise NoRunError(f"no run '{name}' in '{self.root}'.{nearest(name, paths)}")
            run = OpenRun(RunDirectory(path=paths[name]))
        self._open[name] = run  # the last one is the one looked at last
        while len(self._open) > MOST_OPEN:
            self._open.pop(next(iter(self._open))).close()
        return run

    def close(self) -> None:
        """Close everything."""
        for run in self._open.values():
            run.close()
        self._open.clear()
