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
GATHERS = 0.005  # seconds that a busy loop goes on bringing operations before they are handed over
NOTHING_ELSE = 0.00003  # seconds that a turn of the loop takes at most in which it has nothing else to do
FOLLOWS = 0.005  # seconds that what was told ahead waits for what follows from it, while nothing else is to be written
GATHERED = 0.001  # seconds that what follows first waits for what follows from the others of its group,
GAP = 0.0002  # as long as these come no further apart than this
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
    known: Written | None  # has the outcome before it is on disk, once only the disk can fail it
    told: bool  # whether it has
    outcome: Any

    __slots__ = ("arguments", "known", "must", "operation", "outcome", "told")

    def cancel(self, msg: Any | None = None) -> bool:
        return False


class Writer:
    """Owns the writing connection. `submit` and `end` are called on the event loop, the rest runs in the thread."""

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
        self._next_turn: asyncio.Handle | None = None  # of the loop, in which it is seen whether more has come
        self._seen = 0  # of what is pending, in the last turn
        self._last_turn = self._gather_until = 0.0  # clock seconds
        self._unsettled = 0  # of those whose outcome may be known before they are on disk
        self._ends = False  # the queue has come to its end
        self._waited = 0.0  # seconds that the transaction at hand has waited for what follows
        self._later: list[Written] = []  # taken from the queue, and too many for the group at hand: next in turn
        self._again: list[Written] = []  # what must be written and could not be
        self.is_closed = False  # nothing is taken any more
        self._db = connect(path)
        self._tx = Transaction(self._db)
        self._listeners: list[Callable[[], None]] = []
        self._is_saying = False  # the listeners are called in the next turn of the loop
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

    def submit_known(self, operation: Callable[..., Any], *arguments: Any) -> tuple[Written, Written]:
        """Two futures, of what it comes to and of its being on disk; between them it waits a little for what follows.

        What is on disk for certain is only what the second one says. Whoever reads after the first asks `settled`.
        """
        known, job = Written(loop=self._loop), Written(loop=self._loop)
        self.put(job, operation, arguments, must=False, known=known)
        self._unsettled += 1
        job.add_done_callback(self._is_settled)
        return known, job

    def _is_settled(self, _job: asyncio.Future[Any]) -> None:
        self._unsettled -= 1

    async def settled(self) -> None:
        """Returns once all that was told before is on disk, where readers see it."""
        if self._unsettled:
            await self.submit(_nothing)

    def put(
        self,
        job: Written,
        operation: Callable[..., Any],
        arguments: tuple[Any, ...],
        *,
        must: bool,
        soon: bool = True,
        known: Written | None = None,
    ) -> None:
        job.operation, job.arguments, job.must = operation, arguments, must
        job.known, job.told = known, False
        if self.is_closed:
            _resolve([job], StoreError("the store is closed"))
            return
        self._pending.append(job)
        if soon or len(self._pending) >= GROUP:
            if self._next_turn is None:
                self._seen, self._last_turn = 0, time.perf_counter()
                self._gather_until = self._last_turn + GATHERS
                self._next_turn = self._loop.call_soon(self._gather)
        elif len(self._pending) == 1:
            self._loop.call_later(COMPANY, self.flush)

    def _gather(self) -> None:
        """Hands over once the loop has nothing else to do: while it is busy, more of them come, and share a commit."""
        now, count = time.perf_counter(), len(self._pending)
        nothing_else = count == self._seen and now - self._last_turn < NOTHING_ELSE
        if nothing_else or count >= GROUP or now >= self._gather_until:
            self.flush()
        else:
            self._seen, self._last_turn = count, now
            self._next_turn = self._loop.call_soon(self._gather)

    def flush(self) -> None:
        """Hands over what has been put since the last time."""
        if self._next_turn is not None:
            self._next_turn.cancel()
            self._next_turn = None
        if self._pending:
            self._jobs.put(self._pending)
            self._pending = []

    def on_commit(self, listener: Callable[[], None]) -> None:
        """It is called on the loop, once a turn at most, after what may have brought messages to whoever follows."""
        self._listeners.append(listener)

    @property
    def claims(self) -> Claims:
        return self._tx.claims

    def backlog(self) -> int:
        return len(self._pending) + self._jobs.qsize()

    def cannot_write(self) -> str | None:
        """Why the last write failed; None once one has succeeded, or where the failure is no news any more."""
        failure = self._failure
        return failure[1] if failure is not None and time.monotonic() - failure[0] < NEWS else None

    def end(self) -> None:
        """Takes nothing more; what was put before is written."""
        self.flush()
        self.is_closed = True
        self._jobs.put(None)

    def close(self) -> None:
        """Blocks until all is written; called once it has been told to `end`."""
        self._thread.join()
        self.log.stop()
        try:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:  # a full disk: the log is read at the next start instead
            log.warning("the log of the store stays as it is: %s", error)
        self._db.close()

    def _run(self) -> None:
        while not self._ends or self._later:
            jobs = self._next()
            while len(jobs) < GROUP and not self._ends and not self._jobs.empty():
                jobs += self._next()
            if jobs:
                self._later = jobs[GROUP:]
                self._commit(jobs[:GROUP])
            self.log.keep_small(self._db)
            if self._again and not self._ends:  # nothing else would be written now either
                time.sleep(RETRY_FULL)
                self._jobs.put(self._again)
                self._again = []
        self._give_up_rest()

    def _next(self, timeout: float | None = None) -> list[Written]:
        """What was handed over next; nothing at the end, or where nothing came in time."""
        if self._later:
            jobs, self._later = self._later, []
            return jobs
        try:
            handed = self._jobs.get(timeout=timeout)
        except queue.Empty:
            return []
        if handed is None:
            self._ends = True
        return handed or []

    def _give_up_rest(self) -> None:
        """At the end, what still cannot be written is said to be so; it is found as it was at the next start."""
        self._tell(self._again, StoreError("the store is closed"))

    def _commit(self, group: list[Written], *, again: bool = False, heard: bool = False) -> None:
        """One transaction for all; if one of them fails, each in its own, so that a bad one fails alone.

        `heard`: somebody of its group has been told a position.
        """
        started, self._waited = time.perf_counter(), 0.0
        try:
            self._write(group, again=again)
        except Exception as error:
            self._rollback()
            if len(group) > 1:
                told = any(job.told for job in group)
                for job in group:  # in their order, so that each gets the position that it was told
                    self._commit([job], again=True, heard=told)
                return
            if heard:
                self._tx.spend(getattr(group[0], "outcome", None))  # none where it never came to be done
            if isinstance(error, sqlite3.Error):
                self._failed(group[0], error)
            else:  # a bug in the operation: its caller learns of it, the others go on
                self._tell(group, error)
        else:
            self.log.grew(len(group) * LOGGED + self._tx.logged)
            self._tx.logged = 0
            self._failure = None
            self._committed(time.perf_counter() - started - self._waited, len(group))
            self._tell(group, news=bool(self._listeners) and self._tx.brings)

    def _write(self, group: list[Written], *, again: bool) -> None:
        """What ordinary messages need is taken for granted (see `transaction`), unless that has lately been wrong."""
        self._careful = max(0, self._careful - 1)
        try:
            self._do(group, careful=self._careful > 0, again=again)
        except Mistaken:
            self._rollback()
            self._careful = CAREFUL
            self._do(group, careful=True, again=True)

    def _do(self, group: list[Written], *, careful: bool, again: bool) -> None:
        db, tx = self._db, self._tx
        tx.begin(self._clock(), careful=careful)
        self._perform(group)
        if not again:
            self._wait_for_rest(group)
        tx.claims.put_away()
        db.execute("COMMIT")
        tx.claims.committed()

    def _perform(self, jobs: list[Written]) -> None:
        tx = self._tx
        for job in jobs:
            outcome = job.operation(tx, *job.arguments)
            if job.told and outcome != job.outcome:
                raise RuntimeError("an operation that was done again came to something else")
            job.outcome = outcome
        tx.write()

    def _wait_for_rest(self, group: list[Written]) -> None:
        """Tells those that want to know ahead. While there is little else to be written, it waits for what follows.

        What follows most often (a receiver's answer to what was accepted) then shares the transaction and its sync.
        """
        last, jobs, expected = 0.0, group, 0
        while jobs:
            early = [job for job in jobs if job.known is not None]
            if early:
                for job in early:
                    job.told = True
                self._call(_know, early)
            expected += 2 * len(early) - len(jobs)
            if expected <= 0 or self._ends:
                return
            now = time.monotonic()
            last = last or now + FOLLOWS
            until = last
            if len(early) < len(jobs):  # somebody waits for this one
                last = min(last, now + GATHERED)
                until = min(last, now + GAP)
            jobs = self._next(timeout=max(until - now, 0))
            self._waited += time.monotonic() - now
            if len(group) + len(jobs) > GROUP:
                self._later = jobs
                return
            self._tx.now = self._clock()
            group += jobs
            self._perform(jobs)

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

    def _tell(self, group: list[Written], error: Exception | None = None, *, news: bool = False) -> None:
        if error is not None:
            for job in group:
                if job.told:
                    self._tx.spend(job.outcome)
        self._call(self._resolve_and_say if news else _resolve, group, error)

    def _resolve_and_say(self, group: list[Written], error: Exception | None) -> None:
        """On the loop."""
        _resolve(group, error)
        if not self._is_saying:
            self._is_saying = True
            self._loop.call_soon(self._say)

    def _say(self) -> None:
        self._is_saying = False
        for listener in self._listeners:
            listener()

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop is closed: nobody is left to be told
            log.debug("results after the end of the event loop")


def _nothing(_tx: Transaction) -> None:
    """For who only wants to know that all before it is written."""


def _know(jobs: list[Written]) -> None:
    for job in jobs:
        if job.known is not None and not job.known.done():
            job.known.set_result(job.outcome)


def _resolve(group: list[Written], error: Exception | None) -> None:
    for job in group:
        if job.known is not None and not job.known.done():
            _end(job.known, job, error)
        if not job.done():  # else the loop is being closed
            _end(job, job, error)


def _end(future: Written, job: Written, error: Exception | None) -> None:
    if error is None:
        future.set_result(job.outcome)
    else:
        future.set_exception(error)
