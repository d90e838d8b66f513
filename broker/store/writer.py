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
from broker.store.transaction import Mistaken, Transaction

log = logging.getLogger("broker.store")

GROUP = 256  # operations in one transaction: beyond, a longer commit costs more than it saves
COMPANY = 0.005  # seconds that an operation which nobody waits for may wait for others to share its sync
LOGGED = 16 << 10  # bytes that an operation adds to the log, about: pages of tables and indexes, not only the row
CAREFUL = 100  # groups that take nothing for granted after one that had to be done again
NEWS = 10.0  # seconds that a failed write is worth speaking of, if none has succeeded since
RETRY_FULL = 0.5  # seconds before what must be written is tried again on a full disk


class Written(asyncio.Future[Any]):
    """A write, and what it comes to. Who waits for it may go; it is not called off, and its outcome is not lost.

    A task that is cancelled while it waits hears of that once the write is done (a `cancel` that says False).
    """

    operation: Callable[..., Any]  # called in the writer's thread with the transaction and the arguments
    arguments: tuple[Any, ...]
    must: bool  # about what is kept already: tried until it is written
    outcome: Any

    __slots__ = ("arguments", "must", "operation", "outcome")

    def cancel(self, msg: Any | None = None) -> bool:
        return False


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
        self._jobs: queue.SimpleQueue[list[Written] | None] = queue.SimpleQueue()
        self._pending: list[Written] = []
        self._flushing = False
        self._again: list[Written] = []  # what must be written and could not be
        self._stopping = threading.Event()
        self._db = connect(path)
        self._tx = Transaction(self._db)
        self._careful = 0  # groups for which nothing is taken for granted
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()
        log.start()

    def submit(
        self, operation: Callable[..., Any], *arguments: Any, must: bool = False, soon: bool = True
    ) -> asyncio.Future[Any]:
        """`soon`: somebody waits for it; otherwise it may wait a little for company, since each sync costs the same."""
        job = Written(loop=self._loop)
        self.put(job, operation, arguments, must=must, soon=soon)
        return job

    def put(
        self, job: Written, operation: Callable[..., Any], arguments: tuple[Any, ...], *, must: bool, soon: bool = True
    ) -> None:
        if self._stopping.is_set():
            job.set_exception(StoreError("the store is closed"))
            return
        job.operation, job.arguments, job.must = operation, arguments, must
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
        self._tell(self._again, error)

    def _commit(self, group: list[Written]) -> None:
        """One transaction for all; if one of them fails, each in its own, so that a bad one fails alone."""
        started = time.perf_counter()
        try:
            self._write(group)
        except Exception as error:
            self._rollback()
            if len(group) > 1:
                for job in group:
                    self._commit([job])
            elif isinstance(error, sqlite3.Error):
                self._failed(group[0], error)
            else:  # a bug in the operation: its caller learns of it, the others go on
                self._tell(group, error)
        else:
            self.log.grew(len(group) * LOGGED + self._tx.logged)
            self._tx.logged = 0
            self._failure = None
            self._committed(time.perf_counter() - started, len(group))
            self._tell(group)

    def _write(self, group: list[Written]) -> None:
        """What ordinary messages need is taken for granted (see `transaction`), unless that has lately been wrong."""
        self._careful = max(0, self._careful - 1)
        try:
            self._do(group, careful=self._careful > 0)
        except Mistaken:
            self._rollback()
            self._careful = CAREFUL
            self._do(group, careful=True)

    def _do(self, group: list[Written], *, careful: bool) -> None:
        db, tx = self._db, self._tx
        tx.begin(self._clock(), careful=careful)
        for job in group:
            job.outcome = job.operation(tx, *job.arguments)
        tx.write()
        tx.claims.put_away()
        db.execute("COMMIT")
        tx.claims.committed()

    def _rollback(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        self._tx.claims.rolled_back()
        self._tx.forget()

    def _failed(self, job: Written, error: sqlite3.Error) -> None:
        if isinstance(error, sqlite3.OperationalError):  # anything else is the operation's own
            self._failure = (time.monotonic(), str(error))
        if job.must and isinstance(error, sqlite3.OperationalError):  # anything else fails for ever
            log.warning("the store cannot write, trying again: %s", error)
            self._again.append(job)
            return
        wrapped = StoreError(f"the store cannot write: {error}")
        wrapped.__cause__ = error
        self._tell([job], wrapped)

    def _tell(self, group: list[Written], error: Exception | None = None) -> None:
        try:
            self._loop.call_soon_threadsafe(_resolve, group, error)
        except RuntimeError:  # the loop is closed: nobody is left to be told
            log.debug("results after the end of the event loop")


def _resolve(group: list[Written], error: Exception | None) -> None:
    for job in group:
        if job.done():  # the loop is being closed
            continue
        if error is None:
            job.set_result(job.outcome)
        else:
            job.set_exception(error)
