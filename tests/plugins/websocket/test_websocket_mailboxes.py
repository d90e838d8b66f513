"""Mailboxes over fhir-broker.v1: from a position, in order, acknowledged, with a window; slow readers delay nobody."""

from __future__ import annotations

import asyncio
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from websocket_desk import FHIR, NORTH, SOUTH, Client, Desk, Frame, eventually, message, opened, response_to

from broker.store import Cutoffs


async def fill(desk: Desk, count: int, *, text: str = "", start: int = 0) -> list[bytes]:
    """So many messages in SOUTH's mailbox, in this order."""
    bodies = [message(f"m-{n}", text=text) for n in range(start, start + count)]
    async with desk.client() as client:
        for body in bodies:
            assert (await client.ask(body)).type == "receipt"
    return bodies


async def deliveries(client: Client, count: int) -> list[Frame]:
    return [await client.until("delivery") for _ in range(count)]


async def acknowledged(desk: Desk, position: int) -> list[str]:
    return [note.who for note in await desk.broker.store.notes(position) if note.what == "acknowledged"]


async def test_mailbox_is_shown_from_the_beginning_and_goes_on_live(desk: Desk) -> None:
    bodies = await fill(desk, 40)  # more than a page
    async with desk.client() as client:
        await client.say("subscribe", mailbox=SOUTH)
        said = await client.hear()
        assert (said.type, said["mailbox"], said["after"], said["window"]) == ("subscribed", SOUTH, 0, 64)
        shown = await deliveries(client, 40)
        bodies += await fill(desk, 5, start=40)
        shown += await deliveries(client, 5)
    assert [frame.body for frame in shown] == bodies
    positions = [frame["position"] for frame in shown]
    assert positions == sorted(set(positions))


async def test_reconnect_with_the_last_position_loses_nothing_and_repeats_nothing(desk: Desk) -> None:
    bodies = await fill(desk, 10)
    async with desk.client() as client:
        await client.say("subscribe", mailbox=SOUTH)
        shown = await deliveries(client, 4)
        client.socket.transport.abort()
    bodies += await fill(desk, 3, start=10)
    async with desk.client() as client:
        await client.say("subscribe", mailbox=SOUTH, after=shown[-1]["position"])
        shown += await deliveries(client, 9)
    assert [frame.body for frame in shown] == bodies


async def test_acknowledgement_is_on_disk_when_it_is_confirmed_and_covers_what_went_before(desk: Desk) -> None:
    await fill(desk, 3)
    async with desk.client() as client:
        await client.say("subscribe", mailbox=SOUTH)
        shown = await deliveries(client, 3)
        await client.say("ack", mailbox=SOUTH, position=shown[1]["position"])
        said = await client.until("acknowledged")
        assert said["position"] == shown[1]["position"]
    noted = [await acknowledged(desk, frame["position"]) for frame in shown]
    assert noted == [["127.0.0.1"], ["127.0.0.1"], []]


async def test_window_is_the_most_that_is_shown_unacknowledged(desk: Desk) -> None:
    await fill(desk, 10)
    async with desk.client() as client:
        await client.say("subscribe", mailbox=SOUTH, window=3)
        shown = await deliveries(client, 3)
        with pytest.raises(TimeoutError):
            await client.hear(within=0.3)
        await client.say("ack", mailbox=SOUTH, position=shown[-1]["position"])
        shown += await deliveries(client, 3)
        with pytest.raises(TimeoutError):
            await client.hear(within=0.3)
    assert [orjson.loads(frame.body)["id"] for frame in shown] == [f"m-{n}" for n in range(6)]


async def test_window_of_one_passes_a_whole_mailbox_one_by_one(desk: Desk) -> None:
    bodies = await fill(desk, 20)
    async with desk.client() as client:
        await client.say("subscribe", mailbox=SOUTH, window=1)
        for body in bodies:
            frame = await client.until("delivery")
            assert frame.body == body
            await client.say("ack", mailbox=SOUTH, position=frame["position"])


async def test_second_subscription_replaces_the_first(desk: Desk) -> None:
    bodies = await fill(desk, 2)
    async with desk.client() as client:
        await client.say("subscribe", mailbox=SOUTH)
        first = await deliveries(client, 2)
        await client.say("subscribe", mailbox=SOUTH, after=first[0]["position"])
        assert (await client.until("delivery")).body == bodies[1]
        await client.say("unsubscribe", mailbox=SOUTH)
        assert (await client.ask(message("after"))).type == "receipt"
        with pytest.raises(TimeoutError):
            await client.hear(within=0.3)


