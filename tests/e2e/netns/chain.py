"""Three brokers in a chain, each in a network of its own, with an office at either end: west – a – b – c – east."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
from cable import Cable, Namespace
from e2e_daemon import Daemon
from offices import PORT, Office

MIB = 1 << 20
DISK = 96 * MIB  # of the middle broker, which is the one whose disk fills
ADMIN = 8079
RETRY = {"first": "300ms", "factor": 2, "max": "3s", "give_up": "24h"}
LANE = {"connect": "1s", "answer": "6s", "open_after": 5, "probe": "2s"}
CHAIN = {  # broker: arc of who lives with it, and the next hops
    "a": {
        "urn:oid:2.999.2.1.1": f"http://127.0.0.1:{PORT}/in",
        "urn:oid:2.999.2.3.*": "http://10.9.1.2:8080/fhir/$process-message",
    },
    "b": {
        "urn:oid:2.999.2.1.*": "http://10.9.1.1:8080/fhir/$process-message",
        "urn:oid:2.999.2.3.*": "http://10.9.2.2:8080/fhir/$process-message",
    },
    "c": {
        "urn:oid:2.999.2.3.1": f"http://127.0.0.1:{PORT}/in",
        "urn:oid:2.999.2.1.*": "http://10.9.2.1:8080/fhir/$process-message",
    },
}
HELD = {"a": "urn:oid:2.999.2.1.2", "c": "urn:oid:2.999.2.3.2"}  # live in a mailbox of their broker


def configuration(name: str, number: int) -> dict[str, Any]:
    endpoints = dict(CHAIN[name])
    if name in HELD:
        endpoints[HELD[name]] = "mailbox:"
    return {
        "broker": {"endpoint": f"urn:oid:2.999.1.{number}", "base_url": f"http://{ADDRESSES[name]}:8080/fhir"},
        "store": {"url": "sqlite:disk/broker.db", "min_free": "1KiB" if name == "b" else "1MiB"},
        "admin": {"listen": f"127.0.0.1:{ADMIN}"},
        "channels": {"http": {"listen": "0.0.0.0:8080"}},
        "directory": {"endpoints": endpoints},
        "routes": [
            {"name": "letters", "match": {"event": ["letter", "mail", "astray"]}, "sync": {"expects": "nothing"}},
            {"name": "urgent", "match": {"event": "urgent"}, "sync": {"expects": "nothing"},
             "retry": {**RETRY, "give_up": "5s"}},
            {"name": "calls", "match": {"event": "call"}, "sync": {"wait": "4s"}, "answer_within": "10m"},
            {"name": "questions", "match": {"event": "question"}, "answer_within": "10m"},
        ],
        "defaults": {"retry": RETRY, "lane": LANE},
        "log": {"level": "warning", "format": "json"},
    }  # fmt: skip


ADDRESSES = {"a": "10.9.1.1", "b": "10.9.1.2", "c": "10.9.2.2"}  # b is 10.9.2.1 on its other side


class Broker(Daemon):
    """A real daemon in a network namespace."""

    def __init__(self, name: str, number: int, folder: Path, namespace: Namespace) -> None:
        super().__init__(folder / name, configuration(name, number), arguments=("--insecure",))
        self.name, self.namespace = name, namespace
        self.admin = f"http://127.0.0.1:{ADMIN}"
        self.command = [*namespace.enter, *self.command]
        self.disk = self.folder / "disk"
        self.disk.mkdir()

    def session(self) -> aiohttp.ClientSession:
        return self.namespace.session(timeout=aiohttp.ClientTimeout(total=20))

    async def asked(self, path: str) -> Any:
        async with self.session() as session, session.get(f"{self.admin}/admin/v1/{path}") as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def mailbox(self) -> list[bytes]:
        """What lies in its mailbox, as the bytes came; it counts as read."""
        bodies: list[bytes] = []
        url: str | None = f"http://127.0.0.1:8080/fhir/Bundle?message.destination-uri={HELD[self.name]}&_offset=0"
        async with self.session() as session:
            while url:
                async with session.get(url) as response:
                    page = await response.json(content_type=None)
                for entry in page.get("entry", ()):
                    id = entry["fullUrl"].removeprefix("urn:uuid:")
                    async with session.get(f"http://127.0.0.1:8080/fhir/Bundle/{id}") as response:
                        bodies.append(await response.read())
                links = {link["relation"]: link["url"] for link in page["link"]} if page.get("entry") else {}
                url = links.get("next", "").replace(ADDRESSES[self.name], "127.0.0.1") or None
        return bodies


class Disk:
    """The small file system of one broker's store."""

    def __init__(self, broker: Broker, size: int) -> None:
        self._folder = broker.disk
        self._ballast = broker.disk / "ballast"
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(broker.disk)], check=True)

    def fill(self, leave: int) -> None:
        with self._ballast.open("ab") as file:
            while (free := self._free() - leave) > 0:
                with suppress(OSError):  # the broker took some of it meanwhile
                    os.posix_fallocate(file.fileno(), 0, free)
                    return

    def _free(self) -> int:
        found = os.statvfs(self._folder)
        return found.f_bavail * found.f_frsize

    def make_room(self) -> None:
        self._ballast.unlink(missing_ok=True)


class Chain:
    """All of it: what runs, what joins it, and who sends."""

    def __init__(self, folder: Path, dice: random.Random, *, room: int) -> None:
        spaces = {name: Namespace(name) for name in CHAIN}
        self.brokers = {name: Broker(name, number, folder, spaces[name]) for number, name in enumerate(CHAIN, 1)}
        self.disk = Disk(self.brokers["b"], DISK + room)
        self.cables = [
            Cable("ab", spaces["a"], spaces["b"], "10.9.1", dice),
            Cable("bc", spaces["b"], spaces["c"], "10.9.2", dice),
        ]
        self.west = Office("west", spaces["a"], "1", "3", dice)
        self.east = Office("east", spaces["c"], "3", "1", dice)

    @property
    def offices(self) -> tuple[Office, Office]:
        return self.west, self.east

    async def open(self) -> None:
        await asyncio.gather(*(office.open() for office in self.offices))
        await asyncio.gather(*(broker.start() for broker in self.brokers.values()))

    async def close(self) -> None:
        await asyncio.gather(*(office.close() for office in self.offices))
        await asyncio.gather(*(broker.end() for broker in self.brokers.values()))
        for cable in self.cables:
            cable.close()
