"""All episodes of a run, one after the other into some work, so many at a time and no more in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

from agentgrpo.run.report import Advance, Reporter
from agentgrpo.store.reader import EpisodeReader
from agentgrpo.store.rows import EpisodeRow, StoredEpisode

_PAGE = 200  # rows read at once

Work = Callable[[StoredEpisode, Advance], Coroutine[Any, Any, None]]


async def sweep(path: Path, work: Work, *, at_once: int, title: str, reporter: Reporter) -> None:
    """Do some work on every episode of a file, in the order they came; the work moves the progress bar on."""
    places = asyncio.Semaphore(at_once)
    with EpisodeReader(path) as reader, reporter.progress(title, reader.count()) as advance:
        async with asyncio.TaskGroup() as tasks:
            for row in _rows(reader):
                await places.acquire()
                # Read here, not in the task: so many wait in memory, not all.
                job = tasks.create_task(work(reader.get(row.id), advance))
                job.add_done_callback(lambda _: places.release())


def _rows(reader: EpisodeReader) -> Iterator[EpisodeRow]:
    """Yield all episodes there are, a page at a time."""
    last: int | None = None
    while page := reader.list(descending=False, limit=_PAGE, after=last):
        yield from page
        last = page[-1].id
