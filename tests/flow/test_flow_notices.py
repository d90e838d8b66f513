"""Notifications on their way: the life of a subscription, its numbers, and what a crash leaves of them."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flow_post import START, refusal
from flow_subscribers import HOOK, SubscribedPost, Subscribing, subscription

from broker.channel import Deferred
from broker.core.subscription.life import Happening
from broker.core.subscription.subscription import Status

DOWN = Deferred(note="no connection", of_peer=True, left=False)
LATER = Deferred(note="500 Internal Server Error", status=500)


# --- the life of a subscription (S-15 to S-17) ---


async def test_a_new_subscription_is_greeted_and_active_once_the_handshake_was_taken(subscribing: Subscribing) -> None:
    post = await subscribing()
    row = await post.subscribes()
    await post.rest()
    (status,) = post.told()
    assert (status["type"], status["status"], status["eventsSinceSubscriptionStart"]) == ("handshake", "requested", "0")
    assert status["subscription"] == {"reference": "http://127.0.0.1/fhir/R5/Subscription/sub1"}
    assert post.row(row).life.status is Status.ACTIVE
    assert post.row(row).notice is None
    assert post.script.sent[0].media_type == "application/fhir+json"


@pytest.mark.parametrize("answer", [LATER, DOWN, refusal()])
async def test_any_failure_of_the_handshake_is_an_error_and_it_is_not_tried_again(
    subscribing: Subscribing, answer: Any
) -> None:
    post = await subscribing()
    post.script.says(HOOK, answer)
    row = await post.subscribes()
    await post.rest()
    assert post.row(row).life.status is Status.ERROR
    assert post.row(row).life.error
    await post.later(minutes=5)
    assert len(post.told()) == 1
    assert post.row(row).notice is None


async def test_events_are_told_in_order_with_their_numbers(subscribing: Subscribing) -> None:
    post = await subscribing()
    row = await post.subscribes(active=True)
    for number in range(1, 4):
        await post.happens(number, row.key)
        await post.rest()
    assert post.numbers() == [1, 2, 3]
    assert [one["eventsSinceSubscriptionStart"] for one in post.told()] == ["1", "2", "3"]
    assert post.row(row).sent == 3


async def test_a_slow_subscriber_is_caught_up_with_as_many_events_as_it_wants_at_once(subscribing: Subscribing) -> None:
    post = await subscribing()
    row = await post.subscribes(subscription(max_count=4), active=True)
    post.script.holds(HOOK)
    for number in range(1, 10):
        await post.happens(number, row.key)
    await post.rest()
    assert post.numbers() == [1]  # one at a time, whatever waits
    post.script.accepts_all()
    await post.rest()
    assert post.numbers() == list(range(1, 10))
    assert [len(one["notificationEvent"]) for one in post.told()] == [1, 4, 4]


async def test_a_retry_repeats_the_bytes_and_trouble_becomes_an_error_that_a_success_ends(
    subscribing: Subscribing,
) -> None:
    post = await subscribing()
    row = await post.subscribes(active=True)
    post.script.says(HOOK, LATER)
    await post.happens(1, row.key)
    for _ in range(3):
        await post.later(seconds=3)
    assert post.row(row).life.status is Status.ERROR
    assert post.row(row).life.error == "500 Internal Server Error"
    assert post.row(row).sent == 0
    post.script.accepts_all()
    await post.later(seconds=4)
    assert post.row(row).life.status is Status.ACTIVE
    assert len({one.body for one in post.script.to(HOOK)}) == 1
    assert post.row(row).sent == 1


async def test_events_are_counted_and_told_after_one_was_given_up_and_the_error_stays(subscribing: Subscribing) -> None:
    post = await subscribing()
    row = await post.subscribes(active=True)
    post.script.says(HOOK, refusal())
    await post.happens(1, row.key)
    await post.rest()
    assert (post.row(row).life.status, post.row(row).life.has_gap, post.row(row).sent) == (Status.ERROR, True, 1)
    post.script.accepts_all()
    await post.happens(2, row.key)
    await post.rest()
    assert post.numbers() == [1, 2]
    assert post.row(row).life.status is Status.ERROR  # until its client asks again (S-17)
    assert post.told()[1]["status"] == "error"
    await post.rewrites(row, Happening.ASKED, status=Status.REQUESTED)
    await post.rest()
    assert post.told()[2]["type"] == "handshake"
    assert post.row(row).life.status is Status.ACTIVE


async def test_an_error_that_lasts_too_long_switches_the_subscription_off(subscribing: Subscribing) -> None:
    post = await subscribing()
    row = await post.subscribes(active=True)
    post.script.says(HOOK, refusal())
    await post.happens(1, row.key)
    await post.rest()
    await post.later(days=3, seconds=1)
    assert post.row(row).life.status is Status.OFF


async def test_a_webhook_that_is_gone_is_told_nothing_more(subscribing: Subscribing) -> None:
    post = await subscribing()
    row = await post.subscribes(active=True)
    post.script.says(HOOK, refusal(status=410))
    await post.happens(1, row.key)
    await post.happens(2, row.key)
    await post.rest()
    assert post.row(row).life.status is Status.OFF
    assert len(post.script.sent) == 1


async def test_a_subscription_ends_at_its_end_although_a_notification_waits(subscribing: Subscribing) -> None:
    post = await subscribing()
    row = await post.subscribes(subscription(end=post.now + timedelta(seconds=5)), active=True)
    post.script.says(HOOK, LATER)
    await post.happens(1, row.key)
    await post.later(seconds=1)
    await post.later(seconds=4)
    assert post.row(row).life.status is Status.OFF
    assert post.row(row).notice is None
    sent = len(post.script.sent)
    await post.later(minutes=1)
    assert len(post.script.sent) == sent


async def test_heartbeats_come_while_nothing_else_does_and_never_further_apart_than_asked(
    subscribing: Subscribing,
) -> None:
    post = await subscribing()
    row = await post.subscribes(subscription(heartbeat=timedelta(seconds=60)), active=True)
    await post.later(seconds=60)
    assert [one["type"] for one in post.told()] == ["heartbeat"]
    await post.later(seconds=30)
    await post.happens(1, row.key)
    await post.later(seconds=59)
    assert [one["type"] for one in post.told()] == ["heartbeat", "event-notification"]
    await post.later(seconds=1)
    assert [one["type"] for one in post.told()] == ["heartbeat", "event-notification", "heartbeat"]
    assert post.told()[-1]["eventsSinceSubscriptionStart"] == "1"
    assert "notificationEvent" not in post.told()[-1]


async def test_a_heartbeat_that_fails_gives_way_to_an_event(subscribing: Subscribing) -> None:
    post = await subscribing()
    row = await post.subscribes(subscription(heartbeat=timedelta(seconds=60)), active=True)
    post.script.says(HOOK, LATER)
    await post.later(seconds=60)
    assert post.row(row).life.failures == 1
    post.script.accepts_all()
    await post.happens(1, row.key)
    await post.rest()
    assert [one["type"] for one in post.told()] == ["heartbeat", "event-notification"]
    assert not post.row(row).life.has_gap


async def test_of_a_gap_the_first_stays_among_the_dead_letters_and_heartbeats_never_do(
    subscribing: Subscribing,
) -> None:
    post = await subscribing()
    row = await post.subscribes(subscription(heartbeat=timedelta(seconds=60)), active=True)
    post.script.says(HOOK, refusal())
    for number in range(1, 4):
        await post.happens(number, row.key)
        await post.rest()
    for _ in range(3):
        await post.later(seconds=60)
    assert [one["type"] for one in post.told()] == ["event-notification"] * 3 + ["heartbeat"] * 3
    dead = await post.store.dead(100, 0)
    assert [one.delivery.position for one in dead] == [2]
    assert post.row(row).sent == 3


class _Ticking(SubscribedPost):
    """Its clock goes on each time that somebody looks at it, as real ones do."""

    _at = START

    @property
    def now(self) -> datetime:  # type: ignore[override]
        self._at += timedelta(microseconds=1)
        return self._at

    @now.setter
    def now(self, at: datetime) -> None:
        self._at = at


async def test_an_event_is_told_at_once_on_a_clock_that_does_not_stand_still(tmp_path: Path) -> None:
    post = await _Ticking(tmp_path / "ticking.db").start()
    row = await post.subscribes(active=True)
    await post.happens(1, row.key)
    await post.rest()
    assert post.numbers() == [1]
    await post.stop()
