"""Subscriptions, what they were told of, and how far: their part of the store's contract.

An event is a row that points into the message it happened in; its bytes are not copied. Numbers are given in the very
transaction that writes the event, so they have no gap and are never given twice. A notification under way is a message
of ours like any other (`Fate.NOTICE`), written together with the word which subscription it is for.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from broker.core.fhir.header import Format
from broker.core.message import Fate, Message, decode
from broker.core.subscription.life import Life
from broker.core.subscription.notification import Kind
from broker.core.subscription.subscription import Subscription
from broker.core.subscription.topic import Interaction
from broker.store import Copy, Kept, NewMessage

NO_EVENT = 0  # event numbers begin with 1


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """A notification that is on its way: the message it is, and what it says. One at a time for each subscription."""

    position: int
    number: int  # of its one delivery
    kind: Kind
    first: int = NO_EVENT  # event numbers that it tells of, both inclusive
    last: int = NO_EVENT


class Subscribed(msgspec.Struct, frozen=True, kw_only=True):
    """A subscription as the store has it."""

    key: int  # the store's own; grows, never given twice
    subscription: Subscription  # its `id` is what the world knows it by
    life: Life
    owner: str = ""  # party; "" while none is known
    version: int = 1  # meta.versionId: grows each time its client writes it
    changed: datetime  # meta.lastUpdated: the same
    counted: int = NO_EVENT  # the highest event number given
    sent: int = NO_EVENT  # up to here all was taken, or given up
    notice: Notice | None = None


class NewEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something a topic tells of, and who hears of it."""

    position: int  # of the message it happened in
    at: datetime
    topic: str  # url, with `|version` where it has one
    places: tuple[int, ...] = ()  # entries of the message: the focus first, then what goes along; none: the message
    interaction: Interaction | None = None
    relayed: bool = False  # the message is the notification of another server: it is told as it came (S-24)
    hearers: tuple[int, ...] = ()  # keys of subscriptions


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """An event as one subscription has it."""

    number: int
    position: int
    at: datetime
    topic: str
    places: tuple[int, ...]
    interaction: Interaction | None
    relayed: bool


class Logged(msgspec.Struct, frozen=True, kw_only=True):
    """A message of the log, for whoever follows it."""

    position: int
    accepted: datetime
    fate: int
    event: str  # system|code
    format: Format
    about: bytes  # the message beside its bytes, as it is written: most are only looked at from outside
    body: bytes | None  # None where it is larger than was asked for, or gone

    @property
    def message(self) -> Message:
        message = decode(self.about)
        # the transaction knew better: the request had been answered already
        return message if message.fate == self.fate else msgspec.structs.replace(message, fate=Fate(self.fate))


class LogPage(msgspec.Struct, frozen=True, kw_only=True):
    entries: tuple[Logged, ...]
    reached: int  # the next page starts after it
    more: bool


class Telling(Protocol):
    """As with the store's other writes, what a returned future confirms is on disk."""

    def subscribe(
        self, subscription: Subscription, life: Life, *, owner: str, at: datetime, most: int
    ) -> Future[Subscribed | None]:
        """A new one; None where there are `most` already."""
        ...

    def rewrite(
        self, key: int, subscription: Subscription, life: Life, *, version: int, at: datetime
    ) -> Future[Subscribed | None]:
        """As its client writes it now; None where it is gone, or not of this version any more. Numbers go on."""
        ...

    def unsubscribe(self, key: int) -> Future[bool]:
        """It is gone, with what it heard; False where it was not there. A notice under way is a message like others."""
        ...

    def tell(self, upto: int, events: Sequence[NewEvent]) -> Future[dict[int, int]]:
        """The log was followed up to a position: its events, numbers for who hears, and the position, in one
        transaction. Returns the highest number of each that heard. Nothing happens where `upto` is not ahead."""
        ...

    def notice(
        self, key: int, new: NewMessage, kind: Kind, *, first: int = NO_EVENT, last: int = NO_EVENT
    ) -> Future[Kept | Copy | None]:
        """Keeps a notification, and notes that it is the one under way; None where the subscription is gone or has
        one already: then nothing is kept."""
        ...

    def move(
        self, key: int, life: Life | None, *, sent: int | None = None, ended: int | None = None
    ) -> Future[Subscribed | None]:
        """What became of it: its life (None: as it is), how far it was told (also back: `$resend`), and the position of
        the notice that has ended, which is under way no longer. None where it is gone."""
        ...

    async def subscribed(self) -> tuple[Subscribed, ...]: ...  # all, by key

    async def heard(self, key: int, since: int, until: int, limit: int) -> tuple[Heard, ...]:
        """By number, both inclusive; what retention took is not there."""
        ...

    async def heard_between(self, key: int, since: datetime | None, until: datetime | None) -> tuple[int, int] | None:
        """The lowest and the highest number of what happened in a time; None where nothing did."""
        ...

    async def told(self) -> int: ...  # the position up to which the log was followed; that of the newest at first

    async def newest(self) -> int: ...  # the position of the newest message

    async def log(self, after: int, limit: int, largest: int, most: int) -> LogPage:
        """What was accepted after a position, oldest first, no reports or notices of ours among it; at most so many
        bytes of bodies in all (one comes at least), none of more than `largest`."""
        ...

    def on_commit(self, listener: Callable[[], None]) -> None:
        """`listener()` is called on the loop after each commit that may have brought messages."""
        ...
