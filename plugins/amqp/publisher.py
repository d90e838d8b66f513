"""Publishes to one server with confirms: many messages under way on one amqp_channel for each exchange, none waits for
another, and each is told what became of it.
"""

from __future__ import annotations

import asyncio
from enum import Enum

import msgspec
from pamqp import commands

from plugins.amqp import wire
from plugins.amqp.amqp_channel import AmqpChannel, Closed, Ended
from plugins.amqp.connection import Connection
from plugins.amqp.server import Link, NoConnection

MOST_LINES = 64  # exchanges with an amqp_channel of their own at a time; RabbitMQ grants 2,047 of them
LOOK = 0.25  # seconds between two looks at which confirms are overdue
_DIRECT_REPLY = "amq.rabbitmq.reply-to."


def is_direct_reply(exchange: str, routing_key: str) -> bool:
    """The pseudo queue of a requester: no queue to RabbitMQ, so that `mandatory` would return every message."""
    return not exchange and routing_key.startswith(_DIRECT_REPLY)


class Publication(msgspec.Struct, frozen=True, kw_only=True):
    exchange: str
    routing_key: str
    message_id: str | None  # by which a return is recognised, with the routing key
    properties: bytes
    body: bytes


class Fate(Enum):
    CONFIRMED = "confirmed"
    RETURNED = "returned"  # no queue takes it
    NACKED = "nacked"
    CLOSED = "closed"  # the server closed the amqp_channel
    BROKEN = "broken"  # the connection is gone
    LATE = "late"
    NOT_CONNECTED = "not connected"
    BLOCKED = "blocked"


class Published(msgspec.Struct, frozen=True, kw_only=True):
    fate: Fate
    code: int = 0
    text: str = ""
    left: bool = True  # False where the bytes surely did not reach the server
    alone: bool = True  # nothing else was under way on the amqp_channel, so that what closed it was this


CONFIRMED = Published(fate=Fate.CONFIRMED)
RETURNED = 312  # the reply code of NO_ROUTE


class _Pending(msgspec.Struct):
    end: asyncio.Future[Published]
    message_id: str | None
    routing_key: str
    until: float  # loop time
    returned: Published | None = None


class Line:
    """The amqp_channel of one exchange, and what is under way on it."""

    def __init__(self, connection: Connection, exchange: str) -> None:
        self.connection = connection
        self.pending: dict[int, _Pending] = {}  # by tag, in the order of publishing
        self._exchange = exchange.encode("utf-8", "surrogateescape")
        self._loop = asyncio.get_running_loop()
        self._tag = 0
        self._timer: asyncio.TimerHandle | None = None
        self.channel: AmqpChannel | None = None

    async def open(self) -> None:
        """Raises `Closed`."""
        self.channel = channel = await self.connection.amqp_channel(self._listen)
        await channel.call(commands.Confirm.Select())
        channel.closed.add_done_callback(self._closed)

    def _listen(self, channel: AmqpChannel) -> None:
        channel.on_confirm, channel.on_return = self._confirm, self._return

    @property
    def is_open(self) -> bool:
        return self.channel is not None and self.channel.is_open

    async def publish(self, publication: Publication, seconds: float) -> Published:
        channel, key = self.channel, publication.routing_key
        assert channel is not None
        channel.publish(
            self._exchange,
            key.encode("utf-8", "surrogateescape"),
            publication.properties,
            publication.body,
            mandatory=not is_direct_reply(publication.exchange, key),
        )
        self._tag = tag = self._tag + 1
        end: asyncio.Future[Published] = self._loop.create_future()
        self.pending[tag] = _Pending(end, publication.message_id, key, self._loop.time() + seconds)
        if self._timer is None:
            self._timer = self._loop.call_later(LOOK, self._look)
        try:
            return await end
        finally:
            self.pending.pop(tag, None)

    def _confirm(self, tag: int, multiple: bool, taken: bool) -> None:
        tags = [one for one in self.pending if one <= tag] if multiple else [tag]
        for one in tags:
            pending = self.pending.pop(one, None)
            if pending is not None and not pending.end.done():
                pending.end.set_result(pending.returned or (CONFIRMED if taken else Published(fate=Fate.NACKED)))

    def _return(self, returned: commands.Basic.Return, header: bytes) -> None:
        """Comes before the confirm of the same message, which then says nothing new."""
        message_id = wire.read_properties(header).message_id
        for pending in self.pending.values():
            if (
                pending.returned is None
                and pending.message_id == message_id
                and pending.routing_key == returned.routing_key
            ):
                code = returned.reply_code or RETURNED
                pending.returned = Published(fate=Fate.RETURNED, code=code, text=returned.reply_text)
                return

    def _closed(self, closed: asyncio.Future[Ended]) -> None:
        ended = closed.result()
        fate = Fate.CLOSED if ended.code and not self.connection.closed.done() else Fate.BROKEN
        alone = len(self.pending) == 1
        for pending in self.pending.values():
            if not pending.end.done():
                # an exchange that is not there, or is not ours to use, has taken none of them
                left = ended.code not in (403, 404)
                pending.end.set_result(Published(fate=fate, code=ended.code, text=ended.text, left=left, alone=alone))
        self.pending.clear()

    def _look(self) -> None:
        """What is not confirmed in time is not waited for; its confirm may still come, and means nothing then."""
        now = self._loop.time()
        for pending in self.pending.values():
            if pending.until <= now and not pending.end.done():
                pending.end.set_result(Published(fate=Fate.LATE, text="no confirm in time"))
        self._timer = self._loop.call_later(LOOK, self._look) if self.pending else None

    async def close(self) -> None:
        if self.channel is not None and not self.connection.blocked:
            await self.channel.close()


