"""The load of the durability proof: senders and a receiver in this process, and a ledger of what both know."""

from __future__ import annotations

import asyncio
import hashlib
import random
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode
from uuid import uuid4

import aiohttp
import orjson
from aiohttp import web

NORTH, SOUTH, HELD = "urn:oid:2.999.2.1", "urn:oid:2.999.2.2", "urn:oid:2.999.2.3"  # who sends, receives, has a mailbox
SIZES = (500, 4_000, 4_000, 4_000, 300_000)  # characters of text; the last is kept in a file of its own
WEIGHTS = (20, 30, 30, 19, 1)
PAGE = 200  # messages of the mailbox at a time
ASKING = 8  # questions to the broker at once


@dataclass(slots=True)
class Ledger:
    """Messages by id: what was sent, what was acknowledged, what has come."""

    sent: dict[str, tuple[str, bytes]] = field(default_factory=dict)  # destination and body
    unanswered: list[str] = field(default_factory=list)  # cut off: sent again under the same ids
    acknowledged: set[str] = field(default_factory=set)
    unchecked: set[str] = field(default_factory=set)  # acknowledged since the last look into the store
    came: dict[str, int] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)  # in the mailbox
    faults: list[str] = field(default_factory=list)

    def is_whole(self, id: str, digest: bytes) -> bool:
        return id in self.sent and hashlib.sha256(self.sent[id][1]).digest() == digest


class Load:
    def __init__(self, *, senders: int, seed: int) -> None:
        self.ledger = Ledger()
        self._senders = senders
        self._dice = random.Random(seed)
        self._read_up_to = 0
        self._came = asyncio.Event()

    # -- the receiver

    async def open(self) -> str:
        """Listens; returns its address."""
        app = web.Application(client_max_size=1 << 24)
        app.router.add_post("/{path:.*}", self._receive)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}/in"

    async def close(self) -> None:
        await self._runner.cleanup()

    async def _receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        id = str(orjson.loads(body)["id"])
        ledger = self.ledger
        ledger.came[id] = ledger.came.get(id, 0) + 1
        if not ledger.is_whole(id, hashlib.sha256(body).digest()):
            ledger.faults.append(f"{id} was delivered with other bytes than it was sent with")
        self._came.set()
        return web.Response()

    # -- the senders

    async def send(self, base: str, until_dead: asyncio.Event) -> None:
        """Sends as fast as it goes, until the broker is gone."""
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await asyncio.gather(*(self._sender(session, base, until_dead) for _ in range(self._senders)))

    async def _sender(self, session: aiohttp.ClientSession, base: str, until_dead: asyncio.Event) -> None:
        ledger = self.ledger
        while not until_dead.is_set():
            id = ledger.unanswered.pop() if ledger.unanswered else self._next()
            try:
                status = await self._post(session, base, ledger.sent[id][1])
            except (aiohttp.ClientError, OSError, TimeoutError):
                ledger.unanswered.append(id)
                return
            if status == 202:
                ledger.acknowledged.add(id)
                ledger.unchecked.add(id)
            elif status in (429, 503):
                ledger.unanswered.append(id)
                await asyncio.sleep(0.05)
            else:
                ledger.faults.append(f"{id} was answered with HTTP {status}")

    async def _post(self, session: aiohttp.ClientSession, base: str, body: bytes) -> int:
        url = f"{base}/$process-message?async=true"
        async with session.post(url, data=body, headers={"Content-Type": "application/fhir+json"}) as response:
            await response.read()
            return response.status

    def _next(self) -> str:
        id, to = str(uuid4()), self._dice.choice((SOUTH, HELD))
        text = "x" * self._dice.choices(SIZES, WEIGHTS)[0]
        self.ledger.sent[id] = (to, _message(id, to, text))
        return id

    # -- what the broker has

    async def check(self, base: str, admin: str) -> None:
        """Whether the store knows all that was acknowledged since the last time, and the mailbox its part of it."""
        ledger = self.ledger
        asked, ledger.unchecked = ledger.unchecked, set()
        room = asyncio.Semaphore(ASKING)

        async def one(session: aiohttp.ClientSession, id: str) -> None:
            async with room, session.get(f"{admin}/admin/v1/messages/{quote(id)}") as response:
                await response.read()
                if response.status != 200:
                    ledger.faults.append(f"{id} was acknowledged, and the store does not know it")

        async with aiohttp.ClientSession() as session:
            await asyncio.gather(*(one(session, id) for id in asked))
            await self._read_mailbox(session, base)
        for id in asked:
            if ledger.sent[id][0] == HELD and id not in ledger.kept:
                ledger.faults.append(f"{id} was acknowledged, and is not in its mailbox")

    async def _read_mailbox(self, session: aiohttp.ClientSession, base: str) -> None:
        while True:
            query = urlencode({"message.destination-uri": HELD, "_offset": self._read_up_to, "_count": PAGE})
            async with session.get(f"{base}/Bundle?{query}") as response:
                page: dict[str, Any] = orjson.loads(await response.read())
            for entry in page.get("entry", ()):
                await self._read_entry(session, base, entry)
            after = next(link["url"] for link in page["link"] if link["relation"] == "next")
            reached = int(after.partition("_offset=")[2].partition("&")[0])
            if reached == self._read_up_to or not page.get("entry"):
                self._read_up_to = max(reached, self._read_up_to)
                return
            self._read_up_to = reached

    async def _read_entry(self, session: aiohttp.ClientSession, base: str, entry: dict[str, Any]) -> None:
        ours = str(entry["fullUrl"]).removeprefix("urn:uuid:")
        async with session.get(f"{base}/Bundle/{ours}") as response:
            body = await response.read()
        id = str(orjson.loads(body)["id"])
        times = self.ledger.kept[id] = self.ledger.kept.get(id, 0) + 1
        if times > 1:
            self.ledger.faults.append(f"{id} is in its mailbox {times} times")
        if not self.ledger.is_whole(id, hashlib.sha256(body).digest()):
            self.ledger.faults.append(f"{id} lies in the mailbox with other bytes than it was sent with")

    async def until_delivered(self, within: float) -> None:
        """Until everything that was acknowledged for the receiver has come; what has not is a fault."""
        ledger = self.ledger
        wanted = {id for id in ledger.acknowledged if ledger.sent[id][0] == SOUTH}
        try:
            async with asyncio.timeout(within):
                while not wanted <= ledger.came.keys():
                    self._came.clear()
                    await self._came.wait()
        except TimeoutError:
            lost = wanted - ledger.came.keys()
            ledger.faults += [f"{id} was acknowledged, and not delivered within {within:.0f} s" for id in sorted(lost)]


def _message(id: str, to: str, text: str) -> bytes:
    header = {
        "resourceType": "MessageHeader", "id": f"h-{id}",
        "eventCoding": {"system": "urn:oid:2.999.9", "code": "durability"},
        "source": {"endpoint": NORTH}, "destination": [{"endpoint": to}],
    }  # fmt: skip
    basic = {"resourceType": "Basic", "id": "b", "code": {"text": text}}
    entries = [{"fullUrl": f"urn:uuid:{uuid4()}", "resource": one} for one in (header, basic)]
    return orjson.dumps({
        "resourceType": "Bundle", "id": id, "type": "message", "timestamp": "2026-01-01T00:00:00Z", "entry": entries,
    })  # fmt: skip
