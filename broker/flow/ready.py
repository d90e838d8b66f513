"""What is ready in a lane, and whose turn it is: by priority first, then the destinations one after the other.

How much one destination may have is measured by what is left free (dynamic thresholds, Choudhury and Hahne): of the
attempts under way fewer than three times the free ones, hence three quarters of all when it is alone; of the memory
as much as is free. However many are busy there is room for another, and nobody has to be told of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from broker.core.turns import next_level
from broker.flow.loads import Loads
from broker.flow.queue import Parcel, Queue

READY = 512  # parcels in memory: beyond, the store remembers them
READY_BYTES = 8 << 20
LOW = 8  # a queue with less than this part of READY asks the store again, and so does a lane with so much free
FAIR = 3  # attempts of one destination for each that is free


class Ready:
    def __init__(self, loads: Loads, *, freed: Callable[[], None]) -> None:
        self.count = 0
        self.busy = 0  # parcels under way
        self.concurrent = 1  # attempts at once; the policy's
        self._bytes = 0
        self._turns: dict[int, deque[Queue]] = {}  # by priority: the queues that have something, in turn
        self._passed: dict[int, int] = {}
        self._loads = loads
        self._freed = freed  # told when there may be room for a large body that waits for it
        self._large: deque[Parcel] = deque()  # had their turn, and wait for it
        self._no_room = False  # as far as is known

    def __iter__(self) -> Iterator[Parcel]:
        for level, turns in self._turns.items():
            for queue in turns:
                yield from queue.ready[level]
        yield from self._large

    def holds(self, position: int, number: int) -> bool:
        """Whether this delivery waits here."""
        return any(
            parcel.position == position and any(delivery.number == number for delivery in parcel.deliveries)
            for parcel in self
        )

    def queues(self) -> set[Queue]:
        return {queue for turns in self._turns.values() for queue in turns} | {one.queue for one in self._large}

    @property
    def allowed(self) -> int:
        """A destination with fewer attempts under way may start another."""
        return FAIR * (self.concurrent - self.busy)

    @property
    def is_full(self) -> bool:
        """Whether the store is not asked for more: what comes in new finds the rest."""
        return self.count >= READY - READY // LOW or self._bytes >= READY_BYTES

    def has_room(self, queue: Queue, priority: int) -> bool:
        """One destination has at most as much in memory as is free; what goes first finds the rest."""
        taken = 0 if priority else queue.count
        return taken < READY - self.count and queue.bytes < READY_BYTES - self._bytes

    def put(self, parcel: Parcel, queue: Queue) -> None:
        ready = queue.ready.get(parcel.priority)
        if ready is None:
            ready = queue.ready[parcel.priority] = deque()
        if not ready:
            turns = self._turns.get(parcel.priority)
            if turns is None:
                turns = self._turns[parcel.priority] = deque()
            turns.append(queue)
        ready.append(parcel)
        parcel.queue = queue
        queue.count += 1
        self.count += 1
        queue.bytes += parcel.size
        self._bytes += parcel.size

    def pick(self) -> Parcel | None:
        """Takes the next parcel out; None where nothing may start now."""
        allowed = FAIR * (self.concurrent - self.busy)
        if not self.count or allowed <= 0:
            return None
        if self._large and (large := self._pick_large(allowed)) is not None:
            return large
        while True:
            if len(self._turns) == 1:
                level = next(iter(self._turns))
            else:
                ready = [level for level, turns in self._turns.items() if any(one.under_way < allowed for one in turns)]
                if not ready:
                    return None
                level = next_level(ready, self._passed)
            turns = self._turns[level]
            for _ in range(len(turns)):  # those that have their fill are few: each has several under way
                queue = turns[0]
                if queue.under_way < allowed:
                    parcel = self._take(queue, level, turns)
                    if parcel.body is not None or (not self._large and self._load(parcel)):
                        return parcel
                    self._wait_for_room(parcel)
                    break
                turns.rotate(-1)
            else:
                return None

    def _take(self, queue: Queue, level: int, turns: deque[Queue]) -> Parcel:
        ready = queue.ready[level]
        parcel = ready.popleft()
        if ready:
            turns.rotate(-1)
        else:
            turns.popleft()
        queue.count -= 1
        self.count -= 1
        queue.bytes -= parcel.size
        self._bytes -= parcel.size
        return parcel

    # -- large bodies, which are loaded when they are sent

    def _load(self, parcel: Parcel) -> bool:
        if self._no_room:
            return False
        self._no_room = not self._loads.take(self, parcel.message.size, self._there_is_room)
        return not self._no_room

    def _there_is_room(self) -> None:
        self._no_room = False
        self._freed()

    def _wait_for_room(self, parcel: Parcel) -> None:
        """It had its turn; the small ones go on, and it counts as ready."""
        self._large.append(parcel)
        parcel.queue.count += 1
        self.count += 1

    def _pick_large(self, allowed: int) -> Parcel | None:
        """The first of those that had their turn, if there is room for it now."""
        for place, parcel in enumerate(self._large):
            if parcel.queue.under_way < allowed:
                if not self._load(parcel):
                    return None
                del self._large[place]
                parcel.queue.count -= 1
                self.count -= 1
                return parcel
        return None

    def unload(self, parcel: Parcel) -> None:
        """A body that was loaded has been sent, or not."""
        self._loads.leave(self, parcel.message.size)

    def may_go_on(self, *, but: Queue | None = None) -> bool:
        """Whether something may start now; `but` is a queue of which one more is about to start."""
        free = self.concurrent - self.busy - (but is not None)
        if free <= 0:
            return False
        if self._large and not self._no_room and any(one.queue.under_way < FAIR * free for one in self._large):
            return True
        return any(queue.under_way + (queue is but) < FAIR * free for turns in self._turns.values() for queue in turns)

    def empty(self, queue: Queue) -> list[Parcel]:
        """Takes out all that is ready for a destination."""
        parcels: list[Parcel] = []
        for level, ready in queue.ready.items():
            if ready:
                self._turns[level].remove(queue)
                parcels += ready
                ready.clear()
        parcels += [one for one in self._large if one.queue is queue]
        self._large = deque(one for one in self._large if one.queue is not queue)
        self.count -= queue.count
        self._bytes -= queue.bytes
        queue.count = queue.bytes = 0
        return parcels
