"""When notifications start, for the sake of the data source that all subscribers then ask (S-57a)."""

from __future__ import annotations

from datetime import datetime, timedelta
from hashlib import blake2b

import msgspec

_WHOLE = 1 << 64


def offset(subscription: str, spread: timedelta) -> timedelta:
    """How long after an event a subscription's notification starts: its own place, the same for every event.

    The places are even over all subscriptions, and need nobody to count them.
    """
    if not spread:
        return spread
    place = int.from_bytes(blake2b(subscription.encode(), digest_size=8).digest(), "big")
    return spread * (place / _WHOLE)


class Pace(msgspec.Struct, frozen=True):
    """At most so many starts a second; what comes at once leaves one after the other."""

    rate: float  # 0 = no limit
    free: datetime | None = None  # from here on the next may start

    def start(self, wanted: datetime) -> tuple[datetime, Pace]:
        """When something may start that wants to start then, and the pace after it."""
        if not self.rate:
            return wanted, self
        at = wanted if self.free is None or self.free < wanted else self.free
        return at, Pace(self.rate, at + timedelta(seconds=1 / self.rate))
