"""What every step knows of this broker: its name, its limits, its clock and its dice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import random
from uuid import uuid4

from broker.core.fhir.header import STATUS_EVENT, Event, Release
from broker.core.ids import MessageIds


def _now() -> datetime:
    return datetime.now(UTC)


def _uuid() -> str:
    return str(uuid4())


@dataclass(frozen=True, slots=True, kw_only=True)
class Here:
    endpoint: str  # who this broker is: its name in `via`, the source of its reports
    base_url: str
    ids: MessageIds
    event_prefix: str = "org.example"
    status_event: Event = STATUS_EVENT  # of messages that ask how far another one is
    release: Release = Release.R4  # for what does not say
    hops: int = 16
    max_message: int = 32 << 20  # bytes
    in_flight: int = 256 << 20  # bytes of messages being taken in at once
    min_free: int = 1 << 30  # bytes on the store's disk; below, nothing is accepted
    max_wal: int = 256 << 20  # bytes of the store's log; above, nothing is accepted
    clock_skew: timedelta = timedelta(seconds=5)
    parties: bool = False  # whether any party is configured: if none is, only loopback is served, and all are trusted
    brokers: frozenset[str] = frozenset()  # parties whose steering attributes are honoured
    may_respond_to: Callable[[str], bool] = field(default=lambda url: False)  # the allow-list of response URLs
    now: Callable[[], datetime] = _now
    wall: Callable[[], datetime] = _now  # the machine's clock, which may be set at any moment (decision 0008)
    dice: Callable[[], float] = random
    new_id: Callable[[], str] = _uuid

    def steers(self, party: str | None) -> bool:
        """Whether the attributes that steer (destination, via, priority, expirytime, timeleft) are honoured."""
        return not self.parties or party in self.brokers
