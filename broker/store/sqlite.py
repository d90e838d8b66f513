"""The embedded store: SQLite with one writer that commits in groups, and readers with connections of their own."""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import shutil
import sqlite3
import threading
import time
from asyncio import Future
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from broker.core.delivery import AnswerState, Outcome, State, Step
from broker.core.hold import Hold
from broker.store import (
    Claimed,
    Copy,
    Counts,
    Cutoffs,
    DeadLetter,
    Delivery,
    Due,
    Filter,
    Kept,
    MailboxPage,
    MailboxStatus,
    NewDelivery,
    NewMessage,
    Note,
    Open,
    Place,
    Queued,
    Released,
    Removed,
    Settled,
    Settlement,
    Stored,
    StoreError,
    Stream,
    Waiting,
    Withdrawn,
    acceptance,
    changes,
    ledger_sqlite,
    notes,
    reader,
    retention,
    schedule,
    stream_reader,
)
from broker.store.bodies import LARGE, Bodies
from broker.store.ledger import Page, Refused, RefusedAs, Span, Sum
from broker.store.log import MAX_WAL, Log, connect
from broker.store.reader import Reader
from broker.store.rows import micros
from broker.store.schema import prepare
from broker.store.tally import Tally
from broker.store.writer import Writer, Written

T = TypeVar("T")
FREE_FOR = 0.2  # seconds that a look at the disk is good for: asking costs more than a message may
READERS = 2  # threads: more would only wait for the same disk and the same interpreter


def _ignore(_seconds: float, _operations: int) -> None:
    """Nobody counts commits."""


def _claim(path: Path) -> int:
    """Holds the store for this process until the descriptor is closed: two writers would give positions twice."""
    # a file of its own: closing any descriptor of the database would drop SQLite's own locks
    lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise OSError(
            f"the store {path} is in use by another broker: stop that one, or give this one a store of its own"
        ) from None
    return lock


