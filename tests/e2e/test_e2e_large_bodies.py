"""Bodies of 32 MiB, and beyond the limit, beside small messages: the small ones do not wait for them."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator
from http.client import HTTPConnection

import aiohttp
import pytest
from conftest import OpenReceiver, StartDaemon
from e2e_daemon import Daemon
from e2e_messages import FHIR_JSON, SOUTH, ask, message, problem_ids, send
from e2e_receiver import HttpReceiver

MIB = 1 << 20
LIMIT = 32 * MIB
RATE = 200.0  # small messages a second
STALL = 0.05  # seconds; more and every caller feels it
PATH = "/fhir/$process-message"
EAST = "urn:oid:2.999.2.3"  # receives the small ones


@pytest.fixture
async def south(receiver: OpenReceiver) -> HttpReceiver:
    return await receiver()


@pytest.fixture
async def broker(daemon: StartDaemon, south: HttpReceiver, receiver: OpenReceiver) -> Daemon:
    east = await receiver()
    return await daemon({"directory": {"endpoints": {SOUTH: south.url, EAST: east.url}}})


def large(size: int) -> bytes:
    return message(text="x" * (size - len(message(text="x")) + 1))


async def stalls(http: aiohttp.ClientSession, broker: Daemon, over: float) -> float:
    """How many samples of the event loop were later than so much."""
    scraped = (await ask(http, "GET", f"{broker.admin}/metrics")).body.decode()
    found = {edge: float(n) for edge, n in re.findall(r'loop_stall_seconds_bucket\{le="([^"]+)"\} (\S+)', scraped)}
    return found["+Inf"] - found[str(over)]


async def small_ones(http: aiohttp.ClientSession, broker: Daemon, seconds: float) -> list[float]:
    """Seconds that each of many small messages took, from when it was due to be sent."""
    took: list[float] = []
    start = time.monotonic()

    async def one(due: float) -> None:
        said = await send(http, broker.base, message(to=EAST), query="?async=true")
        assert said.status == 202, said
        took.append(time.monotonic() - due)

    async with asyncio.TaskGroup() as tasks:
        for number in range(int(seconds * RATE)):
            due = start + number / RATE
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            tasks.create_task(one(due))
    return sorted(took)


def p99(took: list[float]) -> float:
    return took[int(len(took) * 0.99)]


async def pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 256 << 10):
        yield body[start : start + (256 << 10)]


async def test_small_messages_do_not_wait_for_large_ones(
    broker: Daemon, south: HttpReceiver, http: aiohttp.ClientSession
) -> None:
    await small_ones(http, broker, 1)
    alone = p99(await small_ones(http, broker, 3))
    before = await stalls(http, broker, STALL)
    stop = threading.Event()

    def keep_sending() -> int:
        """In a thread, so that our own loop is not what the small ones wait for."""
        sent = 0
        while not stop.is_set():
            client = HTTPConnection("127.0.0.1", broker.port, timeout=30)
            client.request("POST", PATH + "?async=true", large(LIMIT), {"Content-Type": FHIR_JSON})
            assert client.getresponse().status == 202
            client.close()
            sent += 1
        return sent

    sending = [asyncio.ensure_future(asyncio.to_thread(keep_sending)) for _ in range(2)]
    beside = await small_ones(http, broker, 6)
    stop.set()
    sent = sum(await asyncio.gather(*sending))
    print(alone, p99(beside), beside[-1], sent, before, await stalls(http, broker, STALL))
    print(
        (await ask(http, "GET", f"{broker.admin}/metrics"))
        .body.decode()
        .split("loop_stall_seconds_bucket", 1)[1][:1200]
    )
    assert 0
