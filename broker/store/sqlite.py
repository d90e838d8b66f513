"""The embedded store: SQLite with one writer that commits in groups, and readers with connections of their own.

Here is what may be asked of it, one line each; what is done for it stands beside: `acceptance`, `changes`, `reader` …
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import date, datetime
from functools import partial

from broker.core.delivery import AnswerState, Outcome, State, Step
from broker.core.hold import Hold
from broker.core.subscription.life import Life
from broker.core.subscription.notification import Kind
from broker.core.subscription.subscription import Subscription
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
    Stream,
    Waiting,
    Withdrawn,
    acceptance,
    changes,
    ledger_sqlite,
    log_reader,
    notes,
    reader,
    retention,
    schedule,
    stream_reader,
    telling_sqlite,
)
from broker.store.bodies import LARGE
from broker.store.ledger import Page, Refused, RefusedAs, Span, Sum
from broker.store.rows import micros
from broker.store.sqlite_file import SqliteFile
from broker.store.telling import NO_EVENT, Heard, LogPage, NewEvent, Subscribed


class SqliteStore(SqliteFile):
    """The operations of the contract: what is asked of the writer, and what of the readers."""

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

    # -- reading

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

    # -- subscriptions

    def subscribe(
        self, subscription: Subscription, life: Life, *, owner: str, at: datetime, most: int
    ) -> Future[Subscribed | None]:
        return self._writer.submit(
            partial(
                telling_sqlite.subscribe, subscription=subscription, life=life, owner=owner, at=micros(at), most=most
            )
        )

    def rewrite(
        self, key: int, subscription: Subscription, life: Life, *, version: int, at: datetime
    ) -> Future[Subscribed | None]:
        return self._writer.submit(
            partial(
                telling_sqlite.rewrite, key=key, subscription=subscription, life=life, version=version, at=micros(at)
            )
        )

    def unsubscribe(self, key: int) -> Future[bool]:
        return self._writer.submit(partial(telling_sqlite.unsubscribe, key=key))

    def tell(self, upto: int, events: Sequence[NewEvent]) -> Future[dict[int, int]]:
        return self._writer.submit(partial(telling_sqlite.tell, upto=upto, events=events))

    def notice(
        self, key: int, new: NewMessage, kind: Kind, *, first: int = NO_EVENT, last: int = NO_EVENT
    ) -> Future[Kept | Copy | None]:
        operation = partial(telling_sqlite.notice, key=key, kind=kind, first=first, last=last)
        if len(new.body) > LARGE:
            return self._with_file(new.body, operation, new, must=False)
        return self._writer.submit(operation, new, None)

    def move(
        self, key: int, life: Life | None, *, sent: int | None = None, ended: int | None = None
    ) -> Future[Subscribed | None]:
        return self._writer.submit(partial(telling_sqlite.move, key=key, life=life, sent=sent, ended=ended), soon=False)

    async def subscribed(self) -> tuple[Subscribed, ...]:
        return await self._read(telling_sqlite.subscribed)

    async def heard(self, key: int, since: int, until: int, limit: int) -> tuple[Heard, ...]:
        return await self._read(telling_sqlite.heard, key, since, until, limit)

    async def heard_between(self, key: int, since: datetime | None, until: datetime | None) -> tuple[int, int] | None:
        bounds = (None if since is None else micros(since), None if until is None else micros(until))
        return await self._read(telling_sqlite.heard_between, key, *bounds, on=self._counter)

    async def told(self) -> int:
        return int(await self._writer.submit(telling_sqlite.told))

    async def newest(self) -> int:
        return await self._read(log_reader.newest)

    async def log(self, after: int, limit: int, largest: int, most: int) -> LogPage:
        return await self._read(log_reader.log, after, limit, largest, most)

    def on_commit(self, listener: Callable[[], None]) -> None:
        self._writer.on_commit(listener)
