"""`agentgrpo run export`: episodes of a run as a file (or a folder of files) of another format.

What goes out is plain JSON or text, known secrets redacted; under its name a file appears whole or not at all.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from agentgrpo.errors import UserError
from agentgrpo.exchange.atif_write import Origin, to_atif
from agentgrpo.exchange.files import refuse_existing, whole_file, whole_folder
from agentgrpo.exchange.inspect_log import write_log
from agentgrpo.exchange.messages import NotWritten, to_messages
from agentgrpo.exchange.plain import dump, plain_text
from agentgrpo.store.filter import Filter
from agentgrpo.store.reader import EpisodeReader
from agentgrpo.store.rows import EpisodeRow, StoredEpisode
from agentgrpo.store.run import RunDirectory, writing
from agentgrpo.types import JsonObject
from agentgrpo.viewer.episodes import open_episode
from agentgrpo.viewer.page import episode_page
from agentgrpo.viewer.runs import OpenRun

MOST_ON_A_PAGE = 100  # episodes: a browser opens some megabytes at once, not hundreds
_PAGE = 500  # rows of the index read at once


class Format(StrEnum):
    """What an export is."""

    HTML = "html"
    ATIF = "atif"
    OPENAI = "openai"
    INSPECT = "inspect"


_ENDINGS = {Format.HTML: ".html", Format.ATIF: ".atif.jsonl", Format.OPENAI: ".openai.jsonl", Format.INSPECT: ".eval"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written, and how many episodes were left out, by reason."""

    path: Path
    written: int
    left_out: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    run: RunDirectory
    reader: EpisodeReader
    ids: list[int]
    path: Path

    def episodes(self) -> Iterator[StoredEpisode]:
        """Yield them in full, one in memory at a time."""
        return (self.reader.get(number) for number in self.ids)

    def model(self) -> str | None:
        """Return what the run's model is called, without where it is."""
        record = self.run.read_record()
        endpoint = record.get("endpoint")
        name = endpoint.get("model") if isinstance(endpoint, dict) else Path(str(record.get("model_path") or "")).name
        return plain_text(str(name)) if name else None


def export(run: RunDirectory, where: Filter, kind: Format, *, out: Path | None, limit: int | None) -> Exported:
    """Write episodes of a run, in the order in which they were stored.

    Args:
        run: The run.
        where: Which of its episodes.
        kind: As what.
        out: Where to; default a file named after the run, here. ATIF goes into one file of lines (.jsonl), one document
            (.json), or a folder of documents (any other name).
        limit: The newest so many of them.

    Raises:
        UserError: nothing matches, something of that name is there, or the name does not fit the format.
        RunError: the disk is full.
    """
    path = Path(f"{run.name}{_ENDINGS[kind]}") if out is None else out
    refuse_existing_file(path)
    with EpisodeReader(run.episodes) as reader:
        ids = _ids(reader, where, limit)
        if not ids:
            raise UserError(
                f"none of the {reader.count():,} episodes match '{where}': see `agentgrpo show RUN --filter`"
            )
        return _WRITERS[kind](_Job(run=run, reader=reader, ids=ids, path=path))


def _ids(reader: EpisodeReader, where: Filter, limit: int | None) -> list[int]:
    found: list[int] = []
    while limit is None or len(found) < limit:
        size = _PAGE if limit is None else min(_PAGE, limit - len(found))
        rows = reader.list(where, limit=size, after=found[-1] if found else None)
        found += [row.id for row in rows]
        if len(rows) < size:
            break
    return found[::-1]


def refuse_existing_file(path: Path) -> None:
    """Say no before any work where a file is already; a folder may be empty, which is seen later."""
    if not path.is_dir():
        refuse_existing(path)


def _atif(job: _Job) -> Exported:
    origin = Origin(name=job.run.name, model_name=job.model(), parent_of=lambda row: _parent(job.reader, row))
    documents = ((stored, to_atif(stored, origin)) for stored in job.episodes())
    if job.path.suffix == ".json" and len(job.ids) > 1:
        raise UserError(
            f"a .json file holds one episode, {len(job.ids):,} match: --out NAME.jsonl takes a line for each, "
            "--out FOLDER a file for each"
        )
    if job.path.suffix not in (".json", ".jsonl"):
        return _folder(job, documents)
    with whole_file(job.path) as file:
        for _, document in documents:
            file.write(f"{dump(document)}\n".encode())
    return Exported(path=job.path, written=len(job.ids))


def _folder(job: _Job, documents: Iterator[tuple[StoredEpisode, JsonObject]]) -> Exported:
    with whole_folder(job.path) as folder:
        for stored, document in documents:
            name = re.sub(r"[^A-Za-z0-9._-]+", "-", str(stored.row.key))[:100]
            (folder / f"{stored.row.id:07}-{name}.json").write_bytes(f"{dump(document)}\n".encode())
    return Exported(path=job.path, written=len(job.ids))


def _parent(reader: EpisodeReader, row: EpisodeRow) -> str | None:
    if row.parent is None:
        return None
    try:
        return str(reader.get(row.parent).row.key)
    except UserError:  # replaced since: a resumed run made its step again
        return None


def _openai(job: _Job) -> Exported:
    left_out: Counter[str] = Counter()
    with whole_file(job.path) as file:
        for stored in job.episodes():
            try:
                file.write(f"{dump(to_messages(stored.trajectory))}\n".encode())
            except NotWritten as reason:
                left_out[str(reason)] += 1
        if left_out.total() == len(job.ids):
            told = ", ".join(f"{reason} ({count:,})" for reason, count in left_out.most_common())
            raise UserError(f"none of the {len(job.ids):,} episodes can be told as messages: {told}.")
    return Exported(path=job.path, written=len(job.ids) - left_out.total(), left_out=left_out)


def _inspect(job: _Job) -> Exported:
    if job.path.suffix != ".eval":
        raise UserError(f"'{job.path}' is no name Inspect looks for: give --out one that ends in .eval")
    with writing(job.path.name, job.path.parent):
        job.path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=job.path.parent) as folder:
            written = write_log(Path(folder) / job.path.name, job.run.name, job.episodes(), model=job.model())
            (Path(folder) / job.path.name).replace(job.path)
    return Exported(path=job.path, written=written)


def _html(job: _Job) -> Exported:
    if len(job.ids) > MOST_ON_A_PAGE:
        raise UserError(
            f"{len(job.ids):,} episodes match, a page takes {MOST_ON_A_PAGE}: "
            f"give a narrower filter, or --limit {MOST_ON_A_PAGE}"
        )
    opened = OpenRun(job.run)
    page = episode_page([open_episode(opened, str(number), with_tokens=True) for number in job.ids])
    with whole_file(job.path) as file:
        file.write(page.encode())
    return Exported(path=job.path, written=len(job.ids))


_WRITERS: dict[Format, Callable[[_Job], Exported]] = {
    Format.HTML: _html,
    Format.ATIF: _atif,
    Format.OPENAI: _openai,
    Format.INSPECT: _inspect,
}
