"""When the store is to be asked for which destination of a lane: the queues of a lane, in the order of that."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from heapq import heapify, heappop, heappush

from broker.flow.queue import Queue

IDLE_KEPT = 256  # queues that have nothing to do are kept up to about so many; a new one is quickly made


class Agenda:
    """The queues of a lane. An entry of the heap counts as long as its queue still says the same time."""

    def __init__(self) -> None:
        self._queues: dict[str, Queue] = {}
        self._heap: list[tuple[datetime, int, int, Queue]] = []
        self._entered = 0
        self._turns = 0
        self._tidy_at = IDLE_KEPT

    def __iter__(self) -> Iterator[Queue]:
        return iter(self._queues.values())

    def known(self, key: str) -> Queue | None:
        return self._queues.get(key)

    def queue(self, key: str) -> Queue:
        queue = self._queues.get(key)
        if queue is None:
            if len(self._queues) >= self._tidy_at:
                self._tidy()
            queue = self._queues[key] = Queue(key)
        return queue

    def _tidy(self) -> None:
        self._queues = {key: queue for key, queue in self._queues.items() if not queue.is_idle}
        self._tidy_at = max(2 * len(self._queues), IDLE_KEPT)

    def enter(self, queue: Queue, due: datetime) -> None:
        """The store is to be asked for this queue at that time, or before if that was said already."""
        if queue.next_due is not None and queue.next_due <= due:
            return
        queue.next_due = due
        self._entered += 1
        heappush(self._heap, (due, queue.turn, self._entered, queue))
        if len(self._heap) > 2 * len(self._queues) + IDLE_KEPT:
            self._heap = [entry for entry in self._heap if entry[3].next_due == entry[0]]
            heapify(self._heap)

    def first(self) -> datetime | None:
        """When the first of them is due."""
        heap = self._heap
        while heap and heap[0][3].next_due != heap[0][0]:
            heappop(heap)
        return heap[0][0] if heap else None

    def is_asked(self, queue: Queue) -> None:
        """The store is asked for it: the others come before its next turn."""
        self._turns += 1
        queue.turn, queue.held_back = self._turns, False

    def take(self) -> Queue:
        """The queue that is due first; it is entered anew by whoever learns when it is due again."""
        assert self.first() is not None, "asked only when something is due"
        queue = heappop(self._heap)[3]
        queue.next_due = None
        return queue
