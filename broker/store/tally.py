"""How much waits, is dead, or has its answer looked for: counted beside the readers, and as often as it is worth.

A count reads every entry of an index, a tenth of a second for a million. It has a thread and a connection of its own,
so that no reader waits for it, and where there is much to count the number is good for twenty times as long as counting
took: that is a twentieth of a core at most, however much there is and however often somebody asks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Generic, Protocol, TypeVar

from broker.core.delivery import AnswerState, State
from broker.store import BEHIND, Counts, Waiting
from broker.store.reader import Reader
from broker.store.rows import moment

T = TypeVar("T")
AGE = 20  # times what it took: so long a count of many is good for
MANY = 20_000  # entries; fewer are counted anew whenever somebody asks, in a millisecond or two

# Each is answered by an index alone: the partial ones hold their condition's column too, since SQLite would look every
# row up for it.
BY_LANE = f"SELECT lane, count(*), min(due), min(position) FROM delivery WHERE state = {State.WAITING:d} GROUP BY lane"
DEAD = f"SELECT count(*) FROM delivery WHERE state = {State.DEAD:d}"
UNANSWERED = f"SELECT count(*) FROM delivery WHERE answer = {AnswerState.OPEN:d}"
FEW = "SELECT (SELECT coalesce(max(position), 0) FROM message), (SELECT count(DISTINCT stream) FROM stream_hold)"


class Read(Protocol):
    """Does something with the reader for counts, in its thread."""

    def __call__(self, function: Callable[[Reader], T], /) -> Awaitable[T]: ...


def waiting(reader: Reader) -> tuple[Waiting, ...]:
    """The lowest position is the oldest, and stands in the index; the time is then asked once for each lane."""
    return tuple([
        Waiting(lane=lane, count=count, due=moment(due), oldest=_accepted(reader, first))
        for lane, count, due, first in reader.db.execute(BY_LANE).fetchall()
    ])  # fmt: skip


def _accepted(reader: Reader, position: int) -> datetime | None:
    row = reader.db.execute("SELECT accepted FROM delivery WHERE position = ? LIMIT 1", (position,)).fetchone()
    return None if row is None else moment(row[0])


def dead(reader: Reader) -> int:
    return int(reader.db.execute(DEAD).fetchone()[0])


def unanswered(reader: Reader) -> int:
    return int(reader.db.execute(UNANSWERED).fetchone()[0])


def few(reader: Reader) -> tuple[int, int]:
    """The highest position, and how many streams are held."""
    row = reader.db.execute(FEW).fetchone()
    return row[0], row[1]


class Kept(Generic[T]):
    """A count, and until when it is good."""

    def __init__(self, count: Callable[[Reader], T], entries: Callable[[T], int]) -> None:
        self._count = count
        self._entries = entries  # how many were read for it
        self._is_counting = asyncio.Lock()  # who asks meanwhile waits for the same count
        self._last: T | None = None
        self._until = 0.0

    async def get(self, read: Read, clock: Callable[[], float]) -> T:
        async with self._is_counting:
            if self._last is not None and clock() < self._until:
                return self._last
            began = clock()
            self._last = await read(self._count)
            took = clock() - began if self._entries(self._last) >= MANY else 0.0
            self._until = began + took * AGE
            return self._last


class Tally:
    """Counts when it is asked, over a reader of its own."""

    def __init__(self, read: Read, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._clock = clock
        self._waiting = Kept(waiting, lambda lanes: sum([lane.count for lane in lanes]))
        self._dead = Kept(dead, int)
        self._unanswered = Kept(unanswered, int)

    async def lanes(self) -> tuple[Waiting, ...]:
        """What waits, lane by lane."""
        return await self._waiting.get(self._read, self._clock)

    async def counts(self) -> Counts:
        lanes = await self.lanes()
        messages, held_streams = await self._read(few)
        return Counts(
            messages=messages,
            waiting=sum([lane.count for lane in lanes]),
            dead=await self._dead.get(self._read, self._clock),
            open_answers=await self._unanswered.get(self._read, self._clock),
            # what has no address is only looked at again, and what waits behind another is due when that has ended
            oldest_due=min([lane.due for lane in lanes if lane.lane and lane.due < BEHIND], default=None),
            held_streams=held_streams,
        )
