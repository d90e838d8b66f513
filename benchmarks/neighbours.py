"""A healthy receiver and its four neighbours: the load on all five, and when each message stood at the healthy one.

Half of the load is for the healthy one, an eighth for each of the others: one is dead (nothing listens; behind a
gateway 503), one answers after 30 s, one flaps (a second well, a second 503), one refuses (422). What each of them does
follows from the last word of the path, so that five ports or one gateway can be theirs.

Stages follow each other: `200` is so many a second to the healthy one, each sent when it is due (open loop, and the
clock starts then), `max` as many as the connections can. Prints one JSON line: a list of what was seen in each stage.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import httptools
import uvloop
from driver import GOOD, Caller, Load, quantile
from messages import BUNDLE_ID, HEADER_ID, ID_LENGTH, IDENTIFIER, NEIGHBOURS, RECEIVER, WELL, requests

SLOW = 30.0  # seconds
PHASE = 1.0  # seconds that the flapping one is well, and as many that it is not
LONGEST = 30.0  # seconds in which the last message must have arrived
LOST = 0.01  # of a stage; more is no measurement
TAKEN = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"
LATER = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
REFUSED = b"HTTP/1.1 422 Unprocessable Entity\r\nContent-Length: 0\r\n\r\n"
MIX = tuple(to for name in NEIGHBOURS for to in (WELL, name))  # every other one is for the healthy one


class Arrivals:
    """When what was sent to the healthy one stood there."""

    def __init__(self, bundle_id: int) -> None:
        self.bundle_id = bundle_id
        self.begin()

    def begin(self) -> None:
        self.sent: dict[bytes, float] = {}
        self.took: list[float] = []
        self.last = time.perf_counter()

    def came(self, body: bytes) -> None:
        now = time.perf_counter()
        sent = self.sent.pop(body[self.bundle_id : self.bundle_id + ID_LENGTH], None)
        if sent is not None:  # a copy does not count twice
            self.took.append(now - sent)
            self.last = now


class Peer(asyncio.Protocol):
    """One connection of the broker to any of the five."""

    def __init__(self, arrivals: Arrivals) -> None:
        self.arrivals = arrivals

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.parser = httptools.HttpRequestParser(self)
        self.chunks: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.name = url.partition(b"?")[0].rpartition(b"/")[2].decode()

    def on_body(self, chunk: bytes) -> None:
        self.chunks.append(chunk)

    def on_message_complete(self) -> None:
        body, self.chunks = b"".join(self.chunks), []
        if self.name == WELL:
            self.arrivals.came(body)
        if self.name == "slow":
            asyncio.get_running_loop().call_later(SLOW, self.transport.write, TAKEN)
            return
        flaps = self.name == "flap" and time.perf_counter() % (2 * PHASE) > PHASE
        self.transport.write(LATER if flaps or self.name == "dead" else REFUSED if self.name == "refuse" else TAKEN)


class Mixed(Load):
    """For the healthy one and its neighbours in turn; with a rate, what is due waits for a free connection."""

    def __init__(self, url: str, size: int, arrivals: Arrivals) -> None:
        self.arrivals = arrivals
        self.each = {to: requests(size, endpoint) for to, endpoint in {WELL: RECEIVER, **NEIGHBOURS}.items()}
        super().__init__(url, self.each[WELL])

    def begin(self, count: int, seconds: float) -> None:
        super().begin(count, seconds)
        self.turn = 0
        self.due: deque[float] = deque()
        self.closed_loop = True
        self.idle: list[Waiting] = []

    def next(self) -> bytes | None:
        if self.closed_loop:
            at = time.perf_counter()
            if self.left <= 0 or at >= self.until:
                return None
            self.left -= 1
        elif self.due:
            at = self.due.popleft()
        else:
            return None
        to = MIX[self.turn % len(MIX)]
        self.turn += 1
        one, other = next(self.ids), next(self.ids)
        if to == WELL:
            self.arrivals.sent[one] = at
        return self.head + self.each[to].with_ids({BUNDLE_ID: one, IDENTIFIER: one, HEADER_ID: other})


class Waiting(Caller):
    """A connection that waits for what is due."""

    load: Mixed

    def send(self) -> None:
        if self.load.due:
            super().send()
        else:
            self.under_way = False
            self.load.idle.append(self)


async def until(done: Callable[[], bool]) -> None:
    """Looks now and then: the end of a stage need not be told of at once, its times are noted as things happen."""
    deadline = time.perf_counter() + LONGEST
    while not done() and time.perf_counter() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.005)


async def at_rate(load: Mixed, rate: float, seconds: float, connections: int, most: int) -> None:
    """Sends what is due when it is due, however long the answers take."""
    loop = asyncio.get_running_loop()
    load.begin(0, seconds)
    load.closed_loop = False
    callers = [
        (await loop.create_connection(lambda: Waiting(load), "127.0.0.1", load.port))[1] for _ in range(connections)
    ]
    began = time.perf_counter()
    for number in range(min(int(2 * rate * seconds), most)):
        due = began + number / rate / 2
        if (early := due - time.perf_counter()) > 0:
            await asyncio.sleep(early)
        load.due.append(due)
        if load.idle:
            load.idle.pop().send()
    await until(lambda: not (load.due or any(caller.under_way for caller in callers)))
    for caller in callers:
        caller.transport.close()


async def at_once(load: Mixed, seconds: float, connections: int, most: int) -> None:
    loop = asyncio.get_running_loop()
    load.begin(most, seconds)
    callers = [
        (await loop.create_connection(lambda: Caller(load), "127.0.0.1", load.port))[1] for _ in range(connections)
    ]
    async with asyncio.timeout(seconds + LONGEST):
        await asyncio.gather(*(caller.done for caller in callers))


async def stage(load: Mixed, name: str, options: argparse.Namespace) -> dict[str, Any]:
    arrivals = load.arrivals
    arrivals.begin()
    cpu = resource.getrusage(resource.RUSAGE_SELF)
    began = time.perf_counter()
    if name == "max":
        await at_once(load, options.seconds, options.connections, options.n)
    else:
        await at_rate(load, float(name), options.seconds, options.connections * 4, options.n)
    await until(lambda: not arrivals.sent)
    after = resource.getrusage(resource.RUSAGE_SELF)
    took = sorted(arrivals.took)
    lost = len(arrivals.sent)
    if not took or lost > LOST * len(took):
        raise SystemExit(f"{name}: {lost} of {len(took) + lost} messages to the healthy one did not arrive")
    ended = arrivals.last - began
    return {
        "stage": name,
        "answered": len(load.latencies),
        "others": {str(status): n for status, n in load.statuses.items() if status not in GOOD},
        "first_problem": load.first_problem,
        "arrived": len(took),
        "per_second": len(took) / ended,
        "p50_ms": quantile(took, 0.5) * 1e3,
        "p99_ms": quantile(took, 0.99) * 1e3,
        "driver_busy": (after.ru_utime + after.ru_stime - cpu.ru_utime - cpu.ru_stime) / ended,
    }


async def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    load = Mixed(options.url, options.size, Arrivals(requests(options.size, RECEIVER).at[BUNDLE_ID]))
    loop = asyncio.get_running_loop()
    servers = [
        await loop.create_server(lambda: Peer(load.arrivals), "127.0.0.1", port, backlog=1024)
        for port in options.listen
    ]
    await at_rate(
        load, options.warm, 1.0, options.connections, options.n
    )  # connections, code paths, and who is left alone
    seen = [await stage(load, name, options) for name in options.stages.split(",")]
    for server in servers:
        server.close()
    return seen


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--listen", type=int, nargs="+", required=True, help="ports of the receivers")
    parser.add_argument("--stages", default="200,max", help="messages a second to the healthy one, or max")
    parser.add_argument("--n", type=int, default=20_000, help="messages of a stage, at most")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each stage")
    parser.add_argument("--connections", type=int, default=16, help="at most; four times as many at a rate")
    parser.add_argument("--warm", type=float, default=100, help="a second to the healthy one, for a second before")
    parser.add_argument("--size", type=int, default=4096)
    print(json.dumps(uvloop.run(run(parser.parse_args()))))
