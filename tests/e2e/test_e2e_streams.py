"""In order where asked, with real processes: one source's 500 through refusals, hangs, restarts and a kill -9."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from e2e_daemon import Daemon
from e2e_messages import NORTH, SOUTH, ask, eventually, message, outcome, send
from e2e_receiver import CUSTODY, Got, HttpReceiver, OpenReceiver, Reply

LAST = 500
REFUSED, BUSY, HANGS = 50, 120, 200  # how the receiver answers these
RECEIVER_RESTARTS, ADDRESS_CHANGES, KILLED = 250, 330, 410  # once so many have arrived
BUSY_TIMES = 5
ANSWER = 3.0  # seconds that the lane waits for an answer
OTHERS = tuple(f"urn:oid:2.999.2.{number}" for number in range(10, 15))
EVERY = 0.05  # seconds between two messages of each other source


@dataclass(slots=True)
class Copy:
    at: float
    body: bytes


@dataclass(slots=True)
class Arrivals:
    """What came to the receiver, at whatever address, in its order."""

    order: list[int] = field(default_factory=list)  # the numbers of NORTH's
    copies: dict[str, list[Copy]] = field(default_factory=dict)
    came: asyncio.Event = field(default_factory=asyncio.Event)

    def answer(self, got: Got) -> Reply:
        id = got.bundle_id
        copies = self.copies.setdefault(id, [])
        copies.append(Copy(time.monotonic(), got.body))
        who, _, number = id.partition("-")
        if who != "north":
            return CUSTODY
        self.order.append(int(number))
        self.came.set()
        if int(number) == REFUSED:
            return Reply(status=422, body=outcome("we do not take this one"))
        if int(number) == BUSY and len(copies) <= BUSY_TIMES:
            return Reply(status=503)
        if int(number) == HANGS and len(copies) == 1:
            return Reply(after=ANSWER + 2)
        return CUSTODY

    async def until(self, number: int) -> None:
        async with asyncio.timeout(60):
            while max(self.order, default=0) < number:
                self.came.clear()
                await self.came.wait()


class Sender:
    """A system that sends one message after the other, and each again until it is acknowledged."""

    def __init__(self, http: aiohttp.ClientSession, base: str, source: str, name: str) -> None:
        self._http, self._base, self._source, self._name = http, base, source, name
        self.begun: dict[str, float] = {}  # id: when it was first sent
        self.kept: set[str] = set()  # those that were acknowledged
        self.bodies: dict[str, bytes] = {}

    async def sends(self, number: int) -> None:
        id = f"{self._name}-{number}"
        body = self.bodies[id] = message(id, source=self._source)
        self.begun[id] = time.monotonic()
        while True:
            try:
                said = await send(self._http, self._base, body, query="?async=true")
            except (aiohttp.ClientError, ConnectionError):
                await asyncio.sleep(0.05)
                continue
            assert said.status == 202, said
            self.kept.add(id)
            return

    async def sends_all(self, last: int) -> None:
        for number in range(1, last + 1):
            await self.sends(number)

    async def goes_on(self) -> None:
        for number in itertools.count(1):
            await self.sends(number)
            await asyncio.sleep(EVERY)


def names(folder: Path, url: str) -> None:
    (folder / "names.yaml").write_text(f'endpoints: {{"{SOUTH}": "{url}"}}\n')


def configuration() -> dict[str, Any]:
    return {
        "directory": {"sources": ["names.yaml"], "endpoints": dict.fromkeys((NORTH, *OTHERS), "mailbox:")},
        "defaults": {
            "order": "source",
            "retry": {"first": "200ms", "max": "500ms"},
            "lane": {"answer": f"{ANSWER:.0f}s", "probe": "500ms"},
        },
        "log": {"level": "warning"},
    }


@pytest.mark.slow
async def test_what_one_source_sends_arrives_as_it_was_sent_whatever_happens(
    tmp_path: Path, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    """Design promise 4, and promise 9 beside it."""
    arrivals, first, second = Arrivals(), await receiver(), await receiver()
    first.answer = second.answer = arrivals.answer
    daemon = Daemon(tmp_path, configuration())
    names(tmp_path, first.url)
    await daemon.start()
    north = Sender(http, daemon.base, NORTH, "north")
    others = [Sender(http, daemon.base, source, f"o{number}") for number, source in enumerate(OTHERS)]
    try:
        beside = [asyncio.create_task(other.goes_on()) for other in others]
        sending = asyncio.create_task(north.sends_all(LAST))
        at_kill = await troubles(arrivals, daemon, tmp_path, first, second)
        await sending
        await arrivals.until(LAST)
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        await check_end(http, daemon)
    finally:
        await daemon.end()
    check_order(arrivals, at_kill)
    check_copies(arrivals, [north, *others])
    check_others(arrivals, others)


async def troubles(arrivals: Arrivals, daemon: Daemon, folder: Path, first: HttpReceiver, second: HttpReceiver) -> int:
    """What happens to the receiver, the directory and the broker on the way; what had arrived when it was killed."""
    await arrivals.until(RECEIVER_RESTARTS)
    await first.close()
    await asyncio.sleep(0.5)
    await first.open()
    await arrivals.until(ADDRESS_CHANGES)
    names(folder, second.url)
    await second.until_count(1)
    await arrivals.until(KILLED)
    await daemon.kill()
    at_kill = arrivals.order[-1]
    await daemon.start()
    return at_kill


async def check_end(http: aiohttp.ClientSession, daemon: Daemon) -> None:
    """Number 50 is dead, its source was told, and nothing else has happened to the others."""

    async def ended() -> bool:
        return bool((await ask(http, "GET", f"{daemon.admin}/admin/v1/status")).json["counts"]["waiting"] == 0)

    await eventually(ended, within=30)
    dead = (await ask(http, "GET", f"{daemon.admin}/admin/v1/dead")).json["dead"]
    assert [one["bundle_id"] for one in dead] == [f"north-{REFUSED}"]
    page = (await ask(http, "GET", f"{daemon.base}/Bundle", params={"message.destination-uri": NORTH})).json
    (report,) = [entry["resource"]["entry"][0]["resource"]["response"] for entry in page["entry"]]
    assert (report["code"], report["identifier"]) == ("fatal-error", f"north-{REFUSED}-h")


def check_order(arrivals: Arrivals, at_kill: int) -> None:
    firsts = list(dict.fromkeys(arrivals.order))
    assert firsts == list(range(1, LAST + 1)), "each first copy after that of the one before"
    for place, number in enumerate(arrivals.order):
        assert number == max(arrivals.order[: place + 1]), f"a copy of {number} came after a later one"
    more = {n: len(c) - 1 for n in firsts if len(c := arrivals.copies[f"north-{n}"]) > 1}
    assert more.pop(BUSY) == BUSY_TIMES
    assert more.pop(HANGS) == 1
    # further copies: of the one under way at the kill, and of the one whose answer the receiver took along
    assert len(more) <= 2, more
    assert all(count == 1 for count in more.values()), more
    assert all(0 <= n - RECEIVER_RESTARTS < 30 or n in (at_kill, at_kill + 1) for n in more), more


def check_copies(arrivals: Arrivals, senders: list[Sender]) -> None:
    """The same bytes each time, and of each source in its order."""
    for sender in senders:
        for id in sender.kept:
            assert {copy.body for copy in arrivals.copies[id]} == {sender.bodies[id]}, id
        firsts = [arrivals.copies[id][0].at for id in sender.bodies if id in sender.kept]
        assert firsts == sorted(firsts)


def check_others(arrivals: Arrivals, others: list[Sender]) -> None:
    """While number 200 hung, what other sources sent to the same receiver arrived as ever."""
    hung, again = arrivals.copies[f"north-{HANGS}"]
    took = [
        arrivals.copies[id][0].at - at for other in others for id, at in other.begun.items() if hung.at < at < again.at
    ]
    print(f"{len(took)} messages of others in {again.at - hung.at:.1f} s: p50 {statistics.median(took) * 1000:.1f} ms")
    assert again.at - hung.at > ANSWER * 0.9
    assert len(took) > 50
    assert statistics.median(took) < 0.2
    assert max(took) < ANSWER / 2
