"""The one writer: a thread that drains a queue, so that what arrives together is synced together."""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from broker.store import StoreError
from broker.store.claims import Claims
from broker.store.log import Log, connect
from broker.store.transaction import Transaction

log = logging.getLogger("broker.store")

GROUP = 256  # operations in one transaction: beyond, a longer commit costs more than it saves
COMPANY = 0.005  # seconds that an operation which nobody waits for may wait for others to share its sync
LOGGED = 16 << 10  # bytes that an operation adds to the log, about: pages of tables and indexes, not only the row
NEWS = 10.0  # seconds that a failed write is worth speaking of, if none has succeeded since
RETRY_FULL = 0.5  # seconds before what must be written is tried again on a full disk


class Written(asyncio.Future[Any]):
    """What a write comes to. Who waits for it may go; the write is not called off, and its outcome is not lost.

    A task that is cancelled while it waits hears of that once the write is done (a `cancel` that says False).
    """

    def cancel(self, msg: Any | None = None) -> bool:
        return False


class Job:
    """One operation and the future that learns what became of it."""

    __slots__ = ("future", "must", "operation", "outcome")

    def __init__(self, operation: Callable[[Transaction], Any], future: asyncio.Future[Any], *, must: bool) -> None:
        self.operation = operation
        self.future = future
        self.must = must  # about what is kept already: tried until it is written
        self.outcome: Any = None


class Writer:
    """Owns the writing connection. `submit` is called on the event loop, everything else runs in the thread."""

    def __init__(
        self,
        path: Path,
        loop: asyncio.AbstractEventLoop,
        *,
        clock: Callable[[], int],
        log: Log,
        committed: Callable[[float, int], None],
    ) -> None:
        self.log = log
        self._failure: tuple[float, str] | None = None  # the last one and when, if no write has succeeded since
        self._loop = loop
        self._clock = clock  # microseconds since 1970
        self._committed = committed  # told of each commit: seconds it took, operations in it
        self._jobs: queue.SimpleQueue[list[Job] | None] = queue.SimpleQueue()
        self._pending: list[Job] = []
        self._flushing = False
        self._again: list[Job] = []  # what must be written and could not be
        self._stopping = threading.Event()
        self._db = connect(path)
        self._tx = Transaction(self._db)
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()
        log.start()

    def submit(
        self, operation: Callable[[Transaction], Any], *, must: bool = False, soon: bool = True
    ) -> asyncio.Future[Any]:
        """`soon`: somebody waits for it; otherwise it may wait a little for company, since each sync costs the same."""
        future = Written(loop=self._loop)
        self.put(Job(operation, future, must=must), soon=soon)
        return future

    def put(self, job: Job, *, soon: bool = True) -> None:
        if self._stopping.is_set():
            job.future.set_exception(StoreError("the store is closed"))
            return
        self._pending.append(job)
        if soon or len(self._pending) >= GROUP:
            if not self._flushing:  # handed over once a turn of the loop: waking the thread costs more than a job
                self._flushing = True
                self._loop.call_soon(self.flush)
        elif len(self._pending) == 1:
            self._loop.call_later(COMPANY, self.flush)

    def flush(self) -> None:
        """Hands over what has been put since the last time."""
        self._flushing = False
        if self._pending:
            self._jobs.put(self._pending)
            self._pending = []

    @property
    def claims(self) -> Claims:
        return self._tx.claims

    def backlog(self) -> int:
        return len(self._pending) + self._jobs.qsize()

    def cannot_write(self) -> str | None:
        """Why the last write failed; None once one has succeeded, or where the failure is no news any more."""
        failure = self._failure
        return failure[1] if failure is not None and time.monotonic() - failure[0] < NEWS else None

    def close(self) -> None:
        """Writes what is queued, then ends; blocks until it has."""
        self._jobs.put(None)
        self._thread.join()
        self._stopping.set()
        self.log.stop()
        try:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:  # a full disk: the log is read at the next start instead
            log.warning("the log of the store stays as it is: %s", error)
        self._db.close()

    def _run(self) -> None:
        while (jobs := self._jobs.get()) is not None:
            ends = False
            while len(jobs) < GROUP and not self._jobs.empty() and not ends:
                more = self._jobs.get()
                ends = more is None
                jobs += more or ()
            for start in range(0, len(jobs), GROUP):
                self._commit(jobs[start : start + GROUP])
            self.log.keep_small(self._db)
            if ends:
                self._give_up_rest()
                return
            if self._again:  # nothing else would be written now either
                time.sleep(RETRY_FULL)
                self._jobs.put(self._again)
                self._again = []

    def _give_up_rest(self) -> None:
        """At the end, what still cannot be written is said to be so; it is found as it was at the next start."""
        error = StoreError("the store is closed")
        self._tell([(job.future, error, True) for job in self._again])

    def _commit(self, group: list[Job]) -> None:
        """One transaction for all; if one of them fails, each in its own, so that a bad one fails alone."""
        started = time.perf_counter()
        try:
            self._write(group)
        except sqlite3.Error as error:
            self._rollback()
            if len(group) > 1:
                for job in group:
                    self._commit([job])
                return
            self._failed(group[0], error)
        except Exception as error:  # a bug in one operation: its caller learns of it, the others go on
            self._rollback()
            if len(group) > 1:
                for job in group:
                    self._commit([job])
                return
            self._tell([(group[0].future, error, True)])
        else:
            self.log.grew(len(group) * LOGGED + self._tx.logged)
            self._tx.logged = 0
            self._failure = None
            self._committed(time.perf_counter() - started, len(group))
            self._tell([(job.future, job.outcome, False) for job in group])

    def _write(self, group: list[Job]) -> None:
        db, tx = self._db, self._tx
        tx.now = self._clock()
        db.execute("BEGIN IMMEDIATE")
        for job in group:
            job.outcome = job.operation(tx)
        tx.claims.put_away()
        db.execute("COMMIT")
        tx.claims.committed()
        tx.claims.put_away_committed()

    def _rollback(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        self._tx.claims.rolled_back()
        self._tx.forget()

    def _failed(self, job: Job, error: sqlite3.Error) -> None:
        if isinstance(error, sqlite3.OperationalError):  # anything else is the operation's own
            self._failure = (time.monotonic(), str(error))
        if job.must and isinstance(error, sqlite3.OperationalError):  # anything else fails for ever
            log.warning("the store cannot write, trying again: %s", error)
            self._again.append(job)
            return
        wrapped = StoreError(f"the store cannot write: {error}")
        wrapped.__cause__ = error
        self._tell([(job.future, wrapped, True)])

    def _tell(self, results: list[tuple[asyncio.Future[Any], Any, bool]]) -> None:
        try:
            self._loop.call_soon_threadsafe(_resolve, results)
        except RuntimeError:  # the loop is closed: nobody is left to be told
            log.debug("results after the end of the event loop")


def _resolve(results: list[tuple[asyncio.Future[Any], Any, bool]]) -> None:
    for future, outcome, failed in results:
        if future.done():  # whoever waited has gone
            continue
        if failed:
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
