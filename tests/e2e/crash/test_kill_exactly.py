"""kill -9 at the exact points where a message could be lost, doubled or left without its answer."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from e2e_daemon import ROOT, Daemon
from e2e_messages import NORTH, SOUTH, ask, eventually, message, response_to, send
from e2e_receiver import Got, HttpReceiver, OpenReceiver, Reply

STARTER = Path(__file__).with_name("kill_at.py")

# point: how often the receiver may have seen the message in the end, and whether it was kept when the process died.
# While a caller waits, message and answer are one transaction, unless something else asks for the disk in between.
WITH_CALLER: dict[str, tuple[set[int], bool | None]] = {
    "read-not-committed": ({1, 2}, False),
    "committed-not-answered": ({1, 2}, True),
    "answered-not-settled": ({2}, None),
    "settling": ({2}, None),
    "settled-nobody-told": ({1}, True),
    "response-not-written": ({1}, True),
}
ACKNOWLEDGED = {
    "read-not-committed": (1, False),
    "committed-not-answered": (1, True),
    "answered-not-settled": (2, True),
    "settling": (2, True),
    "settled-nobody-told": (1, True),
}


class Settled:
    """A receiver that answers a copy as it answered the first, as one that looks for duplicates does."""

    def __init__(self, south: HttpReceiver) -> None:
        self.given: dict[str, bytes] = {}
        south.answer = self.answer

    def answer(self, got: Got) -> Reply:
        return Reply(body=self.given.setdefault(got.bundle_id, response_to(got.body)))


def configuration(south: HttpReceiver) -> dict[str, Any]:
    return {
        "directory": {"endpoints": {SOUTH: south.url}},
        "defaults": {"retry": {"first": "300ms"}, "sync": {"wait": "15s"}},
    }


async def start_mined(daemon: Daemon, point: str) -> None:
    """A daemon that dies when it comes to the point."""
    command = [sys.executable, str(STARTER), point, str(daemon.file)]
    await daemon.start(command=command, env={"PYTHONPATH": str(ROOT)})


async def positions(http: aiohttp.ClientSession, daemon: Daemon) -> int:
    status = (await ask(http, "GET", f"{daemon.admin}/admin/v1/status")).json
    return int(status["counts"]["positions"])


@pytest.mark.parametrize("point", WITH_CALLER)
async def test_the_resend_of_a_caller_that_was_cut_off_gets_the_one_answer(
    point: str, tmp_path: Path, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    times, kept = WITH_CALLER[point]
    south = await receiver()
    settled = Settled(south)
    daemon = Daemon(tmp_path, configuration(south))
    body = message(point)
    try:
        await start_mined(daemon, point)
        with pytest.raises(aiohttp.ClientError):
            await send(http, daemon.base, body)
        assert await daemon.ended() == -signal.SIGKILL
        await daemon.start()
        assert kept is None or bool(await positions(http, daemon)) is kept
        for _ in range(2):
            said = await send(http, daemon.base, body)
            assert (said.status, said.body) == (200, settled.given[point]), said
        assert len(south.got) in times
        assert {got.body for got in south.got} == {body}
        assert len({got.headers["ce-id"] for got in south.got}) == 1
    finally:
        await daemon.end()


@pytest.mark.parametrize("point", ACKNOWLEDGED)
async def test_what_was_acknowledged_is_delivered_and_its_answer_lies_in_the_mailbox_once(
    point: str, tmp_path: Path, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    times, kept = ACKNOWLEDGED[point]
    south = await receiver()
    settled = Settled(south)
    daemon = Daemon(tmp_path, configuration(south))
    body = message(point)
    acknowledged = False
    try:
        await start_mined(daemon, point)
        try:
            acknowledged = (await send(http, daemon.base, body, query="?async=true")).status == 202
        except aiohttp.ClientError:  # it died first: the sender knows nothing, and has to send again
            acknowledged = False
        assert await daemon.ended() == -signal.SIGKILL
        await daemon.start()
        assert bool(await positions(http, daemon)) is kept
        if not acknowledged:
            assert (await send(http, daemon.base, body, query="?async=true")).status == 202
        mailbox = f"{daemon.base}/Bundle?message.destination-uri={NORTH}&_offset=0"

        async def answered() -> bool:
            return bool((await ask(http, "GET", mailbox)).json.get("entry"))

        await eventually(answered)
        page = (await ask(http, "GET", mailbox)).json
        assert [entry["resource"] for entry in page["entry"]] == [orjson.loads(settled.given[point])]
        assert [got.body for got in south.got] == [body] * times
    finally:
        await daemon.end()
