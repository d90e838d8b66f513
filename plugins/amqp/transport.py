"""The bytes below aio-pika: which address they come from and go to, and when no more of them are read."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from aiormq import TransportFactory
from yarl import URL

from broker.core.inside import is_inside
from plugins.amqp.address import Server

LARGEST_READ = 16 * 2**20  # bytes of one frame; RabbitMQ's have 128 KiB, and what is no AMQP may say any size
BUFFER = 2**16  # bytes that are read ahead


class NoConnection(Exception):
    """There is no connection; the text says why, and nothing has left."""


class Reader(asyncio.StreamReader):
    """Can be held up, so that the server keeps what it would send."""

    def __init__(self, beat: float) -> None:
        super().__init__(limit=BUFFER, loop=asyncio.get_running_loop())
        self._beat = beat
        self._goes_on = asyncio.Event()
        self._goes_on.set()

    def pause(self, paused: bool) -> None:
        if paused:
            self._goes_on.clear()
        else:
            self._goes_on.set()

    async def readexactly(self, n: int) -> bytes:
        if n > LARGEST_READ:
            raise ConnectionError("a frame is larger than any, or this is no AMQP 0-9-1 server")
        if not self._goes_on.is_set():
            # Now and then a piece passes all the same: aiormq gives a server up that it reads nothing of.
            with suppress(TimeoutError):
                async with asyncio.timeout(self._beat):
                    await self._goes_on.wait()
        return await super().readexactly(n)


class Transport(TransportFactory):
    """Of one connection. The host is looked up once, checked, and that very address connected to (A-27)."""

    def __init__(
        self, server: Server, *, context: ssl.SSLContext | None, heartbeat: int, may_be_here: Callable[[str], bool]
    ) -> None:
        self._server = server
        self._context = context
        self._may_be_here = may_be_here
        self._reader = Reader(heartbeat / 2)
        self._writer: asyncio.StreamWriter | None = None

    async def create(self, url: URL, **_more: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """What aiormq reads from and writes to."""
        loop, server = asyncio.get_running_loop(), self._server
        protocol = asyncio.StreamReaderProtocol(self._reader, loop=loop)
        tls = {"ssl": self._context, "server_hostname": server.host} if server.tls else {}
        failure: OSError | None = None
        for ip in await self._look_up():
            try:
                made, _ = await loop.create_connection(lambda: protocol, ip, server.port, **tls)  # type: ignore[call-overload]
            except OSError as error:
                failure = failure or error
            else:
                self._writer = asyncio.StreamWriter(made, protocol, self._reader, loop)
                return self._reader, self._writer
        raise failure or socket.gaierror(socket.EAI_NONAME, "no address")

    async def _look_up(self) -> list[str]:
        host = self._server.host
        found = await asyncio.get_running_loop().getaddrinfo(host, self._server.port, type=socket.SOCK_STREAM)
        places = list(dict.fromkeys(str(place[0]) for *_, place in found))
        if any(map(is_inside, places)) and not self._may_be_here(host):
            places = [place for place in places if not is_inside(place)]
            if not places:
                raise NoConnection("the address leads to this machine, which nobody wrote down by name")
        return places

    def pause(self, paused: bool) -> None:
        """Whether nothing more is read."""
        self._reader.pause(paused)

    @property
    def is_writable(self) -> bool:
        return self._writer is None or self._writer.transport.get_write_buffer_size() < BUFFER

    async def writable(self) -> None:
        """Returns when most of what was written before has left; raises `OSError` where the connection broke."""
        if self._writer is not None:
            await self._writer.drain()

    def abort(self) -> None:
        """At once, without a word to the server."""
        self.pause(False)
        if self._writer is not None:
            self._writer.transport.abort()
