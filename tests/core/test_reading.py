"""The header of what is no message: notifications of other servers by themselves (S-30, S-31)."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from subscribed import CANDLE, CORPUS

from broker.core.fhir.header import NOTIFICATION_EVENT, Format, Header, Identifier, Release
from broker.core.fhir.media import media_type
from broker.core.identity import identity
from broker.core.outcome import Refusal
from broker.core.reading import read_header

JSON, XML = media_type("application/fhir+json"), media_type("application/fhir+xml")
STATUS: dict[str, Any] = {
    "resourceType": "SubscriptionStatus",
    "type": "event-notification",
    "subscription": {"reference": "https://s.example/fhir/Subscription/1"},
}


def notification(**changed: Any) -> bytes:
    known: dict[str, Any] = {
        "resourceType": "Bundle",
        "id": "n1",
        "type": "subscription-notification",
        "timestamp": "2026-11-21T12:00:00Z",
        "entry": [{"resource": STATUS}],
    }
    return orjson.dumps({name: value for name, value in (known | changed).items() if value is not None})


def header(**changed: Any) -> Header:
    return read_header(notification(**changed), JSON)


@pytest.mark.parametrize(("prefix", "release"), [("", Release.R4), ("r4b__", Release.R4B), ("r5__", Release.R5)])
def test_notification_of_another_server_has_a_header(prefix: str, release: Release) -> None:
    found = read_header((CANDLE / f"{prefix}Bundle-notification-handshake.json").read_bytes(), JSON)
    assert found.release is release
    assert found.event == NOTIFICATION_EVENT
    assert found.source == f"https://subscriptions.argo.run/fhir/{prefix.rstrip('_') or 'r4'}"
    assert found.bundle_id is not None
    assert identity(found, b"").key == found.bundle_id
    assert (found.message_id, found.destinations, found.response) == (None, (), None)


def test_notification_in_xml_has_a_header() -> None:
    found = read_header((CORPUS / "HL7__fhir" / "notification-query-event.xml").read_bytes(), XML)
    assert (found.format, found.release, found.source) == (Format.XML, Release.R5, "http://example.org/FHIR/R5")
    assert found.timestamp == "2020-04-17T10:24:13.1882432-05:00"


def test_xml_with_one_entry_alone_is_read_as_well() -> None:
    body = (
        b'<Bundle xmlns="http://hl7.org/fhir"><type value="history"/><entry><resource><SubscriptionStatus>'
        b'<type value="handshake"/></SubscriptionStatus></resource></entry></Bundle>'
    )
    assert read_header(body, XML).release is Release.R4B


def test_server_that_notifies_waits_for_no_answer() -> None:
    assert header().response_request == "never"


def test_transport_says_more_of_the_release_than_the_spelling() -> None:
    assert read_header(notification(), media_type("application/fhir+json; fhirVersion=6.0")).release is Release.R6
    assert read_header(notification(), JSON, url_release=Release.R4B).release is Release.R4B


@pytest.mark.parametrize(
    ("reference", "source"),
    [
        ("https://s.example/fhir/Subscription/1", "https://s.example/fhir"),
        ("Subscription/1", None),
        ("urn:uuid:1", None),
        ("urn:x/Subscription/1", None),
    ],
)
def test_source_is_the_server_of_the_subscription_where_it_is_named_in_full(reference: str, source: str | None) -> None:
    assert header(entry=[{"resource": STATUS | {"subscription": {"reference": reference}}}]).source == source


def test_identifier_and_profiles_are_kept() -> None:
    found = header(identifier={"system": "urn:s", "value": "7"}, meta={"profile": ["http://p", None]})
    assert (found.bundle_identifier, found.profiles) == (Identifier("urn:s", "7"), ("http://p",))
    assert header(identifier={"system": "urn:s"}).bundle_identifier is None


def test_half_a_surrogate_pair_elsewhere_does_not_matter() -> None:
    """X-43."""
    whole = notification(entry=[{"resource": STATUS}, {"resource": {"resourceType": "Basic", "id": "half"}}])
    assert read_header(whole.replace(b'"half"', b'"\\ud800"'), JSON).event == NOTIFICATION_EVENT


@pytest.mark.parametrize(
    ("changed", "id"),
    [
        ({"type": "collection"}, "not-a-message"),
        ({"type": "history", "entry": [{"resource": {"resourceType": "Patient"}}]}, "not-a-message"),
        ({"entry": None}, "not-a-message"),
        ({"entry": []}, "not-a-message"),
        ({"entry": [7]}, "not-a-message"),
        ({"entry": [{"fullUrl": "urn:x"}]}, "not-a-message"),
        ({"identifier": "7"}, "not-a-message"),
        ({"entry": [{"resource": STATUS | {"text": "x" * (1 << 20)}}]}, "header-too-large"),
        ({"type": None}, "missing-element"),
    ],
)
def test_what_is_neither_message_nor_notification_is_refused(changed: dict[str, Any], id: str) -> None:
    with pytest.raises(Refusal) as refused:
        header(**changed)
    assert refused.value.problem.id == id


def test_name_written_twice_in_the_status_is_refused() -> None:
    body = notification().replace(b'"type":"event-notification"', b'"type":"heartbeat","type":"event-notification"')
    with pytest.raises(Refusal) as refused:
        read_header(body, JSON)
    assert refused.value.problem.id == "duplicate-key"


def test_refusal_says_what_a_notification_begins_with() -> None:
    with pytest.raises(Refusal, match="begins with its SubscriptionStatus"):
        header(entry=[{"resource": {"resourceType": "Patient"}}])
