from __future__ import annotations

from collections.abc import Callable

import orjson
import pytest
from subscribed import NOW
from written import validated

from broker.core.fhir.header import Format, Release
from broker.core.fhir.write import write
from broker.core.outcome import Refusal, SubscriptionRefused
from broker.core.subscription.operations import (
    Asked,
    Events,
    Range,
    Resend,
    StatusAsked,
    read_events,
    read_parameters,
    read_resend,
    read_status,
    read_token_request,
    token_parameters,
)
from broker.core.subscription.subscription import Content, Status


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ([], Events(Range())),
        ([("eventsSinceNumber", "3"), ("eventsUntilNumber", "7"), ("_format", "json")], Events(Range(3, 7))),
        ([("eventsSinceNumber", "0"), ("content", "empty")], Events(Range(0, None), Content.EMPTY)),
    ],
)
def test_events_are_asked_for_by_number(asked: Asked, expected: Events) -> None:
    assert read_events(asked) == expected


def test_resend_is_by_number_or_by_time() -> None:
    """bp 1.2.0; the plus of an offset may have become a space on the way."""
    found = read_resend([("eventsSinceInstant", "2026-11-21T13:00:00 01:00"), ("eventsUntilNumber", "9")])
    assert found == Resend(Range(None, 9), NOW, None)


def test_status_is_of_ids_and_in_states() -> None:
    found = read_status([("id", "a,b"), ("id", "c"), ("status", "active"), ("status", "error")])
    assert found == StatusAsked(("a", "b", "c"), (Status.ACTIVE, Status.ERROR))
    assert read_status([]) == StatusAsked()
    assert read_token_request([("id", "a"), ("id", "b")]) == ("a", "b")


@pytest.mark.parametrize(
    ("read", "asked", "expected"),
    [
        (read_events, [("eventsSinceNumber", "-1")], ["eventsSinceNumber"]),
        (read_events, [("eventsSinceNumber", "9" * 19)], ["eventsSinceNumber"]),
        (read_events, [("eventsSinceNumber", "x"), ("content", "some")], ["content", "eventsSinceNumber"]),
        (read_events, [("eventsSinceNumber", "7"), ("eventsUntilNumber", "3")], ["eventsUntilNumber"]),
        (read_events, [("eventsSinceNumber", "7"), ("eventsSinceNumber", "7")], ["eventsSinceNumber"]),
        (read_events, [("since", "7")], ["since"]),
        (read_resend, [], ["eventsSinceNumber"]),
        (read_resend, [("eventsSinceInstant", "noon")], ["eventsSinceInstant"]),
        (read_status, [("status", "asleep")], ["status"]),
        (read_token_request, [("ids", "a")], ["ids"]),
    ],
)
def test_mistake_is_named_by_its_parameter(read: Callable[[Asked], object], asked: Asked, expected: list[str]) -> None:
    with pytest.raises(SubscriptionRefused) as raised:
        read(asked)
    assert [one.expression[0] for one in raised.value.problems] == expected


def test_parameters_of_a_post_are_read_in_json_and_xml() -> None:
    """A string in the backport, an integer64 in R5."""
    resource = {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "eventsSinceNumber", "valueInteger64": "3"},
            {"name": "eventsUntilNumber", "valueString": "7"},
            {"name": "id", "valueId": "a"},
        ],
    }
    expected = (("eventsSinceNumber", "3"), ("eventsUntilNumber", "7"), ("id", "a"))
    assert read_parameters(orjson.dumps(resource), format=Format.JSON) == expected
    assert read_parameters(write(resource, Format.XML), format=Format.XML) == expected
    assert read_parameters(b" ", format=Format.JSON) == ()
    resource["parameter"] = [{"name": "eventsSinceNumber", "valueInteger": 3}]
    assert read_parameters(orjson.dumps(resource), format=Format.JSON) == (("eventsSinceNumber", "3"),)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"resourceType":"Bundle"}',
        b'{"resourceType":"Parameters","parameter":[{"name":"id"}]}',
        b'{"resourceType":"Parameters","parameter":[{"name":"id","valueCoding":{}}]}',
        b'{"resourceType":"Parameters","parameter":[{"valueId":"a"}]}',
    ],
)
def test_other_bodies_are_refused(body: bytes) -> None:
    with pytest.raises(Refusal):
        read_parameters(body, format=Format.JSON)


@pytest.mark.parametrize("release", [Release.R4B, Release.R5])
def test_token_comes_with_its_url_and_its_end(release: Release) -> None:
    found = token_parameters(token="t", expiration=NOW, subscriptions=["1", "2"], url="wss://b.example/ws")
    written = validated(found, release)
    assert [one["name"] for one in written["parameter"]] == [
        "token",
        "expiration",
        "subscription",
        "subscription",
        "websocket-url",
    ]
