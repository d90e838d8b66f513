"""The machine's clock is set by an hour under a whole broker; only the two sources of time are put in by hand."""

from __future__ import annotations

import time
from pathlib import Path

import aiohttp
import pytest
from e2e_daemon import Daemon
from e2e_messages import NORTH, SOUTH, ask, eventually, message, send
from e2e_receiver import OpenReceiver, Reply

from broker.app import Broker
from broker.config import load
from broker.flow.clock import SteadyClock


@pytest.mark.parametrize("set_by", [3600.0, -3600.0])
async def test_setting_the_clock_by_an_hour_neither_expires_nor_retries_nor_reports(
    tmp_path: Path, receiver: OpenReceiver, http: aiohttp.ClientSession, set_by: float
) -> None:
    south = await receiver()
    south.answer = lambda got: Reply(status=503)
    files = Daemon(
        tmp_path,
        {
            "directory": {"endpoints": {SOUTH: south.url, NORTH: "mailbox:"}},
            "defaults": {"retry": {"first": "10m", "max": "10m", "give_up": "30m"}, "mailbox": {"unread": "20m"}},
        },
    )
    off = 0.0
    broker = Broker(load(files.file), clock=SteadyClock(wall=lambda: time.time() + off))
    await broker.start()
    try:
        assert (await send(http, files.base, message(), query="?async=true")).status == 202
        assert (await send(http, files.base, message(source=SOUTH, to=NORTH), query="?async=true")).status == 202
        await south.until_count(1)
        off = set_by
        looked = broker.here.now()

        async def two_seconds_have_passed() -> bool:
            return (broker.here.now() - looked).total_seconds() > 2

        await eventually(two_seconds_have_passed)
        assert abs(broker.here.now().timestamp() - time.time()) < 1
        assert len(south.got) == 1
        counts = (await ask(http, "GET", f"{files.admin}/admin/v1/status")).json["counts"]
        assert (counts["waiting"], counts["dead"], counts["positions"]) == (1, 0, 2)
        south.answer = lambda got: Reply()
        assert (await send(http, files.base, message(source=SOUTH, to=NORTH), query="?async=true")).status == 202
        kept = await broker.store.stored(3)
        assert kept is not None
        assert abs(kept.accepted.timestamp() - time.time()) < 5, "what is accepted is stamped with the broker's time"
    finally:
        await broker.stop()
