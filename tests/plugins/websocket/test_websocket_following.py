"""Live notifications: what happens to an endpoint's messages, as it happens, and a word where some were missed."""

from __future__ import annotations

import asyncio
import socket
from datetime import UTC, datetime
from pathlib import Path

from websocket_desk import EAST, NORTH, SOUTH, Client, Desk, Partner, message, opened, partner_open

from broker.channel import Happening
from plugins.websocket.following import written


async def test_arrivals_in_a_mailbox_and_states_of_what_was_sent_are_told(tmp_path: Path) -> None:
    partner = Partner()
    async with (
        partner_open(partner),
        opened(tmp_path / "b", endpoints={EAST: partner.url}) as desk,
        desk.client() as client,
        desk.client() as watcher,
    ):
        for endpoint in (SOUTH, NORTH):
            await watcher.say("follow", endpoint=endpoint)
            assert (await watcher.hear()).json == {"type": "following", "endpoint": endpoint}
        to_mailbox, to_east = await client.ask(message()), await client.ask(message(to=EAST))
        heard = [await watcher.until("event") for _ in range(4)]
        told = {(one["endpoint"], one["what"], one["id"]) for one in heard}
        assert told == {
            (SOUTH, "arrived", to_mailbox["id"]),
            (NORTH, "accepted", to_mailbox["id"]),
            (NORTH, "accepted", to_east["id"]),
            (NORTH, "delivered", to_east["id"]),
        }
        delivered = next(one for one in heard if one["what"] == "delivered")
        assert delivered["destination"] == [EAST]
        assert delivered["position"] == to_east["position"]


async def test_who_unfollows_hears_no_more(desk: Desk) -> None:
    async with desk.client() as client:
        await client.say("follow", endpoint=SOUTH)
        await client.until("following")
        await client.ask(message())
        await client.until("event")
        await client.say("unfollow", endpoint=SOUTH)
        await client.ask(message())
        assert not desk.broker.live


async def test_slow_follower_is_told_of_a_gap_and_delays_nobody(tmp_path: Path) -> None:
    async with opened(tmp_path / "b", {"send_queue": "8KiB"}) as desk:
        small = socket.socket()
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        small.setblocking(False)
        host, _, port = desk.broker.listening["websocket"].rpartition(":")
        await asyncio.get_running_loop().sock_connect(small, (host, int(port)))
        async with desk.client(sock=small, max_queue=1) as slow, desk.client(max_queue=None) as quick:
            for one in (slow, quick):
                await one.say("follow", endpoint=SOUTH)
                await one.until("following")
            slow.socket.transport.pause_reading()
            count = 40_000
            for first in range(0, count, 500):
                for number in range(first, first + 500):
                    desk.broker.live.tell(SOUTH, "arrived", number + 1, note="x" * 100)
                await until_position(quick, first + 500)
            slow.socket.transport.resume_reading()
            while (frame := await slow.hear()).type == "event":
                pass
            assert frame.json == {"type": "gap", "endpoint": SOUTH}
            desk.broker.live.tell(SOUTH, "arrived", count + 1)
            assert (await slow.until("event"))["position"] == count + 1, "and it goes on"


async def until_position(client: Client, position: int) -> None:
    while (await client.hear())["position"] < position:
        pass


async def test_more_events_than_can_wait_are_one_gap_for_all(desk: Desk) -> None:
    async with desk.client() as client:
        await client.say("follow", endpoint=SOUTH)
        await client.until("following")
        for number in range(1001):  # without a turn of the loop
            desk.broker.live.tell(SOUTH, "arrived", number + 1)
        assert (await client.hear()).type == "gap"


def test_event_is_written_with_what_it_has() -> None:
    at = datetime(2026, 3, 1, 12, tzinfo=UTC)
    happening = Happening(endpoint=NORTH, what="refused", message_id="id", position=4, at=at, note="no-route")
    text = (
        b'{"type":"event","endpoint":"urn:oid:2.999.2.1","what":"refused","id":"id","position":4,'
        b'"at":"2026-03-01T12:00:00Z","note":"no-route"}'
    )
    assert written(NORTH, happening) == (text, True)