class SqliteStore:
    """Opens `path`, creating it when missing; raises ValueError for a file of a newer release, OSError for the rest."""

    def __init__(
        self,
        path: Path,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        max_wal: int = MAX_WAL,
        committed: Callable[[float, int], None] = _ignore,
    ) -> None:
        self._path = path
        self._free, self._look_again = 0, 0.0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _claim(path)
        db = connect(path)
        try:
            prepare(db, secrets.token_bytes(32))
            self._key: bytes = db.execute("SELECT value FROM meta WHERE name = 'key'").fetchone()[0]
            self.bodies = Bodies(path.with_name(path.name + ".bodies"))
            self._remove_orphans(db)
        except BaseException:
            os.close(self._lock)
            raise
        finally:
            db.close()
        self._loop = asyncio.get_running_loop()
        self._writer = Writer(
            path, self._loop, clock=lambda: micros(now()), log=Log(path, largest=max_wal), committed=committed
        )
        self._local = threading.local()
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="store-reader")
        self._files = ThreadPoolExecutor(READERS, thread_name_prefix="store-files")
        self._counter = ThreadPoolExecutor(1, thread_name_prefix="store-counter")
        self._tally = Tally(partial(self._read, on=self._counter))

    def _remove_orphans(self, db: sqlite3.Connection) -> None:
        """A crash between a body and the row that would name it leaves a file that nobody will ever read."""
        names = self.bodies.names()
        if names:
            names -= {row[0] for row in db.execute("SELECT file FROM message WHERE file IS NOT NULL")}
        for name in names:
            self.bodies.remove(name)

    @property
    def key(self) -> bytes:
        return self._key

    def free(self) -> int:
        """Bytes left on the store's file system, as of a moment ago."""
        now = time.monotonic()
        if now >= self._look_again:
            self._free = shutil.disk_usage(self._path.parent).free
            self._look_again = now + FREE_FOR
        return self._free

    def wal(self) -> int:
        """Bytes of SQLite's log, as of the last commit or checkpoint."""
        return self._writer.log.size

    def cannot_write(self) -> str | None:
        return self._writer.cannot_write()

    def backlog(self) -> int:
        """Operations that wait for the writer."""
        return self._writer.backlog()

    # -- writing

    def accept(self, new: NewMessage) -> Future[Kept | Copy]:
        if len(new.body) > LARGE:
            return self._with_file(new.body, acceptance.accept, new, must=False)
        return self._writer.submit(acceptance.accept, new, None)

    def accept_early(self, new: NewMessage) -> tuple[Future[Kept | Copy], Future[Kept | Copy]]:
        if len(new.body) > LARGE:
            kept = self.accept(new)
            return kept, kept
        return self._writer.submit_known(acceptance.accept, new, None)

    def settle(self, settlement: Settlement, *, soon: bool = True) -> Future[Settled]:
        comes = settlement.comes
        if comes is not None and len(comes.body) > LARGE:
            return self._with_file(comes.body, changes.settle, settlement, must=True)
        return self._writer.submit(changes.settle, settlement, None, must=True, soon=soon)

    def add(
        self, position: int, deliveries: Sequence[NewDelivery], whole: tuple[bytes, bytes] | None = None
    ) -> Future[Kept]:
        return self._writer.submit(partial(acceptance.add, position=position, deliveries=deliveries, whole=whole))

    def claim(
        self, lane: str, wanted: Mapping[str, int], now: datetime, fresh: datetime, until: datetime
    ) -> Future[Claimed]:
        return self._writer.submit(
            partial(
                schedule.claim,
                lane=lane,
                wanted=wanted,
                now=micros(now),
                fresh=micros(fresh),
                until=micros(until),
            )
        )

    def withdraw(
        self,
        position: int,
        at: datetime,
        why: str,
        under_way: Collection[int],
        outcome: Outcome | None = None,
        report: NewMessage | None = None,
    ) -> Future[Withdrawn]:
        return self._writer.submit(
            partial(
                changes.withdraw,
                position=position,
                at=at,
                why=why,
                under_way=under_way,
                outcome=outcome,
                report=report,
            )
        )

    def redrive(self, position: int, number: int, at: datetime, expiry: datetime) -> Future[Released | None]:
        return self._writer.submit(partial(changes.redrive, position=position, number=number, at=at, expiry=expiry))

    def drop(self, position: int, number: int, at: datetime, why: str) -> Future[Released | None]:
        return self._writer.submit(partial(changes.drop, position=position, number=number, at=at, why=why))

    def resume(self, position: int, number: int, at: datetime) -> Future[Released | None]:
        return self._writer.submit(partial(changes.resume, position=position, number=number, at=at))

    def wake(
        self, lane: str, key: str, due: datetime, limit: int, but: Collection[tuple[int, int]] = ()
    ) -> Future[int]:
        return self._writer.submit(
            partial(schedule.wake, lane=lane, key=key, due=micros(due), limit=limit, but=frozenset(but))
        )

    def hold_lane(self, hold: Hold) -> Future[None]:
        return self._writer.submit(partial(schedule.hold, what=hold))

    def resume_lane(self, lane: str) -> Future[bool]:
        return self._writer.submit(partial(schedule.resume, lane=lane))

    def missing(
        self,
        position: int,
        number: int,
        at: datetime,
        report: NewMessage | None,
        state: AnswerState = AnswerState.MISSING,
    ) -> Future[Settled]:
        return self._writer.submit(
            partial(changes.missing, position=position, number=number, report=report, state=state)
        )

    def fail_later(
        self, position: int, number: int, state: State, step: Step, outcome: Outcome, report: NewMessage | None
    ) -> Future[Settled]:
        return self._writer.submit(
            partial(
                changes.fail_later,
                position=position,
                number=number,
                state=state,
                step=step,
                outcome=outcome,
                report=report,
            )
        )

    def unread(self, mailbox: str, position: int, report: NewMessage | None) -> Future[Settled]:
        return self._writer.submit(partial(notes.unread, mailbox=mailbox, position=position, report=report))

    def note(self, position: int, note: Note) -> Future[None]:
        return self._writer.submit(partial(notes.note, position=position, what=note))

    def mark_read(self, mailbox: str, positions: Sequence[int], reader: str, at: datetime) -> Future[None]:
        return self._writer.submit(
            partial(notes.mark_read, mailbox=mailbox, positions=positions, reader=reader, at=micros(at))
        )

    def acknowledge(self, position: int, reader: str, at: datetime) -> Future[bool]:
        return self._writer.submit(partial(notes.acknowledge, position=position, reader=reader, at=at))

    def acknowledge_mail(self, mailbox: str, positions: Sequence[int], reader: str, at: datetime) -> Future[int]:
        return self._writer.submit(
            partial(notes.acknowledge_mail, mailbox=mailbox, positions=positions, reader=reader, at=at)
        )

    async def retain(self, older: Cutoffs) -> Removed:
        """One step; files of bodies go once no row names them, those that a crash leaves at the next start."""
        removed, files = await self._writer.submit(partial(retention.retain, older=older))
        for file in files:
            self._files.submit(self.bodies.remove, file)
        return removed  # type: ignore[no-any-return]

    def _with_file(self, body: bytes, operation: Callable[..., Any], what: Any, *, must: bool) -> Future[Any]:
        """A large body goes to its own file first, outside the loop and the writer."""
        job = Written(loop=self._loop)
        written = self._loop.run_in_executor(self._files, self.bodies.write, body)

        def then(written: Future[str]) -> None:
            error = written.exception()
            if error is not None:
                if not job.done():
                    job.set_exception(StoreError(f"the body cannot be written: {error}"))
                return
            file = written.result()
            job.add_done_callback(partial(self._tidy, file))
            self._writer.put(job, operation, (what, file), must=must)

        written.add_done_callback(then)
        return job

    def _tidy(self, file: str, done: Future[Any]) -> None:
        """A file that no row came to name goes; where that is not known, it goes at the next start."""
        if done.cancelled():
            return
        result = done.result() if done.exception() is None else None
        if not isinstance(result.came if isinstance(result, Settled) else result, Kept):
            with suppress(RuntimeError):  # closing: it goes at the next start
                self._files.submit(self.bodies.remove, file)

    # -- reading

    async def _read(self, function: Callable[..., T], *arguments: Any, on: ThreadPoolExecutor | None = None) -> T:
        await self._writer.settled()
        try:
            return await self._loop.run_in_executor(on or self._readers, self._on_reader, function, arguments)
        except sqlite3.Error as error:
            raise StoreError(f"the store cannot be read: {error}") from error

    def _on_reader(self, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        if not hasattr(self._local, "reader"):
            self._local.reader = Reader(connect(self._path), self.bodies, self._writer.claims)
        with suppress(FileNotFoundError):  # retention took a large body away between its row and its file: look again
            return function(self._local.reader, *arguments)
        return function(self._local.reader, *arguments)

    async def stored(self, position: int) -> Stored | None:
        return await self._read(reader.stored, position)

    async def body(self, position: int) -> bytes | None:
        return await self._read(reader.body, position)

    async def load(self, positions: Sequence[int], largest: int) -> dict[int, tuple[Stored, bytes | None]]:
        return await self._read(reader.load, positions, largest)

    async def deliveries(self, position: int) -> tuple[Delivery, ...]:
        return await self._read(reader.deliveries, position)

    async def places(self, position: int) -> tuple[Place, ...]:
        return await self._read(stream_reader.places, position)

    async def streams(self, limit: int) -> tuple[Stream, ...]:
        return await self._read(stream_reader.streams, limit)

    async def notes(self, position: int) -> tuple[Note, ...]:
        return await self._read(reader.notes, position)

    async def answers_to(self, position: int) -> tuple[Stored, ...]:
        return await self._read(reader.answers_to, position)

    async def mail_of(self, position: int) -> tuple[tuple[str, datetime | None, str | None], ...]:
        return await self._read(reader.mail_of, position)

    async def find(self, ids: Sequence[str], limit: int) -> tuple[int, ...]:
        return await self._read(reader.find, ids, limit)

    async def quoted(self, ids: Sequence[str], limit: int) -> tuple[Open, ...]:
        return await self._read(reader.quoted, ids, limit)

    async def lanes(self) -> tuple[Waiting, ...]:
        return await self._tally.lanes()

    async def schedule(self) -> tuple[Due, ...]:
        return await self._read(schedule.due)

    async def queued(self) -> tuple[Queued, ...]:
        return await self._read(schedule.queued)

    async def holds(self) -> tuple[Hold, ...]:
        return await self._read(schedule.holds)

    async def expired(self, now: datetime, limit: int) -> tuple[Delivery, ...]:
        return await self._read(reader.expired, micros(now), limit)

    async def unanswered(self, now: datetime, limit: int) -> tuple[Delivery, ...]:
        return await self._read(reader.unanswered, micros(now), limit)

    async def unread_mail(self, now: datetime, limit: int) -> tuple[tuple[str, int], ...]:
        return await self._read(reader.unread_mail, micros(now), limit)

    async def read(
        self, mailbox: str | None, after: int, limit: int, wanted: Filter, newest_first: bool, max_bytes: int
    ) -> MailboxPage:
        return await self._read(reader.read, mailbox, after, limit, wanted, newest_first, max_bytes)

    async def count(self, mailbox: str | None, wanted: Filter) -> int:
        return await self._read(reader.count, mailbox, wanted)

    async def mailboxes(self) -> tuple[MailboxStatus, ...]:
        return await self._read(reader.mailboxes)

    async def dead(self, limit: int, after: int) -> tuple[DeadLetter, ...]:
        return await self._read(reader.dead, limit, after)

    # -- the receipt ledger

    def refused(self, counts: Mapping[RefusedAs, int]) -> Future[None]:
        return self._writer.submit(partial(ledger_sqlite.refused, counts=counts), soon=False)

    async def span(self, begins: datetime, ends: datetime) -> Span:
        return await self._read(ledger_sqlite.span, micros(begins), micros(ends))

    async def sums(self, span: Span, now: datetime) -> tuple[Sum, ...]:
        return await self._read(ledger_sqlite.sums, span, micros(now), on=self._counter)

    async def lines(self, span: Span, now: datetime, limit: int) -> Page:
        return await self._read(ledger_sqlite.lines, span, micros(now), limit, on=self._counter)

    async def refusals(self, first: date, last: date, limit: int) -> tuple[Refused, ...]:
        return await self._read(ledger_sqlite.refusals, first, last, limit)

    async def counts(self) -> Counts:
        return await self._tally.counts()

    async def close(self) -> None:
        """Writes what is queued, then closes; readers finish what they read."""
        await asyncio.to_thread(self._files.shutdown)
        await asyncio.sleep(0)  # large bodies that have just been written are put in their own turn
        self._writer.flush()
        await asyncio.to_thread(self._writer.close)
        await asyncio.to_thread(self._readers.shutdown)
        await asyncio.to_thread(self._counter.shutdown)
        os.close(self._lock)
