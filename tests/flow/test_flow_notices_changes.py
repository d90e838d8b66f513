"""Notifications on their way, while their subscription changes, the broker stops, or a topic spreads them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from flow_post import ACCEPTED, refusal
from flow_subscribers import ADMIT, HOOK, SubscribedPost, Subscribing, subscription

from broker.channel import Deferred
from broker.core.delivery import State
from broker.core.message import Fate
from broker.core.subscription.life import Happening
from broker.core.subscription.notification import Kind
from broker.core.subscription.pace import offset
from broker.core.subscription.subscription import Header, Status
from broker.flow.subscribing import fresh
from broker.store.telling import Subscribed

LATER = Deferred(note="500 Internal Server Error", status=500)
OTHER = "test://other/b"
SECRET = "Bearer abc.def.ghi"


async def _until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not happened():  # noqa: ASYNC110 -- nobody tells of it
            await asyncio.sleep(0)


# --- a full disk ---


async def test_nothing_new_is_written_for_subscribers_below_the_reserve_and_the_numbers_wait(
    subscribing: Subscribing,
) -> None:
    """What is left is for what was accepted before; promise 7."""
    post = await subscribing(min_free=1000)
    row = await post.subscribes(active=True)
    await post.happens(1, row.key)
    await post.rest()
    assert post.numbers() == [1]
    await post.happens(2, row.key)
    post.free = 999
    await post.later(seconds=60)
    assert (post.row(row).counted, post.row(row).sent, post.row(row).notice) == (2, 1, None)
    assert post.row(row).life.status is Status.ACTIVE
    post.free = 1000
    await post.later(seconds=5)
    assert post.numbers() == [1, 2]


# --- what its client and the operator do ---


@pytest.mark.parametrize("happening", [Happening.SWITCHED_OFF, Happening.WITHDRAWN])
async def test_what_is_switched_off_while_it_is_retried_is_sent_no_more(
    subscribing: Subscribing, happening: Happening
) -> None:
    post = await subscribing()
    row = await post.subscribes(active=True)
    post.script.says(HOOK, LATER)
    position = await post.happens(1, row.key)
    await post.rest()
    await post.rewrites(row, happening, status=Status.OFF)
    await post.rest()
    (delivery,) = await post.of(position + 1)
    assert (delivery.state, post.row(row).notice, post.row(row).sent) == (State.WITHDRAWN, None, 0)
    await post.later(minutes=2)
    assert len(post.script.sent) == 1


async def test_what_is_deleted_while_it_is_retried_is_sent_no_more(subscribing: Subscribing) -> None:
    post = await subscribing()
    row = await post.subscribes(active=True)
    post.script.says(HOOK, LATER)
    position = await post.happens(1, row.key)
    await post.rest()
    await post.store.unsubscribe(row.key)
    post.registry.drop(row.key)
    await post.rest()
    assert (await post.one(position + 1)).state is State.WITHDRAWN
    await post.later(minutes=2)
    assert len(post.script.sent) == 1


async def test_what_is_deleted_during_an_attempt_ends_harmlessly(subscribing: Subscribing) -> None:
    post = await subscribing()
    row = await post.subscribes(active=True)
    post.script.holds(HOOK)
    position = await post.happens(1, row.key)
    await post.rest()
    await post.store.unsubscribe(row.key)
    post.registry.drop(row.key)
    post.script.let_go(LATER)
    await post.rest()
    assert (await post.one(position + 1)).state is State.WITHDRAWN


async def test_one_that_points_elsewhere_now_is_told_there_what_it_was_not_told_before(
    subscribing: Subscribing,
) -> None:
    post = await subscribing()
    row = await post.subscribes(active=True)
    post.script.says(HOOK, LATER)
    await post.happens(1, row.key)
    await post.rest()
    await post.rewrites(row, Happening.ASKED, endpoint=OTHER, status=Status.REQUESTED)
    await post.later(minutes=1)
    assert [one["type"] for one in post.told(OTHER)] == ["handshake", "event-notification"]
    assert post.numbers(OTHER) == [1]
    assert len(post.told(HOOK)) == 1


async def test_what_is_sent_again_goes_on_from_there(subscribing: Subscribing) -> None:
    post = await subscribing()
    row = await post.subscribes(subscription(max_count=1), active=True)
    for number in (1, 2, 3):
        await post.happens(number, row.key)
        await post.rest()
    now = post.row(row)
    moved = await post.store.move(row.key, now.life, sent=1)
    assert moved is not None
    post.registry.put(moved)
    await post.rest()
    assert post.numbers() == [1, 2, 3, 2, 3]


async def test_what_is_set_back_while_a_notification_is_under_way_is_sent_again_all_the_same(
    subscribing: Subscribing,
) -> None:
    post = await subscribing()
    row = await post.subscribes(subscription(max_count=1), active=True)
    for number in (1, 2):
        await post.happens(number, row.key)
        await post.rest()
    post.script.holds(HOOK)
    await post.happens(3, row.key)
    await post.rest()
    moved = await post.store.move(row.key, post.row(row).life, sent=0)
    assert moved is not None
    post.registry.put(moved)
    post.script.accepts_all()
    await post.rest()
    assert post.numbers() == [1, 2, 3, 1, 2, 3]


async def test_a_status_that_its_client_writes_is_not_overwritten_by_what_happened_meanwhile(
    subscribing: Subscribing,
) -> None:
    post = await subscribing()
    row = await post.subscribes(active=True)
    post.script.says(HOOK, LATER)
    await post.happens(1, row.key)
    await post.rest()
    post.script.says(HOOK, refusal())
    post.now += timedelta(seconds=2)
    now = post.row(row)
    await _until(lambda: bool(post.notices._moves.under_way))  # the end of the attempt is about to be written …
    off = msgspec.structs.replace(now.subscription, status=Status.OFF)
    life = msgspec.structs.replace(now.life, status=Status.OFF)
    written = await post.store.rewrite(row.key, off, life, version=now.version, at=post.now)
    assert written is not None
    post.registry.put(written)
    await post.rest()
    assert post.row(row).life.status is Status.OFF
    (kept,) = await post.store.subscribed()
    assert kept.life.status is Status.OFF


async def test_headers_are_looked_up_at_the_attempt_and_stand_in_no_trace_or_log(
    subscribing: Subscribing, capsys: pytest.CaptureFixture[str]
) -> None:
    post = await subscribing()
    row = await post.subscribes(subscription(headers=(Header("Authorization", "wrong"),)), active=True)
    post.script.says(HOOK, LATER)
    position = await post.happens(1, row.key)
    await post.rest()
    registered = post.row(row)
    new = msgspec.structs.replace(registered.subscription, headers=(Header("Authorization", SECRET),))
    written = await post.store.rewrite(row.key, new, registered.life, version=registered.version, at=post.now)
    assert written is not None
    post.registry.put(written)
    post.script.says(HOOK, refusal())
    await post.rest()
    manners = [one.manner for one in post.script.sent]
    assert [one.headers for one in manners if one is not None] == [
        (("Authorization", "wrong"),),
        (("Authorization", SECRET),),
    ]
    assert not post.script.sent[-1].envelope.via  # nothing of ours around it
    last = (await post.store.counts()).messages
    kept = [await post.store.stored(n) for n in range(position, last + 1)]
    told = [await post.of(n) for n in range(position, last + 1)]
    output = capsys.readouterr()
    assert SECRET not in repr(kept) + repr(told) + output.out + output.err
    assert all(one is None or one.message.fate in (Fate.MESSAGE, Fate.NOTICE) for one in kept)


# --- after a crash ---


async def crashed(post: SubscribedPost, subscribing: Subscribing) -> SubscribedPost:
    await post.crash()
    return await subscribing(now=post.now)


@pytest.mark.parametrize("answer", ["held", "deferred", "fresh"])
async def test_after_a_crash_what_was_under_way_comes_with_the_same_bytes_and_nothing_is_left_out(
    subscribing: Subscribing, answer: str
) -> None:
    post = await subscribing()
    row = await post.subscribes(subscription(max_count=2), active=True)
    post.script.holds(HOOK)
    for number in range(1, 6):
        await post.happens(number, row.key)
    await post.rest()
    if answer == "deferred":
        post.script.let_go(LATER)
        await post.rest()
    before = post.script.sent[0].body
    again = await crashed(post, subscribing)
    await again.later(seconds=15)
    assert again.numbers() == [1, 2, 3, 4, 5]
    assert again.script.sent[0].body == before
    assert again.row(row).sent == 5


async def test_what_was_taken_before_a_crash_is_not_sent_again(
    subscribing: Subscribing, monkeypatch: pytest.MonkeyPatch
) -> None:
    post = await subscribing()
    row = await post.subscribes(active=True)
    monkeypatch.setattr(post.notices, "ended", lambda *_: None)  # the crash comes between the end and what it means
    await post.happens(1, row.key)
    await post.rest()
    assert post.row(row).notice is not None
    again = await crashed(post, subscribing)
    await again.rest()
    assert again.script.sent == []
    assert (again.row(row).sent, again.row(row).notice) == (1, None)
    await again.happens(2, row.key)
    await again.rest()
    assert again.numbers() == [2]


async def test_what_was_given_up_before_a_crash_is_a_gap_after_it(
    subscribing: Subscribing, monkeypatch: pytest.MonkeyPatch
) -> None:
    post = await subscribing()
    row = await post.subscribes(active=True)
    monkeypatch.setattr(post.notices, "ended", lambda *_: None)
    post.script.says(HOOK, refusal())
    await post.happens(1, row.key)
    await post.rest()
    again = await crashed(post, subscribing)
    await again.rest()
    life = again.row(row).life
    assert (life.status, life.has_gap, again.row(row).sent) == (Status.ERROR, True, 1)


async def test_a_handshake_under_way_at_a_crash_is_the_one_that_is_answered(subscribing: Subscribing) -> None:
    post = await subscribing()
    post.script.holds(HOOK)
    row = await post.subscribes()
    await post.rest()
    again = await crashed(post, subscribing)
    await again.later(seconds=15)
    assert [one["type"] for one in again.told()] == ["handshake"]
    assert again.row(row).life.status is Status.ACTIVE


async def test_events_that_nobody_was_told_of_before_a_crash_are_told_after_it(subscribing: Subscribing) -> None:
    post = await subscribing()
    row = await post.subscribes(active=True)
    await post._end_noticing()
    await post.happens(1, row.key)
    again = await crashed(post, subscribing)
    await again.rest()
    assert again.numbers() == [1]


async def test_what_an_operator_withdraws_is_a_gap_and_the_next_is_told(subscribing: Subscribing) -> None:
    post = await subscribing()
    row = await post.subscribes(active=True)
    post.script.says(HOOK, Deferred(note="no connection", left=False))
    position = await post.happens(1, row.key)
    await post.rest()
    await post.waits.withdraw(position + 1, "by hand")
    await post.notices._under_way.look_at(position + 1)
    post.script.accepts_all()
    await post.happens(2, row.key)
    await post.rest()
    assert post.numbers()[-1] == 2
    assert post.row(row).life.has_gap


# --- pace, and how many at once ---


async def test_notifications_of_one_event_start_spread_over_the_time_of_their_topic(subscribing: Subscribing) -> None:
    spread = timedelta(minutes=1)
    topic = msgspec.structs.replace(ADMIT, spread=spread)
    post = await subscribing(topics=(topic,))
    rows = [await post.subscribes(subscription(id=f"s{n}", endpoint=f"test://hook/{n}"), active=True) for n in range(6)]
    await post.happens(1, *[row.key for row in rows])
    await post.rest()
    due = {n: offset(f"s{n}", spread) for n in range(6)}
    passed = timedelta()
    for n in sorted(due, key=lambda n: due[n]):
        assert post.numbers(f"test://hook/{n}") == []
        await post.later(seconds=(due[n] - passed).total_seconds())
        passed = due[n]
        assert post.numbers(f"test://hook/{n}") == [1]


async def test_no_more_than_the_rate_of_a_data_source_start_in_a_second(subscribing: Subscribing) -> None:
    post = await subscribing(topics=(msgspec.structs.replace(ADMIT, source_rate=2.0),))
    rows = [await post.subscribes(subscription(id=f"s{n}", endpoint=f"test://hook/{n}"), active=True) for n in range(6)]
    await post.happens(1, *[row.key for row in rows])
    await post.rest()
    counts = [len(post.script.sent)]
    for _ in range(5):
        await post.later(seconds=0.5)
        counts.append(len(post.script.sent))
    assert counts == [1, 2, 3, 4, 5, 6]


async def test_who_is_behind_is_caught_up_without_the_spread(subscribing: Subscribing) -> None:
    spread = timedelta(minutes=1)
    post = await subscribing(topics=(msgspec.structs.replace(ADMIT, spread=spread),))
    row = await post.subscribes(subscription(max_count=1), active=True)
    for number in range(1, 4):
        await post.happens(number, row.key)
    await post.later(seconds=offset("sub1", spread).total_seconds())
    assert post.numbers() == [1, 2, 3]


async def test_a_peer_that_is_away_keeps_few_notifications_and_all_are_told_once_it_is_back(
    subscribing: Subscribing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fresh, "MOST", 3)
    post = await subscribing()
    rows: list[Subscribed] = []
    for n in range(8):
        post.script.holds(f"test://hook/{n}")
        rows.append(await post.subscribes(subscription(id=f"s{n}", endpoint=f"test://hook/{n}"), active=True))
    await post.happens(1, *[row.key for row in rows])
    await post.rest()
    assert sum(post.row(row).notice is not None for row in rows) == 3
    await post.rewrites(rows[5], Happening.SWITCHED_OFF, status=Status.OFF)  # it waits no longer
    for n in range(8):
        post.script.says(f"test://hook/{n}", ACCEPTED)
    post.script.let_go()
    await post.rest()
    told = [bool(post.numbers(f"test://hook/{n}")) for n in range(8)]
    assert told == [True] * 5 + [False] + [True] * 2


async def test_an_endpoint_that_is_taken_off_the_list_is_told_nothing_more(subscribing: Subscribing) -> None:
    post = await subscribing()
    row = await post.subscribes(active=True)
    post.script.says(HOOK, LATER)
    await post.happens(1, row.key)
    await post.rest()
    await post.crash()
    again = await subscribing(now=post.now, may_point_at=lambda endpoint: False)
    await again.later(minutes=2)  # what was on its way, and given up there
    await again.happens(2, row.key)
    await again.later(minutes=2)
    assert again.script.sent == []
    assert again.row(row).life.status is Status.ERROR
    assert "not on the list" in again.row(row).life.error


async def test_the_limit_of_an_attempt_is_the_subscribers_and_the_rest_the_operators(subscribing: Subscribing) -> None:
    post = await subscribing()
    row = await post.subscribes(subscription(timeout=timedelta(seconds=7)), active=True)
    position = await post.happens(1, row.key)
    await post.rest()
    assert post.script.sent[0].answer == timedelta(seconds=7)
    delivery = await post.one(position + 1)
    assert delivery.expiry == delivery.accepted + timedelta(seconds=60)
    assert delivery.destination == "http://127.0.0.1/fhir/R5/Subscription/sub1"
    assert delivery.rule == "subscriptions"


async def test_an_endpoint_that_no_channel_reaches_is_an_error_that_says_so(subscribing: Subscribing) -> None:
    post = await subscribing()
    row = await post.subscribes(subscription(endpoint="gopher://x/y"))
    await post.rest()
    assert post.row(row).life.status is Status.ERROR
    assert "gopher" in post.row(row).life.error


async def test_what_is_kept_of_a_notification_says_what_it_is_and_is_no_report(subscribing: Subscribing) -> None:
    post = await subscribing()
    row = await post.subscribes(active=True)
    post.script.says(HOOK, refusal())
    position = await post.happens(1, row.key)
    await post.rest()
    stored = await post.store.stored(position + 1)
    assert stored is not None
    assert (stored.message.fate, stored.message.header.event.code) == (Fate.NOTICE, Kind.EVENT.value)
    assert await post.store.stored(position + 2) is None  # nobody hears of it but the subscription
    dead: Any = await post.store.dead(10, 0)
    assert [one.delivery.position for one in dead] == [position + 1]
