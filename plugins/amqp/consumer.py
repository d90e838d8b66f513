"""Takes messages from one queue: a bounded number at once, each acknowledged only after it is kept."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import msgspec
import structlog
from pamqp import commands

from plugins.amqp.acks import Acks
from plugins.amqp.amqp_channel import AmqpChannel, Closed, Delivery
from plugins.amqp.connection import Connection
from plugins.amqp.queues import make_sure
from plugins.amqp.server import Link, NoConnection
from plugins.amqp.settings import Consume

log = structlog.get_logger("plugins.amqp")

CONNECT = 10.0  # seconds for a connection
TAG = "fhir-broker"
FIRST, LONGEST = 0.5, 30.0  # seconds between tries to consume
FINISH = 15.0  # seconds for what is in hand when it stops; the flow's own drain takes 20
MOST_WORKERS = 256


class Load:
    """Bytes of messages in hand, of all queues; over the bound nothing more is read."""

    def __init__(self, most: int, link: Link) -> None:
        self._most, self._link = most, link
        self._held = 0
        self._open = False

    def add(self, size: int) -> None:
        self._held += size
        self._look()

    def take(self, size: int) -> None:
        self._held -= size
        self._look()

    def open(self) -> None:
        """No bound any more: what comes is not kept in hand."""
        self._open = True
        self._look()

    def _look(self) -> None:
        connection = self._link.current
        if connection is not None:
            connection.pause(self._held > self._most and not self._open)


class InHand(msgspec.Struct, frozen=True):
    """A delivery, and where it is acknowledged."""

    delivery: Delivery
    acks: Acks

    @property
    def is_ours(self) -> bool:
        """Whether the server still counts on us; else it gives the message to somebody anew, most likely to us."""
        return self.acks.channel.is_open


class Consumer:
    """One queue. `take` returns whether the message has ended; if not, it goes back to its queue."""

    def __init__(
        self, consume: Consume, link: Link, load: Load, take: Callable[[Consume, InHand], Awaitable[bool]]
    ) -> None:
        self.consume = consume
        self._link, self._load, self._take = link, load, take
        self._waiting: deque[InHand] = deque()
        self._idle: deque[asyncio.Future[InHand]] = deque()
        self._tasks: list[asyncio.Task[None]] = []
        self._runs: asyncio.Task[None] | None = None
        self._channel: AmqpChannel | None = None
        self._acks: Acks | None = None
        self._busy = 0
        self._quiet = asyncio.Event()
        self._stopping = False

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        workers = min(self.consume.prefetch, MOST_WORKERS)
        self._runs = loop.create_task(self._run(), name=f"consume {self.consume.queue}")
        self._tasks = [loop.create_task(self._work(), name=f"take {self.consume.queue}") for _ in range(workers)]

    # -- the consumer at the server

    async def _run(self) -> None:
        wait = FIRST
        while True:
            began = asyncio.get_running_loop().time()
            try:
                reason = await self._consume(await self._link.connection(CONNECT))
            except (NoConnection, Closed) as error:
                reason = str(error)
            except Exception as error:  # our bug: the queue is not given up for it
                log.exception("amqp: the consumer failed", queue=self.consume.queue)
                reason = type(error).__name__
            if asyncio.get_running_loop().time() - began > LONGEST:
                wait = FIRST
            log.warning(
                "amqp: not consuming", queue=self.consume.queue, server=str(self._link.server), reason=reason,
                again_in=wait,
            )  # fmt: skip
            await asyncio.sleep(wait)
            wait = min(wait * 2, LONGEST)

    async def _consume(self, connection: Connection) -> str:
        """Until it ends, and why; raises `Closed`."""
        queue = self.consume.queue
        cancelled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await make_sure(connection, self.consume)
        channel = self._channel = await connection.amqp_channel(partial(self._listen, cancelled))
        await channel.call(commands.Basic.Qos(prefetch_count=self.consume.prefetch))
        await channel.call(commands.Basic.Consume(queue=queue, consumer_tag=TAG))
        log.info("amqp: consuming", queue=queue, server=str(self._link.server))
        await asyncio.wait((channel.closed, cancelled), return_when=asyncio.FIRST_COMPLETED)
        if channel.is_open:
            await channel.close()
            return "the server ended the consumer: its queue was deleted, or moves"
        return str(channel.closed.result())

    def _listen(self, cancelled: asyncio.Future[None], channel: AmqpChannel) -> None:
        self._acks = Acks(channel)
        channel.on_deliver = partial(self._came, self._acks)
        channel.on_cancel = lambda: None if cancelled.done() else cancelled.set_result(None)

    # -- messages

    def _came(self, acks: Acks, delivery: Delivery) -> None:
        if self._stopping:
            return  # the close of the amqp_channel gives it back
        acks.came(delivery.said.tag)
        self._load.add(len(delivery.body))
        one = InHand(delivery, acks)
        while self._idle:
            waits = self._idle.popleft()
            if not waits.done():
                waits.set_result(one)
                return
        self._waiting.append(one)

    async def _work(self) -> None:
        """Workers that are there already: what comes in one piece is begun in its order, without a task for each."""
        loop = asyncio.get_running_loop()
        while True:
            if self._waiting:
                one = self._waiting.popleft()
            else:
                coming: asyncio.Future[InHand] = loop.create_future()
                self._idle.append(coming)
                one = await coming
            self._busy += 1
            try:
                if one.is_ours and not self._stopping:
                    await self._end(one)
            finally:
                self._load.take(len(one.delivery.body))
                self._busy -= 1
                if not self._busy:
                    self._quiet.set()

    async def _end(self, one: InHand) -> None:
        try:
            ended = await self._take(self.consume, one)
        except Exception:
            log.exception("amqp: a message could not be taken; it stays in its queue", queue=self.consume.queue)
            await asyncio.wait((one.acks.channel.closed,), timeout=LONGEST)  # our bug: never in a hot loop
            ended = False
        if ended:
            one.acks.ended(one.delivery.said.tag)
        else:
            one.acks.requeue(one.delivery.said.tag)

    # -- the end

    async def stop(self) -> None:
        """Nothing new; what is in hand is finished, and the rest goes back to the queue."""
        self._stopping = True
        if self._runs is not None:
            self._runs.cancel()
            await asyncio.gather(self._runs, return_exceptions=True)
        channel = self._channel
        if channel is not None and channel.is_open:
            with suppress(Closed):
                await channel.call(commands.Basic.Cancel(consumer_tag=TAG))
        self._quiet.clear()
        if self._busy:
            try:
                async with asyncio.timeout(FINISH):
                    await self._quiet.wait()
            except TimeoutError:
                log.warning(
                    "amqp: stopped before all in hand was kept; it stays in its queue", queue=self.consume.queue
                )
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if channel is not None and channel.is_open:
            if self._acks is not None:
                self._acks.tell()
            with suppress(Closed):
                await channel.close()
