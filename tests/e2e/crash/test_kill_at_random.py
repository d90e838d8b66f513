"""kill -9 at random instants under load, round after round on one store: what was acknowledged is delivered."""

from __future__ import annotations

import asyncio
import os
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from e2e_daemon import Daemon
from e2e_messages import FHIR_JSON, SOUTH, Said, ask, message, response_to
from e2e_receiver import CUSTODY, Got, HttpReceiver, OpenReceiver, Reply

ROUNDS = int(os.environ.get("CRASH_ROUNDS", "50"))
SEED = int(os.environ.get("CRASH_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
LIVES = (0.05, 0.5)  # seconds of a daemon's life once it is ready
SENDERS = 6
UNDER_WAY = 32  # 16 at once in the lane, and those whose end is just being written
CLAIMED = 75.0  # what one life took out of the store is not due again for a minute: a crash costs that delay
HELD = "urn:oid:2.999.2.3"  # lives in a mailbox
LARGE = 300_000  # bytes: beyond what the store keeps in its rows


@dataclass(slots=True)
class Copy:
    """One arrival at the receiver."""

    life: int
    at: float
    body: bytes


@dataclass(slots=True)
class Ledger:
    """What the senders know, and what the receiver saw."""

    sent: dict[str, tuple[bytes, str, bool]] = field(default_factory=dict)  # id: body, query, whether for a mailbox
    unanswered: list[str] = field(default_factory=list)
    heard: dict[str, tuple[Said, float]] = field(default_factory=dict)
    copies: dict[str, list[Copy]] = field(default_factory=dict)
    responses: dict[str, bytes] = field(default_factory=dict)
    life: int = 0

    def next(self, dice: random.Random) -> str:
        """What to send now: what was cut off before anything new."""
        if self.unanswered:
            return self.unanswered.pop(0)
        id = f"m-{len(self.sent)}"
        kind = dice.choices(("async", "sync", "mailbox", "large"), (4, 4, 2, 0.3))[0]
        to = HELD if kind == "mailbox" else SOUTH
        body = message(id, to=to, text="x" * LARGE if kind == "large" else "")
        self.sent[id] = (body, "" if kind == "sync" else "?async=true", kind == "mailbox")
        return id

    def receive(self, got: Got) -> Reply:
        id = got.bundle_id
        copies = self.copies.setdefault(id, [])
        copies.append(Copy(self.life, time.monotonic(), got.body))
        if not id.endswith(("0", "1", "2", "3", "4")):
            return CUSTODY
        return Reply(body=self.responses.setdefault(id, response_to(got.body)))


async def sender(ledger: Ledger, session: aiohttp.ClientSession, base: str, dice: random.Random) -> None:
    """Sends one message after the other until the daemon is gone."""
    while True:
        id = ledger.next(dice)
        body, query, _ = ledger.sent[id]
        try:
            await hear(ledger, session, base, id, body, query)
        except (aiohttp.ClientError, ConnectionError):
            ledger.unanswered.append(id)
            return


async def hear(ledger: Ledger, session: aiohttp.ClientSession, base: str, id: str, body: bytes, query: str) -> None:
    url = f"{base}/$process-message{query}"
    said = await ask(session, "POST", url, data=body, headers={"Content-Type": FHIR_JSON})
    assert said.status in (200, 202), said
    ledger.heard[id] = (said, time.monotonic())


async def live_and_die(ledger: Ledger, daemon: Daemon, dice: random.Random) -> None:
    ledger.life += 1
    await daemon.start()
    async with aiohttp.ClientSession() as session:
        senders = [asyncio.create_task(sender(ledger, session, daemon.base, dice)) for _ in range(SENDERS)]
        await asyncio.sleep(dice.uniform(*LIVES))
        assert daemon.runs, daemon.output
        await daemon.kill()
        await asyncio.gather(*senders)


async def resend(ledger: Ledger, session: aiohttp.ClientSession, daemon: Daemon) -> None:
    """Everybody who was cut off asks again, under the same ids."""
    for id in [*ledger.unanswered]:
        body, query, _ = ledger.sent[id]
        await hear(ledger, session, daemon.base, id, body, query)
    ledger.unanswered.clear()


async def mailbox(session: aiohttp.ClientSession, base: str, endpoint: str) -> list[bytes]:
    """Every message of a mailbox, as its bytes came."""
    url = f"{base}/Bundle?message.destination-uri={quote(endpoint, safe='')}&_offset=0&_count=200"
    bodies: list[bytes] = []
    while True:
        page = (await ask(session, "GET", url)).json
        if not page.get("entry"):
            return bodies
        for entry in page["entry"]:
            id = entry["fullUrl"].removeprefix("urn:uuid:")
            bodies.append((await ask(session, "GET", f"{base}/Bundle/{id}")).body)
        url = next(link["url"] for link in page["link"] if link["relation"] == "next")


def configuration(south: HttpReceiver) -> dict[str, Any]:
    return {
        "directory": {"endpoints": {SOUTH: south.url, HELD: "mailbox:"}},
        "defaults": {"retry": {"first": "500ms", "max": "2s"}, "sync": {"wait": "1s"}},
        "log": {"level": "warning"},
    }


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_what_was_acknowledged_survives_every_kill(tmp_path: Path, receiver: OpenReceiver) -> None:
    print(f"CRASH_SEED={SEED} CRASH_ROUNDS={ROUNDS}")
    dice, ledger = random.Random(SEED), Ledger()
    south = await receiver()
    south.answer = ledger.receive
    daemon = Daemon(tmp_path, configuration(south))
    try:
        for _ in range(ROUNDS):
            await live_and_die(ledger, daemon, dice)
        ledger.life += 1
        await daemon.start()
        async with aiohttp.ClientSession() as session:
            await resend(ledger, session, daemon)
            carried = {id for id, (_, _, held) in ledger.sent.items() if not held}
            await south.until(lambda: ledger.copies.keys() >= carried, within=CLAIMED)
            kept = await mailbox(session, daemon.base, HELD)
        assert daemon.output == "", "it complained of something"
    finally:
        await daemon.end()
    assert ledger.heard.keys() == ledger.sent.keys()
    assert sorted(kept) == sorted(body for body, _, held in ledger.sent.values() if held)
    check_copies(ledger)
    check_answers(ledger)


def check_copies(ledger: Ledger) -> None:
    """The same bytes each time; a further copy only of what was under way when a daemon was killed."""
    for id, copies in ledger.copies.items():
        assert {copy.body for copy in copies} == {ledger.sent[id][0]}, id
        lives = [copy.life for copy in copies]
        assert len(lives) == len(set(lives)), f"{id} was sent twice within one life: {lives}"
        said, at = ledger.heard[id]
        if said.status == 200 and not ledger.sent[id][1]:  # its end was written before the caller heard it
            assert all(copy.at < at for copy in copies), f"{id} was carried again after its end was told"
    more = sum(len(copies) - 1 for copies in ledger.copies.values())
    print(f"{len(ledger.sent)} messages, {len(ledger.copies)} carried, {more} copies")
    assert more <= ROUNDS * UNDER_WAY, f"{more} copies are more than were under way"


def check_answers(ledger: Ledger) -> None:
    """Who heard an answer heard the receiver's."""
    for id, (said, _) in ledger.heard.items():
        if said.status == 200 and id in ledger.responses:
            assert said.body == ledger.responses[id], id
