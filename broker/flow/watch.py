"""Looks now and then at what no message is to pay for: the clock, the pace of the intake, stalls of the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

OFTEN = 0.1  # seconds; a stall that is longer than this cannot be missed
LOOK_EVERY = 10  # of these


class Watching:
    def __init__(self, *, looks: Sequence[Callable[[], None]], stalled: Callable[[float], None]) -> None:
        self._looks = looks
        self._stalled = stalled  # told how much later than due the loop came round

    async def run(self) -> None:
        """Looks until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            for look in self._looks:
                look()
            for _ in range(LOOK_EVERY):
                due = clock() + OFTEN
                await asyncio.sleep(OFTEN)
                self._stalled(max(clock() - due, 0.0))
