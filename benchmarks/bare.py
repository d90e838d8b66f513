"""The anchor of the durable figures: the broker's I/O without its decisions, in one aiohttp program.

It reads the destination, keeps the message in SQLite (WAL, synchronous=FULL, one writer thread, what arrives together
is committed together), answers 202, and with --to delivers over keep-alive connections and stores that it did. There is
no identity, no directory, no rule, no retry and no trace: what it does is the least that the promise costs.
"""

from __future__ import annotations

import argparse
import asyncio
import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import cast

import httptools
import msgspec
import uvloop
from aiohttp import web

GROUP = 200  # rows a commit: more makes the first of them wait without a gain in rate
RECEIPT = b'{"resourceType":"OperationOutcome","issue":[{"severity":"information","code":"informational"}]}'
REQUEST = (
    b"POST /fhir/$process-message?async=true HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    b"Content-Type: application/fhir+json\r\nContent-Length: %d\r\n\r\n"
)


class Destination(msgspec.Struct):
    endpoint: str | None = None


class Header(msgspec.Struct):
    resourceType: str
    id: str | None = None
    destination: list[Destination] = []


class Entry(msgspec.Struct):
    resource: msgspec.Raw


class Bundle(msgspec.Struct):
    resourceType: str
    type: str
    entry: list[Entry]
    id: str | None = None


read_bundle = msgspec.json.Decoder(Bundle).decode
read_header = msgspec.json.Decoder(Header).decode


class New(msgspec.Struct):
    bundle_id: str
    body: bytes
    kept: asyncio.Future[int]


class Store:
    """One thread writes; what waits when it comes back from a sync is its next group."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.loop = asyncio.get_running_loop()
        self.jobs: queue.SimpleQueue[New | int] = queue.SimpleQueue()
        self.settled = 0
        threading.Thread(target=self.write, daemon=True).start()

    def write(self) -> None:
        database = sqlite3.connect(self.path, isolation_level=None)
        database.execute("pragma journal_mode=wal")
        database.execute("pragma synchronous=full")
        database.execute("create table message(id integer primary key, bundle text, state int, body blob)")
        number = 0
        while True:
            group = [self.jobs.get()]
            while len(group) < GROUP and not self.jobs.empty():
                group.append(self.jobs.get())
            new = [job for job in group if isinstance(job, New)]
            done = [job for job in group if isinstance(job, int)]
            rows = [(number + i, job.bundle_id, job.body) for i, job in enumerate(new, 1)]
            number += len(rows)
            database.execute("begin immediate")
            database.executemany("insert into message values(?, ?, 0, ?)", rows)
            database.executemany("update message set state = 1 where id = ?", [(n,) for n in done])
            database.execute("commit")
            self.settled += len(done)
            if new:
                kept = [(job.kept, row[0]) for job, row in zip(new, rows, strict=True)]
                self.loop.call_soon_threadsafe(answer, kept)


def answer(kept: list[tuple[asyncio.Future[int], int]]) -> None:
    for future, number in kept:
        if not future.done():
            future.set_result(number)


class Lane:
    """What waits for the receiver, and the keep-alive connections to it, opened when first needed."""

    def __init__(self, port: int, limit: int, settle: Callable[[int], None]) -> None:
        self.port, self.limit, self.settle = port, limit, settle
        self.waiting: deque[tuple[int, bytes]] = deque()
        self.idle: list[Delivery] = []
        self.opened = 0
        self.opening: set[asyncio.Task[object]] = set()

    def add(self, number: int, body: bytes) -> None:
        self.waiting.append((number, body))
        if self.idle:
            self.idle.pop().send()
        elif self.opened < self.limit:
            self.opened += 1
            loop = asyncio.get_running_loop()
            task = loop.create_task(loop.create_connection(lambda: Delivery(self), "127.0.0.1", self.port))
            self.opening.add(task)
            task.add_done_callback(self.opening.discard)


class Delivery(asyncio.Protocol):
    """A connection to the receiver with one request under way."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.send()

    def connection_lost(self, problem: Exception | None) -> None:
        self.lane.opened -= 1
        if self in self.lane.idle:
            self.lane.idle.remove(self)

    def send(self) -> None:
        if not self.lane.waiting:
            self.lane.idle.append(self)
            return
        self.number, body = self.lane.waiting.popleft()
        self.parser = httptools.HttpResponseParser(self)
        self.transport.write(REQUEST % len(body) + body)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        self.lane.settle(self.number)
        self.send()


async def main(options: argparse.Namespace) -> None:
    store = Store(options.db)
    lane = Lane(options.to, options.lane, store.jobs.put)
    loop = asyncio.get_running_loop()

    async def accept(request: web.Request) -> web.Response:
        body = await request.read()
        try:
            bundle = read_bundle(body)
            header = read_header(bundle.entry[0].resource)
        except (msgspec.MsgspecError, IndexError):
            return web.Response(status=400)
        if bundle.type != "message" or not header.destination:
            return web.Response(status=422)
        kept: asyncio.Future[int] = loop.create_future()
        store.jobs.put(New(bundle_id=bundle.id or "", body=body, kept=kept))
        number = await kept
        if options.to:
            lane.add(number, body)
        return web.Response(status=202, body=RECEIPT, content_type="application/fhir+json")

    async def settled(request: web.Request) -> web.Response:
        return web.Response(text=str(store.settled))

    async def ready(request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application(client_max_size=32 << 20)
    app.router.add_post("/fhir/{operation}", accept)
    app.router.add_get("/settled", settled)
    app.router.add_get("/health/ready", ready)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", options.port, backlog=1024).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--db", type=Path, required=True)
    parser.add_argument("--to", type=int, default=0, help="port of the receiver; without it nothing is delivered")
    parser.add_argument("--lane", type=int, default=16, help="connections to the receiver, as the broker's default")
    uvloop.run(main(parser.parse_args()))
