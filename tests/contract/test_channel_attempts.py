"""One attempt, on every channel: what it comes to, how long it may take, and that it can be broken off."""

from __future__ import annotations

import asyncio
import time

import pytest
from channel_office import EAST, Office, message
from desks import whose_caller_has_a_reference, whose_caller_has_an_address, whose_peer_says
from desks.desk import WITHIN, How, ListeningDesk, Says
from e2e_messages import SOUTH, eventually, response_to

from broker.channel import Deferred, Delivered, Refused
from broker.core.delivery import State
from broker.core.envelope import Envelope
from broker.core.outcome import Who

ENVELOPE = Envelope(id="1", source="urn:oid:2.999.2.1", type="org.example.letter")
REFUSING = whose_peer_says(Says.REFUSES)
POSTPONING = whose_peer_says(Says.LATER)
DYING = whose_peer_says(Says.DIES)
HOLDING = whose_peer_says(Says.HOLDS)


async def until(office: Office, state: State) -> None:
    async def is_there() -> bool:
        return (await office.delivery()).state is state

    await eventually(is_there, every=0.02)


# -- what it comes to


async def test_peer_that_takes_it_is_delivered_to(office: Office) -> None:
    end = await office.sender.attempt(office.transmission(message("taken"), envelope=ENVELOPE))
    assert isinstance(end, Delivered)
    assert end.note
    (got,) = await office.peer.until_got(1)
    assert got.body == message("taken")


@REFUSING
async def test_peer_that_refuses_is_never_asked_again_and_the_source_is_told(office: Office) -> None:
    office.peer.says(Says.REFUSES)
    end = await office.sender.attempt(office.transmission(message("no"), envelope=ENVELOPE))
    assert isinstance(end, Refused), end
    assert end.problem.who is Who.RECEIVER
    assert end.problem.text
    office.peer.got.clear()
    assert (await office.desk.hand_in(message("never"))).how is How.TAKEN
    await until(office, State.DEAD)
    assert len(office.peer.got) == 1


@POSTPONING
async def test_peer_that_says_later_gets_it_later(office: Office) -> None:
    office.peer.says(Says.LATER)
    end = await office.sender.attempt(office.transmission(message("busy"), envelope=ENVELOPE))
    assert isinstance(end, Deferred), end
    assert end.note
    office.peer.got.clear()
    office.peer.says(Says.LATER, Says.TAKES)
    await office.desk.hand_in(message("later"))
    await until(office, State.DONE)
    assert [got.body for got in office.peer.got] == [message("later")] * 2


@DYING
async def test_peer_that_dies_in_the_middle_may_have_it_and_gets_it_again(office: Office) -> None:
    office.peer.says(Says.DIES)
    end = await office.sender.attempt(office.transmission(message("halfway"), envelope=ENVELOPE))
    assert isinstance(end, Deferred), end
    assert end.left
    office.peer.got.clear()
    office.peer.says(Says.DIES, Says.TAKES)
    await office.desk.hand_in(message("again"))
    await until(office, State.DONE)
    assert [got.body for got in office.peer.got] == [message("again")] * 2


async def test_peer_that_is_away_is_the_lanes_trouble_and_nothing_has_left(office: Office) -> None:
    await office.peer.stop()
    end = await office.sender.attempt(office.transmission(message("away"), envelope=ENVELOPE))
    assert isinstance(end, Deferred), end
    assert (end.of_peer, end.left) == (True, False)
    await office.peer.start()
    end = await office.sender.attempt(office.transmission(message("back"), envelope=ENVELOPE))
    assert isinstance(end, Delivered), end


async def test_address_that_cannot_be_used_is_refused_with_words_for_the_operator(office: Office) -> None:
    for address in office.desk.unusable:
        end = await office.sender.attempt(office.transmission(message("nowhere"), address=address, envelope=ENVELOPE))
        assert isinstance(end, Refused), (address, end)
        assert end.problem.who is Who.BROKER
        assert "secret" not in end.note + end.problem.text
        assert "directory" in end.problem.text


# -- how long


@HOLDING
async def test_attempt_ends_when_its_time_is_over(office: Office) -> None:
    office.peer.says(Says.HOLDS)
    start = time.monotonic()
    end = await office.sender.attempt(office.transmission(message("slow"), envelope=ENVELOPE, answer=0.5))
    assert isinstance(end, Deferred), end
    assert end.left
    assert 0.4 < time.monotonic() - start < 5


@HOLDING
async def test_attempt_can_be_broken_off_and_the_next_one_is_made(office: Office) -> None:
    office.peer.says(Says.HOLDS, Says.TAKES)
    first = asyncio.create_task(office.sender.attempt(office.transmission(message("first"), envelope=ENVELOPE)))
    await office.peer.until_got(1)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(first, 2)
    office.peer.release()
    end = await office.sender.attempt(office.transmission(message("second"), envelope=ENVELOPE))
    assert isinstance(end, Delivered), end


async def test_many_attempts_at_once_each_end_for_themselves(office: Office) -> None:
    bodies = [message(f"m{number}") for number in range(40)]
    ends = await asyncio.gather(
        *(office.sender.attempt(office.transmission(body, envelope=ENVELOPE)) for body in bodies)
    )
    assert {type(end) for end in ends} == {Delivered}
    await office.peer.until(lambda: len(office.peer.got) == 40)
    assert sorted(got.body for got in office.peer.got) == sorted(bodies)


# -- the end of a channel


async def test_stopping_twice_is_stopping_once(office: Office) -> None:
    channels = office.broker.channels
    for receiver in channels.receivers:
        await receiver.stop()
        await receiver.stop()
    for sender in set(channels.senders().values()):
        await sender.stop()
        await sender.stop()


# -- answers


@whose_caller_has_a_reference()
async def test_response_quotes_what_its_request_was_called(office: Office) -> None:
    request = message("asks", source=EAST)
    reference = office.desk.a_reference("order-17")
    await office.desk.hand_in(request, reference=reference)
    await office.peer.until_got(1)
    response = response_to(request)
    assert (await office.desk.hand_in(response)).how is How.TAKEN
    _, got = await office.peer.until_got(2)
    assert (got.body, got.in_reply_to) == (response, reference)


@whose_caller_has_an_address()
async def test_response_goes_to_where_the_caller_said_that_it_listens(office: Office) -> None:
    request = message("asks", to=SOUTH)
    desk = office.desk
    assert isinstance(desk, ListeningDesk)
    reference = desk.a_reference("order-18")
    await desk.hand_in(request, reference=reference, answer_here=True)
    await office.peer.until_got(1)
    response = response_to(request)
    await desk.hand_in(response)
    async with asyncio.timeout(WITHIN):
        got = await desk.answer()
    assert (got.body, got.in_reply_to) == (response, reference)
