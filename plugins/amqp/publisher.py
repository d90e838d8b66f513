"""Publishes to one server with confirms: many messages under way on one amqp_channel for each exchange, none waits for
another, and each is told what became of it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from enum import Enum

import msgspec
from aiormq import Channel
from aiormq.exceptions import AMQPError, ChannelInvalidStateError, DeliveryError
from pamqp.commands import Basic

from plugins.amqp.connection import Closed, Connection, Ended, calling, ended_by, is_ours
from plugins.amqp.server import Link
from plugins.amqp.transport import NoConnection

MOST_LINES = 64  # exchanges with an amqp_channel of their own at a time; RabbitMQ grants 2,047 of them
_DIRECT_REPLY = "amq.rabbitmq.reply-to."


def is_direct_reply(exchange: str, routing_key: str) -> bool:
    """The pseudo queue of a requester: no queue to RabbitMQ, so that `mandatory` would return every message."""
    return not exchange and routing_key.startswith(_DIRECT_REPLY)


class Publication(msgspec.Struct, frozen=True, kw_only=True):
    exchange: str
    routing_key: str
    properties: Basic.Properties
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


class _UnderWay(msgspec.Struct):
    deadline: asyncio.Timeout
    others: list[asyncio.Future[None]]  # attempts with the same message id, which wait until this one has ended


class Line:
    """The amqp_channel of one exchange, and what is under way on it.

    aiormq knows a returned message by its id alone. So two messages with one id are never under way here together.
    """

    def __init__(self, connection: Connection, channel: Channel) -> None:
        self.connection = connection
        self.under_way: dict[object, _UnderWay] = {}  # by message id
        self._channel = channel
        self._alone: bool | None = None
        channel.closing.add_done_callback(self._closed)

    @property
    def is_open(self) -> bool:
        return not self._channel.is_closed

    async def publish(self, publication: Publication, seconds: float) -> Published:
        left = False  # until it is handed over; whether it was written after that, aiormq does not say
        try:
            async with asyncio.timeout(seconds) as deadline:
                message_id = await self._turn(publication)
                if self._channel.is_closed:
                    return self._broken(left=False)
                one = self.under_way[message_id] = _UnderWay(deadline, [])
                left = True
                try:
                    said = await self._publish(publication)
                finally:
                    self._is_alone()
                    del self.under_way[message_id]
                    for other in one.others:
                        if not other.done():
                            other.set_result(None)
        except asyncio.CancelledError as error:
            if is_ours(error):
                raise
            return self._broken(left=left)
        except DeliveryError:
            return Published(fate=Fate.NACKED)
        except TimeoutError:
            if self._channel.is_closed:
                return self._broken(left=left)
            return Published(fate=Fate.LATE, text="no confirm in time", left=left)
        except ChannelInvalidStateError:  # it was closed before this one's turn to be written
            return self._broken(left=False)
        except (AMQPError, OSError):
            return self._broken(left=left)
        return CONFIRMED if said is None else self._returned(publication, said)

    async def _publish(self, publication: Publication) -> Basic.Return | None:
        key = publication.routing_key
        said = await self._channel.basic_publish(
            publication.body,
            exchange=publication.exchange,
            routing_key=key,
            properties=publication.properties,
            mandatory=not is_direct_reply(publication.exchange, key),
            wait=False,
        )
        returned = getattr(said, "delivery", None)  # of a message that came back; a confirm has none
        return returned if isinstance(returned, Basic.Return) else None

    async def _turn(self, publication: Publication) -> object:
        """The id of the message, once no other has it; an object where it has none."""
        message_id = publication.properties.message_id or object()
        while (first := self.under_way.get(message_id)) is not None:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            first.others.append(turn)
            await turn
        return message_id

    def _returned(self, publication: Publication, returned: Basic.Return) -> Published:
        if returned.routing_key != publication.routing_key:  # of an attempt with this id that was given up before
            return Published(fate=Fate.LATE, text="an earlier message with its id came back")
        return Published(fate=Fate.RETURNED, code=returned.reply_code or RETURNED, text=returned.reply_text)

    # -- the end of the amqp_channel

    def _is_alone(self) -> None:
        """Whoever first sees that it is closed counts those that were under way."""
        if self._alone is None and self._channel.is_closed:
            self._alone = len(self.under_way) == 1

    def _closed(self, _closing: asyncio.Future[None]) -> None:
        """aiormq ends those that wait for a confirm; those that wait to write would wait on."""
        self._is_alone()
        for one in self.under_way.values():
            if not one.deadline.expired():
                one.deadline.reschedule(0)

    def _broken(self, *, left: bool) -> Published:
        ended = self._ended()
        fate = Fate.CLOSED if ended.code and self.connection.is_open else Fate.BROKEN
        # an exchange that is not there, or is not ours to use, has taken none of them
        left = left and ended.code not in (403, 404)
        return Published(fate=fate, code=ended.code, text=ended.text, left=left, alone=self._alone is not False)

    def _ended(self) -> Ended:
        if self.connection.is_silent:
            return Ended(0, "the server gave no sign of life")
        closing = self._channel.closing
        return ended_by(closing.exception() if closing.done() and not closing.cancelled() else None)

    async def close(self) -> None:
        with suppress(Closed):
            async with calling():
                await self._channel.close()


class Publisher:
    def __init__(self, link: Link) -> None:
        self._link = link
        self._lines: dict[str, Line] = {}  # by exchange, the oldest first
        self._opening: dict[str, asyncio.Task[Line]] = {}

    async def publish(self, publication: Publication, *, connect: float, answer: float) -> Published:
        """What became of one message; raises nothing."""
        line = self._lines.get(publication.exchange)
        connection = self._link.current
        if connection is not None and connection.is_blocked:
            return Published(fate=Fate.BLOCKED, text="the server is short of memory or disk", left=False)
        try:
            if line is None or not line.is_open:
                line = await self._open(publication.exchange, connect)
            transport = line.connection.transport
            if not transport.is_writable:
                async with asyncio.timeout(answer):
                    await transport.writable()
            return await line.publish(publication, answer)
        except NoConnection as no:
            return Published(fate=Fate.NOT_CONNECTED, text=str(no), left=False)
        except Closed as closed:
            return Published(fate=Fate.BROKEN, code=closed.ended.code, text=closed.ended.text, left=False)
        except TimeoutError:
            return Published(fate=Fate.LATE, text="the server takes nothing in time", left=False)
        except OSError:
            return Published(fate=Fate.BROKEN, text="the connection broke", left=False)

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
        connection = await self._link.connection(connect)
        channel = await connection.amqp_channel(confirms=True)
        underlay = await channel.get_underlay_channel()
        assert isinstance(underlay, Channel)
        line = Line(connection, underlay)
        self._lines.pop(exchange, None)
        if len(self._lines) >= MOST_LINES:
            await self._close_idle()
        self._lines[exchange] = line
        return line

    async def _close_idle(self) -> None:
        for name, line in list(self._lines.items()):
            if not line.under_way:
                del self._lines[name]
                await line.close()
                return

    async def close(self) -> None:
        for opening in list(self._opening.values()):
            opening.cancel()
        await self._link.close()
