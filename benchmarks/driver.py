"""The load: keep-alive connections that post fresh messages one after the other; prints one JSON line of what it saw.

With --receive it is the receiving system too, and the clock runs until everything has arrived there and --settled says
that the server has noted it. One process of its own, so that the servers' figures are not the driver's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import resource
import time
from collections import Counter
from typing import Any, cast
from urllib.parse import urlsplit

import httptools
import uvloop
from messages import BUNDLE_ID, EVENT, HEADER_ID, IDENTIFIER, SOUGHT, Copies, fresh_ids, requests
from receiver import Received, listen

MOST = 200_000  # messages a run
LONGEST = 120.0  # seconds of sending, and as many to wait for the last delivery
GOOD = {200, 201, 202, 204}


class Load:
    """What is still to be sent, and what was seen of it."""

    def __init__(self, url: str, copies: Copies, *, every: int = 0) -> None:
        parts = urlsplit(url)
        if parts.hostname != "127.0.0.1" or not parts.port:
            raise SystemExit("Only loopback is driven: --url http://127.0.0.1:PORT/...")
        self.port = parts.port
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        self.copies = copies
        self.every = every  # of so many messages one is what subscribers want to hear of; 0: none
        self.ids = fresh_ids()
        self.head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{parts.port}\r\nAccept: application/fhir+json\r\n"
            f"Content-Type: application/fhir+json; fhirVersion=4.0\r\nContent-Length: {copies.length}\r\n\r\n"
        ).encode()
        self.begin(0, 0.0)

    def begin(self, count: int, seconds: float) -> None:
        self.left, self.until = count, time.perf_counter() + seconds
        self.latencies: list[float] = []
        self.statuses: Counter[int] = Counter()
        self.first_problem = ""

    def next(self) -> bytes | None:
        if self.left <= 0 or time.perf_counter() >= self.until:
            return None
        self.left -= 1
        one, other = next(self.ids), next(self.ids)
        body = self.copies.with_ids({BUNDLE_ID: one, IDENTIFIER: one, HEADER_ID: other})
        if self.every and self.left % self.every == 0:
            body = body.replace(EVENT, SOUGHT, 1)
        return self.head + body

    def saw(self, status: int, seconds: float, body: list[bytes]) -> None:
        self.statuses[status] += 1
        if status in GOOD:
            self.latencies.append(seconds)
        elif not self.first_problem:
            self.first_problem = b"".join(body)[:500].decode(errors="replace")


class Caller(asyncio.Protocol):
    """One connection: a request, its answer, the next request."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.under_way = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.send()

    def connection_lost(self, problem: Exception | None) -> None:
        if self.under_way:
            self.load.saw(0, 0.0, [b"the connection was closed before the answer"])
        self.finish()

    def finish(self) -> None:
        self.under_way = False
        if not self.done.done():
            self.done.set_result(None)

    def send(self) -> None:
        request = self.load.next()
        if request is None:
            self.finish()
            self.transport.close()
            return
        self.under_way = True
        self.parser = httptools.HttpResponseParser(self)
        self.chunks: list[bytes] = []
        self.started = time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, chunk: bytes) -> None:
        self.chunks.append(chunk)

    def on_message_complete(self) -> None:
        self.load.saw(self.parser.get_status_code(), time.perf_counter() - self.started, self.chunks)
        if self.parser.should_keep_alive():
            self.send()
        else:
            self.under_way = False
            self.transport.close()


async def call(load: Load) -> None:
    """A caller's life: when the server ends a connection, it opens the next while there is something to send."""
    loop = asyncio.get_running_loop()
    while load.left > 0 and time.perf_counter() < load.until:
        _, caller = await loop.create_connection(lambda: Caller(load), "127.0.0.1", load.port)
        await caller.done


async def settled(url: str) -> float:
    """Deliveries the server has settled: a number by itself, or a Prometheus counter (url#name), all labels."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection("127.0.0.1", parts.port)
    writer.write(f"GET {parts.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
    text = (await reader.read()).decode().partition("\r\n\r\n")[2]
    writer.close()
    if not parts.fragment:
        return float(text)
    return sum(float(n) for n in re.findall(rf"^{re.escape(parts.fragment)}(?:\{{.*\}})? ([0-9.e+]+)", text, re.M))


async def drain(received: Received, count: int, settled_url: str, before: float) -> float:
    """The instant at which all have arrived and are noted as such."""
    deadline = time.perf_counter() + LONGEST
    while len(received.ids) < count:
        if time.perf_counter() > deadline:
            raise SystemExit(f"{len(received.ids)} of {count} messages arrived within {LONGEST:.0f} s")
        await asyncio.sleep(0.002)
    while settled_url and await settled(settled_url) - before < count:
        if time.perf_counter() > deadline:
            raise SystemExit(f"not all of {count} messages were settled within {LONGEST:.0f} s")
        await asyncio.sleep(0.02)
    return time.perf_counter()


def quantile(sorted_values: list[float], part: float) -> float:
    return sorted_values[min(len(sorted_values) - 1, int(len(sorted_values) * part))] if sorted_values else 0.0


async def run(options: argparse.Namespace) -> dict[str, Any]:
    load = Load(options.url, requests(options.size, options.to), every=options.every)
    received = Received(options.size, answers=False)
    server = await listen(received, options.receive) if options.receive else None

    async def send(count: int, seconds: float) -> tuple[float, float]:
        """The seconds until all were answered, and until all were settled."""
        received.ids.clear()
        before = await settled(options.settled) if options.settled else 0.0
        load.begin(count, seconds)
        started = time.perf_counter()
        async with asyncio.timeout(seconds + LONGEST):
            await asyncio.gather(*(call(load) for _ in range(options.connections)))
        answered = time.perf_counter()
        ended = await drain(received, len(load.latencies), options.settled, before) if server else answered
        return answered - started, ended - started

    if options.warm:  # connections, caches and code paths
        await send(options.connections * options.warm, 10.0)
    cpu = resource.getrusage(resource.RUSAGE_SELF)
    answered, ended = await send(min(options.n, MOST), min(options.seconds, LONGEST))
    after = resource.getrusage(resource.RUSAGE_SELF)
    if server:
        server.close()
    latencies = sorted(load.latencies)
    return {
        "answered": len(latencies),
        "others": {str(status): n for status, n in load.statuses.items() if status not in GOOD},
        "first_problem": load.first_problem,
        "seconds": answered,
        "seconds_to_settled": ended,
        "per_second": len(latencies) / answered,
        "settled_per_second": len(latencies) / ended,
        "p50_ms": quantile(latencies, 0.5) * 1e3,
        "p99_ms": quantile(latencies, 0.99) * 1e3,
        "driver_cpu_s": after.ru_utime + after.ru_stime - cpu.ru_utime - cpu.ru_stime,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--to", required=True, help="destination endpoint of the messages")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--n", type=int, default=20_000, help=f"messages at most (and never more than {MOST})")
    parser.add_argument("--seconds", type=float, default=4.0, help="of sending, at most")
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--warm", type=int, default=4, help="messages a connection before the clock starts")
    parser.add_argument("--every", type=int, default=0, help="each so manyth message is one that subscribers want")
    parser.add_argument("--receive", type=int, default=0, help="port on which the driver receives what is delivered")
    parser.add_argument(
        "--settled", default="", help="URL of the count of settled deliveries, with #counter if Prometheus"
    )
    print(json.dumps(uvloop.run(run(parser.parse_args()))))
