"""What stands on the wire between a broker and a RabbitMQ, and sees each frame; aio-pika's own reader understands them.

An acknowledgement is said to the server and to nobody else, so who wants to know of it has to listen here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from pamqp import body as bodies
from pamqp import commands, frame, header

HEAD, PROTOCOL, PIECE = 7, 8, 1 << 18
Seen = Callable[["Session", int, Any, bytes], Awaitable[bool]]  # whether the frame goes on


class Session:
    """One connection of the broker's, and ours to the server for it."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client, self.server = client, server
        self.known: dict[Any, Any] = {}  # what those who listen remember of it

    def say(self, number: int, *said: Any) -> None:
        """To the client, as the server would."""
        for one in said:
            self.client.write(frame.marshal(one, number))

    def abort(self) -> None:
        self.client.transport.abort()
        self.server.transport.abort()


class Tap:
    """Listens on a port of its own, which stays the same, and goes on to the server's."""

    def __init__(self, port: int, to: int, *, from_client: Seen, from_server: Seen) -> None:
        self.port = port
        self._to = to
        self._from_client, self._from_server = from_client, from_server
        self._server: asyncio.Server | None = None
        self._sessions: set[Session] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, reuse_address=True)

    async def close(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
            for session in list(self._sessions):
                session.abort()
            await asyncio.gather(*self._tasks)
            await server.wait_closed()

    async def _serve(self, client_reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        server_reader, server = await asyncio.open_connection("127.0.0.1", self._to)
        session = Session(client, server)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._sessions.add(session)
        try:
            await asyncio.gather(
                self._pump(session, client_reader, server, self._from_client),
                self._pump(session, server_reader, client, self._from_server),
            )
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            session.abort()
            self._sessions.discard(session)
            self._tasks.discard(task)

    async def _pump(
        self, session: Session, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Seen
    ) -> None:
        begin = await reader.readexactly(PROTOCOL)
        if begin.startswith(b"AMQP"):
            writer.write(begin)
            begin = b""
        while True:
            begin += await reader.readexactly(HEAD - len(begin)) if len(begin) < HEAD else b""
            size = HEAD + int.from_bytes(begin[3:7]) + 1
            raw = begin + await reader.readexactly(size - len(begin))
            begin = b""
            _, number, found = frame.unmarshal(raw)
            if await seen(session, number, found, raw):
                writer.write(raw)
                await writer.drain()


class Contents:
    """Puts the frames of a message together: its method, its properties, its body."""

    def __init__(self) -> None:
        self._under_way: dict[int, tuple[Any, list[Any], list[bytes]]] = {}

    def whole(self, number: int, found: Any, method: type) -> tuple[Any, Any, bytes] | None:
        """Method, properties and body, with the frame that ends it."""
        if isinstance(found, method):
            self._under_way[number] = (found, [], [])
            return None
        under_way = self._under_way.get(number)
        if under_way is None:
            return None
        said, headers, pieces = under_way
        if isinstance(found, header.ContentHeader):
            headers.append(found)
        elif isinstance(found, bodies.ContentBody):
            pieces.append(found.value)
        if headers and sum(map(len, pieces)) >= headers[0].body_size:
            with suppress(KeyError):
                del self._under_way[number]
            return said, headers[0].properties, b"".join(pieces)
        return None


__all__ = ["Contents", "Session", "Tap", "commands"]
