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
from e2e_daemon import Daemon, StartDaemon
from e2e_messages import FHIR_JSON, SOUTH, ask, eventually, message, problem_ids, send
from e2e_receiver import HttpReceiver, OpenReceiver

MIB = 1 << 20
LIMIT = 32 * MIB
RATE = 200.0  # small messages a second
MEDIAN, TAIL = 0.25, 1.0  # seconds that half, and 99 in 100, of the small messages may take beside them
LONGEST_STALL = 0.25  # seconds that the loop may come late; reading one such body takes longer than that
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


def head(length: int) -> bytes:
    fields = ("Host: x", f"Content-Type: {FHIR_JSON}", f"Content-Length: {length}")
    return "\r\n".join((f"POST {PATH} HTTP/1.1", *fields, "\r\n")).encode()


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


async def longer_stalls(http: aiohttp.ClientSession, broker: Daemon) -> float:
    """How often the broker's loop has come later than it should ever."""
    async with http.get(f"{broker.admin}/metrics") as said:
        text = await said.text()
    counts = dict(re.findall(r'^[a-z_]*loop_stall_seconds_bucket\{le="([^"]+)"\} (\S+)$', text, re.M))
    return float(counts["+Inf"]) - float(counts[f"{LONGEST_STALL}"])


async def test_small_messages_get_through_beside_large_ones(
    broker: Daemon, south: HttpReceiver, http: aiohttp.ClientSession
) -> None:
    """Generously, since tests share two cores and a disk: alone on them it is 15 ms, 60 ms, and stalls of 25 ms."""
    await small_ones(http, broker, 1)
    before = await longer_stalls(http, broker)
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
    try:
        beside = await small_ones(http, broker, 5)
    finally:
        stop.set()
        sent = sum(await asyncio.gather(*sending))
    assert sent > 2
    assert beside[len(beside) // 2] < MEDIAN
    assert beside[len(beside) * 99 // 100] < TAIL
    assert await longer_stalls(http, broker) - before <= 1
    await south.until_count(sent)
    assert {len(got.body) for got in south.got} == {LIMIT}


async def test_body_beyond_the_limit_is_refused_by_its_length_before_it_comes(broker: Daemon) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", broker.port)
    writer.write(head(LIMIT + 1))
    status = await asyncio.wait_for(reader.readline(), 5)
    assert status.split()[1] == b"413"
    writer.close()


async def test_body_beyond_the_limit_is_refused_while_it_comes_in_pieces(
    broker: Daemon, http: aiohttp.ClientSession
) -> None:
    given = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal given
        while given < 4 * LIMIT:
            given += MIB
            yield b" " * MIB

    try:
        said = await ask(http, "POST", f"{broker.origin}{PATH}", data=pieces(), headers={"Content-Type": FHIR_JSON})
    except aiohttp.ClientConnectionError:  # the broker hung up on what it will not read: the answer may be lost with it
        pass
    else:
        assert said.status == 413
        assert problem_ids(said.body) == ["too-large"]
    assert given < 4 * LIMIT


async def test_half_sent_bodies_take_room_only_for_what_has_come(
    daemon: StartDaemon, http: aiohttp.ClientSession, south: HttpReceiver
) -> None:
    broker = await daemon({
        "broker": {"limits": {"message": "4MiB", "in_flight": "8MiB"}},
        "directory": {"endpoints": {SOUTH: south.url}},
    })  # fmt: skip
    memory = broker.memory()
    slow = [await asyncio.open_connection("127.0.0.1", broker.port) for _ in range(200)]
    for _, writer in slow:
        writer.write(head(4 * MIB) + b"{")  # as slow senders do: much is declared, and a byte comes
        await writer.drain()
    assert (await send(http, broker.base, message(), query="?async=true")).status == 202
    for _, writer in slow:
        writer.write(b" " * MIB)
    reads = [asyncio.ensure_future(reader.read(300)) for reader, _ in slow]
    done, waiting = await asyncio.wait(reads, timeout=5)  # those whose piece found room wait on, for their other bytes
    full = [said for said in (task.result() for task in done if task.exception() is None) if said]
    assert len(waiting) <= 8
    assert {said.split()[1] for said in full} == {b"503"}
    assert all(b"Retry-After: " in said for said in full)
    assert broker.memory() - memory < 64 * MIB
    for task in waiting:
        task.cancel()
    for _, writer in slow:
        writer.close()

    async def there_is_room() -> bool:
        return (await send(http, broker.base, message(text="x" * (MIB // 2)), query="?async=true")).status == 202

    await eventually(there_is_room)