class Publisher:
    def __init__(self, link: Link) -> None:
        self._link = link
        self._lines: dict[str, Line] = {}  # by exchange, the oldest first
        self._opening: dict[str, asyncio.Task[Line]] = {}

    async def publish(self, publication: Publication, *, connect: float, answer: float) -> Published:
        """What became of one message; raises nothing."""
        line = self._lines.get(publication.exchange)
        connection = self._link.current
        if connection is not None and connection.blocked:
            return Published(fate=Fate.BLOCKED, text=connection.blocked, left=False)
        try:
            if line is None or not line.is_open:
                line = await self._open(publication.exchange, connect)
            if not line.connection.is_writable:
                async with asyncio.timeout(answer):
                    await line.connection.writable()
            return await line.publish(publication, answer)
        except NoConnection as no:
            return Published(fate=Fate.NOT_CONNECTED, text=str(no), left=False)
        except Closed as closed:
            return Published(fate=Fate.BROKEN, code=closed.ended.code, text=closed.ended.text, left=False)
        except TimeoutError:
            return Published(fate=Fate.LATE, text="the server takes nothing in time", left=False)

    async def _open(self, exchange: str, connect: float) -> Line:
        """One opening serves all that wait for it, and is not given up with one of them."""
        opening = self._opening.get(exchange)
        if opening is None:
            opening = asyncio.get_running_loop().create_task(self._new_line(exchange, connect), name="amqp line")
            self._opening[exchange] = opening
            opening.add_done_callback(lambda done: self._opened(exchange, done))
        try:
            async with asyncio.timeout(connect):
                return await asyncio.shield(opening)
        except TimeoutError:
            raise NoConnection("no connection in time") from None

    def _opened(self, exchange: str, done: asyncio.Task[Line]) -> None:
        del self._opening[exchange]
        if not done.cancelled():
            done.exception()  # those who waited may have gone

    async def _new_line(self, exchange: str, connect: float) -> Line:
        line = Line(await self._link.connection(connect), exchange)
        await line.open()
        self._lines.pop(exchange, None)
        if len(self._lines) >= MOST_LINES:
            await self._close_idle()
        self._lines[exchange] = line
        return line

    async def _close_idle(self) -> None:
        for name, line in list(self._lines.items()):
            if not line.pending:
                del self._lines[name]
                await line.close()
                return

    async def close(self) -> None:
        for opening in list(self._opening.values()):
            opening.cancel()
        await self._link.close()
