"""The receiving system of the benchmarks: takes custody (202) or answers each request with a response message (200)."""

from __future__ import annotations

import argparse
import asyncio
from typing import cast

import httptools
import uvloop
from messages import (
    ANSWERED,
    BUNDLE_ID,
    HEADER_ID,
    ID_LENGTH,
    IDENTIFIER,
    RECEIVER,
    Copies,
    fresh_ids,
    requests,
    responses,
)

TAKEN = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/fhir+json; fhirVersion=4.0\r\nContent-Length: %d\r\n\r\n"


class Received:
    """What has come so far, by Bundle.id: a copy does not count twice."""

    def __init__(self, size: int, *, answers: bool) -> None:
        asked = requests(size, RECEIVER)
        self.bundle_id, self.header_id = asked.at[BUNDLE_ID], asked.at[HEADER_ID]
        self.answer: Copies | None = responses(size) if answers else None
        self.ids: set[bytes] = set()
        self.fresh = fresh_ids()

    def take(self, body: bytes) -> bytes:
        """The bytes of the HTTP answer to one request."""
        self.ids.add(body[self.bundle_id : self.bundle_id + ID_LENGTH])
        if self.answer is None:
            return TAKEN
        one = next(self.fresh)
        ids = {BUNDLE_ID: one, IDENTIFIER: one, HEADER_ID: one}
        ids[ANSWERED] = body[self.header_id : self.header_id + ID_LENGTH]
        text = self.answer.with_ids(ids)
        return ANSWER % len(text) + text


class Connection(asyncio.Protocol):
    def __init__(self, received: Received) -> None:
        self.received = received

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.parser = httptools.HttpRequestParser(self)
        self.chunks: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, chunk: bytes) -> None:
        self.chunks.append(chunk)

    def on_message_complete(self) -> None:
        body = self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)
        self.chunks = []
        self.transport.write(self.received.take(body))


async def listen(received: Received, port: int) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: Connection(received), "127.0.0.1", port, backlog=1024)


async def main(options: argparse.Namespace) -> None:
    server = await listen(Received(options.size, answers=options.answers), options.port)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--size", type=int, default=4096, help="bytes of a message")
    parser.add_argument("--answers", action="store_true", help="200 with a response message instead of 202")
    uvloop.run(main(parser.parse_args()))
