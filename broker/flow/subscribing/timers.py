"""When something is to be looked at next: at most one time for each key, the first of those that were asked for."""

from __future__ import annotations

from datetime import datetime
from heapq import heapify, heappop, heappush

IDLE_KEPT = 256  # entries that count no more, at the least, before they are swept out


class Timers:
    def __init__(self) -> None:
        self._due: dict[int, datetime] = {}
        self._heap: list[tuple[datetime, int]] = []  # an entry counts while `_due` says so too

    def set(self, key: int, at: datetime) -> None:
        """At that time, or before if that was said already."""
        before = self._due.get(key)
        if before is not None and before <= at:
            return
        self._due[key] = at
        heappush(self._heap, (at, key))
        if len(self._heap) > 2 * len(self._due) + IDLE_KEPT:
            self._heap = [(at, key) for key, at in self._due.items()]
            heapify(self._heap)

    def drop(self, key: int) -> None:
        self._due.pop(key, None)

    def first(self) -> datetime | None:
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def due(self, now: datetime) -> list[int]:
        """The keys whose time has come, each once; what is set for now by whoever looks at them comes next time."""
        keys = []
        while (first := self.first()) is not None and first <= now:
            key = heappop(self._heap)[1]
            del self._due[key]
            keys.append(key)
        return keys
