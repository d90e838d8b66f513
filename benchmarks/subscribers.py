"""Thousands of Subscriptions and one matching event: how soon all are told, over WebSocket or by rest-hook.

With `--prepare` the subscriptions are written into a store before its daemon starts, and a binding token for each, a
line each, to the standard output. Otherwise: connects a bare socket with each token, or listens as the hook of all;
sends 4 KiB messages of the event one by one, and counts what comes. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from urllib.request import Request, urlopen

import psutil
import uvloop
from followers import AT_ONCE, LONGEST, SETTLE, Client, Clients
from messages import BUNDLE_ID, HEADER_ID, IDENTIFIER, MAILBOX, SIZES, fresh_ids, requests

from broker.core.fhir.header import Release
from broker.core.subscription.life import Life
from broker.core.subscription.subscription import R5_CHANNELS, ChannelType, Content, Model, Status, Subscription
from broker.core.subscription.token import Tokens
from broker.store.sqlite import SqliteStore

TOPIC = "http://bench.example/topics/discharge"
TAKEN = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


async def prepare(database: Path, count: int, hook: str) -> None:
    """Active already, so that nobody waits for handshakes of hooks."""
    now = datetime.now(UTC)
    store = SqliteStore(database, now=lambda: datetime.now(UTC))
    written = [
        store.subscribe(
            Subscription(
                model=Model.NATIVE, release=Release.R5, status=Status.REQUESTED, id=f"bench-{number}", topic=TOPIC,
                channel=ChannelType(R5_CHANNELS, "rest-hook" if hook else "websocket"), content=Content.ID_ONLY,
                media_type="application/fhir+json", endpoint=f"{hook}/{number}" if hook else "",
            ),
            Life(status=Status.ACTIVE, was_active=True, since=now),
            owner="", at=now, most=count,
        )
        for number in range(count)
    ]  # fmt: skip
    tokens = Tokens(store.key)
    for one in written:
        row = await one
        assert row is not None
        print(tokens.seal([row.key], now + timedelta(hours=1)))
    await store.close()


class Sends:
    """Messages that all hear of, one by one."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/fhir/$process-message?async=true"
        self._copies, self._ids = requests(SIZES["4KiB"], MAILBOX), fresh_ids()

    async def once(self) -> None:
        body = self._copies.with_ids({place: next(self._ids) for place in (BUNDLE_ID, IDENTIFIER, HEADER_ID)})
        headers = {"Content-Type": "application/fhir+json; fhirVersion=4.0"}
        await asyncio.to_thread(self._post, Request(self._url, body, headers))

    def _post(self, request: Request) -> None:
        with urlopen(request, timeout=LONGEST) as answer:
            assert answer.status == 202, answer.status


class Hook(asyncio.Protocol):
    """Takes every notification; its body is told by its length."""

    def __init__(self, came: Callable[[], None]) -> None:
        self.came, self.rest = came, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        data = self.rest + data
        while (end := data.find(b"\r\n\r\n")) >= 0:
            at = data.lower().find(b"content-length:", 0, end)
            length = int(data[at + 15 : data.index(b"\r\n", at)]) if at >= 0 else 0
            if len(data) < end + 4 + length:
                break
            data = data[end + 4 + length :]
            self.transport.write(TAKEN)
            self.came()
        self.rest = data


async def measured(options: argparse.Namespace) -> dict[str, Any]:
    server, tokens = psutil.Process(options.pid), options.tokens.read_text().split()
    count, loop = len(tokens), asyncio.get_running_loop()
    sends = Sends(options.http)
    texts = (f"bind-with-token {token}".encode() for token in tokens)
    clients = Clients(texts, answer=b'"handshake"', path="/subscriptions")
    began = time.perf_counter()
    if options.hook:
        await loop.create_server(lambda: Hook(clients.came), "127.0.0.1", options.hook)
    else:
        for first in range(0, count, AT_ONCE):
            some = range(min(AT_ONCE, count - first))
            await asyncio.gather(
                *(loop.create_connection(lambda: Client(clients), "127.0.0.1", options.port) for _ in some)
            )
            await clients.until_ready(first + len(some))
    connected = time.perf_counter() - began
    await asyncio.sleep(SETTLE)
    idle = (server.memory_info().rss / 1024 - options.before) / count
    took, cpu = [], sum(server.cpu_times()[:2])
    for _ in range(options.single):
        clients.frames = 0
        start = time.perf_counter()
        await sends.once()
        await clients.until_all(count)
        took.append((time.perf_counter() - start) * 1000)
        await asyncio.sleep(options.pause)
    cpu = sum(server.cpu_times()[:2]) - cpu
    if clients.lost:
        raise SystemExit(f"{clients.lost} clients were closed")
    return {
        "clients": count,
        "kib_idle": idle,
        "kib_after": (server.memory_info().rss / 1024 - options.before) / count,
        "connected_per_second": count / connected,
        "first_ms": took[0],
        "all_ms": statistics.median(took),
        "slowest_all_ms": max(took),
        "per_second": count / statistics.median(took) * 1000,
        "cpu_us_each": cpu / (options.single * count) * 1e6,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepare", type=Path, help="the store's file")
    parser.add_argument("--clients", type=int, default=2000)
    parser.add_argument("--hook", type=int, default=0, help="port of the rest-hook; absent: WebSocket")
    parser.add_argument("--port", type=int, help="of the WebSocket server")
    parser.add_argument("--http", type=int, help="where messages are sent")
    parser.add_argument("--pid", type=int, help="of the server, whose memory is read")
    parser.add_argument("--before", type=float, default=0.0, help="KiB of a server without any of this")
    parser.add_argument("--tokens", type=Path)
    parser.add_argument("--single", type=int, default=10, help="events one by one")
    parser.add_argument("--pause", type=float, default=0.3, help="seconds between them")
    asked = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if asked.prepare:
        uvloop.run(prepare(asked.prepare, asked.clients, f"http://127.0.0.1:{asked.hook}/hook" if asked.hook else ""))
        sys.exit()
    print(json.dumps(uvloop.run(measured(asked))))
    os._exit(0)  # thousands of sockets are closed by the system at once
