"""Takes messages from one queue: a bounded number at once, each acknowledged only after it is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import structlog
from aio_pika.abc import AbstractChannel
from aiormq.abc import DeliveredMessage

from plugins.amqp.acks import Acks
from plugins.amqp.connection import Closed, Connection, calling, ended_by
from plugins.amqp.queues import make_sure
from plugins.amqp.server import Link
from plugins.amqp.settings import Consume
from plugins.amqp.transport import NoConnection

log = structlog.get_logger("plugins.amqp")

CONNECT = 10.0  # seconds for a connection
TAG = "fhir-broker"
FIRST, LONGEST = 0.5, 30.0  # seconds between tries to consume
FINISH = 15.0  # seconds for what is in hand when it stops; the flow's own drain takes 20


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
            connection.transport.pause(self._held > self._most and not self._open)


class Consumer:
    """One queue. `take` returns whether the message has ended; if not, it goes back to its queue."""

    def __init__(
        self,
        consume: Consume,
        link: Link,
        load: Load,
        take: Callable[[Consume, DeliveredMessage], Awaitable[bool]],
    ) -> None:
        self.consume = consume
        self._link, self._load, self._take = link, load, take
        self._runs: asyncio.Task[None] | None = None
        self._channel: AbstractChannel | None = None
        self._acks: Acks | None = None
        self._busy = 0
        self._quiet = asyncio.Event()
        self._stopping = asyncio.Event()
        self.trouble = "not yet connected"  # why nothing is consumed now; "" while it is

    def start(self) -> None:
        self._runs = asyncio.get_running_loop().create_task(self._run(), name=f"consume {self.consume.queue}")

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
            self.trouble = reason
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
        channel = await connection.amqp_channel()
        underlay = await channel.get_underlay_channel()
        underlay.on_consumer_cancel_callbacks.add(
            lambda _cancel: None if cancelled.done() else cancelled.set_result(None)
        )
        acks = Acks(underlay)
        self._channel, self._acks = channel, acks
        async with calling():
            await channel.set_qos(prefetch_count=self.consume.prefetch)
            # below aio-pika's own `consume`, which makes more of each message than we need
            await underlay.basic_consume(queue, partial(self._came, acks), consumer_tag=TAG)
        self.trouble = ""
        log.info("amqp: consuming", queue=queue, server=str(self._link.server))
        closing = underlay.closing
        await asyncio.wait((closing, cancelled), return_when=asyncio.FIRST_COMPLETED)
        if not closing.done():
            async with calling():
                await channel.close()
            return "the server ended the consumer: its queue was deleted, or moves"
        return str(ended_by(closing.exception()))

    # -- messages

    async def _came(self, acks: Acks, message: DeliveredMessage) -> None:
        """In a task that aiormq makes for each message, in the order of delivery; it ends with the amqp_channel."""
        tag = message.delivery_tag
        if self._stopping.is_set() or tag is None:
            return  # the close of the amqp_channel gives it back
        acks.came(tag)
        self._load.add(len(message.body))
        self._busy += 1
        try:
            if await self._has_ended(message):
                acks.ended(tag)
            else:
                acks.requeue(tag)
        finally:
            self._load.take(len(message.body))
            self._busy -= 1
            if not self._busy:
                self._quiet.set()

    async def _has_ended(self, message: DeliveredMessage) -> bool:
        try:
            return await self._take(self.consume, message)
        except Exception:
            log.exception("amqp: a message could not be taken; it stays in its queue", queue=self.consume.queue)
            with suppress(TimeoutError):  # our bug: never in a hot loop
                async with asyncio.timeout(LONGEST):
                    await self._stopping.wait()
            return False

    # -- the end

    async def stop(self) -> None:
        """Nothing new; what is in hand is finished, and the rest goes back to the queue."""
        self._stopping.set()
        while self._runs is not None and not self._runs.done():
            # again and again: aiormq may take a cancellation for one of its own, and go on
            self._runs.cancel()
            await asyncio.wait((self._runs,), timeout=FIRST)
        channel, acks = self._channel, self._acks
        if channel is None or acks is None or channel.is_closed:
            return
        with suppress(Closed):
            async with calling():
                await acks.channel.basic_cancel(TAG)
        self._quiet.clear()
        if self._busy:
            try:
                async with asyncio.timeout(FINISH):
                    await self._quiet.wait()
            except TimeoutError:
                log.warning(
                    "amqp: stopped before all in hand was kept; it stays in its queue", queue=self.consume.queue
                )
        with suppress(Closed):
            async with calling():
                await acks.finish()
                await channel.close()
