"""What a subscription wants next, and whether what is on its way is still wanted."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from subscribed import MINUTE, NOW, subscription

from broker.core.subscription.life import Happening, Life, Policy
from broker.core.subscription.notification import Kind
from broker.core.subscription.schedule import (
    content_of,
    has_handshake,
    is_cloudevents,
    is_stale,
    looks_again,
    overdue,
    wants,
)
from broker.core.subscription.subscription import (
    OWN_CHANNELS,
    R5_CHANNELS,
    ChannelType,
    Content,
    Model,
    Status,
    Subscription,
)

POLICY = Policy()
ACTIVE = Life(status=Status.ACTIVE, was_active=True, since=NOW)
ERROR = Life(status=Status.ERROR, was_active=True, since=NOW)
NEW = Life(since=NOW)
CLOUD = "application/cloudevents+json; charset=utf-8"


def wanted(one: Subscription, life: Life, *, behind: bool = False, after: timedelta = timedelta()) -> Any:
    return wants(one, life, behind=behind, now=NOW + after, policy=POLICY)


def test_a_new_one_wants_a_handshake_and_one_whose_channel_has_none_is_active_at_once() -> None:
    classic = subscription(model=Model.CLASSIC, topic="", criteria="Encounter?", content=None)
    assert wanted(subscription(), NEW, behind=True) is Kind.HANDSHAKE
    assert wanted(classic, NEW) is Happening.GREETED


@pytest.mark.parametrize(("media", "code", "has"), [
    ("application/fhir+json", "rest-hook", True), (CLOUD, "rest-hook", True), (CLOUD, "amqp", False),
    ("application/fhir+json", "amqp", True), ("text/plain", "email", True),
])  # fmt: skip
def test_cloudevents_in_a_queue_alone_have_no_handshake_of_topics(media: str, code: str, has: bool) -> None:
    system = OWN_CHANNELS if code == "amqp" else R5_CHANNELS
    one = subscription(media_type=media, channel=ChannelType(system, code))
    assert has_handshake(one) is has
    assert is_cloudevents(one) is (media == CLOUD)


def test_events_are_sent_while_active_and_in_error_and_never_before_it_was_greeted() -> None:
    for life in (ACTIVE, ERROR):
        assert wanted(subscription(), life, behind=True) is Kind.EVENT
        assert wanted(subscription(), life) is None
    assert wanted(subscription(), Life(status=Status.ERROR, since=NOW), behind=True) is None
    assert wanted(subscription(), Life(status=Status.OFF, was_active=True), behind=True) is None


def test_a_heartbeat_is_wanted_once_its_time_has_come_and_no_event_goes_instead() -> None:
    one = subscription(heartbeat=MINUTE)
    assert wanted(one, ACTIVE, after=MINUTE / 2) is None
    assert wanted(one, ACTIVE, after=MINUTE) is Kind.HEARTBEAT
    assert wanted(one, ERROR, after=MINUTE) is Kind.HEARTBEAT
    assert wanted(one, ACTIVE, after=MINUTE, behind=True) is Kind.EVENT
    assert wanted(one, Life(status=Status.ERROR, since=NOW), after=MINUTE) is None  # never greeted


def test_what_time_ends_goes_before_all_else_also_behind_a_heartbeat_that_cannot_be_sent() -> None:
    one = subscription(heartbeat=MINUTE, end=NOW + 5 * MINUTE)
    assert wanted(one, ACTIVE, behind=True, after=5 * MINUTE) is Happening.ENDED
    assert overdue(one, ACTIVE, now=NOW + 4 * MINUTE, policy=POLICY) is None
    too_long = POLICY.off_after
    assert wanted(subscription(heartbeat=MINUTE), ERROR, after=too_long) is Happening.ERROR_TOO_LONG
    assert overdue(subscription(), ERROR, now=NOW + too_long, policy=POLICY) is Happening.ERROR_TOO_LONG
    never_greeted = Life(status=Status.ERROR, since=NOW)
    assert wanted(subscription(heartbeat=MINUTE), never_greeted, after=too_long) is Happening.ERROR_TOO_LONG


def test_it_is_looked_at_again_when_time_brings_something_and_for_no_heartbeat_while_one_is_under_way() -> None:
    one = subscription(heartbeat=MINUTE, end=NOW + 5 * MINUTE)
    assert looks_again(one, ACTIVE, under_way=False, policy=POLICY) == NOW + MINUTE
    assert looks_again(one, ACTIVE, under_way=True, policy=POLICY) == NOW + 5 * MINUTE
    assert looks_again(one, NEW, under_way=False, policy=POLICY) == NOW + 5 * MINUTE
    assert looks_again(subscription(), ACTIVE, under_way=False, policy=POLICY) is None


@pytest.mark.parametrize(("life", "kind", "behind", "stale"), [
    (ACTIVE, Kind.EVENT, True, False), (ERROR, Kind.EVENT, True, False), (NEW, Kind.EVENT, True, True),
    (NEW, Kind.HANDSHAKE, True, False), (ACTIVE, Kind.HANDSHAKE, False, True), (ERROR, Kind.HANDSHAKE, False, True),
    (ACTIVE, Kind.HEARTBEAT, False, False), (ACTIVE, Kind.HEARTBEAT, True, True), (NEW, Kind.HEARTBEAT, False, True),
    (Life(status=Status.OFF), Kind.EVENT, True, True), (Life(status=Status.ENTERED_IN_ERROR), Kind.EVENT, True, True),
])  # fmt: skip
def test_what_is_not_wanted_any_more_need_not_leave(life: Life, kind: Kind, behind: bool, stale: bool) -> None:
    assert is_stale(life, kind, behind=behind) is stale


def test_nobody_is_told_more_than_was_agreed_nor_more_than_its_party_may_be_told_now() -> None:
    full = subscription(content=Content.FULL)
    assert content_of(full) is Content.FULL
    assert content_of(full, Content.ID_ONLY) is Content.ID_ONLY
    assert content_of(subscription(content=None), Content.FULL) is Content.ID_ONLY
    classic = subscription(model=Model.CLASSIC, content=None)
    assert content_of(classic) is Content.FULL
    assert content_of(subscription(model=Model.CLASSIC, content=None, media_type="")) is Content.EMPTY
