"""Accepted means kept, on every channel: nothing acknowledged is lost, and "later" is clear (promises 1, 2, 7)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import orjson
import pytest
from channel_office import BOX, Office, message
from desks import DESKS, whose_peer_says
from desks.desk import WITHIN, Desk, Ended, How, Says
from e2e_daemon import Daemon

from broker.core.outcome import StoreUnavailable
from broker.plugins import find, known

PLUGINS = Path(__file__).parents[2] / "plugins"
TOO_LONG_FOR_ANY = 0.5  # seconds in which an acknowledgement that does not wait would long have come
OUTAGE = 10.0  # seconds


async def hand_in_many(desk: Desk, count: int, *, at_once: int = 8, start: int = 0) -> dict[str, Ended]:
    """How each of so many messages ended, by its id; what is told "later" is sent again until it ends otherwise."""
    ended: dict[str, Ended] = {}
    places = asyncio.Semaphore(at_once)

    async def one(id: str) -> None:
        async with places:
            ended[id] = await desk.hand_in(message(id))

    async with asyncio.TaskGroup() as group:
        for number in range(start, start + count):
            group.create_task(one(f"load-{number}"))
    return ended


def ids(office: Office) -> list[str]:
    return [orjson.loads(got.body)["id"] for got in office.peer.got]


def taken(ended: dict[str, Ended]) -> set[str]:
    return {id for id, one in ended.items() if one.how is How.TAKEN}


def later(problem: str) -> list[tuple[How, str]]:
    """Some protocols say "later" without a word: what is not acknowledged stays where it was."""
    return [(How.LATER, problem), (How.LATER, "")]


# -- durable before acknowledged


async def test_nothing_is_acknowledged_before_the_commit(office: Office) -> None:
    with office.held_commits():
        handing = asyncio.create_task(office.desk.hand_in(message("held")))
        done, _ = await asyncio.wait([handing], timeout=TOO_LONG_FOR_ANY)
        assert not done
        assert office.peer.got == []
    assert (await handing).how is How.TAKEN
    await office.peer.until_got(1)


async def test_message_that_the_store_cannot_write_is_not_acknowledged(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept = office.broker.store.accept

    async def fails(*_: object) -> None:
        raise StoreUnavailable("the disk is gone", retry_after=0.2)

    monkeypatch.setattr(office.broker.store, "accept", fails)
    ended = await office.desk.hand_in(message("unwritten"))
    assert (ended.how, ended.problem) in later("store-unavailable")
    monkeypatch.setattr(office.broker.store, "accept", accept)
    assert (await office.desk.again(message("unwritten"))).how is How.TAKEN
    await office.peer.until_got(1)


@pytest.mark.slow
async def test_what_was_acknowledged_is_delivered_after_kill_9(office: Office, tmp_path: Path) -> None:
    """A process of its own is killed under load; what it acknowledged reaches the peer once it is started again."""
    await office.stop()
    daemon = Daemon(tmp_path / "daemon", {})
    daemon.config = office.configuration() | {"admin": {"listen": f"127.0.0.1:{daemon.admin_port}"}}
    daemon.write()
    try:
        await daemon.start()
        before = await hand_in_many(office.desk, 20)
        loading = asyncio.create_task(hand_in_many(office.desk, 150, start=20))
        await office.peer.until(lambda: len(set(ids(office))) >= 35)
        await daemon.kill()
        await daemon.start()
        acknowledged = taken(before) | taken(await loading)
        assert len(acknowledged) >= 35
        await office.peer.until(lambda: acknowledged <= set(ids(office)))
    finally:
        await daemon.end()


# -- once


async def test_copy_is_recognised_and_not_delivered_twice(office: Office) -> None:
    first = await office.desk.hand_in(message("twice"))
    await office.peer.until_got(1)
    second = await office.desk.hand_in(message("twice"))
    assert (first.how, second.how) == (How.TAKEN, How.TAKEN)
    assert (first.duplicate, second.duplicate) in [(False, True), (None, None)]
    assert (await office.desk.hand_in(message("other"))).how is How.TAKEN
    await office.peer.until(lambda: "other" in ids(office))
    assert sorted(ids(office)) == ["other", "twice"]
    assert await office.accepted() == 2


async def test_same_ids_with_other_content_are_refused(office: Office) -> None:
    await office.desk.hand_in(message("reused", text="one"))
    ended = await office.desk.hand_in(message("reused", text="two"))
    assert (ended.how, ended.problem) == (How.REFUSED, "reused-id")


# -- never, at the door

REFUSED = {
    "no message": (b'{"resourceType":"Patient","id":"p"}', None),
    "no JSON": (b"\x00\xff\xfe{", None),
    "cut off": (message("cut")[:-7], None),
    "nobody knows its destination": (message("lost", to="urn:oid:2.999.404"), "unknown-destination"),
    "larger than is taken": (message("huge", text="x" * 33 * 2**20), "too-large"),
}


@pytest.mark.parametrize(("body", "problem"), REFUSED.values(), ids=REFUSED.keys())
async def test_what_cannot_be_taken_is_refused_with_the_problem_and_harms_nobody(
    office: Office, body: bytes, problem: str | None
) -> None:
    ended = await office.desk.hand_in(body)
    assert ended.how is How.REFUSED
    assert ended.problem
    assert problem in (None, ended.problem)
    assert (await office.desk.hand_in(message("after"))).how is How.TAKEN
    await office.peer.until_got(1)
    assert ids(office) == ["after"]


# -- later


async def test_full_intake_is_a_clear_later_and_heals(office: Office) -> None:
    room = office.broker.intake.hold()
    room.grow(64 * 2**20)
    ended = await office.desk.hand_in(message("busy"))
    assert (ended.how, ended.problem) in later("busy")
    assert await office.accepted() == 0
    room.let_go()
    assert (await office.desk.again(message("busy"))).how is How.TAKEN
    await office.peer.until_got(1)
    assert office.broker.intake.in_flight == 0


async def test_room_that_a_refused_message_took_is_given_back(office: Office) -> None:
    for number in range(3):
        assert (
            await office.desk.hand_in(message(f"large-{number}", to="urn:oid:2.999.404", text="x" * 2**21))
        ).how is How.REFUSED
    assert office.broker.intake.in_flight == 0


# -- drain


async def test_drain_ends_what_is_under_way_and_takes_nothing_new(office: Office) -> None:
    """What was acknowledged is delivered now or by the next start; what was not, was told so or nothing at all."""
    loading = asyncio.create_task(hand_in_many(office.desk, 60))
    await office.peer.until_got(10)
    await office.stop()
    ended: dict[str, Ended] = {}
    if not office.desk.tries_again:
        ended = await loading
        assert {one.how for one in ended.values()} >= {How.TAKEN}
        assert (await office.desk.hand_in(message("closed"))).how in (How.LATER, How.LOST)
        assert "closed" not in ids(office)
    await office.start()
    ended = ended or await loading
    await office.peer.until(lambda: taken(ended) <= set(ids(office)))


@whose_peer_says(Says.HOLDS)
async def test_attempt_that_is_under_way_is_finished_before_the_broker_stops(office: Office) -> None:
    office.peer.says(Says.HOLDS)
    await office.desk.hand_in(message("held"))
    await office.peer.until_got(1)
    stopping = asyncio.create_task(office.stop())
    done, _ = await asyncio.wait([stopping], timeout=TOO_LONG_FOR_ANY)
    assert not done
    office.peer.release()
    await asyncio.wait_for(stopping, WITHIN)
    await office.start()
    await office.desk.hand_in(message("next"))
    await office.peer.until(lambda: "next" in ids(office))
    assert ids(office) == ["held", "next"]


# -- the peer goes away and comes back


@pytest.mark.slow
async def test_peer_that_is_stopped_for_ten_seconds_under_load_gets_all_that_was_acknowledged(office: Office) -> None:
    ended: dict[str, Ended] = {}

    async def load() -> None:
        while not back.is_set():
            ended.update(await hand_in_many(office.desk, 4, at_once=4, start=len(ended)))
            await asyncio.sleep(0.05)

    back = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(load())
        await office.peer.until_got(20)
        await office.peer.stop()
        await asyncio.sleep(OUTAGE)  # messages go on coming meanwhile
        before = len(taken(ended))
        await office.peer.start()
        await asyncio.sleep(TOO_LONG_FOR_ANY)
        back.set()
    assert len(taken(ended)) == len(ended) > before > 50
    await office.peer.until(lambda: taken(ended) <= set(ids(office)), within=40)


async def test_messages_are_taken_while_the_peer_is_away(office: Office) -> None:
    await office.peer.stop()
    ended = await hand_in_many(office.desk, 10)
    assert len(taken(ended)) == 10
    assert (await office.desk.hand_in(message("boxed", to=BOX))).how is How.TAKEN
    await office.peer.start()
    await office.peer.until(lambda: len(set(ids(office))) == 10)


def test_every_channel_that_is_installed_has_a_desk_and_the_name_of_its_folder() -> None:
    names = [desk.name for desk in DESKS]
    assert len(set(names)) == len(names)
    folders = {path.parent.name for path in PLUGINS.glob("*/__init__.py")}
    assert folders <= set(known()) <= set(names)
    assert {find(name).name for name in folders} == folders
