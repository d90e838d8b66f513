"""What is kept: messages, their deliveries, mailboxes, and who answered what.

This page is the store's contract. It speaks in batches of plain values and says nothing of SQL: whoever implements it
promises that what a returned future confirms is on disk, that positions grow in the order of commits, and that a
reader never passes a position below which a commit may still come.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol

import msgspec

from broker.core.delivery import AnswerState, Outcome, State, Step
from broker.core.fhir.header import Format, Release
from broker.core.hold import Hold
from broker.core.message import Fate, Message, decode
from broker.core.policy import Policy

BEHIND = datetime(9999, 1, 1, tzinfo=UTC)  # when a delivery is due that waits for another of its stream


class StoreError(Exception):
    """The store cannot keep anything now: the disk is full, or does not answer. What was asked did not happen."""


class NewDelivery(msgspec.Struct, frozen=True, kw_only=True):
    destination: str  # endpoint as written; "" where the message names none
    key: str  # its comparison key: what makes a delivery of a message unique
    address: str  # "" while none is known
    lane: str  # the peer it waits for; "" while no address is known
    state: State
    due: datetime  # of the first attempt, were we to crash before it
    expiry: datetime
    policy: Policy
    rule: str = ""
    fixed: bool = False  # the address is a rule's, not the directory's: it is not looked up anew
    mailbox: str | None = None  # comparison key of the mailbox that it is put in
    unread_by: datetime | None = None  # mailbox: when the source hears that nobody has read it
    priority: int = 0  # the higher goes first among what is due in its lane
    answer: AnswerState = AnswerState.NONE
    answer_by: datetime | None = None
    behind: tuple[int, int] | None = None  # position and number of a delivery that must have ended before it leaves
    stream: bytes | None = None  # core.stream, where a rule asks for order: the store says whose turn it is


class NewMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message with all that is decided about it; one row that comes or fails as a whole."""

    message: Message
    body: bytes
    digest: bytes  # SHA-256 of the body
    source_key: str  # comparison key of the source
    identity: str | None  # unique within the source; None for what claims none (our own reports)
    exclusive: str | None = None  # a second claim, where a rule's category forbids it to come twice (M-22)
    quotes: tuple[str, ...]  # further ids by which a response may quote it
    deliveries: tuple[NewDelivery, ...]
    answers: tuple[int, int] | None = None  # position and number of the delivery that it answers
    final: bool = True  # of a response: no other is looked for; otherwise the answer stays open
    reports_on: int | None = None  # position of the message that it is our report on


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The message is on disk."""

    position: int
    numbers: tuple[int, ...]  # of its deliveries, in the order given
    answered: bool = False  # `answers` was still open, and is closed now
    behind: tuple[int, ...] = ()  # numbers of those that wait for another of their stream, whatever they were to be
    released: tuple[tuple[str, str], ...] = ()  # lane and destination of what has its turn in its stream now

    @property
    def ready(self) -> tuple[int, ...]:
        """The numbers, with 0 for what has not its turn."""
        return (
            tuple([0 if number in self.behind else number for number in self.numbers]) if self.behind else self.numbers
        )


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    """The identity was claimed before: nothing was written."""

    position: int  # of the first
    exclusive: bool = False  # it was the second claim that was lost


class Delivery(msgspec.Struct, kw_only=True):
    """A delivery as the store knows it."""

    position: int
    number: int
    destination: str
    key: str
    address: str
    lane: str
    state: State
    due: datetime
    expiry: datetime
    accepted: datetime
    policy: Policy
    rule: str
    fixed: bool
    attempts: int
    left: bool  # an attempt may have reached the other side
    answer: AnswerState
    answer_by: datetime | None
    answered_by: int | None  # position of the response
    ended: datetime | None
    steps: tuple[Step, ...]
    outcome: Outcome | None = None
    priority: int = 0

    @property
    def is_behind(self) -> bool:
        """It waits for another of its stream, or for the stream to go on."""
        return self.state is State.WAITING and self.due >= BEHIND


class Claimed(msgspec.Struct, frozen=True, kw_only=True):
    """What is due for some destinations of a lane; until the time given with the claim it is not due again."""

    deliveries: tuple[Delivery, ...]
    next_due: dict[str, datetime]  # by destination: of what is left there


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    position: int
    accepted: datetime  # the commit's time
    message: Message
    answers: tuple[int, int] | None
    body_kept: bool  # False once retention has removed it


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What became of some deliveries of one message. Those that do not wait any more are left as they are."""

    position: int
    numbers: tuple[int, ...]
    state: State
    step: Step
    due: datetime | None = None
    address: str | None = None
    lane: str | None = None
    mailbox: str | None = None  # its new address is this mailbox: it is put there
    attempted: bool = True
    answer: AnswerState | None = None  # what becomes of an open answer
    outcome: Outcome | None = None
    first: bool = False  # of the first attempt of what is in no order: as it was written, so nothing has to be read


