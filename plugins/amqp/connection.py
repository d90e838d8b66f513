"""A connection to an AMQP server: the handshake, heartbeats, amqp_channels, and word of its being blocked."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any, cast

import msgspec
import structlog
from pamqp import base, commands

from plugins.amqp import wire
from plugins.amqp.amqp_channel import AmqpChannel, Closed, Ended
from plugins.amqp.wire import Malformed

log = structlog.get_logger("plugins.amqp")

LARGEST_FRAME = 131_072  # bytes; what RabbitMQ offers by itself
CLOSE = 5.0  # seconds for a close in good order
MISSED = 2  # intervals without a sign of the server until it is taken for dead (AMQP 0-9-1, section 4.2.7)
CAPABILITIES: dict[str, Any] = {
    "publisher_confirms": True,
    "basic.nack": True,
    "consumer_cancel_notify": True,
    "connection.blocked": True,
    "authentication_failure_close": True,
}


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """How we prove ourselves: EXTERNAL (the certificate says who we are) where the user is empty."""

    user: str
    password: str

    @property
    def mechanism(self) -> str:
        return "PLAIN" if self.user else "EXTERNAL"

    @property
    def response(self) -> str:
        return f"\0{self.user}\0{self.password}" if self.user else ""


class Connection(asyncio.Protocol):
    """Made by `dial`; `closed` says why it is no more."""

    def __init__(self, *, vhost: str, login: Login, heartbeat: int, name: str) -> None:
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[Ended] = loop.create_future()
        self.blocked = ""  # the server's reason for taking no messages now
        self.frame_max = LARGEST_FRAME
        self.most_channels = 2047
        self._loop = loop
        self._vhost, self._login, self._heartbeat, self._name = vhost, login, heartbeat, name
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._channels: dict[int, AmqpChannel] = {}
        self._heard = loop.time()
        self._beat: asyncio.TimerHandle | None = None
        self._writable: asyncio.Future[None] | None = None
        self._paused = False
        self._close_ok: asyncio.Future[None] = loop.create_future()

    # -- the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not of that class
        self._transport.write(wire.GREETING)

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        try:
            while end - at >= wire.ROUND_A_FRAME:
                kind, number, size = wire.HEAD.unpack_from(data, at)
                stop = at + 7 + size
                if size > self.frame_max:
                    raise Malformed("a frame is larger than was agreed, or this is no AMQP 0-9-1 server")
                if stop >= end:
                    break
                if data[stop] != wire.END:
                    raise Malformed("a frame does not end as it should")
                self._frame(kind, number, data[at + 7 : stop])
                at = stop + 1
        except (Malformed, struct.error, IndexError) as error:
            self._lost(Ended(501, f"what the server sent is no AMQP 0-9-1: {error}"))
            return
        self._rest = data[at:]

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost(Ended(0, f"the connection broke ({type(exc).__name__})" if exc else "the server hung up"))

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    @property
    def is_writable(self) -> bool:
        return self._writable is None

    async def writable(self) -> None:
        """Returns when what was written before has left; raises `Closed`."""
        if self._writable is not None:
            await asyncio.shield(self._writable)
        if self.closed.done():
            raise Closed(self.closed.result())

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self.closed.done():
            self._transport.write(data)

    def pause(self, paused: bool) -> None:
        """Whether nothing more is read: the server then keeps what it would send."""
        if paused == self._paused or self._transport is None or self.closed.done():
            return
        self._paused = paused
        if paused:
            self._transport.pause_reading()
        else:
            self._heard = self._loop.time()
            self._transport.resume_reading()

    # -- frames

    def _frame(self, kind: int, number: int, payload: bytes) -> None:
        if kind == wire.HEARTBEAT:
            return
        channel = self._channels.get(number)
        if number == 0:
            if kind != wire.METHOD:
                raise Malformed("content outside of an amqp_channel")
            self._method(wire.read_method(payload))
        elif channel is None:
            return  # of one that was closed meanwhile
        elif kind == wire.METHOD:
            channel.method(payload)
        elif kind == wire.HEADER:
            channel.header(payload)
        elif kind == wire.BODY:
            channel.body(payload)
        else:
            raise Malformed(f"there are no frames of the kind {kind}")

    def _method(self, method: base.Frame) -> None:
        match method:
            case commands.Connection.Start():
                self._start(method)
            case commands.Connection.Tune():
                self._tune(method)
            case commands.Connection.OpenOk():
                if not self.opened.done():
                    self.opened.set_result(None)
            case commands.Connection.Blocked():
                self.blocked = method.reason or "it does not say why"
                log.warning("amqp: the server takes no messages for now", connection=self._name, reason=self.blocked)
            case commands.Connection.Unblocked():
                self.blocked = ""
                log.info("amqp: the server takes messages again", connection=self._name)
            case commands.Connection.Close():
                self._send(commands.Connection.CloseOk())
                self._lost(Ended(method.reply_code or 0, method.reply_text), flush=True)
            case commands.Connection.CloseOk():
                if not self._close_ok.done():
                    self._close_ok.set_result(None)
            case _:
                raise Malformed(f"{method.name} is nothing that this side is asked")

    def _start(self, start: commands.Connection.Start) -> None:
        mechanism = self._login.mechanism
        offered = str(start.mechanisms).split()
        if mechanism not in offered:
            self._lost(Ended(403, f"the server does not offer {mechanism}, but {' '.join(offered)}"))
            return
        properties: dict[str, Any] = {
            "product": "fhir-broker",
            "connection_name": self._name,
            "capabilities": CAPABILITIES,
        }
        self._send(
            commands.Connection.StartOk(
                client_properties=properties, mechanism=mechanism, response=self._login.response, locale="en_US"
            )
        )

    def _tune(self, tune: commands.Connection.Tune) -> None:
        self.frame_max = min(tune.frame_max or LARGEST_FRAME, LARGEST_FRAME)
        self.most_channels = tune.channel_max or self.most_channels
        heartbeat = min(self._heartbeat, tune.heartbeat) if tune.heartbeat and self._heartbeat else self._heartbeat
        self._heartbeat = heartbeat
        self._send(
            commands.Connection.TuneOk(
                channel_max=self.most_channels, frame_max=self.frame_max, heartbeat=self._heartbeat
            )
        )
        self._send(commands.Connection.Open(virtual_host=self._vhost))
        if heartbeat:
            self._beat = self._loop.call_later(heartbeat / 2, self._tick)

    def _send(self, method: base.Frame) -> None:
        self.write(wire.write_method(method, 0))

    def _tick(self) -> None:
        """Says that we live, and looks whether the server does."""
        if self._loop.time() - self._heard > MISSED * self._heartbeat and not self._paused:
            self._lost(Ended(0, f"the server gave no sign of life for {MISSED * self._heartbeat} s"))
            return
        self.write(wire.BEAT)
        self._beat = self._loop.call_later(self._heartbeat / 2, self._tick)

    # -- amqp_channels

    async def amqp_channel(self, prepare: Callable[[AmqpChannel], None] | None = None) -> AmqpChannel:
        """A new one; `prepare` sets its listeners. Raises `Closed`."""
        if self.closed.done():
            raise Closed(self.closed.result())
        number = next((n for n in range(1, self.most_channels + 1) if n not in self._channels), 0)
        if not number:
            raise Closed(Ended(0, f"all {self.most_channels} amqp_channels of the connection are in use"))
        channel = self._channels[number] = AmqpChannel(self, number)
        if prepare is not None:
            prepare(channel)
        await channel.call(commands.Channel.Open())
        return channel

    def forget(self, number: int) -> None:
        self._channels.pop(number, None)

    # -- the end

    def fail(self, why: str) -> None:
        """It is of no use any more."""
        self._lost(Ended(0, why))

    async def close(self) -> None:
        """In good order, within a bound."""
        if self.closed.done():
            return
        self._send(commands.Connection.Close(reply_code=200, reply_text="the broker stops", class_id=0, method_id=0))
        self.pause(False)
        try:
            async with asyncio.timeout(CLOSE):
                await self._close_ok
        except TimeoutError:
            pass
        self._lost(Ended(0, "closed by us"), flush=True)

    def _lost(self, ended: Ended, *, flush: bool = False) -> None:
        """`flush`: the last word is still written; to a server that is silent it would never leave."""
        if self.closed.done():
            return
        self.closed.set_result(ended)
        if self._beat is not None:
            self._beat.cancel()
        self.resume_writing()
        if not self.opened.done():
            self.opened.set_exception(Closed(ended))
            self.opened.exception()  # where nobody waits for it any more
        for channel in list(self._channels.values()):
            channel.end(ended)
        if self._transport is not None:
            if flush:
                self._transport.close()
            else:
                self._transport.abort()
