"""Writes episodes to a run's file: what `add` has acknowledged survives a kill.

It knows nothing of learning or of environments; reading is in `reader`.
"""

from __future__ import annotations

import asyncio
import math
import queue
import shutil
import sqlite3
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

from agentgrpo.errors import RunError
from agentgrpo.store.codec import encode
from agentgrpo.store.packing import pack_beside, pack_entropies
from agentgrpo.store.query import clean
from agentgrpo.store.schema import connect
from agentgrpo.store.train_steps import TrainStep, write_train_step
from agentgrpo.types import EpisodeKey, Trajectory

QUEUE_BATCHES = 64
BATCH_EPISODES = 256  # a transaction takes in waiting batches up to this many episodes
_FULL_BYTES = 1 << 16  # less than this free is full
_RETRY_SECONDS = 0.005  # between offers to a full queue


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRow:
    """What the learner did with an episode.

    `logprobs` and `entropies` (nats) are the learner's just before the update, one per trained token, in the order of
    `Trajectory.sequences()`: row after row, the tokens whose `loss_mask` is 1.
    """

    key: EpisodeKey
    advantage: float | None = None
    filter_reason: str | None = None
    logprobs: Sequence[float] | None = None
    entropies: Sequence[float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbered:
    """An episode with the row id it shall have: where a file is copied, forks go on naming their parents."""

    id: int
    trajectory: Trajectory


Item: TypeAlias = Trajectory | Numbered | TrainingRow | TrainStep


@dataclass(frozen=True, slots=True)
class _Job:
    items: Sequence[Item]
    done: Future[None]


class EpisodeStore:
    """The writing end of an episode file. One thread owns the connection, behind a bounded queue.

    An episode added under a key that is already there replaces it: a resumed run makes its last step again.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._connection = connect(self.path)
        self._tools: dict[str, int] = {}  # the ids of their names, as far as this batch and those before it have them
        self._jobs: queue.Queue[_Job | None] = queue.Queue(QUEUE_BATCHES)
        self._lock = threading.Lock()  # no job may follow the sentinel of `close`
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="episode-store", daemon=True)
        self._thread.start()

    async def add(self, trajectories: Sequence[Trajectory]) -> None:
        """Store episodes, all or none; returns when they are durable.

        Raises:
            RunError: the file cannot be written (a full disk), or the store is closed.
        """
        await self._put(trajectories)

    def add_sync(self, items: Sequence[Item]) -> None:
        """Store episodes, and what the learner did with them, without an event loop; otherwise as `add`."""
        while (done := self._offer(items)) is None:
            time.sleep(_RETRY_SECONDS)
        done.result()

    async def set_training(self, rows: Sequence[TrainingRow | TrainStep]) -> None:
        """Note what the learner did with stored episodes in a step, all or none; returns when it is durable.

        Raises:
            RunError: an episode is not in the store, or as for `add`.
        """
        await self._put(rows)

    def close(self) -> None:
        """Write what is queued and close the file. Safe to call twice."""
        with self._lock:
            was_closed, self._closed = self._closed, True
        if not was_closed:
            self._jobs.put(None)
        self._thread.join()

    def __enter__(self) -> EpisodeStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def _put(self, items: Sequence[Item]) -> None:
        # The writer is a thread and cannot set this loop's events; a full queue is rare.
        while (done := self._offer(items)) is None:  # noqa: ASYNC110
            await asyncio.sleep(_RETRY_SECONDS)
        await asyncio.wrap_future(done)

    def _offer(self, items: Sequence[Item]) -> Future[None] | None:
        """Queue a batch; None when the queue is full."""
        job = _Job(tuple(items), Future())
        with self._lock:
            if self._closed:
                raise RunError(f"episodes cannot be added to '{self.path}': the store is closed")
            try:
                self._jobs.put_nowait(job)
            except queue.Full:
                return None
        return job.done

    def _work(self) -> None:
        is_open = True
        while is_open:
            jobs, is_open = self._waiting()
            self._write(jobs)
        self._connection.close()

    def _waiting(self) -> tuple[list[_Job], bool]:
        """Return the jobs at hand, at least one unless the store was closed, and whether more may come."""
        jobs: list[_Job] = []
        job = self._jobs.get()
        while job is not None:
            jobs.append(job)
            if sum(len(job.items) for job in jobs) >= BATCH_EPISODES:
                return jobs, True
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return jobs, True
        return jobs, False

    def _write(self, jobs: list[_Job]) -> None:
        error = self._try_write([item for job in jobs for item in job.items])
        if error is not None and len(jobs) > 1:
            for job in jobs:  # one bad batch must not fail its neighbours
                self._write([job])
            return
        for job in jobs:
            # A caller that stopped waiting has cancelled the future; the episodes are stored all the same.
            if job.done.set_running_or_notify_cancel():
                if error is None:
                    job.done.set_result(None)
                else:
                    job.done.set_exception(error)

    def _try_write(self, items: list[Item]) -> Exception | None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            texts = [text for item in items if (text := self._write_item(item)) is not None]
            # Last: whatever is written after a text makes the search index write out what it has gathered.
            self._connection.executemany("INSERT INTO texts (rowid, text) VALUES (?, ?)", texts)
            self._connection.execute("COMMIT")
        except Exception as error:  # handed to whoever waits for this batch
            self._tools.clear()  # an id that was rolled back may be given to another name
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                return _write_error(self.path, error)
            return error
        return None

    def _write_item(self, item: Item) -> tuple[int, str] | None:
        """Write an item; return what is left to write: the text of an episode, with its row id."""
        match item:
            case Trajectory():
                return self._insert(item)
            case Numbered():
                return self._insert(item.trajectory, item.id)
            case TrainStep():
                write_train_step(self._connection, item)
            case _:
                self._update(item)
        return None

    def _insert(self, trajectory: Trajectory, known_id: int | None = None) -> tuple[int, str]:
        payload = encode(trajectory)
        execute = self._connection.execute
        columns = (known_id, *_columns(trajectory, payload.cause))
        try:
            row_id = execute(_INSERT, columns).lastrowid
        except sqlite3.IntegrityError:  # a resumed run makes it again; asking first would cost the others
            execute(f"DELETE FROM episodes WHERE {_KEY}", key_values(trajectory.key))
            row_id = execute(_INSERT, columns).lastrowid
        assert row_id is not None
        execute(
            "INSERT INTO payloads (id, record, token_ids, logprobs) VALUES (?, ?, ?, ?)",
            (row_id, payload.record, payload.token_ids, payload.logprobs),
        )
        uses = [(self._tool_id(clean(use.name)), row_id, use.calls, use.errors) for use in payload.tools]
        self._connection.executemany("INSERT OR IGNORE INTO episode_tools VALUES (?, ?, ?, ?)", uses)
        return row_id, clean(payload.text)

    def _tool_id(self, name: str) -> int:
        if name not in self._tools:
            self._connection.execute("INSERT OR IGNORE INTO names (kind, name) VALUES ('tool', ?)", (name,))
            sql = "SELECT id FROM names WHERE kind = 'tool' AND name = ?"
            self._tools[name] = int(self._connection.execute(sql, (name,)).fetchone()[0])
        return self._tools[name]

    def _update(self, row: TrainingRow) -> None:
        execute = self._connection.execute
        cursor = execute(
            f"UPDATE episodes SET advantage = ?, filter_reason = ? WHERE {_KEY} RETURNING id",
            (finite(row.advantage), row.filter_reason, *key_values(row.key)),
        )
        found = cursor.fetchall()
        if not found:
            raise RunError(f"episode {row.key} was trained on but is not in '{self.path}': this is a bug")
        ((row_id,),) = found
        if row.logprobs is not None:
            engine = execute("SELECT logprobs FROM payloads WHERE id = ?", (row_id,)).fetchone()[0]
            packed = pack_beside(row.logprobs, engine)
            execute("UPDATE payloads SET learner_logprobs = ? WHERE id = ?", (packed, row_id))
        if row.entropies is not None:
            execute("UPDATE payloads SET entropies = ? WHERE id = ?", (pack_entropies(row.entropies), row_id))


def forget_after(path: Path, policy_version: int) -> int:
    """Remove the episodes of later policies, which a run that goes on from this one makes again; return how many.

    Forks stay: nobody makes them again.

    Raises:
        RunError: the file cannot be written.
    """
    connection = connect(path)
    try:
        connection.execute("DELETE FROM train_steps WHERE step > ?", (policy_version,))
        sql = "DELETE FROM episodes WHERE policy_version > ? AND phase != 'fork'"
        return connection.execute(sql, (policy_version,)).rowcount
    except sqlite3.Error as error:
        raise _write_error(path, error) from error
    finally:
        connection.close()


_KEY = "phase = ? AND step = ? AND task_id = ? AND sample = ? AND attempt = ?"
_NAMES = (
    *("phase", "step", "task_id", "sample", "attempt", "env_id", "policy", "policy_version", "reward", "success"),
    *("turns", "tokens", "sampled_tokens", "tool_calls", "tool_errors", "stop_reason", "boundary", "cause"),
    *("forks", "started_at", "seconds", "parent", "parent_turns"),
)
_INSERT = f"INSERT INTO episodes (id, {', '.join(_NAMES)}) VALUES (?, {', '.join('?' * len(_NAMES))})"


def key_values(key: EpisodeKey) -> tuple[Any, ...]:
    """Return a key as the values of its columns."""
    return (key.phase, key.step, clean(key.task_id), key.sample, key.attempt)


def finite(value: float | None) -> float | None:
    """Return the value if it can be compared, else None."""
    return value if value is not None and math.isfinite(value) else None


def _columns(trajectory: Trajectory, cause: str | None) -> tuple[Any, ...]:
    failure = trajectory.failure
    reward = finite(trajectory.reward)
    return (
        *key_values(trajectory.key),
        clean(trajectory.env_id),
        clean(trajectory.policy.name),
        trajectory.policy.version,
        reward,
        None if reward is None else trajectory.success,
        len(trajectory.turns),
        trajectory.token_count,
        trajectory.sampled_count,
        trajectory.call_count,
        trajectory.error_count,
        trajectory.stop_reason.value,
        failure and failure.boundary.value,
        cause and clean(cause),
        trajectory.forks,
        trajectory.started_at,
        trajectory.seconds,
        trajectory.parent and trajectory.parent.episode,
        trajectory.parent and trajectory.parent.turns,
    )


def _write_error(path: Path, error: sqlite3.Error) -> RunError:
    # SQLite says "disk I/O error" where it could not grow its index of the log.
    is_full = shutil.disk_usage(path.parent).free < _FULL_BYTES
    cause = f"the disk is full ({error})" if is_full else str(error)
    return RunError(
        f"episodes cannot be written to '{path}': {cause}. Free space or fix the folder, then resume the run."
    )
