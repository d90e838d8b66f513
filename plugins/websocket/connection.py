"""One connection that somebody opened to us: what it holds while messages come, and what a slow reader misses.

The library reads and writes frames. What is added: bytes that are half read count in the room for messages, what is
sent to a reader is never more than its queue holds, and the handshake's headers do not stay for as long as it is open.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol

from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import OPEN, Event

from broker.channel import Hold, Room
from broker.core.outcome import Refusal
from plugins.websocket.frames import Payload, gap

COUNTED = 64 * 1024  # bytes of a message that is half here; less than this a connection may have without being counted
_SHAKEN = Request("", Headers())


class Session(Protocol):
    """What speaks a subprotocol on a connection."""

    def resumed(self) -> None:
        """The other side reads again."""


class Connection(ServerConnection):
    room: Room | None = None
    session: Session | None = None
    missed: set[str] | None = None  # endpoints whose live events were left out
    _hold: Hold | None = None
    _held = 0
    _fragments = 0  # bytes of the message whose end has not come
    _writing: asyncio.Lock | None = None

    def forget_handshake(self) -> None:
        """Its request and response take as much memory as all the rest of an idle connection."""
        self.request, self.response = _SHAKEN, None

    @property
    def is_open(self) -> bool:
        return self.protocol.state is OPEN

    # -- what comes

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        pending = self._fragments + len(self.protocol.reader.buffer)
        if pending > COUNTED and pending > self._held and self.room is not None:
            self._count(pending)

    def process_event(self, event: Event) -> None:
        if isinstance(event, Frame):
            self._fragments = 0 if event.fin else self._fragments + len(event.data)
        super().process_event(event)

    def _count(self, pending: int) -> None:
        assert self.room is not None
        try:
            if self._hold is None:
                self._hold = self.room.hold()
            self._hold.grow(pending - self._held)
            self._held = pending
        except Refusal as refusal:
            self.let_go()
            self.fail(CloseCode.TRY_AGAIN_LATER, str(refusal))

    def take_hold(self) -> Hold | None:
        """What the message that was just read has held; whoever takes the message in lets it go."""
        hold, self._hold, self._held = self._hold, None, 0
        return hold

    def let_go(self) -> None:
        if (hold := self.take_hold()) is not None:
            hold.let_go()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.let_go()

    # -- how it ends

    def fail(self, code: CloseCode, reason: str) -> None:
        """Closes it from where nothing can be waited for; the keepalive sees to it that it ends."""
        if self.is_open:
            self.protocol.fail(code, reason_of(reason))
            self.send_data()

    async def leave(self, code: CloseCode, reason: str, seconds: float) -> None:
        """Closes it properly, or else at once: a reader that does not read would hold us up."""
        try:
            async with asyncio.timeout(seconds):
                await self.close(code, reason_of(reason))
        except TimeoutError:
            self.transport.abort()

    # -- what goes

    def push(self, payload: Payload) -> None:
        """Sends at once, whatever waits already: for what is bounded otherwise."""
        push((self,), payload)

    async def answer(self, payload: Payload) -> None:
        """Sends when the other side has read what went before, one at a time; raises ConnectionClosed."""
        if self._writing is None:
            self._writing = asyncio.Lock()
        async with self._writing:
            await self.send(payload[0], text=payload[1])

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.missed:
            missed, self.missed = self.missed, None
            for endpoint in missed:
                self.push(gap(endpoint))
        if self.session is not None:
            self.session.resumed()

    def miss(self, endpoint: str) -> None:
        if self.missed is None:
            self.missed = set()
        self.missed.add(endpoint)


def push(connections: Iterable[Connection], payload: Payload) -> None:
    """One message to many, framed once; those that are closing are passed over.

    What a server sends is not masked, and nothing is compressed, so that the bytes are the same for all: the library's
    `broadcast()` would make a frame for each. We never send in fragments, into which a frame could fall.
    """
    data = b""
    for connection in connections:
        if connection.protocol.state is not OPEN or connection.transport.is_closing():
            continue
        data = data or Frame(Opcode.TEXT if payload[1] else Opcode.BINARY, payload[0]).serialize(mask=False)
        connection.transport.write(data)


def reason_of(text: str) -> str:
    """A close frame has room for 123 bytes of reason (RFC 6455, section 5.5)."""
    encoded = text.encode()
    return text if len(encoded) <= 123 else encoded[:120].decode(errors="ignore") + "…"
