"""One kept connection to somebody's WebSocket server: sends in a pipeline, each ended by the frame that has its `ref`.

What the server sends on its own over the same connection is an arrival, acknowledged as ours are.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable
from typing import cast

import msgspec
import structlog
from websockets.asyncio.client import ClientConnection
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, NegotiationError
from websockets.frames import CloseCode
from websockets.typing import Subprotocol

from broker.channel import Deferred, Delivered, Host, Peer, Refused, Transmission
from broker.core.message import digest_text
from broker.core.outcome import Refusal
from broker.dialing import NotDialed, dial
from plugins.websocket import classify, frames
from plugins.websocket.address import origin_of, uri_of, without_query
from plugins.websocket.connection import reason_of
from plugins.websocket.frames import SUBPROTOCOL, Payload
from plugins.websocket.taking import Speaker, digest_of, refused, take

log = structlog.get_logger("websocket")
library = logging.getLogger("broker.websocket.library")

MOST_ARRIVALS = 64  # messages of the server's own that are taken in at once
GOOD_BYE = 2.0  # seconds that the other side has to answer a close frame
PING = 20.0  # seconds between signs of life: a path that is dead is found before many messages wait on it
Attempted = Delivered | Deferred | Refused
Ended = frames.Receipt | frames.Response | frames.Refusal


class Lost(Exception):
    """The connection went before the answer came."""


class Unshaken(Exception):
    """There is no connection; `end` is what that means for who wanted to send."""

    def __init__(self, end: Deferred | Refused) -> None:
        super().__init__(end.note)
        self.end = end


class Partner:
    """One connection, from its handshake to its end."""

    def __init__(
        self, address: str, host: Host, context: ssl.SSLContext | None, *, idle: float, gone: Callable[[Partner], None]
    ) -> None:
        self.address = address
        self._host = host
        self._context = context
        self._idle = idle
        self._gone = gone
        self._next = 0
        self._waiting: dict[frames.Ref, asyncio.Future[tuple[Ended, bytes]]] = {}
        self._writing = asyncio.Lock()
        self._arrivals: set[asyncio.Task[None]] = set()
        self._connection: ClientConnection | None = None
        self._reading: asyncio.Task[None] | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._closing: asyncio.Future[None] | None = None
        self._used = 0.0

    @property
    def is_open(self) -> bool:
        return self._reading is not None and not self._reading.done()

    # -- opening

    async def open(self, seconds: float, user_agent: str) -> None:
        """Raises `Unshaken`."""
        uri = uri_of(self.address)
        try:
            async with asyncio.timeout(seconds):
                connection = await dial(
                    origin_of(uri), self._build, self._context, seconds, may_be_here=self._host.may_be_here
                )
                try:
                    await connection.handshake(user_agent_header=user_agent)
                except BaseException:
                    connection.transport.abort()
                    raise
        except NotDialed as not_dialed:
            raise Unshaken(Deferred(note=str(not_dialed), of_peer=True, left=False)) from None
        except TimeoutError:
            raise Unshaken(Deferred(note="no handshake in time", of_peer=True, left=False)) from None
        except InvalidStatus as answered:
            response = answered.response
            end = classify.not_shaken(
                response.status_code, response.headers.get("Retry-After"), without_query(self.address)
            )
            raise Unshaken(end) from None
        except NegotiationError:
            raise Unshaken(classify.no_subprotocol(without_query(self.address))) from None
        except (InvalidHandshake, ConnectionClosed, EOFError, OSError):
            note = "the other side is no WebSocket server, or closed the connection within the handshake"
            raise Unshaken(Deferred(note=note, of_peer=True, left=False)) from None
        if connection.subprotocol != SUBPROTOCOL:
            connection.transport.abort()
            raise Unshaken(classify.no_subprotocol(without_query(self.address)))
        connection.start_keepalive()
        self._connection = connection
        name = connection.remote_address
        shown = f"{name[0]}:{name[1]}" if isinstance(name, tuple) else without_query(self.address)
        self._reading = asyncio.create_task(self._read(connection, Speaker(peer=Peer(address=shown))))
        self._used = asyncio.get_running_loop().time()
        self._look_again()

    def _build(self) -> ClientConnection:
        protocol = ClientProtocol(
            uri_of(self.address),
            subprotocols=[cast(Subprotocol, SUBPROTOCOL)],
            max_size=self._host.max_message + frames.LONGEST_HEAD,
            logger=library,
        )
        return ClientConnection(protocol, ping_interval=PING, ping_timeout=PING, close_timeout=GOOD_BYE, max_queue=4)

    # -- sending

    async def send(self, transmission: Transmission) -> Attempted:
        assert self._connection is not None
        self._used = asyncio.get_running_loop().time()
        self._next += 1
        ref = self._next
        envelope, wait = transmission.envelope, None
        if transmission.caller_waits:
            wait = envelope.timeleft / 1000 if envelope.timeleft is not None else transmission.answer.total_seconds()
        elif envelope.timeleft is not None:
            envelope = msgspec.structs.replace(envelope, timeleft=None)  # absent = nobody waits
        if envelope.digest is None:
            envelope = msgspec.structs.replace(envelope, digest=digest_text(await digest_of(transmission.body)))
        payload = frames.send(ref, envelope, transmission.body, transmission.media_type, wait)
        answered = asyncio.get_running_loop().create_future()
        self._waiting[ref] = answered
        left = False
        try:
            async with asyncio.timeout(transmission.answer.total_seconds()):
                async with self._writing:
                    left = True
                    await self._connection.send(payload[0])
                frame, body = await answered
        except TimeoutError:
            return Deferred(note="no answer in time", of_peer=True, left=left)
        except (Lost, ConnectionClosed):
            return Deferred(note="the connection was closed before an answer came", of_peer=True, left=left)
        finally:
            del self._waiting[ref]
            self._used = asyncio.get_running_loop().time()
        return classify.taken(frame, body)

    # -- what comes

    async def _read(self, connection: ClientConnection, speaker: Speaker) -> None:
        try:
            while True:
                await self._one(connection, speaker, await connection.recv())
        except ConnectionClosed:
            pass
        except Refusal as refusal:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GOOD_BYE):
                    await connection.close(CloseCode.PROTOCOL_ERROR, reason_of(str(refusal)))
        finally:
            connection.transport.abort()
            self._end()

    async def _one(self, connection: ClientConnection, speaker: Speaker, message: str | bytes) -> None:
        head, body = frames.cut(message)
        frame = frames.read_from_server(head)
        if isinstance(frame, frames.Send):
            while len(self._arrivals) >= MOST_ARRIVALS:
                await asyncio.wait(self._arrivals, return_when=asyncio.FIRST_COMPLETED)
            task = asyncio.create_task(self._take(connection, speaker, frame, body))
            self._arrivals.add(task)
            task.add_done_callback(self._taken)
        elif isinstance(frame, (frames.Receipt, frames.Response, frames.Refusal)):
            answered = self._waiting.get(frame.ref) if frame.ref is not None else None
            if answered is not None and not answered.done():
                answered.set_result((frame, body))

    async def _take(self, connection: ClientConnection, speaker: Speaker, send: frames.Send, body: bytes) -> None:
        self._used = asyncio.get_running_loop().time()
        hold = None
        try:
            if len(body) > frames.LONGEST_HEAD:
                hold = self._host.room.hold()
                hold.grow(len(body))
            payload = await take(self._host, speaker, send, body, hold)
        except Refusal as refusal:  # no room
            if hold is not None:
                hold.let_go()
            payload = refused(send.ref, refusal, self._host.default_release)
        await self._reply(connection, payload)

    async def _reply(self, connection: ClientConnection, payload: Payload) -> None:
        async with self._writing:
            await connection.send(payload[0], text=payload[1])

    def _taken(self, task: asyncio.Task[None]) -> None:
        self._arrivals.discard(task)
        if not task.cancelled():
            task.exception()  # ConnectionClosed: the answer has nowhere to go

    # -- ending

    def _look_again(self) -> None:
        loop = asyncio.get_running_loop()
        since = loop.time() - self._used
        if since >= self._idle and not self._waiting and not self._arrivals:
            self._closing = asyncio.ensure_future(self.close())
            return
        self._sweeper = loop.call_later(max(self._idle - since, 1.0), self._look_again)

    def _end(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        for answered in self._waiting.values():
            if not answered.done():
                answered.set_exception(Lost())
        for task in self._arrivals:
            task.cancel()
        self._gone(self)

    async def close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GOOD_BYE):
                    await self._connection.close(CloseCode.GOING_AWAY, "nothing more to send")
            self._connection.transport.abort()
        if self._reading is not None:
            await asyncio.gather(self._reading, return_exceptions=True)
        await asyncio.gather(*self._arrivals, return_exceptions=True)
