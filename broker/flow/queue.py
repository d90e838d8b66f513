"""A queue: what waits in a lane for one destination. A bounded part of it is in memory, the store has all of it."""

from __future__ import annotations

from collections import deque
from datetime import datetime

from broker.core.circuit import WELL, Health
from broker.core.message import Message
from broker.store import Delivery

FIRST = 16  # parcels that the store is asked for at once: more of them would hold up the other lanes' messages
STEADY = 16  # so many answers in a row that left something there double what is asked for
MOST = 128  # up to this: in larger portions a long backlog goes quicker, and jerkily for all others


class Parcel:
    """Deliveries of one message that share an address: they leave in one transmission."""

    __slots__ = ("body", "deliveries", "is_probe", "message", "position", "priority", "queue", "size", "snapshot")
    queue: Queue  # of the destination that it counts under, once it is in memory

    def __init__(
        self, position: int, deliveries: list[Delivery], message: Message, body: bytes | None, snapshot: str | None
    ) -> None:
        self.position = position
        self.deliveries = deliveries
        self.message = message
        self.body = body  # None: read from the store when it is sent
        self.size = len(body) if body is not None else 0
        self.snapshot = snapshot  # version of the directory that the addresses are from
        self.priority = deliveries[0].priority
        self.is_probe = False  # its peer is left alone, and this one shows whether it has to be


class Queue:
    """One destination's part of a lane."""

    __slots__ = (
        "bytes", "count", "health", "held_back", "key", "left_over", "next_due", "ready", "reason", "turn", "under_way",
    )  # fmt: skip

    def __init__(self, key: str) -> None:
        self.key = key  # the destination's comparison key
        self.ready: dict[int, deque[Parcel]] = {}  # by priority
        self.count = 0  # of parcels that are ready
        self.bytes = 0  # of their bodies
        self.under_way = 0
        self.turn = (
            0  # grows each time that the store is asked for it: of what is due together, who waited longest goes
        )
        self.next_due: datetime | None = None  # when the store is to be asked for more
        self.held_back = False  # something due at once stands in the store only, for want of room
        self.left_over = 0  # times in a row that the store had more than was asked for, while that makes a difference
        self.health: Health = WELL
        self.reason = ""  # why it is left alone

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing to do and nothing to remember."""
        return not (
            self.count or self.under_way or self.held_back or self.next_due is not None or self.health is not WELL
        )

    @property
    def is_left_alone(self) -> bool:
        return self.health.until is not None

    @property
    def portion(self) -> int:
        """How much of it the store is asked for at once."""
        return min(FIRST << self.left_over // STEADY, MOST)

    def answered(self, *, left_over: bool) -> None:
        """The store has handed out a portion, or all that was due."""
        if not left_over:
            self.left_over = 0
            return
        self.held_back = True
        if self.portion < MOST:
            self.left_over += 1
