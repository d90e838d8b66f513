"""Workers: tasks that carry what is ready in a lane, as many as its policy allows; none stays long that has no work."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from broker.flow.queue import Parcel
from broker.flow.ready import Ready

IDLE = 5.0  # seconds between two looks at who had nothing to do; an idle worker costs some memory and nothing else


class Workers:
    def __init__(
        self,
        name: str,
        *,
        ready: Ready,
        carry: Callable[[Parcel], Awaitable[None]],
        start: Callable[[Awaitable[None], str], object],
        more: Callable[[], None],
    ) -> None:
        self.rate = 0.0  # attempts a second, all workers together; 0: no limit
        self.count = 0
        self._name = name
        self._ready = ready
        self._carry = carry
        self._start = start
        self._more = more  # told while somebody is at work: there may be room for what the store has
        self._woken = 0  # have been called and are not at work yet
        self._idle: deque[asyncio.Future[bool]] = deque()  # who came last is called first; the others go home
        self._spare = 0  # how many were idle all the time since the last look
        self._looks = False
        self._next_slot = 0.0  # loop time from which the rate allows an attempt

    def wake(self) -> None:
        """Something is ready."""
        while self._idle:
            future = self._idle.pop()
            if not future.done():
                self._spare = min(self._spare, len(self._idle))
                self._woken += 1
                future.set_result(True)
                return
        if self.count < self._ready.concurrent:
            self.count += 1
            self._woken += 1
            self._start(self._work(), self._name)

    async def _work(self) -> None:
        self._woken -= 1
        ready = self._ready
        try:
            while True:
                if ready.count and self.rate > 0:
                    await self._pace()
                parcel = ready.pick()
                if parcel is not None:
                    if ready.count:
                        self._others(parcel)
                    await self._carry(parcel)
                elif not await self._rest():
                    return
        finally:
            self.count -= 1
            if self._ready.may_go_on():  # something came in while it went home
                self.wake()

    def _others(self, parcel: Parcel) -> None:
        """While one worker goes, another may find something that it may take, and there is room for more."""
        if not self._woken and self._ready.may_go_on(but=parcel.queue):
            self.wake()
        self._more()

    async def _rest(self) -> bool:
        """Waits to be called; False when it may go home."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        self._idle.append(future)
        if not self._looks:
            self._looks, self._spare = True, 0
            loop.call_later(IDLE, self._look)
        if not await future:
            return False
        self._woken -= 1
        return True

    def _look(self) -> None:
        """Sends home who had nothing to do since the last look."""
        for _ in range(min(self._spare, len(self._idle))):
            future = self._idle.popleft()
            if not future.done():
                future.set_result(False)
        self._spare = len(self._idle)
        self._looks = bool(self._idle)
        if self._looks:
            asyncio.get_running_loop().call_later(IDLE, self._look)

    async def _pace(self) -> None:
        clock = asyncio.get_running_loop().time
        slot = max(self._next_slot, clock())
        self._next_slot = slot + 1 / self.rate
        if slot > clock():
            await asyncio.sleep(slot - clock())
