"""Intake: the bytes that are being taken in, and the clear "later" for those that find no room.

A channel that reads a body piece by piece takes a `Hold` and lets it grow with what came; what comes whole is counted
by the flow itself. Either way the bytes count until the message is kept or refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from broker.core.outcome import Busy, Refusal, StoreUnavailable, TooLarge
from broker.core.room import (
    Bounds,
    Limit,
    Pace,
    Short,
    Trouble,
    again,
    does_not_fit,
    store_short,
    wait_for_queue,
    wait_in_trouble,
)
from broker.flow.here import Here

RESTART = 5  # seconds that a restart takes, about

TEXTS = {
    Limit.FREE: "the disk of the store has {found} bytes left and {allowed} are kept free (`store.min_free`);"
    " what is kept is still delivered; send the message again later",
    Limit.LOG: "the log of the store has {found} bytes, the limit is {allowed} (`store.max_wal`): something keeps it"
    " from being put away; send the message again later",
}


class Intake:
    """The room that all channels share."""

    def __init__(
        self,
        *,
        here: Here,
        free: Callable[[], int],
        wal: Callable[[], int] = lambda: 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._here = here
        self._bounds = Bounds(in_flight=here.in_flight, min_free=here.min_free, max_wal=here.max_wal)
        self._free = free
        self._wal = wal
        self._clock = clock
        self._in_flight = 0  # bytes
        self._gone = 0  # bytes that were in flight and are so no more
        self._pace = Pace()
        self._log_is_long = False  # when it was last looked at
        self._troubles: dict[Limit, Trouble] = {}
        self.draining = False

    @property
    def in_flight(self) -> int:
        return self._in_flight

    def enter(self, size: int) -> None:
        """Counts a message of so many bytes, or raises the refusal that says when there may be room for it."""
        in_flight, bounds = self._in_flight, self._bounds
        if (
            (in_flight and in_flight + size > bounds.in_flight)
            or size > self._here.max_message
            or self._free() < bounds.min_free
            or self._log_is_long
            or self.draining
        ):
            self.check(size)
        self._in_flight = in_flight + size

    def leave(self, size: int) -> None:
        self._in_flight -= size
        self._gone += size

    def check(self, size: int) -> None:
        """Raises the refusal of a message of so many bytes, if it finds no room now."""
        if size > self._here.max_message:
            raise TooLarge(f"the message has {size} bytes, the limit is {self._here.max_message} (`limits.message`)")
        if does_not_fit(size, in_flight=self._in_flight, allowed=self._bounds.in_flight):
            raise self._full(size)
        self.check_store()

    def check_store(self) -> None:
        """Raises the refusal of any message, if the broker or its store takes none now."""
        bounds = self._bounds
        if self.draining:
            raise Busy("the broker is stopping; send the message again in a moment", id="stopping", retry_after=RESTART)
        if self._log_is_long or self._free() < bounds.min_free:
            short = self.short()
            if short is not None:
                raise self._stopped(short)

    def hold(self) -> Hold:
        """For a body that comes in pieces."""
        return Hold(self)

    def grow(self, held: int, more: int) -> None:
        """Counts `more` bytes of a body of which `held` are here; the message that is alone always fits."""
        others = self._in_flight - held
        if others > 0 and self._in_flight + more > self._bounds.in_flight:
            raise self._full(held + more)
        self._in_flight += more

    def short(self) -> Short | None:
        """What of the store keeps messages out now."""
        return store_short(self._bounds, free=self._free(), wal=self._wal())

    def look(self) -> None:
        """Notes how far the intake is, and what no message is to ask for itself; called now and then."""
        self._log_is_long = self._wal() > self._bounds.max_wal
        self._pace = self._pace.sampled(self._clock(), self._gone)

    def failed(self, error: Exception) -> Refusal:
        """The refusal of a message that the store could not write."""
        return StoreUnavailable(
            "the message could not be stored; send it again later",
            retry_after=self._wait(Limit.WRITING),
            diagnostics=str(error),
        )

    def _full(self, size: int) -> Refusal:
        waiting, rate = self._in_flight, self._pace.rate(self._clock(), self._gone)
        return Busy(
            f"{waiting} bytes of messages are being taken in and {size} more would pass the limit of"
            f" {self._bounds.in_flight} (`limits.in_flight`); send the message again in a moment",
            retry_after=wait_for_queue(waiting, rate, dice=self._here.dice()),
        )

    def _stopped(self, short: Short) -> Refusal:
        text = TEXTS[short.limit].format(found=short.found, allowed=short.allowed)
        return StoreUnavailable(text, retry_after=self._wait(short.limit))

    def _wait(self, limit: Limit) -> int:
        now = self._clock()
        trouble = self._troubles[limit] = again(self._troubles.get(limit), now)
        return wait_in_trouble(now - trouble.since, dice=self._here.dice())


class Hold:
    """What one body that is still coming takes of the room. Letting go twice is letting go once."""

    __slots__ = ("_held", "_intake")

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._held = 0

    def grow(self, more: int) -> None:
        """Raises Refusal where there is no room for so many bytes more."""
        self._intake.grow(self._held, more)
        self._held += more

    def let_go(self) -> None:
        held, self._held = self._held, 0
        self._intake.leave(held)
