"""The rounds of retention: the ages of the configuration, step after step, and a store that cannot write now."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from flow_post import A, B, D, Post, message

from broker.core.envelope import Envelope
from broker.flow import retention
from broker.flow.retention import Ages, Retaining
from broker.store import Cutoffs, Removed, StoreError

AGES = Ages(body=timedelta(days=10), mailbox=timedelta(days=20), identity=timedelta(days=30), trace=timedelta(days=400))
NOTHING = Removed(body=0, mailbox=0, identity=0, trace=0, more=False)


class Scripted:
    """A store whose steps are these."""

    def __init__(self, *steps: Removed | Exception) -> None:
        self.steps = list(steps)
        self.asked: list[Cutoffs] = []
        self.empty = asyncio.Event()

    async def retain(self, older: Cutoffs) -> Removed:
        self.asked.append(older)
        step = self.steps.pop(0)
        if not self.steps:
            self.empty.set()
        if isinstance(step, Exception):
            raise step
        return step


def retaining(post: Post, store: Scripted) -> Retaining:
    return Retaining(here=post.here, store=cast(Any, store), ages=AGES)


async def test_bodies_go_and_who_sends_a_copy_still_hears_that_it_is_one(post: Post) -> None:
    await post.send(message(to=(A, D)), asynchronous=True)
    await post.rest()
    for delivery in await post.of(1):
        await post.store.missing(1, delivery.number, post.now, None)
    await post.store.mark_read(D, (1,), "reader", post.now)
    post.now += timedelta(days=21)
    await Retaining(here=post.here, store=post.store, ages=AGES).once()
    stored = await post.store.stored(1)
    assert stored is not None
    assert not stored.body_kept
    answer = await post.send(message(to=(A, D)), asynchronous=True)
    assert answer.receipt.duplicate
    assert await post.store.body(1) is None


async def test_copy_for_a_new_destination_is_carried_after_its_body_had_gone(post: Post) -> None:
    copy = message(to=(A, B), request="never")
    await post.send(copy, asynchronous=True, envelope=Envelope(destination=(A,)))
    await post.rest()
    post.now += timedelta(days=11)
    await Retaining(here=post.here, store=post.store, ages=AGES).once()
    assert await post.store.body(1) is None
    answer = await post.send(copy, asynchronous=True, envelope=Envelope(destination=(B,)))
    assert answer.receipt.duplicate
    await post.rest()
    assert [sent.body for sent in post.script.to("test://b/in")] == [copy]


async def test_round_goes_on_while_there_is_more(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BREATH", 0)
    more = Removed(body=200, mailbox=0, identity=0, trace=0, more=True)
    store = Scripted(more, more, NOTHING)
    await retaining(post, store).once()
    assert [post.now - older.body for older in store.asked] == [AGES.body] * 3
    assert post.now - store.asked[0].trace == AGES.trace


async def test_store_that_cannot_write_is_asked_again(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "EVERY", 0)
    store = Scripted(StoreError("full"), NOTHING, NOTHING)
    task = asyncio.create_task(retaining(post, store).run())
    async with asyncio.timeout(5):
        await store.empty.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_ages_beyond_all_time_mean_for_ever() -> None:
    ever = Ages(body=timedelta.max, mailbox=timedelta.max, identity=timedelta.max, trace=timedelta.max)
    assert ever.before(datetime(2026, 11, 21, tzinfo=UTC)).body == datetime(1970, 1, 1, tzinfo=UTC)
