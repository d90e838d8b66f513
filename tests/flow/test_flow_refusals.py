"""What is refused at the door is counted by day, source and reason, and kept in groups."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from flow_post import NOBODY, SENDER, START, A, Post, message

from broker.core.outcome import MessageInvalid, NoRoute
from broker.flow import refusals
from broker.store import StoreError
from broker.store.ledger import Refused, RefusedAs


async def tally(post: Post) -> tuple[Refused, ...]:
    await post.refusals.keep()
    return await post.store.refusals(START.date(), post.now.date(), 99)


async def test_wrongly_addressed_message_is_counted_with_its_source_and_destination(post: Post) -> None:
    for number in range(3):
        with pytest.raises(NoRoute):
            await post.send(message(f"b{number}", f"m{number}", to=(NOBODY,)))
    (found,) = await tally(post)
    assert found.count == 3
    assert (found.what.source, found.what.destination) == (SENDER, NOBODY)
    assert (found.what.error, found.what.code, found.what.day) == ("unknown-destination", "not-found", START.date())


async def test_wrong_one_of_several_destinations_is_counted_though_the_message_is_accepted(post: Post) -> None:
    await post.send(message(to=(A, NOBODY)), asynchronous=True)
    await post.rest()
    (found,) = await tally(post)
    assert (found.what.destination, found.count) == (NOBODY, 1)


async def test_what_cannot_be_read_is_counted_without_a_source(post: Post) -> None:
    with pytest.raises(MessageInvalid):
        await post.send(b"{}", party="north")
    (found,) = await tally(post)
    assert (found.what.source, found.what.party, found.what.destination) == ("", "north", "")


async def test_each_day_has_its_own_count(post: Post) -> None:
    for _ in range(2):
        with pytest.raises(NoRoute):
            await post.send(message(to=(NOBODY,)))
        post.now += timedelta(days=1)
    assert [(one.what.day.day, one.count) for one in await tally(post)] == [(21, 1), (22, 1)]


async def test_refusals_cost_the_store_no_write_of_their_own(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    submit = post.store._writer.submit

    def noted(*arguments: object, **more: object) -> object:
        written.append(arguments)
        return submit(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(post.store._writer, "submit", noted)
    for number in range(50):
        with pytest.raises(NoRoute):
            await post.send(message(f"b{number}", to=(NOBODY,)))
    assert written == []
    await post.refusals.keep()
    assert len(written) == 1


async def test_memory_tells_a_bounded_number_of_refusals_apart(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "AT_ONCE", 5)
    for number in range(20):
        with pytest.raises(NoRoute):
            await post.send(message(f"b{number}", to=(f"urn:oid:9.{number}",)))
    assert len(post.refusals._counts) == 6
    assert sum(one.count for one in await tally(post)) == 20


async def test_counts_that_cannot_be_written_are_kept_for_the_next_time(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NoRoute):
        await post.send(message(to=(NOBODY,)))

    def full(_counts: dict[RefusedAs, int]) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_exception(StoreError("the disk is full"))
        return future

    with monkeypatch.context() as broken:
        broken.setattr(post.store, "refused", full)
        await post.refusals.keep()
    assert [one.count for one in await tally(post)] == [1]
