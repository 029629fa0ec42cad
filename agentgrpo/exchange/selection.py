"""Which episodes of a run are taken along, one after the other in the order in which they were stored.

It holds one episode in memory at a time and knows no format.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from agentgrpo.errors import UserError
from agentgrpo.store.reader import EpisodeFilter, EpisodeReader, StoredEpisode

_PAGE = 500  # rows of the index read at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Episodes by filter, or by name; `limit` takes the newest of those a filter finds."""

    where: EpisodeFilter = field(default_factory=EpisodeFilter)
    names: Sequence[str] = ()  # row numbers or keys: these and no others
    limit: int | None = None

    def ids(self, reader: EpisodeReader) -> list[int]:
        """Return the row ids, ascending.

        Raises:
            UserError: a named episode is not there, or none was found.
        """
        found = [reader.get(name).row.id for name in self.names] if self.names else self._filtered(reader)
        if not found:
            total = reader.count()
            raise UserError(f"none of the {total:,} episodes match: leave out an option, or see `agentgrpo show`.")
        return sorted(set(found))

    def _filtered(self, reader: EpisodeReader) -> list[int]:
        found: list[int] = []
        while self.limit is None or len(found) < self.limit:
            size = _PAGE if self.limit is None else min(_PAGE, self.limit - len(found))
            rows = reader.list(self.where, limit=size, after=found[-1] if found else None)
            found += [row.id for row in rows]
            if len(rows) < size:
                break
        return found


def episodes(reader: EpisodeReader, ids: Sequence[int]) -> Iterator[StoredEpisode]:
    """Yield episodes in full."""
    for row_id in ids:
        yield reader.get(row_id)
