"""One amqp_channel of a connection: calls in turn, content put together, what comes handed to who listens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import msgspec
from pamqp import base, commands

from plugins.amqp import wire
from plugins.amqp.wire import Malformed

CALL = 15.0  # seconds for the answer to one call; RabbitMQ takes milliseconds, a quorum queue in trouble some seconds


class Ended(msgspec.Struct, frozen=True):
    """Why an amqp_channel or a connection is no more; 0 where nobody said so in AMQP's words."""

    code: int
    text: str

    def __str__(self) -> str:
        return f"{self.code} {self.text}" if self.code else self.text


class Closed(Exception):
    """The amqp_channel or its connection is closed."""

    def __init__(self, ended: Ended) -> None:
        super().__init__(str(ended))
        self.ended = ended


class Delivery(msgspec.Struct, frozen=True):
    """A message that came from a queue, as it stood on the wire."""

    said: wire.Delivered
    header: bytes  # payload of its header frame
    body: bytes


class Wire(Protocol):
    """What an amqp_channel needs of its connection."""

    frame_max: int

    def write(self, data: bytes) -> None: ...

    def forget(self, number: int) -> None: ...

    def fail(self, why: str) -> None: ...


class AmqpChannel:
    """Listeners are set before anything can come; each is called on the loop and must not wait."""

    def __init__(self, wire_: Wire, number: int) -> None:
        self.number = number
        self.on_deliver: Callable[[Delivery], None] = lambda _delivery: None
        self.on_confirm: Callable[[int, bool, bool], None] = lambda _tag, _multiple, _taken: None
        self.on_return: Callable[[commands.Basic.Return, bytes], None] = lambda _returned, _header: None
        self.on_cancel: Callable[[], None] = lambda: None  # the server ended the consumer
        self.closed: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self._wire = wire_
        self._turn = asyncio.Lock()
        self._reply: asyncio.Future[base.Frame] | None = None
        self._content: wire.Delivered | commands.Basic.Return | None = None
        self._header = b""
        self._pieces: list[bytes] = []
        self._left = 0

    # -- what we say

    @property
    def is_open(self) -> bool:
        return not self.closed.done()

    async def call(self, method: base.Frame) -> base.Frame:
        """A method and its answer; raises `Closed`. Given up half-way, it takes the connection with it."""
        async with self._turn:
            self.check()
            self._reply = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(CALL):
                    self._wire.write(wire.write_method(method, self.number))
                    return await self._reply
            except (TimeoutError, asyncio.CancelledError) as error:
                self._wire.fail(f"{method.name} was not answered")  # what the server makes of it is not known
                if isinstance(error, asyncio.CancelledError):
                    raise
                raise Closed(self.closed.result()) from None
            finally:
                self._reply = None

    def check(self) -> None:
        if self.closed.done():
            raise Closed(self.closed.result())

    def publish(
        self, exchange: bytes, routing_key: bytes, properties: bytes, body: bytes, *, mandatory: bool = True
    ) -> None:
        """Writes a message; raises `Closed`."""
        self.check()
        self._wire.write(
            wire.write_publish(self.number, exchange, routing_key, mandatory, properties, body, self._wire.frame_max)
        )

    def acknowledge(self, tag: int, *, multiple: bool = False) -> None:
        if self.is_open:
            self._wire.write(wire.write_ack(self.number, tag, multiple=multiple))

    def requeue(self, tag: int, *, multiple: bool = False) -> None:
        if self.is_open:
            self._wire.write(wire.write_requeue(self.number, tag, multiple=multiple))

    async def close(self) -> None:
        """In good order; what is not acknowledged goes back to its queue."""
        if self.is_open:
            await self.call(commands.Channel.Close(reply_code=200, reply_text="done", class_id=0, method_id=0))
            self.end(Ended(0, "closed by us"))

    # -- what comes

    def method(self, payload: bytes) -> None:
        (index,) = wire.INDEX.unpack_from(payload)
        if index == wire.DELIVER:
            self._content = wire.read_deliver(payload)
        elif index in (wire.ACK, wire.NACK):
            self.on_confirm(*wire.read_confirm(payload), index == wire.ACK)
        else:
            self._seldom(wire.read_method(payload))

    def _seldom(self, method: base.Frame) -> None:
        if isinstance(method, commands.Basic.Return):
            self._content = method
        elif isinstance(method, commands.Basic.Cancel):  # its queue was deleted, or lost its leader
            self.on_cancel()
        elif isinstance(method, commands.Channel.Close):
            self._wire.write(wire.write_method(commands.Channel.CloseOk(), self.number))
            self.end(Ended(method.reply_code or 0, method.reply_text))
        elif isinstance(method, commands.Channel.Flow):
            self._wire.write(wire.write_method(commands.Channel.FlowOk(active=method.active), self.number))
        elif self._reply is not None and not self._reply.done():
            self._reply.set_result(method)

    def header(self, payload: bytes) -> None:
        if self._content is None:
            raise Malformed("content without a method before it")
        self._header, self._left = payload, wire.body_size(payload)
        if not self._left:
            self._whole(b"")

    def body(self, payload: bytes) -> None:
        self._left -= len(payload)
        if self._content is None or self._left < 0:
            raise Malformed("a body without its header")
        if self._pieces or self._left:
            self._pieces.append(payload)
            if not self._left:
                self._whole(b"".join(self._pieces))
        else:
            self._whole(payload)

    def _whole(self, body: bytes) -> None:
        content, self._content = self._content, None
        self._pieces = []
        if isinstance(content, wire.Delivered):
            if self.is_open:
                self.on_deliver(Delivery(content, self._header, body))
        elif content is not None:
            self.on_return(content, self._header)

    def end(self, ended: Ended) -> None:
        """It is closed, whoever closed it."""
        if self.closed.done():
            return
        self.closed.set_result(ended)
        self._wire.forget(self.number)
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(Closed(ended))
