"""The tables of the store in memory: what is kept, and how what waits is found."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime

from broker.core.delivery import State
from broker.core.hold import Hold
from broker.store import BEHIND, Delivery, NewMessage, Note, Stored
from broker.store.ledger import RefusedAs

Name = tuple[int, int]  # position and number of a delivery
Queue = tuple[str, str]  # lane and destination

BEGIN = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Kept:
    """A message."""

    stored: Stored
    new: NewMessage
    body: bytes | None  # None once retention has removed it
    claims: list[tuple[str, str]]  # source and id of the identities that are its own
    quotes: tuple[str, ...]


@dataclass(slots=True, eq=False)
class Row:
    """A delivery with what only the store knows of it."""

    delivery: Delivery
    mailbox: str | None = None
    stream: bytes | None = None
    turn: int = 0

    @property
    def name(self) -> Name:
        return self.delivery.position, self.delivery.number


@dataclass(slots=True)
class Mail:
    unread_by: datetime | None
    read_at: datetime | None = None
    reader: str | None = None

    def read(self, reader: str, at: datetime) -> None:
        """Who read it first stays."""
        if self.read_at is None:
            self.read_at = at
        if self.reader is None:
            self.reader = reader
        self.unread_by = None


@dataclass(slots=True)
class Box:
    name: str
    mail: dict[int, Mail] = field(default_factory=dict)
    removed: int = 0  # the highest position that retention has taken away


class Tables:
    """Everything that is kept. Writers change a delivery by `change` only, so that what waits is always found."""

    def __init__(self) -> None:
        self.messages: dict[int, Kept] = {}
        self.rows: dict[int, dict[int, Row]] = {}
        self.queues: dict[Queue, dict[Name, Row]] = {}  # what waits
        self.streams: dict[bytes, dict[Name, Row]] = {}  # what waits, by whose turn it is
        self.claims: dict[tuple[str, str], int] = {}
        self.quoted: dict[str, list[int]] = {}  # positions of the messages that carry an id
        self.boxes: dict[str, Box] = {}
        self.notes: dict[int, list[Note]] = {}
        self.holds: dict[str, Hold] = {}
        self.stream_holds: dict[bytes, dict[Name, datetime]] = {}
        self.answers: dict[int, list[int]] = {}  # positions of what answers a message or reports on it
        self.refused: dict[RefusedAs, int] = {}
        self.last = 0  # position
        self.now = BEGIN  # of the commit at hand
        self._released: list[Queue] = []

    # -- deliveries

    def row(self, position: int, number: int) -> Row | None:
        return self.rows.get(position, {}).get(number)

    def of(self, position: int) -> Iterator[Row]:
        """The deliveries of a message, by their numbers."""
        rows = self.rows.get(position, {})
        return iter([rows[number] for number in sorted(rows)])

    def waiting(self) -> Iterator[Row]:
        return iter([row for rows in self.queues.values() for row in rows.values()])

    def enter(self, row: Row) -> None:
        position, number = row.name
        self.rows.setdefault(position, {})[number] = row
        self._file(row)

    def remove(self, row: Row) -> None:
        position, number = row.name
        self._take_out(row)
        del self.rows[position][number]

    def change(self, row: Row, **values: object) -> None:
        """Sets fields of the delivery; it is found by what they say from now on."""
        self._take_out(row)
        for name, value in values.items():
            setattr(row.delivery, name, value)
        self._file(row)

    def _file(self, row: Row) -> None:
        if row.delivery.state is State.WAITING:
            self.queues.setdefault((row.delivery.lane, row.delivery.key), {})[row.name] = row
            if row.stream is not None:
                self.streams.setdefault(row.stream, {})[row.name] = row

    def _take_out(self, row: Row) -> None:
        queue = (row.delivery.lane, row.delivery.key)
        if self.queues.get(queue, {}).pop(row.name, None) is not None and not self.queues[queue]:
            del self.queues[queue]
        if row.stream is not None:
            stream = self.streams.get(row.stream, {})
            if stream.pop(row.name, None) is not None and not stream:
                del self.streams[row.stream]

    # -- streams (store.streams says what they are)

    def join(self, stream: bytes, position: int) -> tuple[int, bool]:
        """The turn of who comes last now, and whether it has to wait for it."""
        others = self.streams.get(stream)
        if not others:
            return position, stream in self.stream_holds
        return max(position, max(row.turn for row in others.values()) + 1), True

    def advance(self, stream: bytes) -> None:
        """Something of the stream has ended: whose turn it is now is due at once, unless it is already, or is held."""
        row = min(self.streams.get(stream, {}).values(), key=lambda row: row.turn, default=None)
        if row is None or row.delivery.due < BEHIND or stream in self.stream_holds:
            return
        self.change(row, due=self.now)
        self._released.append((row.delivery.lane, row.delivery.key))

    def let_go(self, row: Row) -> None:
        """This dead letter holds its stream no longer."""
        assert row.stream is not None
        holders = self.stream_holds.get(row.stream, {})
        holders.pop(row.name, None)
        if not holders:
            self.stream_holds.pop(row.stream, None)

    def take_released(self) -> tuple[Queue, ...]:
        released, self._released = tuple(dict.fromkeys(self._released)), []
        return released

    # -- mail

    def put_into(self, mailbox: str, name: str, position: int, unread_by: datetime | None) -> None:
        self.boxes.setdefault(mailbox, Box(name or mailbox)).mail.setdefault(position, Mail(unread_by))


def shown(rows: Collection[Row] | Iterator[Row]) -> tuple[Delivery, ...]:
    """What is handed out is the caller's own: it may change that."""
    return tuple([copy(row.delivery) for row in rows])


def bare(id: str) -> str:
    """An id as it is looked up: its `urn:uuid:` prefix does not count (M-31)."""
    return id.removeprefix("urn:uuid:")
