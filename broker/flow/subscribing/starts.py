"""When notifications start: as the topic spreads them for its data source's sake, and when time brings something."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from heapq import heapify, heappop, heappush

from broker.core.subscription.pace import Pace, offset
from broker.core.subscription.topic import Topic


class Starts:
    """The start of each subscription's next notification of events; nothing is kept of topics that ask for no pace."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._at: dict[int, tuple[datetime, bool]] = {}  # by key; whether the rate of the topic has been asked
        self._paces: dict[str, Pace] = {}  # by topic

    def of(self, key: int, id: str, topic: Topic | None) -> datetime:
        now = self._now()
        if topic is None or not (topic.spread or topic.source_rate):
            return now
        at, is_final = self._at.get(key) or (now + offset(id, topic.spread), False)
        if at <= now and not is_final:  # slots are given in the order of starting, not of hearing
            at, self._paces[topic.url] = self._paces.get(topic.url, Pace(topic.source_rate)).start(now)
            is_final = True
        self._at[key] = (at, is_final)
        return at

    def catches_up(self, key: int, topic: Topic | None) -> None:
        """What waits already is not spread again: each notification would come that much later."""
        if topic is not None and topic.spread:
            self._at[key] = (self._now(), False)

    def has_started(self, key: int) -> None:
        self._at.pop(key, None)


class Timers:
    """At most one for each key; an entry of the heap counts as long as its key still says the same time."""

    def __init__(self) -> None:
        self._at: dict[int, datetime] = {}
        self._heap: list[tuple[datetime, int]] = []

    def set(self, key: int, at: datetime | None) -> None:
        if at is None:
            self._at.pop(key, None)
        elif self._at.get(key) != at:
            self._at[key] = at
            heappush(self._heap, (at, key))
            if len(self._heap) > 2 * len(self._at) + 256:
                self._heap = [(when, one) for one, when in self._at.items()]
                heapify(self._heap)

    def first(self) -> datetime | None:
        heap = self._heap
        while heap and self._at.get(heap[0][1]) != heap[0][0]:
            heappop(heap)
        return heap[0][0] if heap else None

    def due(self, now: datetime) -> list[int]:
        """Those whose time has come; they are forgotten."""
        found = []
        while (first := self.first()) is not None and first <= now:
            key = heappop(self._heap)[1]
            del self._at[key]
            found.append(key)
        return found
