"""A large backlog: what it costs in memory and at the start, and how quickly it leaves when a name is corrected."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from e2e_backlog import multiply, waiting
from e2e_daemon import Daemon
from e2e_messages import SOUTH, ask, eventually, message, send
from e2e_receiver import OpenReceiver

WEST = "urn:oid:2.999.2.3"
DEAD = "http://127.0.0.1:9/fhir/$process-message"
MIB = 1 << 20


def daemon_of(folder: Path, endpoints: dict[str, Any]) -> Daemon:
    made = Daemon(
        folder, {"directory": {"sources": ["directory/*.yaml"]}, "defaults": {"sync": {"expects": "nothing"}}}
    )
    directory(made, endpoints)
    return made


def directory(made: Daemon, endpoints: dict[str, Any]) -> None:
    (made.folder / "directory").mkdir(exist_ok=True)
    lines = "".join(f"  {name}: {address}\n" for name, address in endpoints.items())
    new = made.folder / "directory" / "new"
    new.write_text(f"endpoints:\n{lines}" if lines else "endpoints: {}\n")
    new.rename(made.folder / "directory" / "endpoints.yaml")


async def with_backlog(made: Daemon, http: aiohttp.ClientSession, count: int) -> Path:
    """Accepts one message to SOUTH, stops, and leaves `count` of them in the store."""
    await made.start()
    assert (await send(http, made.base, message(to=SOUTH))).status == 202
    await made.stop()
    store = made.folder / "broker.db"
    multiply(store, count - 1)
    assert waiting(store) == count
    return store


@pytest.mark.parametrize("meanwhile", [DEAD, None])
async def test_ten_thousand_that_wait_for_a_corrected_name_leave_within_seconds(
    tmp_path: Path, http: aiohttp.ClientSession, receiver: OpenReceiver, meanwhile: str | None
) -> None:
    """Its address was wrong, or its name had vanished."""
    south = await receiver()
    broker = daemon_of(tmp_path, {SOUTH: DEAD})
    store = await with_backlog(broker, http, 10_000)
    directory(broker, {} if meanwhile is None else {SOUTH: meanwhile})
    await broker.start()
    try:
        await asyncio.sleep(2)
        assert not south.got
        directory(broker, {SOUTH: south.url})
        corrected = time.monotonic()
        await south.until_count(10_000, within=60)
        took = time.monotonic() - corrected

        async def nothing_waits() -> bool:
            return waiting(store) == 0

        await eventually(nothing_waits, within=10)
    finally:
        await broker.end()
    assert len(south.got) == 10_000, "each once"
    assert took < 25, took


@pytest.mark.slow
async def test_two_hundred_thousand_that_wait_cost_no_memory_no_start_and_nobody_else_anything(
    tmp_path: Path, http: aiohttp.ClientSession, receiver: OpenReceiver
) -> None:
    memory = {}
    for count in (1_000, 200_000):
        west = await receiver()
        broker = daemon_of(tmp_path / f"{count}", {SOUTH: DEAD, WEST: west.url})
        store = await with_backlog(broker, http, count)
        try:
            begun = time.monotonic()
            await broker.start()
            assert (await send(http, broker.base, message(to=WEST))).status == 202
            await west.until_count(1, within=5)
            assert time.monotonic() - begun < 5, "started, and what is new has gone"
            for number in range(2, 22):
                assert (await send(http, broker.base, message(to=WEST))).status == 202
                await west.until_count(number, within=1)
            for path in ("/metrics", "/admin/v1/lanes"):
                assert (await ask(http, "GET", f"{broker.admin}{path}")).status == 200
            await asyncio.sleep(3)
            memory[count] = broker.memory()
            assert waiting(store) == count
        finally:
            await broker.end()
    assert memory[200_000] - memory[1_000] < 50 * MIB, memory
