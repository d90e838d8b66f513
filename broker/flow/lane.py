"""A lane: what goes to one peer, how much of it at once, and whether the peer is to be left alone for now."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import structlog

from broker.core.message import Message
from broker.core.policy import LanePolicy
from broker.store import Delivery

log = structlog.get_logger("broker.lane")

READY = 512  # parcels in memory: beyond, the store remembers them
READY_BYTES = 8 << 20
ALL = 0  # in place of a number; those of deliveries begin at 1
CLAIMED_FOR = timedelta(seconds=10)  # what the store handed out is not due again before; a crash costs that delay
IDLE = 5.0  # seconds that a worker stays for the next parcel before it ends


class Parcel:
    """Deliveries of one message that share an address: they leave in one transmission."""

    __slots__ = ("body", "deliveries", "message", "position", "snapshot")

    def __init__(
        self, position: int, deliveries: list[Delivery], message: Message, body: bytes | None, snapshot: str | None
    ) -> None:
        self.position = position
        self.deliveries = deliveries
        self.message = message
        self.body = body  # None: read from the store when it is sent
        self.snapshot = snapshot  # version of the directory that the addresses are from

    @property
    def size(self) -> int:
        return len(self.body) if self.body is not None else 0


class Lane:
    """Hands parcels to as many workers as its policy allows; closes when the peer is in trouble, then probes it."""

    def __init__(
        self,
        name: str,
        *,
        now: Callable[[], datetime],
        attempt: Callable[[Lane, Parcel], Awaitable[None]],
        start: Callable[[Awaitable[None], str], None],
        more: Callable[[Lane], None],
    ) -> None:
        self.name = name
        self.policy = LanePolicy()
        self.next_due: datetime | None = None  # when the store is to be asked for more
        self.known: set[tuple[int, int]] = set()  # position and number of all that is in memory, until it is settled
        self.gone: set[tuple[int, int]] | None = None  # ended or withdrawn while the store is asked for what is due
        self.under_way: dict[int, set[int]] = {}  # position: numbers
        self.closed_until: datetime | None = None
        self.reason = ""
        self.ends = False  # the broker stops: what is under way is finished, nothing is begun
        self.held_back = False  # something due at once stands in the store only
        self._troubles = 0
        self._probed_until = datetime.min.replace(tzinfo=UTC)
        self._now = now
        self._attempt = attempt
        self._start = start
        self._more = more  # asks for what the store has
        self._ready: deque[Parcel] = deque()
        self._bytes = 0
        self._workers = 0
        self._idle: deque[asyncio.Future[None]] = deque()
        self._next_slot = 0.0  # loop time from which the rate allows an attempt

    # -- what comes in

    @property
    def is_open(self) -> bool:
        return self.closed_until is None

    @property
    def waiting(self) -> int:
        return len(self._ready)

    @property
    def ready(self) -> tuple[Parcel, ...]:
        """What is in memory and not begun."""
        return tuple(self._ready)

    @property
    def has_room(self) -> bool:
        return len(self._ready) < READY and self._bytes < READY_BYTES

    def offer(self, parcel: Parcel) -> bool:
        """Takes a parcel into memory; False where it has to wait in the store."""
        if not self.is_open or not self.has_room:
            self.held_back = True
            return False
        self.put(parcel)
        return True

    def put(self, parcel: Parcel) -> None:
        self._ready.append(parcel)
        self._bytes += parcel.size
        self.known.update((parcel.position, delivery.number) for delivery in parcel.deliveries)
        self._wake_worker()

    def due_at(self, due: datetime) -> None:
        """Something of this lane is due then, in the store."""
        if self.next_due is None or due < self.next_due:
            self.next_due = due

    def forget(self, position: int, number: int | None = None) -> None:
        """Takes deliveries of a message (or one) out of what waits in memory."""
        if self.gone is not None:
            self.gone.add((position, ALL if number is None else number))
        for parcel in self._ready:
            if parcel.position == position:
                gone = [d for d in parcel.deliveries if number is None or d.number == number]
                for delivery in gone:
                    parcel.deliveries.remove(delivery)
                    self.known.discard((position, delivery.number))

    # -- who works

    def _wake_worker(self) -> None:
        while self._idle:
            future = self._idle.popleft()
            if not future.done():
                future.set_result(None)
                return
        if self._workers < self.policy.concurrent:
            self._workers += 1
            self._start(self._work(), f"lane {self.name}")

    async def _work(self) -> None:
        try:
            while True:
                if not self._ready:
                    if not await self._rest():
                        break
                    continue
                if self.policy.rate > 0:
                    await self._pace()
                    if not self._ready:
                        continue
                parcel = self._ready.popleft()
                self._bytes -= parcel.size
                if parcel.deliveries:
                    await self._one(parcel)
                if self.held_back and len(self._ready) < READY // 2 and self.is_open:
                    self._more(self)
        finally:
            self._workers -= 1
        if self._ready:  # it ended while something came in
            self._wake_worker()

    async def _rest(self) -> bool:
        """Waits for work; False when none came for a while."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._idle.append(future)
        try:
            async with asyncio.timeout(IDLE):
                await future
        except TimeoutError:
            return bool(self._ready)
        return True

    async def _pace(self) -> None:
        clock = asyncio.get_running_loop().time
        slot = max(self._next_slot, clock())
        self._next_slot = slot + 1 / self.policy.rate
        if slot > clock():
            await asyncio.sleep(slot - clock())

    async def _one(self, parcel: Parcel) -> None:
        numbers = {delivery.number for delivery in parcel.deliveries}
        self.under_way.setdefault(parcel.position, set()).update(numbers)
        try:
            await self._attempt(self, parcel)
        finally:
            left = self.under_way[parcel.position] - numbers
            if left:
                self.under_way[parcel.position] = left
            else:
                del self.under_way[parcel.position]

    def settled(self, position: int, numbers: tuple[int, ...], *, ended: bool = False) -> None:
        for number in numbers:
            self.known.discard((position, number))
            if ended and self.gone is not None:
                self.gone.add((position, number))

    def has_seen(self, position: int, number: int) -> bool:
        """Whether a delivery that the store handed out is in memory already, or has ended since it was asked."""
        name = (position, number)
        return name in self.known or (self.gone is not None and (name in self.gone or (position, ALL) in self.gone))

    # -- the peer's health

    def trouble(self, note: str) -> None:
        """An attempt failed for reasons that are the whole peer's."""
        self._troubles += 1
        if self._troubles < self.policy.open_after:
            return
        if self.is_open:
            log.warning("lane closed", lane=self.name, reason=note, troubles=self._troubles)
        self.close(self._now() + self.policy.probe, note)

    def close(self, until: datetime, reason: str) -> None:
        """What waits in memory goes back to the store; at `until` one attempt probes the peer."""
        self.closed_until, self.reason = until, reason
        for parcel in self._ready:
            self.settled(parcel.position, tuple(delivery.number for delivery in parcel.deliveries))
        self._ready.clear()
        self._bytes = 0
        self.held_back = True
        self.next_due = until

    def fine(self) -> None:
        """The peer answered: whatever it said, it is there."""
        self._troubles = 0
        if not self.is_open and not self.ends:
            log.info("lane open", lane=self.name)
            self.closed_until, self.reason = None, ""
            self._more(self)

    def wants_probe(self) -> bool:
        """Whether one delivery is to come here, to see if the peer is back; says so once each time.

        What has several addresses would otherwise never find out that the first works again.
        """
        now = self._now()
        if self.closed_until is None or self.closed_until > now or self.known or now < self._probed_until:
            return False
        self._probed_until = now + self.policy.probe
        return True

    @property
    def limit(self) -> int:
        """How much to take from the store now: one probe while closed."""
        return 1 if not self.is_open else READY // 4

    @property
    def asks_at(self) -> datetime | None:
        """When the store is to be asked, as things stand; whoever is at work asks by itself once there is room."""
        if self.next_due is None:
            return None
        if self.closed_until is None:
            return self.next_due if self.has_room else None
        return None if self.known else max(self.next_due, self.closed_until)  # one probe at a time

    def ask_again(self, now: datetime) -> bool:
        """Whether the store has something for this lane that may be tried now."""
        at = self.asks_at
        return at is not None and at <= now