class Settlement(msgspec.Struct, frozen=True, kw_only=True):
    """The end of an attempt, one transaction: the deliveries' end, and the messages that came of it."""

    change: Change
    comes: NewMessage | None = None  # the response that came in the same exchange, or our report


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    changed: int  # deliveries that really changed
    came: Kept | Copy | None = None
    released: tuple[tuple[str, str], ...] = ()  # as with Kept


class Released(msgspec.Struct, frozen=True, kw_only=True):
    """An operator's word was followed; in these lanes, for these destinations something is due at once now."""

    queues: tuple[tuple[str, str], ...]


class Withdrawn(msgspec.Struct, frozen=True, kw_only=True):
    numbers: tuple[int, ...]
    released: tuple[tuple[str, str], ...] = ()  # as with Kept
    came: Kept | Copy | None = None  # the report of it, where anything was withdrawn


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a delivery stands in its stream."""

    number: int
    behind: int | None = None  # position of the message whose delivery goes before it
    ahead: int = 0  # how many go before it
    held_by: tuple[int, ...] = ()  # positions of the dead letters that hold the stream
    holds: bool = False  # it is one of them


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """A stream that stands still or in which some wait for others."""

    waiting: int
    head: tuple[int, int] | None  # position and number of the delivery whose turn it is, or would be
    held_by: tuple[tuple[int, int, datetime], ...]  # position, number and death of the dead letters that hold it


class Open(msgspec.Struct, frozen=True, kw_only=True):
    """A request that may be what a response answers."""

    stored: Stored
    deliveries: tuple[Delivery, ...]


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a message's story that is no delivery's: a copy came, somebody read it, it was acknowledged."""

    at: datetime
    what: str
    text: str = ""
    who: str = ""


class Due(msgspec.Struct, frozen=True, kw_only=True):
    """A destination for which something waits in a lane, and when the first of it is due."""

    lane: str
    key: str
    due: datetime


