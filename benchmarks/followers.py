"""Thousands of WebSocket clients that follow one endpoint, and one that makes something happen there.

To the broker each client speaks fhir-broker.v1 and follows a mailbox; what happens is a 4 KiB message that is accepted
for it. To the bare server they are plain clients, and what happens is a text that it broadcasts. The clients are bare
sockets that count frames: a library in each would be what is measured. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import time
from collections.abc import Iterator
from itertools import repeat
from typing import Any, cast

import psutil
import uvloop
from messages import BUNDLE_ID, HEADER_ID, IDENTIFIER, MAILBOX, SIZES, fresh_ids, requests
from websockets.asyncio.client import ClientConnection, connect

SUBPROTOCOL = "fhir-broker.v1"
AT_ONCE = 100  # handshakes
SETTLE = 1.0  # seconds before memory is read: what the handshakes used is given back
LONGEST = 60.0  # seconds for anything
EVENT = (
    b'{"type":"event","endpoint":"urn:oid:2.999.20.1","what":"arrived","id":"00000000-0000-4000-8000-000000000000",'
    b'"position":1,"at":"2026-03-02T14:05:00.000000Z"}'
)
TEXT, PING, PONG = 1, 9, 10


def masked(opcode: int, payload: bytes) -> bytes:
    """A client's frame; the mask is nought, which leaves the payload as it is."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return bytes([0x80 | opcode]) + length + b"\0\0\0\0" + payload


class Clients:
    """All of them: how many are there, and how many frames have come.

    Each connects to a path, says a text of its own and counts once it is answered; without a text, it counts at once.
    """

    def __init__(
        self, texts: Iterator[bytes] | None, *, answer: bytes = b"", path: str = "/", protocol: str = ""
    ) -> None:
        offered = f"Sec-WebSocket-Protocol: {protocol}\r\n" if protocol else ""
        self.hello = (
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{offered}\r\n"
        ).encode()
        self.texts, self.answer = texts, answer
        self.ready, self.frames, self.want, self.lost = 0, 0, 0, 0
        self.changed = asyncio.Event()

    def came(self) -> None:
        self.frames += 1
        if self.frames >= self.want:
            self.changed.set()

    def is_ready(self) -> None:
        self.ready += 1
        self.changed.set()

    async def until_ready(self, count: int) -> None:
        async with asyncio.timeout(LONGEST):
            while self.ready < count:
                self.changed.clear()
                await self.changed.wait()

    async def until_all(self, frames: int) -> None:
        self.want = frames
        async with asyncio.timeout(LONGEST):
            while self.frames < frames:
                self.changed.clear()
                await self.changed.wait()


class Client(asyncio.Protocol):
    __slots__ = ("all", "rest", "state", "transport")

    def __init__(self, all: Clients) -> None:
        self.all, self.rest, self.state = all, b"", 0  # 0: shaking hands, 1: has said its text, 2: counts

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self.all.hello)

    def connection_lost(self, exc: Exception | None) -> None:
        self.all.lost += 1

    def data_received(self, data: bytes) -> None:
        if self.rest:
            data = self.rest + data
            self.rest = b""
        if self.state == 0:
            head, end, data = data.partition(b"\r\n\r\n")
            if not end:
                self.rest = head
                return
            if b" 101 " not in head[:20]:
                raise SystemExit(f"no handshake: {head[:200]!r}")
            if self.all.texts is not None:
                self.state = 1
                self.transport.write(masked(TEXT, next(self.all.texts)))
            else:
                self._counts()
        at, size = 0, len(data)
        while size - at >= 2:
            length, start = data[at + 1] & 0x7F, at + 2
            if length == 126:
                if size - at < 4:
                    break
                length, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
            if size < start + length:
                break
            self._frame(data[at] & 0x0F, data[start : start + length])
            at = start + length
        self.rest = data[at:]

    def _frame(self, opcode: int, payload: bytes) -> None:
        if opcode == TEXT:
            if self.state == 2:
                self.all.came()
            else:
                assert self.all.answer in payload, payload
                self._counts()
        elif opcode == PING:
            self.transport.write(masked(PONG, payload))

    def _counts(self) -> None:
        self.state = 2
        self.all.is_ready()


