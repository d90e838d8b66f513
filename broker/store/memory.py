"""The store in memory, for tests and the simulation: plain tables, and a disk that decides what outlives a crash.

Whatever is written is an operation on the tables. Those that wait are done and synced together, as in the embedded
store; the disk keeps them in their order, and a store that is opened on it does them again. So what was never synced
is not there after a crash, and a sync that fails takes back all that it should have kept.
"""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
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
    table_reader,
    table_retention,
    table_schedule,
    table_writer,
)
from broker.store.ledger import RefusedAs
from broker.store.tables import Tables
from broker.store.writer import Written

T = TypeVar("T")
AGAIN = 0.5  # seconds before what must be written is tried again on a disk that took nothing


@dataclass(frozen=True, slots=True)
class Entry:
    """An operation that was synced, with what it depended on beside its arguments."""

    now: datetime
    last: int  # position before it
    operation: Callable[..., Any]
    arguments: tuple[Any, ...]


class Disk:
    """What outlives the process. This one is quick and large; a simulated one is slow, full, or fails."""

    def __init__(self, key: bytes = b"in memory") -> None:
        self.key = key
        self.journal: list[Entry] = []

    def delay(self) -> float:
        """Seconds until the next sync is done, with all that has come until then."""
        return 0.0

    def sync(self, entries: Sequence[Entry]) -> None:
        """Keeps these; raises OSError where it cannot, and then keeps none."""
        self.journal += entries

    def free(self) -> int:
        return 1 << 40


def tables_of(journal: Sequence[Entry]) -> Tables:
    """What all these operations have come to."""
    tables = Tables()
    for entry in journal:
        tables.now, tables.last = entry.now, entry.last
        entry.operation(tables, *entry.arguments)
    return tables


