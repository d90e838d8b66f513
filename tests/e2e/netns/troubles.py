"""What goes wrong: each trouble comes, lasts as long as it is told, and is over when it returns."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable

from cable import FAIR, SILENCE, STORM
from chain import Broker, Chain

LASTS = (0.3, 5.0)  # seconds
CALM = (0.5, 3.0)  # seconds between troubles
STARTS = 20  # tries
TWO = 0.25  # how often a second one comes at the same time


class Troubles:
    """Brings them by the dice, and counts them."""

    def __init__(self, chain: Chain, dice: random.Random) -> None:
        self._chain, self._dice = chain, dice
        self.counts: Counter[str] = Counter()
        self._now: set[str] = set()  # what is in trouble: one thing is in one trouble at a time
        kinds = (self.cut, self.silence, self.storm, self.kill, self.kill, self.freeze, self.fill)
        self._left: list[Callable[[float], Awaitable[None]]] = []
        self._kinds = kinds

    async def bring(self, seconds: float) -> None:
        """Returns once that time is over and every trouble with it."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while (left := until - loop.time()) > 0.5:
            several = 1 + (self._dice.random() < TWO)
            await asyncio.gather(*(self._one(left) for _ in range(several)))
            await asyncio.sleep(self._dice.uniform(*CALM))

    async def _one(self, left: float) -> None:
        if not self._left:  # every kind comes once before any comes again
            self._left = self._dice.sample(self._kinds, len(self._kinds))
        await self._left.pop()(min(self._dice.uniform(*LASTS), left))

    async def _trouble(
        self, kind: str, what: str, seconds: float, begin: Callable[[], None], end: Callable[[], None]
    ) -> None:
        if what in self._now:
            return
        self._now.add(what)
        self.counts[kind] += 1
        begin()
        try:
            await asyncio.sleep(seconds)
        finally:
            end()
            self._now.discard(what)

    async def cut(self, seconds: float) -> None:
        cable = self._dice.choice(self._chain.cables)
        await self._trouble("cable cut", cable.name, seconds, cable.cut, cable.mend)

    async def silence(self, seconds: float) -> None:
        await self._weather("cable silent", SILENCE, seconds)

    async def storm(self, seconds: float) -> None:
        await self._weather("storm", STORM, seconds)

    async def _weather(self, kind: str, weather: object, seconds: float) -> None:
        cable = self._dice.choice(self._chain.cables)
        await self._trouble(
            kind,
            cable.name,
            seconds,
            lambda: setattr(cable, "weather", weather),
            lambda: setattr(cable, "weather", FAIR),
        )

    async def kill(self, seconds: float) -> None:
        """kill -9, and a new start after a while."""
        broker = self._dice.choice([*self._chain.brokers.values()])
        if broker.name in self._now:
            return
        self._now.add(broker.name)
        self.counts["kill -9"] += 1
        await broker.kill()
        await asyncio.sleep(seconds / 3)
        await self._start(broker)
        self._now.discard(broker.name)

    async def _start(self, broker: Broker) -> None:
        """Until it is ready: on a full disk it is started again and again, on a busy machine it takes its time."""
        for _ in range(STARTS):
            if not broker.runs:
                await broker.launch()
            try:
                return await broker.until_ready()
            except AssertionError:
                if not broker.runs and not (broker.name == "b" and "disk" in self._now):
                    raise
                await asyncio.sleep(0.5)
        raise AssertionError(f"broker {broker.name} does not start: {broker.output[-2000:]}")

    async def freeze(self, seconds: float) -> None:
        """SIGSTOP: its sockets stay open, and nobody answers."""
        broker = self._dice.choice([*self._chain.brokers.values()])
        process = broker.process
        await self._trouble(
            "SIGSTOP", broker.name, seconds,
            lambda: process.send_signal(signal.SIGSTOP), lambda: process.send_signal(signal.SIGCONT),
        )  # fmt: skip

    async def fill(self, seconds: float) -> None:
        """The file system of the middle broker is full to the last bytes."""
        leave = self._dice.choice((0, 64 << 10, 1 << 20))
        await self._trouble(
            "full disk", "disk", seconds, lambda: self._chain.disk.fill(leave), self._chain.disk.make_room
        )