class Control:
    """Makes something happen: one frame to each client."""

    def __init__(self, socket: ClientConnection, broker: bool) -> None:
        self._socket, self._broker = socket, broker
        self._copies = requests(SIZES["4KiB"], MAILBOX)
        self._ids = fresh_ids()
        self._ref = 0

    async def once(self) -> None:
        if not self._broker:
            await self._socket.send(EVENT, text=True)
            return
        self._ref += 1
        body = self._copies.with_ids({place: next(self._ids) for place in (BUNDLE_ID, IDENTIFIER, HEADER_ID)})
        await self._socket.send(b'{"type":"send","ref":%d}\n' % self._ref + body)

    async def read(self) -> None:
        """Receipts: read, so that they do not pile up."""
        async for received in self._socket:
            if self._broker and b'"receipt"' not in (received if isinstance(received, bytes) else received.encode()):
                raise SystemExit(f"not accepted: {received[:300]!r}")


async def main(options: argparse.Namespace) -> dict[str, Any]:
    server = psutil.Process(options.pid)
    clients = Clients(None)
    if options.broker:
        follow = json.dumps({"type": "follow", "endpoint": MAILBOX}).encode()
        clients = Clients(repeat(follow), answer=b'"following"', protocol=SUBPROTOCOL)
    loop, count = asyncio.get_running_loop(), options.clients
    path, protocols = ("/", [SUBPROTOCOL]) if options.broker else ("/control", None)
    url = f"ws://127.0.0.1:{options.port}{path}"
    async with connect(url, subprotocols=protocols, compression=None, ping_interval=None, proxy=None) as socket:  # type: ignore[arg-type]
        control = Control(socket, options.broker)
        reading = asyncio.create_task(control.read())
        await control.once()  # what the first one of all needs is no connection's
        await asyncio.sleep(SETTLE)
        before, began = server.memory_info().rss, time.perf_counter()
        for first in range(0, count, AT_ONCE):
            some = range(min(AT_ONCE, count - first))
            await asyncio.gather(
                *(loop.create_connection(lambda: Client(clients), "127.0.0.1", options.port) for _ in some)
            )
            await clients.until_ready(first + len(some))
        connected = time.perf_counter() - began
        await asyncio.sleep(SETTLE)
        idle = (server.memory_info().rss - before) / count / 1024
        took = []
        for _ in range(options.single):
            clients.frames = 0
            start = time.perf_counter()
            await control.once()
            await clients.until_all(count)
            took.append((time.perf_counter() - start) * 1000)
        clients.frames = 0
        cpu, start = sum(server.cpu_times()[:2]), time.perf_counter()
        own = time.process_time()
        for _ in range(options.burst):
            await control.once()
        await clients.until_all(options.burst * count)
        wall = time.perf_counter() - start
        own, cpu = time.process_time() - own, sum(server.cpu_times()[:2]) - cpu
        loaded = (server.memory_info().rss - before) / count / 1024
        reading.cancel()
        if clients.lost:
            raise SystemExit(f"{clients.lost} clients were closed")
    return {
        "clients": count,
        "kib_idle": idle,
        "kib_loaded": loaded,
        "connected_per_second": count / connected,
        "all_ms": statistics.median(took),
        "slowest_all_ms": max(took),
        "frames_per_second": options.burst * count / wall,
        "cpu_us_per_frame": cpu / (options.burst * count) * 1e6,
        "driver_busy": own / wall,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pid", type=int, required=True, help="of the server, whose memory is read")
    parser.add_argument("--clients", type=int, default=5000)
    parser.add_argument("--single", type=int, default=10, help="notifications one by one")
    parser.add_argument("--burst", type=int, default=40, help="notifications one right after the other")
    parser.add_argument("--broker", action="store_true")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(json.dumps(uvloop.run(main(parser.parse_args()))))
    os._exit(0)  # thousands of sockets are closed by the system at once
