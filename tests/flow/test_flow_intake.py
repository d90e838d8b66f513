"""The room for what is being taken in: what ran out is named with its figures, and the wait follows from the queue."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from flow_post import Opened, Post, message

from broker.channel import Arrival, Peer
from broker.core.answer import AnswerKind
from broker.core.outcome import Busy, Refusal, StoreUnavailable
from broker.flow.intake import Intake
from broker.store import StoreError

MIB = 1 << 20


async def refused(post: Post, body: bytes | None = None) -> Refusal:
    with pytest.raises(Refusal) as raised:
        await post.send(body or message("b99", "m99"), asynchronous=True)
    return raised.value


@pytest.fixture
async def small(opened: Opened) -> Post:
    """A broker that holds ten megabytes, and has taken in one each second of late."""
    post = await opened(in_flight=10 * MIB, min_free=1000, max_wal=500)
    for second in range(6):
        post.steady = float(second)
        post.intake.look()
        post.intake.enter(MIB)
        post.intake.leave(MIB)
    post.dice = 0.0
    return post


def filled(intake: Intake) -> int:
    room = 10 * MIB - 10
    intake.enter(room)
    return room


async def test_wait_of_a_full_intake_is_its_bytes_over_the_rate_at_which_they_went(small: Post) -> None:
    room = filled(small.intake)
    busy = await refused(small)
    assert isinstance(busy, Busy)
    assert busy.retry_after == 9  # ten megabytes, and six went in the last five seconds
    assert str(10 * MIB) in busy.problem.text
    assert str(room) in busy.problem.text
    assert "limits.in_flight" in busy.problem.text
    small.intake.leave(room)
    assert (await small.send(message(), asynchronous=True)).kind is AnswerKind.ACCEPTED


async def test_full_disk_names_its_figures_and_asks_for_ever_longer_patience(small: Post) -> None:
    small.free = 999
    waits = []
    for later in (0, 60, 240, 540):
        small.steady = 100.0 + later
        refusal = await refused(small)
        assert isinstance(refusal, StoreUnavailable)
        waits.append(refusal.retry_after)
    assert waits == [5, 30, 120, 200]
    assert "999" in refusal.problem.text
    assert "1000" in refusal.problem.text
    small.free = 1000
    assert (await small.send(message(), asynchronous=True)).kind is AnswerKind.ACCEPTED


async def test_long_log_is_later_too_and_heals_by_itself(small: Post) -> None:
    small.wal = 501
    small.intake.look()
    refusal = await refused(small)
    assert isinstance(refusal, StoreUnavailable)
    assert (refusal.retry_after, "store.max_wal" in refusal.problem.text) == (5, True)
    small.wal = 500
    assert (await small.send(message(), asynchronous=True)).kind is AnswerKind.ACCEPTED


async def test_store_that_cannot_write_is_left_alone_longer_each_time(
    small: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(new: object) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_exception(StoreError("database or disk is full"))
        return future

    monkeypatch.setattr(small.store, "accept", fails)
    small.steady = 100.0
    assert (await refused(small)).retry_after == 5
    small.steady = 160.0
    assert (await refused(small)).retry_after == 30


async def test_body_that_comes_in_pieces_counts_while_it_comes_and_until_it_is_kept(small: Post) -> None:
    intake = small.intake
    hold = intake.hold()
    hold.grow(4 * MIB)
    hold.grow(4 * MIB)
    assert intake.in_flight == 8 * MIB
    other = intake.hold()
    other.grow(2 * MIB)
    with pytest.raises(Busy):
        other.grow(1)
    other.let_go()
    other.let_go()
    assert intake.in_flight == 8 * MIB
    arrival = Arrival(
        channel="test", peer=Peer(address="x"), body=message(), media_type="application/fhir+json", at=small.now
    )
    await small.receiving(msgspec.structs.replace(arrival, hold=hold))
    assert intake.in_flight == 0


async def test_body_in_pieces_that_a_stopping_broker_refuses_gives_its_room_back(small: Post) -> None:
    """As the door says of `Arrival.hold`: the flow lets it go, however that ends."""
    intake = small.intake
    hold = intake.hold()
    hold.grow(MIB)
    arrival = Arrival(
        channel="test", peer=Peer(address="x"), body=message(), media_type="application/fhir+json", at=small.now
    )
    intake.draining = True
    with pytest.raises(Busy):
        await small.receiving(msgspec.structs.replace(arrival, hold=hold))
    assert intake.in_flight == 0


async def test_body_that_is_alone_may_come_to_its_end_however_small_the_limit(opened: Opened) -> None:
    intake = (await opened(in_flight=10)).intake
    hold = intake.hold()
    hold.grow(8)
    hold.grow(8)
    with pytest.raises(Busy):
        intake.enter(1)
    hold.let_go()
    intake.enter(1)
    assert intake.in_flight == 1


async def test_refused_message_takes_no_room(small: Post) -> None:
    hold = small.intake.hold()
    hold.grow(MIB)
    arrival = Arrival(
        channel="test", peer=Peer(address="x"), body=b"{}", media_type="text/plain", at=small.now, hold=hold
    )
    with pytest.raises(Refusal):
        await small.receiving(arrival)
    assert small.intake.in_flight == 0
