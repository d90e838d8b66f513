from __future__ import annotations

from datetime import timedelta
from typing import Any

import orjson
import pytest
from subscribed import ENCOUNTERS, MINUTE, NOW

from broker.core.attributes import from_attributes, to_attributes
from broker.core.cloudevent import read_event, write_event
from broker.core.fhir.header import Format, Release
from broker.core.subscription.cloud import data_of, envelope_of, event_type, since
from broker.core.subscription.notification import About, Carried, Event
from broker.core.subscription.subscription import Content

BASE = "https://broker.example/fhir"
BODY = b'{ "resourceType":"Encounter", "id":"2" }'
FOCUS = Carried(reference="https://source.example/fhir/Encounter/2", type="Encounter", id="2", body=BODY)
EVENT = Event(number=7, at=NOW, focus=FOCUS)


def about(**changed: Any) -> About:
    return About(**({"url": f"{BASE}/Subscription/123", "topic": ENCOUNTERS} | changed))


@pytest.mark.parametrize(
    ("topic", "type"),
    [
        (ENCOUNTERS, "org.example.encounter-complete"),
        ("http://h.example/topics/Admission|2", "org.example.admission"),
        ("urn:example:topic:discharge", "org.example.discharge"),
        ("http://h.example/a_b%20c/", "org.example.a-b-20c"),
        ("", "org.example"),
    ],
)
def test_type_follows_from_the_topic(topic: str, type: str) -> None:
    """C-61."""
    assert event_type("org.example", topic) == type


def test_envelope_names_subscription_number_and_cause() -> None:
    """C-53, C-61."""
    found = envelope_of([EVENT], about(), prefix="org.example", base_url=BASE, at=NOW + MINUTE, causation="m1")
    assert (found.id, found.source, found.time) == ("Subscription/123#7", BASE, NOW)
    assert dict(found.more) == {"sequence": "7", "sequencetype": "Integer", "causationid": "m1"}


def test_events_of_one_notification_are_named_from_first_to_last() -> None:
    events = [Event(number=number) for number in (7, 8, 9)]
    found = envelope_of(events, about(), prefix="org.example", base_url=BASE, at=NOW)
    assert (found.id, dict(found.more)["sequence"], found.time) == ("Subscription/123#7-9", "9", NOW)


def test_every_handshake_has_an_id_of_its_own() -> None:
    ids = {
        envelope_of([], about(), prefix="p", base_url=BASE, at=NOW + timedelta(seconds=second)).id for second in (0, 1)
    }
    assert len(ids) == 2


def test_number_beyond_an_integer_of_cloudevents_is_still_a_sequence() -> None:
    """C-2: 32 bits."""
    found = envelope_of([Event(number=2**40)], about(), prefix="p", base_url=BASE, at=NOW)
    assert dict(found.more) == {"sequence": str(2**40)}


def test_envelope_survives_being_written_and_read() -> None:
    """C-3; in structured mode, the data byte for byte (C-4)."""
    envelope = envelope_of([EVENT], about(), prefix="org.example", base_url=BASE, at=NOW, causation="m1")
    attributes = to_attributes(envelope)
    assert from_attributes(attributes) == envelope
    written = write_event(envelope, BODY, "application/fhir+json; fhirVersion=4.0")
    back = read_event(written)
    assert (back.envelope, back.body) == (envelope, BODY)


@pytest.mark.parametrize(
    ("content", "event", "expected"),
    [
        (Content.FULL, EVENT, (BODY, "application/fhir+json; fhirVersion=4.0")),
        (Content.ID_ONLY, EVENT,
         ({"resourceType": "Encounter", "id": "2", "url": FOCUS.reference}, "application/json")),
        (Content.EMPTY, EVENT, None),
        (Content.EMPTY, Event(number=1, query="https://s/?x"), ({"url": "https://s/?x"}, "application/json")),
        (Content.FULL, Event(number=1), None),
        (Content.FULL, Event(number=1, focus=Carried(reference="urn:uuid:1", type="Patient")),
         ({"resourceType": "Patient"}, "application/json")),
    ],
)  # fmt: skip
def test_data_is_no_more_than_the_level_allows(content: Content, event: Event, expected: Any) -> None:
    """C-50, C-51: thick, thin with a pointer, thin without."""
    found = data_of(event, about(content=content))
    if found is not None and isinstance(expected[0], dict):
        found = (orjson.loads(found[0]), found[1])
    assert found == expected


def test_data_in_xml_says_so() -> None:
    focus = Carried(reference="urn:uuid:1", type="Patient", body=b"<Patient/>", format=Format.XML, release=Release.R5)
    found = data_of(Event(number=1, focus=focus), about(content=Content.FULL))
    assert found == (b"<Patient/>", "application/fhir+xml; fhirVersion=5.0")


def test_query_of_the_topic_gets_its_time() -> None:
    """S-57a, S-35."""
    assert since("https://s/Encounter?_lastUpdated=gt{since}", NOW) == (
        "https://s/Encounter?_lastUpdated=gt2026-11-21T12:00:00.000%2B00:00"
    )
