"""The broker's clock: what every step calls now (decision 0008)."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog

from broker.core.clock import begin, shown, steered

log = structlog.get_logger("broker.clock")


# Seconds that nobody sets; unlike the monotonic clock, it goes on while the machine is suspended.
since_boot = partial(time.clock_gettime, time.CLOCK_BOOTTIME)


class SteadyClock:
    """Called, it says the time. `look` steers it; who runs it calls that now and then."""

    __slots__ = ("_at", "_base", "_course", "_speed", "_steady", "_wall")

    def __init__(self, *, wall: Callable[[], float] = time.time, steady: Callable[[], float] = since_boot) -> None:
        self._wall = wall
        self._steady = steady
        self._course = begin(wall=wall(), steady=steady())
        self._take_course()

    def _take_course(self) -> None:
        course = self._course
        self._base, self._at, self._speed = course.base, course.at, course.speed

    def __call__(self) -> datetime:
        return datetime.fromtimestamp(self._base + (self._steady() - self._at) * self._speed, UTC)

    def wall(self) -> datetime:
        """What the machine's clock shows; for times that others have given."""
        return datetime.fromtimestamp(self._wall(), UTC)

    def off(self) -> timedelta:
        """How far the machine's clock is ahead of ours."""
        return timedelta(seconds=self._wall() - shown(self._course, self._steady()))

    def look(self) -> None:
        """Steers towards the machine's clock."""
        before = self._course
        self._course = steered(before, wall=self._wall(), steady=self._steady())
        self._take_course()
        if self._course.set_at is not None and self._course.set_at != before.set_at:
            log.warning("the machine's clock was set; it is followed slowly if it stays there", ahead=str(self.off()))
        elif before.set_at is not None and self._course.set_at is None:
            log.info("the machine's clock and the broker's agree again")
