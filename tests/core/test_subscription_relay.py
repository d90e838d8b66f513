"""Notifications of other servers that pass through: whose topic they are of, and what of them is told (S-24)."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from subscribed import CANDLE, ENCOUNTERS, NOW

from broker.core.fhir.header import Event, Format, Header, Release
from broker.core.subscription.foreign import read_notification
from broker.core.subscription.occurrence import CLASSIC, Topics, topic_of
from broker.core.subscription.relay import Relayed, relayed
from broker.core.subscription.subscription import Content
from broker.core.subscription.topic import Topic
from broker.core.subscription.wrap import wrap

TOPIC = Topic(url=ENCOUNTERS, version="1.0.0", relayed=True)
NAMELESS = Topic(url="http://t.example/nameless", relayed=True, way_in="north")
TOPICS = Topics([TOPIC, NAMELESS])
EVENT = (CANDLE / "Bundle-notification-id.json").read_bytes()
R5 = Header(release=Release.R5, format=Format.JSON, event=Event())
R4 = Header(release=Release.R4, format=Format.JSON, event=Event())
XML = Header(release=Release.R5, format=Format.XML, event=Event())

ENCOUNTER = {"resourceType": "Encounter", "id": "2", "subject": {"reference": "Patient/7"}}


def bare(*entries: Any, kind: str = "event-notification", topic: str | None = ENCOUNTERS, focus: bool = True) -> bytes:
    event: dict[str, Any] = {"eventNumber": "12"}
    if focus:
        event["focus"] = {"reference": "https://s.example/Encounter/2"}
    status: dict[str, Any] = {
        "resourceType": "SubscriptionStatus", "type": kind, "notificationEvent": [event],
        "subscription": {"reference": "https://s.example/Subscription/1"},
    }  # fmt: skip
    if topic is not None:
        status["topic"] = topic
    return orjson.dumps(
        {"resourceType": "Bundle", "type": "subscription-notification", "entry": [{"resource": status}, *entries]}
    )


def found(body: bytes, header: Header = R5, **more: Any) -> Relayed:
    passing = relayed(body, header, TOPICS, **more)
    assert passing is not None
    return passing


def test_notification_of_another_server_belongs_to_the_topic_it_names() -> None:
    passing = found(EVENT, R4)
    assert (passing.topic, passing.is_event, passing.foreign.numbers) == (TOPIC, True, (1,))
    assert passing.content is Content.ID_ONLY
    assert passing.occurrences == ()  # nothing is inside that a filter could look at
    assert passing.about(R4).focus is None


@pytest.mark.parametrize("topic", [ENCOUNTERS, ENCOUNTERS + "|1.0.0"])
def test_topic_may_be_named_with_its_version(topic: str) -> None:
    assert found(bare(topic=topic)).topic is TOPIC


@pytest.mark.parametrize("topic", [ENCOUNTERS + "|2.0.0", "http://t.example/unknown", CLASSIC + "Encounter"])
def test_notification_of_a_topic_that_is_not_ours_is_not_relayed(topic: str) -> None:
    assert relayed(bare(topic=topic), R5, Topics([TOPIC, topic_of("Encounter")])) is None


def test_what_does_not_name_its_topic_belongs_to_that_of_its_way_in() -> None:
    """S-23: `empty` should not name it."""
    assert found(bare(topic=None), way_in="north").topic is NAMELESS
    assert found(bare(), way_in="north").topic is TOPIC  # its own word goes first
    assert relayed(bare(topic=None), R5, TOPICS, way_in="south") is None
    assert relayed(bare(topic=None), R5, TOPICS) is None


@pytest.mark.parametrize("kind", ["handshake", "heartbeat", "query-event", "query-status"])
def test_only_events_are_news(kind: str) -> None:
    assert not found(bare(kind=kind)).is_event


def test_filters_see_the_focus_that_is_inside() -> None:
    other = {"fullUrl": "https://s.example/Patient/7", "resource": {"resourceType": "Patient", "id": "7"}}
    passing = found(bare({"fullUrl": "https://s.example/Encounter/2", "resource": ENCOUNTER}, other))
    assert [one.values["id"] for one in passing.occurrences] == ["2"]
    assert passing.content is Content.FULL


def test_focus_is_found_by_type_and_id_where_the_entry_has_no_url() -> None:
    assert len(found(bare({"resource": ENCOUNTER})).occurrences) == 1
    assert len(found(bare({"resource": {"resourceType": "Encounter"}})).occurrences) == 0


def test_how_much_it_tells_is_known() -> None:
    assert found(bare(focus=False)).content is Content.EMPTY
    assert found(bare(focus=True)).content is Content.ID_ONLY
    assert found(bare({"fullUrl": "https://s.example/Encounter/2"}, focus=False)).content is Content.ID_ONLY


def relayed_body(body: bytes, header: Header) -> bytes:
    foreign = read_notification(body, format=header.format, release=header.release)
    assert foreign is not None
    return foreign.body


def wrapped(inner: bytes, format: Format = Format.JSON, release: Release = Release.R5) -> bytes:
    return wrap(
        inner, notification_id="n", format=format, release=release, endpoint="https://b.example/fhir",
        source="urn:oid:1", source_name="s", ids=("b", "m"), at=NOW,
    )  # fmt: skip


def test_body_out_of_a_message_is_what_was_put_into_it() -> None:
    body = bare({"fullUrl": "https://s.example/Encounter/2", "resource": ENCOUNTER})
    assert found(wrapped(body)).occurrences[0].values == ENCOUNTER
    assert relayed_body(wrapped(body), R5) == body
    assert relayed_body(wrapped(EVENT, release=Release.R4), R4) == EVENT


def test_body_of_a_bare_one_is_what_came() -> None:
    assert relayed_body(EVENT, R4) == EVENT


NOTIFICATION = (
    b'<type value="subscription-notification"/><entry><resource><SubscriptionStatus>'
    b'<type value="event-notification"/><topic value="' + ENCOUNTERS.encode() + b'"/>'
    b"</SubscriptionStatus></resource></entry></Bundle>"
)


def test_body_in_xml_stands_alone() -> None:
    """Its namespace may have been declared by the message around it."""
    around = (
        b'<Bundle xmlns="http://hl7.org/fhir"><type value="message"/><entry><resource><MessageHeader/></resource>'
        b"</entry><entry><resource>%b</resource></entry></Bundle>"
    )
    own = b'<Bundle xmlns="http://hl7.org/fhir">' + NOTIFICATION
    assert relayed_body(around % own, XML) == own
    assert relayed_body(around % (b"<Bundle>" + NOTIFICATION), XML) == own
    assert found(around % own, XML).topic is TOPIC


def test_spliced_one_is_told_as_the_message_that_it_is() -> None:
    """S-50."""
    entries = orjson.loads(bare({"fullUrl": "https://s.example/Encounter/2", "resource": ENCOUNTER}))["entry"]
    head = {"resource": {"resourceType": "MessageHeader", "eventUri": "http://x"}}
    body = orjson.dumps({"resourceType": "Bundle", "type": "message", "entry": [head, *entries]})
    passing = found(body)
    assert len(passing.occurrences) == 1
    assert relayed_body(body, R5) == body


def test_messages_that_are_no_notifications_are_left_alone() -> None:
    assert relayed(b'{"resourceType":"Bundle","type":"message"}', R5, TOPICS) is None


def test_message_without_the_mark_of_an_event_is_not_looked_into() -> None:
    assert TOPICS.may_concern(str(R4.event), R4.format, EVENT)
    assert not TOPICS.may_concern(str(R4.event), R4.format, EVENT.replace(b"event-notification", b"heartbeat"))
    assert not Topics([topic_of("Observation")]).may_concern(str(R4.event), R4.format, EVENT)
