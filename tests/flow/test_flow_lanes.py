"""Lanes, the backlog beyond memory, draining and starting again."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from flow_post import ACCEPTED, ENDPOINTS, A, B, Opened, Post, message, policy

from broker.channel import Deferred, Delivered, Transmission
from broker.core.answer import AnswerKind
from broker.core.delivery import State
from broker.core.outcome import Busy
from broker.flow import attempt, ready
from broker.flow import lane as lanes
from broker.store import Settled, Settlement, StoreError

DOWN = Deferred(note="refused connection", of_peer=True, left=False)


async def sends(post: Post, count: int, to: str = A, begin: int = 0) -> None:
    await asyncio.gather(*(
        post.send(message(f"{to}b{n}", f"{to}m{n}", to=(to,)), asynchronous=True) for n in range(begin, begin + count)
    ))  # fmt: skip
    await post.rest()


async def states(post: Post) -> dict[State, int]:
    found: dict[State, int] = {}
    for stored in await post.messages():
        for delivery in await post.of(stored.position):
            found[delivery.state] = found.get(delivery.state, 0) + 1
    return found


async def test_no_more_attempts_at_once_than_the_policy_says(opened: Opened) -> None:
    post = await opened(defaults=policy(lane={"concurrent": 3}))
    post.script.holds("test://a/in")
    await sends(post, 10)
    assert post.script.under_way["test://a/in"] == 3
    while (await states(post)).get(State.WAITING):
        post.script.let_go()
        await post.rest()
    assert (post.script.most["test://a/in"], len(post.script.sent)) == (3, 10)


async def test_troubles_of_the_peer_close_its_lane_and_one_probe_opens_it(opened: Opened) -> None:
    post = await opened(defaults=policy(lane={"concurrent": 1, "open_after": 3}))
    post.script.says("test://a/in", DOWN)
    await sends(post, 10)
    assert len(post.script.sent) == 3
    assert not post.delivering.is_open("test://a", A)
    post.script.holds("test://a/in")
    await post.later(seconds=30)
    assert post.script.under_way["test://a/in"] == 1, "one probe, and no second before it has ended"
    post.script.says("test://a/in", ACCEPTED)
    post.script.let_go()
    await post.later(seconds=60)
    assert post.delivering.is_open("test://a", A)
    assert await states(post) == {State.DONE: 10}


async def test_probe_that_fails_keeps_the_lane_closed(opened: Opened) -> None:
    post = await opened(defaults=policy(lane={"concurrent": 1, "open_after": 3}))
    post.script.says("test://a/in", DOWN)
    await sends(post, 10)
    for minute in range(4):
        assert len(post.script.sent) == 3 + minute
        await post.later(seconds=31)


async def test_trouble_of_one_delivery_leaves_the_lane_open(opened: Opened) -> None:
    post = await opened(defaults=policy(lane={"concurrent": 1, "open_after": 3}))
    post.script.says("test://a/in", Deferred(note="500", status=500))
    await sends(post, 10)
    assert len(post.script.sent) == 10
    assert post.delivering.is_open("test://a", A)


async def test_dead_or_slow_lane_costs_the_others_nothing(opened: Opened) -> None:
    post = await opened(defaults=policy(lane={"concurrent": 2, "open_after": 3}))
    post.script.says("test://a/in", DOWN)
    post.script.holds("test://c/in")
    await sends(post, 20)
    await sends(post, 20, "urn:oid:2.3")
    await sends(post, 20, B)
    assert len(post.script.to("test://b/in")) == 20
    assert (await states(post))[State.DONE] == 20


async def test_message_to_a_closed_lane_is_accepted_and_waits(opened: Opened) -> None:
    post = await opened(defaults=policy(lane={"open_after": 1}, sync={"wait": timedelta(milliseconds=20)}))
    post.script.says("test://a/in", DOWN)
    await sends(post, 1)
    assert (await post.send(message())).kind is AnswerKind.KEPT
    assert len(post.script.sent) == 1


@pytest.mark.parametrize("count", [2000])
async def test_backlog_beyond_memory_is_delivered_completely(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(ready, "READY", 32)
    monkeypatch.setattr(lanes, "READY", 32)
    post = await opened(defaults=policy(lane={"concurrent": 4}))
    post.script.holds("test://a/in")
    await sends(post, count)
    lane = post.delivering.lanes["test://a"]
    assert lane.waiting <= 64

    async def slowly(_sent: Transmission) -> Delivered:
        await asyncio.sleep(0)
        return ACCEPTED

    post.script.says("test://a/in", slowly)
    post.script.let_go()
    await post.rest()
    for _ in range(3):
        await post.later(seconds=61)
    assert len(post.script.sent) == count
    assert len({one.message_id for one in post.script.sent}) == count
    assert await states(post) == {State.DONE: count}
    assert not lane.known


async def test_rate_is_kept(opened: Opened) -> None:
    post = await opened(defaults=policy(lane={"rate": 100.0}))
    loop = asyncio.get_running_loop()
    begin = loop.time()
    for number in range(8):
        await post.send(message(f"b{number}", f"m{number}"), asynchronous=True)
    await post.rest()
    assert loop.time() - begin >= 0.07
    assert len(post.script.sent) == 8


# -- the end of the day, and the next


async def test_drain_finishes_what_is_under_way_and_nothing_more(opened: Opened) -> None:
    post = await opened(defaults=policy(lane={"concurrent": 2}))
    post.script.holds("test://a/in")
    await sends(post, 5)
    stopping = asyncio.ensure_future(post.stop())
    await asyncio.sleep(0.01)
    post.script.let_go()
    await stopping
    assert len(post.script.sent) == 2
    again = await opened(now=post.now)
    assert await states(again) == {State.DONE: 2, State.WAITING: 3}


async def test_draining_broker_says_later(post: Post) -> None:
    post.intake.draining = True
    with pytest.raises(Busy) as refused:
        await post.send(message())
    assert refused.value.retry_after


async def test_restart_delivers_what_waited_and_not_before_it_is_due(opened: Opened) -> None:
    post = await opened()
    post.script.says("test://a/in", Deferred(note="500"))
    await sends(post, 3)
    await post.later(seconds=1)
    due = {(await post.one(n)).due for n in (1, 2, 3)}
    assert due == {post.now + timedelta(seconds=2)}
    await post.stop()
    again = await opened(now=post.now)
    await again.rest()
    assert again.script.sent == [], "a restart is no reason to try"
    await again.later(seconds=2)
    assert await states(again) == {State.DONE: 3}
    assert [one.attempt for one in again.script.sent] == [3] * 3


async def test_crash_in_the_middle_of_attempts_repeats_only_those(opened: Opened) -> None:
    post = await opened(defaults=policy(lane={"concurrent": 2}))
    await sends(post, 3)
    post.script.holds("test://a/in")
    await sends(post, 5, begin=3)
    under_way = {one.body for one in post.script.sent[-2:]}
    await post.crash()
    again = await opened(now=post.now)
    await again.later(seconds=1)
    await again.later(seconds=60)
    assert await states(again) == {State.DONE: 8}
    assert sorted(int(one.envelope.id[-1]) for one in again.script.sent if one.envelope.id) == [3, 4, 5, 6, 7]
    assert len(under_way) == 2
    assert under_way <= {one.body for one in again.script.sent}, "a copy of what was under way has the same bytes"


async def test_directory_that_changed_while_we_were_down_is_followed(opened: Opened) -> None:
    post = await opened()
    post.script.says("test://a/in", Deferred(note="500"))
    await sends(post, 1)
    await post.stop()
    again = await opened(now=post.now, endpoints={A: "test://b/in"})
    await again.later(seconds=1)
    assert [one.address for one in again.script.sent] == ["test://b/in"]


async def test_attempt_that_fails_in_the_store_is_made_later(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    post.script.says("test://a/in", DOWN)
    await sends(post, 1)

    async def broken(*_asked: object) -> None:
        raise StoreError("no")

    with monkeypatch.context() as patched:
        patched.setattr(post.store, "load", broken)
        post.now += timedelta(seconds=1)
        await post.delivering._fetch(post.delivering.lanes["test://a"])
    post.script.says("test://a/in", ACCEPTED)
    await post.later(seconds=61)
    await post.later(seconds=1)
    assert (await post.one()).state is State.DONE


@pytest.mark.parametrize("error", [StoreError("no"), OSError("no"), KeyError("a bug")])
async def test_attempt_that_cannot_be_made_is_made_later(
    post: Post, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(*_parts: object, **_more: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(attempt, "transmission", broken)
        await sends(post, 1)
        assert post.script.sent == []
    await post.later(seconds=6)
    assert (await post.one()).state is State.DONE


async def test_end_that_cannot_be_written_is_tried_anew(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 2: a receiver may see a copy, with the same bytes and ids."""

    def broken(_settlement: Settlement) -> asyncio.Future[Settled]:
        future: asyncio.Future[Settled] = asyncio.get_running_loop().create_future()
        future.set_exception(StoreError("no"))
        return future

    with monkeypatch.context() as patched:
        patched.setattr(post.store, "settle", broken)
        await sends(post, 1)
    await post.later(seconds=61)
    assert (await post.one()).state is State.DONE
    assert len({(one.body, one.message_id) for one in post.script.sent}) == 1


async def test_lost_wake_up_is_made_good_by_the_next_look_at_the_schedule(post: Post) -> None:
    """The store is the schedule; memory is a cache of it that may have forgotten."""
    post.script.says("test://a/in", Deferred(note="500"), ACCEPTED)
    await sends(post, 1)
    post.delivering.lanes.clear()
    await post.later(minutes=2)
    await post.later(minutes=2)
    assert (await post.one()).state is State.DONE


async def test_all_that_waits_for_a_closed_lane_turns_to_the_next_address_at_once(opened: Opened) -> None:
    """Also what stands in the store alone: more wait than memory takes, and the first address is not back for long."""
    endpoints = {**ENDPOINTS, A: {"first": ["test://a/in", "test://b/in"]}}
    post = await opened(
        endpoints=endpoints, defaults=policy(lane={"concurrent": 1, "open_after": 1, "probe": timedelta(minutes=10)})
    )
    post.script.holds("test://a/in")
    many = ready.READY + 50
    await sends(post, many)
    post.script.let_go(DOWN)
    await post.later(seconds=2)
    assert len(post.script.to("test://a/in")) == 1
    assert len(post.script.to("test://b/in")) == many
