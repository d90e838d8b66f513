"""A file system of 200 MiB fills while messages come in: a clear "later", deliveries go on, and it heals by itself."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
from e2e_daemon import Daemon
from e2e_messages import SOUTH, Said, ask, eventually, message, problem_ids, send
from e2e_receiver import HttpReceiver, OpenReceiver, Reply

MIB = 1 << 20
DISK = 200 * MIB
RATE = 200.0  # messages a second
SLOW = Reply(after=0.2)  # of 16 connections, so that a backlog stands when the disk is full
Filled = Callable[..., Awaitable[Daemon]]


class Disk:
    """The daemon's own small file system, in a mount namespace that ends with it."""

    def __init__(self, daemon: Daemon) -> None:
        self.folder = Path(f"/proc/{daemon.process.pid}/root{daemon.folder}/disk")
        self._ballast = self.folder / "ballast"
        self._aside = daemon.folder

    @property
    def free(self) -> int:
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def fill(self, leave: int) -> None:
        with self._ballast.open("ab") as file:
            os.posix_fallocate(file.fileno(), 0, self.free - leave)

    def make_room(self) -> None:
        self._ballast.unlink()

    def orphans(self) -> set[str]:
        """Files of bodies that no row names."""
        for name in ("broker.db", "broker.db-wal"):  # SQLite would look for the path outside the namespace
            shutil.copyfile(self.folder / name, self._aside / name)
        with closing(sqlite3.connect(self._aside / "broker.db")) as db:
            files = {entry.name for entry in os.scandir(self.folder / "broker.db.bodies")}
            return files - {row[0] for row in db.execute("SELECT file FROM message WHERE file IS NOT NULL")}


@pytest.fixture
async def south(receiver: OpenReceiver) -> HttpReceiver:
    south = await receiver()
    south.answer = lambda got: SLOW
    return south


@pytest.fixture
async def started(tmp_path: Path, south: HttpReceiver) -> AsyncIterator[Filled]:
    daemons: list[Daemon] = []

    async def start(min_free: str) -> Daemon:
        daemon = Daemon(
            tmp_path / "daemon",
            {
                "store": {"url": "sqlite:disk/broker.db", "min_free": min_free},
                "directory": {"endpoints": {SOUTH: south.url}},
                "defaults": {"retry": {"first": "1s", "max": "2s"}, "sync": {"expects": "nothing"}},
            },
        )
        daemons.append(daemon)
        disk = daemon.folder / "disk"
        disk.mkdir()
        mount = f'mount -t tmpfs -o size={DISK} none "{disk}" && exec "$@"'
        await daemon.start(command=["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh", *daemon.command])
        return daemon

    yield start
    for daemon in daemons:
        await daemon.end()


class Sending:
    """Messages at a steady rate, and what became of each."""

    def __init__(self, http: aiohttp.ClientSession, daemon: Daemon, *sizes: int) -> None:
        self._http, self._daemon, self._sizes = http, daemon, sizes
        self.accepted: set[str] = set()
        self.refused: list[Said] = []

    async def one(self, size: int) -> Said:
        id = str(uuid4())
        said = await send(self._http, self._daemon.base, message(id, text="x" * size), query="?async=true")
        if said.status == 202:
            self.accepted.add(id)
        else:
            self.refused.append(said)
        return said

    async def until_refused(self, times: int, within: float = 20.0) -> None:
        clock = asyncio.get_running_loop().time
        start, sent = clock(), 0
        async with asyncio.timeout(within), asyncio.TaskGroup() as tasks:
            while len(self.refused) < times:
                tasks.create_task(self.one(self._sizes[sent % len(self._sizes)]))
                sent += 1
                await asyncio.sleep(max(0.0, start + sent / RATE - clock()))


async def ready(http: aiohttp.ClientSession, daemon: Daemon) -> int:
    return (await ask(http, "GET", f"{daemon.origin}/health/ready")).status


async def counts(http: aiohttp.ClientSession, daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = (await ask(http, "GET", f"{daemon.admin}/admin/v1/status")).json["counts"]
    return found


def check_refusals(refused: list[Said], words: str) -> None:
    assert {said.status for said in refused} == {503}, refused
    for said in refused:
        assert 1 <= int(said.headers["Retry-After"]) <= 300
        assert problem_ids(said.body) == ["store-unavailable"]
        assert words in said.body.decode()


async def test_disk_that_fills_stops_the_intake_and_nothing_else(
    started: Filled, south: HttpReceiver, http: aiohttp.ClientSession
) -> None:
    daemon = await started("40MiB")
    disk = Disk(daemon)
    disk.fill(leave=80 * MIB)
    sending = Sending(http, daemon, 64 << 10)
    await sending.until_refused(20)
    check_refusals(sending.refused, "store.min_free")
    assert await ready(http, daemon) == 503
    assert (await ask(http, "GET", f"{daemon.origin}/health/live")).status == 200
    assert (await counts(http, daemon))["waiting"] > 0
    south.answer = lambda got: Reply()

    async def nothing_waits() -> bool:
        return bool((await counts(http, daemon))["waiting"] == 0)

    await eventually(nothing_waits)
    assert {got.bundle_id for got in south.got} == sending.accepted
    assert len(south.got) == len(sending.accepted), "what was settled below the reserve is not sent again"
    assert await ready(http, daemon) == 503
    disk.make_room()

    async def goes_on() -> bool:
        return await ready(http, daemon) == 200 and (await sending.one(100)).status == 202

    await eventually(goes_on)


async def test_disk_that_is_really_full_loses_nothing_and_wedges_nothing(
    started: Filled, south: HttpReceiver, http: aiohttp.ClientSession
) -> None:
    daemon = await started("1KiB")
    disk = Disk(daemon)
    disk.fill(leave=50 * MIB)
    sending = Sending(http, daemon, 64 << 10, 600 << 10, 4 << 10)
    await sending.until_refused(60)
    check_refusals(sending.refused, "")
    assert disk.free < 4 * MIB
    assert any("the body cannot be written" in said.body.decode() for said in sending.refused)
    assert any("the store cannot write" in said.body.decode() for said in sending.refused)
    assert await ready(http, daemon) == 503
    assert (await ask(http, "GET", f"{daemon.origin}/health/live")).status == 200
    south.answer = lambda got: Reply()
    disk.make_room()

    async def goes_on() -> bool:
        return await ready(http, daemon) == 200 and (await sending.one(600 << 10)).status == 202

    async def all_is_settled() -> bool:
        return bool((await counts(http, daemon))["waiting"] == 0)

    await eventually(goes_on)
    await eventually(all_is_settled)
    assert {got.bundle_id for got in south.got} >= sending.accepted
    await eventually(lambda: asyncio.to_thread(lambda: not disk.orphans()))
    assert not [line for line in daemon.log_lines if line["level"] in ("error", "critical")], daemon.output
