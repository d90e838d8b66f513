"""Real daemons on free ports, and real receivers for them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from e2e_daemon import Daemon, StartDaemon
from e2e_receiver import HttpReceiver, OpenReceiver


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[StartDaemon]:
    """Starts a daemon with what is given on top of the least configuration, and waits until it is ready."""
    started: list[Daemon] = []

    async def start(config: dict[str, Any] | None = None, *, arguments: tuple[str, ...] = ()) -> Daemon:
        made = Daemon(tmp_path / f"daemon-{len(started)}", config or {}, arguments=arguments)
        started.append(made)
        return await made.start()

    yield start
    for one in started:
        await one.end()


@pytest.fixture
async def receiver() -> AsyncIterator[OpenReceiver]:
    opened: list[HttpReceiver] = []

    async def open_one() -> HttpReceiver:
        opened.append(await HttpReceiver().open())
        return opened[-1]

    yield open_one
    for one in opened:
        await one.close()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as session:
        yield session