class MemoryStore:
    """Opens a disk; everything happens on the event loop."""

    def __init__(self, disk: Disk | None = None, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._disk = Disk() if disk is None else disk
        self._now = now
        self._loop = asyncio.get_running_loop()
        self._pending: list[Written] = []
        self._done: list[tuple[Written, Entry]] = []  # on the tables, and not on the disk yet
        self._timer: asyncio.Handle | None = None  # of the next sync
        self._failure: str | None = None
        self._is_closed = False
        self._tables = tables_of(self._disk.journal)

    @property
    def tables(self) -> Tables:
        """All that there is, with what is not on the disk yet; for tests to look at."""
        return self._tables

    @property
    def key(self) -> bytes:
        return self._disk.key

    def free(self) -> int:
        return self._disk.free()

    def wal(self) -> int:
        return 0

    def cannot_write(self) -> str | None:
        return self._failure

    def backlog(self) -> int:
        return len(self._pending) + len(self._done)

    # -- groups

    def _submit(self, operation: Callable[..., Any], *arguments: Any, must: bool = False) -> Written:
        job = Written(loop=self._loop)
        job.operation, job.arguments, job.must, job.known, job.told = operation, arguments, must, None, False
        if self._is_closed:
            job.set_exception(StoreError("the store is closed"))
            return job
        self._pending.append(job)
        self._sync_in(self._disk.delay)
        return job

    def _sync_in(self, delay: Callable[[], float]) -> None:
        if self._timer is None:
            seconds = delay()
            self._timer = (
                self._loop.call_later(seconds, self._sync) if seconds > 0 else self._loop.call_soon(self._sync)
            )

    def _do_pending(self) -> None:
        """Does what waits, and tells those that want to know ahead what it comes to."""
        jobs, self._pending = self._pending, []
        tables = self._tables
        for job in jobs:
            entry = Entry(self._now(), tables.last, job.operation, job.arguments)
            tables.now = entry.now
            try:
                job.outcome = job.operation(tables, *job.arguments)
            except Exception as error:  # a bug in the operation: its caller learns of it, the others go on
                self._tables = tables = self._again()
                job.set_exception(error)
                continue
            self._done.append((job, entry))
            if job.known is not None:
                job.told = True
                job.known.set_result(job.outcome)

    def _again(self) -> Tables:
        """The tables without what was not done to its end."""
        return tables_of([*self._disk.journal, *(entry for _, entry in self._done)])

    def _sync(self) -> None:
        self._timer = None
        self._do_pending()
        done, self._done = self._done, []
        try:
            self._disk.sync([entry for _, entry in done])
        except OSError as error:
            self._failed([job for job, _ in done], error)
            return
        self._failure = None
        for job, _ in done:
            job.set_result(job.outcome)

    def _failed(self, jobs: list[Written], error: OSError) -> None:
        """Nothing of it has happened; what must be written waits, the others are told."""
        self._failure = str(error)
        self._tables = tables_of(self._disk.journal)
        for job in jobs:
            if job.must:
                self._pending.append(job)
                continue
            if job.told and isinstance(job.outcome, Kept):  # somebody has heard of it: nothing else gets its position
                self._tables.last = max(self._tables.last, job.outcome.position)
            job.set_exception(StoreError(f"the store cannot write: {error}"))
        if self._pending:
            self._sync_in(lambda: AGAIN)

    async def _settled(self) -> Tables:
        """The tables once all that was told before is on disk: nobody reads what may be taken back."""
        while self._done:
            await self._submit(_nothing)
        return self._tables

    async def close(self) -> None:
        """Writes what waits, as far as the disk takes it."""
        if self._timer is not None:
            self._timer.cancel()
            self._sync()
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        rest, self._pending = self._pending, []
        for job in rest:
            job.set_exception(StoreError("the store is closed"))

    # -- writing

    def accept(self, new: NewMessage) -> Future[Kept | Copy]:
        return self._submit(table_writer.accept, new)

    def accept_early(self, new: NewMessage) -> tuple[Future[Kept | Copy], Future[Kept | Copy]]:
        job = self._submit(table_writer.accept, new)
        if job.done():
            return job, job
        job.known = Written(loop=self._loop)
        job.add_done_callback(partial(_let_know, job.known))
        self._loop.call_soon(self._do_pending)
        return job.known, job

    def settle(self, settlement: Settlement, *, soon: bool = True) -> Future[Settled]:
        return self._submit(table_writer.settle, settlement, must=True)

    def add(
        self, position: int, deliveries: Sequence[NewDelivery], whole: tuple[bytes, bytes] | None = None
    ) -> Future[Kept]:
        return self._submit(table_writer.add, position, tuple(deliveries), whole)

    def claim(
        self, lane: str, wanted: Mapping[str, int], now: datetime, fresh: datetime, until: datetime
    ) -> Future[Claimed]:
        return self._submit(table_schedule.claim, lane, dict(wanted), now, fresh, until)

    def withdraw(
        self, position: int, at: datetime, why: str, under_way: Collection[int],
        outcome: Outcome | None = None, report: NewMessage | None = None,
    ) -> Future[Withdrawn]:  # fmt: skip
        return self._submit(table_writer.withdraw, position, at, why, frozenset(under_way), outcome, report)

    def redrive(self, position: int, number: int, at: datetime, expiry: datetime) -> Future[Released | None]:
        return self._submit(table_writer.redrive, position, number, at, expiry)

    def drop(self, position: int, number: int, at: datetime, why: str) -> Future[Released | None]:
        return self._submit(table_writer.drop, position, number, at, why)

    def resume(self, position: int, number: int, at: datetime) -> Future[Released | None]:
        return self._submit(table_writer.resume, position, number, at)

    def wake(
        self, lane: str, key: str, due: datetime, limit: int, but: Collection[tuple[int, int]] = ()
    ) -> Future[int]:
        return self._submit(table_schedule.wake, lane, key, due, limit, frozenset(but))

    def hold_lane(self, hold: Hold) -> Future[None]:
        return self._submit(table_schedule.hold_lane, hold)

    def resume_lane(self, lane: str) -> Future[bool]:
        return self._submit(table_schedule.resume_lane, lane)

    def missing(
        self, position: int, number: int, at: datetime, report: NewMessage | None,
        state: AnswerState = AnswerState.MISSING,
    ) -> Future[Settled]:  # fmt: skip
        return self._submit(table_writer.missing, position, number, report, state)

    def refused(self, counts: Mapping[RefusedAs, int]) -> Future[None]:
        return self._submit(table_writer.refused, dict(counts))

    def fail_later(
        self, position: int, number: int, state: State, step: Step, outcome: Outcome, report: NewMessage | None
    ) -> Future[Settled]:
        return self._submit(table_writer.fail_later, position, number, state, step, outcome, report)

    def unread(self, mailbox: str, position: int, report: NewMessage | None) -> Future[Settled]:
        return self._submit(table_writer.unread, mailbox, position, report)

    def note(self, position: int, note: Note) -> Future[None]:
        return self._submit(table_writer.note, position, note)

    def mark_read(self, mailbox: str, positions: Sequence[int], reader: str, at: datetime) -> Future[None]:
        return self._submit(table_writer.mark_read, mailbox, tuple(positions), reader, at)

    def acknowledge(self, position: int, reader: str, at: datetime) -> Future[bool]:
        return self._submit(table_writer.acknowledge, position, reader, at)

    def acknowledge_mail(self, mailbox: str, positions: Sequence[int], reader: str, at: datetime) -> Future[int]:
        return self._submit(table_writer.acknowledge_mail, mailbox, tuple(positions), reader, at)

    async def retain(self, older: Cutoffs) -> Removed:
        removed: Removed = await self._submit(table_retention.retain, older)
        return removed

    # -- reading

    async def stored(self, position: int) -> Stored | None:
        return table_reader.stored(await self._settled(), position)

    async def body(self, position: int) -> bytes | None:
        return table_reader.body(await self._settled(), position)

    async def load(self, positions: Sequence[int], largest: int) -> dict[int, tuple[Stored, bytes | None]]:
        return table_reader.load(await self._settled(), positions, largest)

    async def deliveries(self, position: int) -> tuple[Delivery, ...]:
        return table_reader.deliveries(await self._settled(), position)

    async def places(self, position: int) -> tuple[Place, ...]:
        return table_reader.places(await self._settled(), position)

    async def streams(self, limit: int) -> tuple[Stream, ...]:
        return table_reader.streams(await self._settled(), limit)

    async def notes(self, position: int) -> tuple[Note, ...]:
        return table_reader.notes(await self._settled(), position)

    async def mail_of(self, position: int) -> tuple[tuple[str, datetime | None, str | None], ...]:
        return table_reader.mail_of(await self._settled(), position)

    async def answers_to(self, position: int) -> tuple[Stored, ...]:
        return table_reader.answers_to(await self._settled(), position)

    async def find(self, ids: Sequence[str], limit: int) -> tuple[int, ...]:
        return table_reader.find(await self._settled(), ids, limit)

    async def quoted(self, ids: Sequence[str], limit: int) -> tuple[Open, ...]:
        return table_reader.quoted(await self._settled(), ids, limit)

    async def lanes(self) -> tuple[Waiting, ...]:
        return table_schedule.lanes(await self._settled())

    async def schedule(self) -> tuple[Due, ...]:
        return table_schedule.schedule(await self._settled())

    async def queued(self) -> tuple[Queued, ...]:
        return table_schedule.queued(await self._settled())

    async def holds(self) -> tuple[Hold, ...]:
        return table_schedule.holds(await self._settled())

    async def expired(self, now: datetime, limit: int) -> tuple[Delivery, ...]:
        return table_reader.expired(await self._settled(), now, limit)

    async def unanswered(self, now: datetime, limit: int) -> tuple[Delivery, ...]:
        return table_reader.unanswered(await self._settled(), now, limit)

    async def unread_mail(self, now: datetime, limit: int) -> tuple[tuple[str, int], ...]:
        return table_reader.unread_mail(await self._settled(), now, limit)

    async def read(
        self, mailbox: str | None, after: int, limit: int, wanted: Filter, newest_first: bool, max_bytes: int
    ) -> MailboxPage:
        return table_reader.read(await self._settled(), mailbox, after, limit, wanted, newest_first, max_bytes)

    async def count(self, mailbox: str | None, wanted: Filter) -> int:
        return table_reader.count(await self._settled(), mailbox, wanted)

    async def mailboxes(self) -> tuple[MailboxStatus, ...]:
        return table_reader.mailboxes(await self._settled())

    async def dead(self, limit: int, after: int) -> tuple[DeadLetter, ...]:
        return table_reader.dead(await self._settled(), limit, after)

    async def counts(self) -> Counts:
        return table_reader.counts(await self._settled())


def _nothing(_tables: Tables) -> None:
    """For who only wants to know that all before it is written."""


def _let_know(known: Future[Any], job: Future[Any]) -> None:
    """Who was to be told ahead hears of a failure that came first."""
    error = job.exception()
    if not known.done():
        if error is None:
            known.set_result(job.result())
        else:
            known.set_exception(error)
