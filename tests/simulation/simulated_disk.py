"""A disk that takes its time, may be full, and keeps after a crash only what was synced."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from broker.store.memory import Disk, Entry


class SimulatedDisk(Disk):
    def __init__(self, name: str, dice: Random) -> None:
        super().__init__(key=name.encode())
        self._dice = dice
        self.is_full = False
        self.is_slow = False
        self.is_short = False  # of room: nothing new may come, what is kept may still be written
        self.failures = 0

    def delay(self) -> float:
        return self._dice.uniform(0.2, 3.0) if self.is_slow else self._dice.uniform(0.0005, 0.01)

    def sync(self, entries: Sequence[Entry]) -> None:
        if self.is_full:
            self.failures += 1
            raise OSError("no space left on device")
        super().sync(entries)

    def free(self) -> int:
        return 0 if self.is_short or self.is_full else 1 << 40