async def test_many_readers_at_the_end_share_one_read_and_each_gets_every_message(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, reads = desk.broker.store, 0
    read = store.read

    async def counted(*args: Any) -> Any:
        nonlocal reads
        reads += 1
        return await read(*args)

    clients: list[Client] = []
    async with desk.client() as sender:
        opened_ones = [desk.client() for _ in range(30)]
        try:
            for one in opened_ones:
                clients.append(await one.__aenter__())
                await clients[-1].say("subscribe", mailbox=SOUTH)
                await clients[-1].hear()
            await asyncio.sleep(0.3)  # all have looked, and found nothing
            monkeypatch.setattr(store, "read", counted)
            bodies = [message(f"s-{n}") for n in range(5)]
            for body in bodies:
                assert (await sender.ask(body)).type == "receipt"
            for client in clients:
                assert [frame.body for frame in await deliveries(client, 5)] == bodies
        finally:
            for one in opened_ones:
                await one.__aexit__(None, None, None)
    assert reads <= 10, "one read for each time that all are woken"


async def test_reader_that_does_not_read_costs_bounded_memory_and_delays_nobody(tmp_path: Path) -> None:
    """Its queue fills, it falls behind; once it reads again it is shown everything."""
    async with opened(tmp_path / "b", {"send_queue": "64KiB", "ping": "30s"}) as desk:
        small = socket.socket()
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        small.setblocking(False)
        host, _, port = desk.broker.listening["websocket"].rpartition(":")
        await asyncio.get_running_loop().sock_connect(small, (host, int(port)))
        async with desk.client(sock=small, max_queue=1) as slow, desk.client() as quick:
            await slow.say("subscribe", mailbox=SOUTH, window=1000)
            await quick.say("subscribe", mailbox=SOUTH, window=1000)
            text = "x" * 100_000
            bodies = await fill(desk, 60, text=text)
            assert [frame.body for frame in await deliveries(quick, 60)] == bodies
            (receiver,) = desk.broker.channels.receivers[1:] or desk.broker.channels.receivers
            waiting = [c.transport.get_write_buffer_size() for c in receiver._sessions]  # type: ignore[attr-defined]
            assert max(waiting) < 400_000, "the queue, and one message more"
            assert [frame.body for frame in await deliveries(slow, 60)] == bodies


async def test_position_whose_followers_are_gone_ends_the_subscription_with_a_word(tmp_path: Path) -> None:
    async with opened(tmp_path / "b", defaults={"sync": {"expects": "nothing"}}) as desk, desk.client() as client:
        await fill(desk, 3)
        await client.say("subscribe", mailbox=SOUTH)
        shown = await deliveries(client, 3)
        await client.say("ack", mailbox=SOUTH, position=shown[-1]["position"])
        await client.until("acknowledged")
        later = desk.broker.here.now() + timedelta(days=1)
        await desk.broker.store.retain(Cutoffs(body=later, mailbox=later, identity=later, trace=later))
        await client.say("subscribe", mailbox=SOUTH, after=1)
        said = await client.until("unsubscribed")
        assert (said["mailbox"], said["problem"]) == (SOUTH, "position-gone")
        assert "go on after" in said["text"]


async def test_who_sends_reads_its_own_responses_from_its_own_mailbox(desk: Desk) -> None:
    """The way back: a response to a request that nobody waits for any more is in the mailbox of its source."""
    async with desk.client() as north, desk.client() as south:
        request = message("q")
        await north.ask(request)
        await north.say("subscribe", mailbox=NORTH)
        await south.say("subscribe", mailbox=SOUTH)
        got = await south.until("delivery")
        assert (await south.ask(response_to(got.body, id="re"))).type == "receipt"
        back = await north.until("delivery")
        assert (back["mailbox"], orjson.loads(back.body)["id"]) == (NORTH, "re")


async def test_mailbox_shows_the_same_as_over_http(desk: Desk) -> None:
    await fill(desk, 2)
    async with desk.client() as client, aiohttp.ClientSession() as http:
        await client.say("subscribe", mailbox=SOUTH)
        shown = await deliveries(client, 2)
        for frame in shown:
            async with http.get(f"{desk.http}/Bundle/{frame['id']}") as kept:
                assert (await kept.read(), kept.content_type) == (frame.body, FHIR)


async def test_connection_reads_a_bounded_number_of_mailboxes(desk: Desk) -> None:
    async with desk.client() as client:
        for number in range(100):
            await client.say("subscribe", mailbox=f"urn:oid:2.999.3.{number}")
            assert (await client.hear()).type == "subscribed"
        await client.say("subscribe", mailbox="urn:oid:2.999.4")
        assert (await client.hear())["problem"] == "too-many-mailboxes"


async def test_readers_that_leave_are_forgotten(desk: Desk) -> None:
    async with desk.client() as client:
        await client.say("subscribe", mailbox=SOUTH)
        await client.say("follow", endpoint=SOUTH)
        await client.until("following")
    receiver: Any = desk.broker.channels.receivers[-1]

    async def forgotten() -> bool:
        return not receiver._sessions and not receiver._showing._tails and not receiver._showing._tasks

    await eventually(forgotten)
    assert not receiver._following._followed
    assert not desk.broker.live
    assert not desk.broker.followers._mailboxes
