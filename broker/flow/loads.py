"""How many bytes of large bodies are in memory at once because they are being sent.

What a lane may have is measured by what is left free, as everywhere in a lane (`ready`): a peer that takes its large
messages slowly has half of the room while it is alone, and less with each other one. One body always fits, however
large, if there is no other.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable


class Loads:
    def __init__(self, allowed: int) -> None:
        self._allowed = allowed  # bytes
        self._taken = 0
        self._by: dict[Hashable, int] = {}  # bytes of each lane
        self._waiting: dict[Hashable, Callable[[], None]] = {}

    @property
    def taken(self) -> int:
        return self._taken

    def take(self, who: Hashable, size: int, freed: Callable[[], None]) -> bool:
        """Counts a body that is to be loaded; False where there is no room, and `freed` is called once there may be."""
        mine, free = self._by.get(who, 0), self._allowed - self._taken
        if self._taken and (size > free or (mine and mine + size > free)):
            self._waiting[who] = freed
            return False
        self._by[who] = mine + size
        self._taken += size
        return True

    def leave(self, who: Hashable, size: int) -> None:
        self._taken -= size
        left = self._by.pop(who) - size
        if left:
            self._by[who] = left
        waiting, self._waiting = self._waiting, {}
        for freed in waiting.values():  # who still finds no room asks again by that
            freed()
