"""Whether there is room to take a message in, and when a sender that hears "later" should come again.

What was measured comes in as values. A wait follows from the queue where one moves: what waits, over the rate at which
it went lately. Where nothing moves by itself (a full disk), it grows with how long that has lasted. Both are spread, so
that senders refused together do not return together.
"""

from __future__ import annotations

from enum import StrEnum
from math import ceil

import msgspec

LONGEST_QUEUE = 60.0  # seconds; a queue that takes longer is not moving, and the next answer will say so
UNKNOWN = 2.0  # seconds, where no rate was measured yet
FIRST_OF_TROUBLE = 5.0  # seconds told when something has just run out
LONGEST_TROUBLE = 300.0  # seconds; once there is room again, nobody stays away longer
SPREAD = 0.5  # of the wait, at most
WINDOW = 5.0  # seconds that a rate is taken over: long enough for a few commits of a slow disk
FORGOTTEN = 2.0  # times the longest wait that was told: nobody was refused so long, so that it is over


class Limit(StrEnum):
    """What ran out, by the setting that bounds it."""

    IN_FLIGHT = "limits.in_flight"
    FREE = "store.min_free"
    LOG = "store.max_wal"
    WRITING = "store"  # the store said that it cannot write


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    in_flight: int  # bytes
    min_free: int  # bytes
    max_wal: int  # bytes


class Short(msgspec.Struct, frozen=True, kw_only=True):
    """One limit that is passed, with the figure that was measured and the one that is allowed."""

    limit: Limit
    found: int
    allowed: int


def store_short(bounds: Bounds, *, free: int, wal: int) -> Short | None:
    """What of the store keeps every message out; None where there is room."""
    if free < bounds.min_free:
        return Short(limit=Limit.FREE, found=free, allowed=bounds.min_free)
    if wal > bounds.max_wal:
        return Short(limit=Limit.LOG, found=wal, allowed=bounds.max_wal)
    return None


def does_not_fit(size: int, *, in_flight: int, allowed: int) -> bool:
    """Whether `size` more bytes are too many; one message always fits, however small the limit."""
    return in_flight > 0 and in_flight + size > allowed


def wait_for_queue(waiting: int, rate: float | None, *, dice: float) -> int:
    """Seconds until `waiting` bytes are gone at `rate` bytes a second; `rate` is None where none was measured."""
    if rate is None:
        return _spread(UNKNOWN, LONGEST_QUEUE, dice)
    return _spread(waiting / rate if rate > 0 else LONGEST_QUEUE, LONGEST_QUEUE, dice)


def wait_in_trouble(lasted: float, *, dice: float) -> int:
    """Seconds to stay away from what has been short for `lasted` seconds: half as long as that."""
    return _spread(max(lasted / 2, FIRST_OF_TROUBLE), LONGEST_TROUBLE, dice)


def _spread(seconds: float, longest: float, dice: float) -> int:
    """Never shorter than it takes, but for what takes longer than anybody is asked to wait."""
    return max(1, ceil(min(seconds, longest / (1 + SPREAD)) * (1 + SPREAD * dice)))


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """How long something has been short, as far as those that were refused for it could tell; times in seconds."""

    since: float
    until: float  # refusals after this are another trouble


def again(trouble: Trouble | None, now: float, *, wait: float = LONGEST_TROUBLE) -> Trouble:
    """The trouble that a refusal at `now` belongs to."""
    since = trouble.since if trouble is not None and now <= trouble.until else now
    return Trouble(since=since, until=now + FORGOTTEN * wait)


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes that have gone by some instants of late, the oldest first."""

    samples: tuple[tuple[float, int], ...] = ()  # seconds, bytes in all

    def sampled(self, now: float, gone: int) -> Pace:
        """With one more sample; those older than the window go, but for the one that begins it."""
        samples = (*self.samples, (now, gone))
        first = max((i for i, (at, _) in enumerate(samples) if at <= now - WINDOW), default=0)
        return Pace(samples=samples[first:])

    def rate(self, now: float, gone: int) -> float | None:
        """Bytes a second up to now; None where nothing is known of the time before."""
        if not self.samples or now <= self.samples[0][0]:
            return None
        at, before = self.samples[0]
        return (gone - before) / (now - at)