class Queued(msgspec.Struct, frozen=True, kw_only=True):
    """A destination for which something waits in a lane, by its name."""

    lane: str
    key: str
    name: str  # as one of those that wait writes it


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """A lane that has something to do."""

    lane: str
    count: int
    due: datetime
    oldest: datetime | None = None  # when what waits longest was accepted


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which messages of a mailbox a reader wants; an empty field wants all."""

    event: tuple[str, ...] = ()  # code, or system|code
    source: tuple[str, ...] = ()
    response_id: tuple[str, ...] = ()
    response_missing: bool | None = None
    response_code: tuple[str, ...] = ()
    identifier: tuple[str, ...] = ()  # value, or system|value
    since: datetime | None = None  # accepted at or after
    until: datetime | None = None  # accepted before
    sender: tuple[str, ...] = ()


class MailboxEntry(msgspec.Struct, frozen=True, kw_only=True):
    position: int
    accepted: datetime
    media_type: str
    format: Format
    release: Release
    body: bytes
    about: bytes  # the message beside its bytes, as it is written; few readers need it

    @property
    def message(self) -> Message:
        return decode(self.about)


class MailboxPage(msgspec.Struct, frozen=True, kw_only=True):
    entries: tuple[MailboxEntry, ...]
    reached: int  # the position read up to: where the next page starts after
    more: bool
    first_left: int | None = None  # set where messages after the asked position are gone by retention


class MailboxStatus(msgspec.Struct, frozen=True, kw_only=True):
    endpoint: str
    messages: int
    unread: int
    last: int  # position


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    stored: Stored
    delivery: Delivery


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """For metrics and readiness."""

    messages: int
    waiting: int
    dead: int
    open_answers: int
    oldest_due: datetime | None
    held_streams: int = 0


class Cutoffs(msgspec.Struct, frozen=True, kw_only=True):
    """Retention, kind by kind: what was accepted (and has ended) before these instants goes."""

    body: datetime  # the bytes of messages that stand in no mailbox
    mailbox: datetime
    identity: datetime  # what recognises copies and matches responses
    trace: datetime  # the rest, once nothing else of the message is left


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    """What one step of retention took away: bodies, entries of mailboxes, identities, traces."""

    body: int
    mailbox: int
    identity: int
    trace: int
    more: bool  # another step would find more at once


class Store(Protocol):
    """Everything that is awaited here is bounded by the store's own deadline, and raises `StoreError` past it."""

    # writing: grouped; what the future returns is on disk
    def accept(self, new: NewMessage) -> Future[Kept | Copy]: ...

    # what it comes to, told before it is on disk, and the same once it is; only a failure of the disk is between them.
    # What is asked of the store after the first of them finds the message.
    def accept_early(self, new: NewMessage) -> tuple[Future[Kept | Copy], Future[Kept | Copy]]: ...
    def settle(self, settlement: Settlement, *, soon: bool = True) -> Future[Settled]: ...
    def add(
        self, position: int, deliveries: Sequence[NewDelivery], whole: tuple[bytes, bytes] | None = None
    ) -> Future[Kept]: ...
    def claim(
        self, lane: str, wanted: Mapping[str, int], now: datetime, fresh: datetime, until: datetime
    ) -> Future[Claimed]: ...
    def withdraw(  # with an outcome it is for good: a copy does not ask for it anew
        self, position: int, at: datetime, why: str, under_way: Collection[int],
        outcome: Outcome | None = None, report: NewMessage | None = None,
    ) -> Future[Withdrawn]: ...  # fmt: skip
    def redrive(self, position: int, number: int, at: datetime, expiry: datetime) -> Future[Released | None]: ...
    def drop(self, position: int, number: int, at: datetime, why: str) -> Future[Released | None]: ...
    def resume(self, position: int, number: int, at: datetime) -> Future[Released | None]: ...
    def wake(
        self, lane: str, key: str, due: datetime, limit: int, but: Collection[tuple[int, int]] = ()
    ) -> Future[int]: ...
    def hold_lane(self, hold: Hold) -> Future[None]: ...
    def resume_lane(self, lane: str) -> Future[bool]: ...
    def missing(  # an open answer is looked for no longer
        self, position: int, number: int, at: datetime, report: NewMessage | None,
        state: AnswerState = AnswerState.MISSING,
    ) -> Future[Settled]: ...  # fmt: skip
    def fail_later(
        self, position: int, number: int, state: State, step: Step, outcome: Outcome, report: NewMessage | None
    ) -> Future[Settled]: ...
    def unread(self, mailbox: str, position: int, report: NewMessage | None) -> Future[Settled]: ...
    def note(self, position: int, note: Note) -> Future[None]: ...
    def mark_read(self, mailbox: str, positions: Sequence[int], reader: str, at: datetime) -> Future[None]: ...
    def acknowledge(self, position: int, reader: str, at: datetime) -> Future[bool]: ...
    def acknowledge_mail(self, mailbox: str, positions: Sequence[int], reader: str, at: datetime) -> Future[int]: ...

    async def retain(self, older: Cutoffs) -> Removed: ...

    # reading
    async def stored(self, position: int) -> Stored | None: ...
    async def body(self, position: int) -> bytes | None: ...
    async def load(self, positions: Sequence[int], largest: int) -> dict[int, tuple[Stored, bytes | None]]: ...
    async def deliveries(self, position: int) -> tuple[Delivery, ...]: ...
    async def places(self, position: int) -> tuple[Place, ...]: ...
    async def streams(self, limit: int) -> tuple[Stream, ...]: ...
    async def notes(self, position: int) -> tuple[Note, ...]: ...
    async def mail_of(self, position: int) -> tuple[tuple[str, datetime | None, str | None], ...]: ...
    async def answers_to(self, position: int) -> tuple[Stored, ...]: ...
    async def find(self, ids: Sequence[str], limit: int) -> tuple[int, ...]: ...
    async def quoted(self, ids: Sequence[str], limit: int) -> tuple[Open, ...]: ...
    async def lanes(self) -> tuple[Waiting, ...]: ...
    async def schedule(self) -> tuple[Due, ...]: ...
    async def queued(self) -> tuple[Queued, ...]: ...
    async def holds(self) -> tuple[Hold, ...]: ...
    async def expired(self, now: datetime, limit: int) -> tuple[Delivery, ...]: ...
    async def unanswered(self, now: datetime, limit: int) -> tuple[Delivery, ...]: ...
    async def unread_mail(self, now: datetime, limit: int) -> tuple[tuple[str, int], ...]: ...
    async def read(
        self, mailbox: str | None, after: int, limit: int, wanted: Filter, newest_first: bool, max_bytes: int
    ) -> MailboxPage: ...
    async def count(self, mailbox: str | None, wanted: Filter) -> int: ...
    async def mailboxes(self) -> tuple[MailboxStatus, ...]: ...
    async def dead(self, limit: int, after: int) -> tuple[DeadLetter, ...]: ...
    async def counts(self) -> Counts: ...

    def free(self) -> int: ...
    def wal(self) -> int: ...  # bytes of the log; 0 where there is none
    def cannot_write(self) -> str | None: ...  # why the last write failed, while that is news
    def backlog(self) -> int: ...
    @property
    def key(self) -> bytes: ...  # what message ids are sealed with

    async def close(self) -> None: ...


__all__ = [
    "BEHIND", "Change", "Copy", "Counts", "Cutoffs", "DeadLetter", "Delivery", "Due", "Fate", "Filter", "Kept",
    "MailboxEntry", "MailboxPage", "MailboxStatus", "NewDelivery", "NewMessage", "Note", "Open", "Place", "Queued",
    "Released", "Removed", "Settled", "Settlement", "Store", "StoreError", "Stored", "Stream", "Waiting", "Withdrawn",
]  # fmt: skip
