"""How many notifications are on their way to a peer that were not tried yet: more wait where they cost nothing.

A peer that is away keeps so many in the store, and no more; one that was tried and is tried again is not counted, so
that subscribers in trouble take nothing from the others.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

MOST = 256


class Fresh:
    def __init__(self, may_go: Callable[[int], None]) -> None:
        self._may_go = may_go
        self._counts: dict[str, int] = {}  # by peer
        self._peers: dict[int, str] = {}  # by position, once that is known
        self._waiting: dict[str, dict[int, None]] = {}  # by peer: keys, in order
        self._at: dict[int, str] = {}  # by key: the same

    def waits(self, key: int, peer: str) -> bool:
        """Whether this one waits for its turn at that peer; for another it waits no longer."""
        at = self._at.get(key)
        if at is not None and at != peer:
            self.forget(key)
        return at == peer

    def enters(self, key: int, peer: str) -> bool:
        """Whether there is room for one more; otherwise it waits, and is told."""
        count = self._counts.get(peer, 0)
        if count >= MOST:
            self._waiting.setdefault(peer, {})[key] = None
            self._at[key] = peer
            return False
        self._counts[peer] = count + 1
        return True

    def is_at(self, position: int, peer: str) -> None:
        self._peers[position] = peer

    def was_tried(self, position: int) -> None:
        peer = self._peers.pop(position, None)
        if peer is not None:
            self.leaves(peer)

    def leaves(self, peer: str) -> None:
        self._counts[peer] -= 1
        called = 1
        if not self._counts[peer]:
            del self._counts[peer]
            called = MOST  # in case that some of those who were called have not come
        for key in list(islice(self._waiting.get(peer, ()), called)):
            self.forget(key)
            self._may_go(key)

    def forget(self, key: int) -> None:
        """Waits no longer: it goes elsewhere, or nowhere."""
        peer = self._at.pop(key, None)
        if peer is not None:
            waiting = self._waiting[peer]
            del waiting[key]
            if not waiting:
                del self._waiting[peer]
