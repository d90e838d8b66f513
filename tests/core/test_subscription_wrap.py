from __future__ import annotations

from typing import Any

import orjson
import pytest
from subscribed import CANDLE, CORPUS, NOW
from written import validated

from broker.core.fhir.header import Event, Format, Release
from broker.core.fhir.media import MediaType
from broker.core.fhir.read import read
from broker.core.subscription.foreign import Package, read_notification
from broker.core.subscription.notification import About, Carried, Kind, notification
from broker.core.subscription.notification import Event as Happened
from broker.core.subscription.subscription import Content
from broker.core.subscription.wrap import unwrap, wrap

IDS = ("11111111-2bf6-497a-a873-7c29fa2090d6", "22222222-b159-478b-9a96-335376d006e9")
INNER = "64578ab3-2bf6-497a-a873-7c29fa2090d6"
ENDPOINT = "https://subscriber.example/fhir"
SERVED = (Release.R4, Release.R4B, Release.R5, Release.R6)


def inner(release: Release, format: Format = Format.JSON) -> bytes:
    focus = Carried(reference="urn:uuid:1", type="Patient", id="1")
    about = About(url="https://b/Subscription/1", release=release, format=format, content=Content.ID_ONLY)
    events = [Happened(number=1, at=NOW, focus=focus)]
    return notification(Kind.EVENT, about, ids=(INNER, IDS[0]), at=NOW, events=events)


def wrapped(body: bytes, release: Release, format: Format = Format.JSON, **changed: Any) -> bytes:
    return wrap(
        body,
        notification_id=INNER,
        format=format,
        release=release,
        endpoint=ENDPOINT,
        source="urn:oid:1.2.3",
        source_name="broker",
        ids=IDS,
        at=NOW,
        **changed,
    )


@pytest.mark.parametrize("release", SERVED)
def test_wrapped_notification_is_a_valid_message(release: Release) -> None:
    """S-47, S-48."""
    body = inner(release)
    message = validated(orjson.loads(wrapped(body, release)), release)
    assert [entry["resource"]["resourceType"] for entry in message["entry"]] == ["MessageHeader", "Bundle"]
    assert message["entry"][0]["resource"]["focus"] == [{"reference": message["entry"][1]["fullUrl"]}]
    assert not any("request" in entry or "response" in entry for entry in message["entry"])  # S-50


@pytest.mark.parametrize("format", Format)
@pytest.mark.parametrize("release", SERVED)
def test_broker_routes_it_like_any_message_by_the_endpoint_of_the_subscription(
    release: Release, format: Format
) -> None:
    """S-51: read by the reader of all messages."""
    message = wrapped(inner(release, format), release, format)
    header = read(message, MediaType(format=format, release=release, bare=""))
    assert [one.endpoint for one in header.destinations] == [ENDPOINT]
    assert header.source == "urn:oid:1.2.3"
    assert header.event == Event(system="urn:x-fhir-broker:message-event", code="subscription-notification")


@pytest.mark.parametrize("release", SERVED)
def test_event_is_configuration(release: Release) -> None:
    """S-49: a URI where no system is named; R6 has the topic there."""
    message = wrapped(inner(release), release, event=Event(code="http://example.org/topic"))
    header = read(message, MediaType(format=Format.JSON, release=release, bare=""))
    assert header.event.code == "http://example.org/topic"
    assert orjson.loads(message)["entry"][1]["resource"]["id"] == INNER


@pytest.mark.parametrize("format", Format)
@pytest.mark.parametrize("release", SERVED)
def test_what_comes_out_is_what_went_in(release: Release, format: Format) -> None:
    """Promise 3: over any number of hops."""
    body = inner(release, format)
    out = unwrap(wrapped(body, release, format), format=format, release=release)
    assert out is not None
    assert body.endswith(out)
    assert format is Format.XML or out == body


@pytest.mark.parametrize("path", sorted(CANDLE.glob("*Bundle*.json")), ids=lambda path: path.name)
def test_notifications_of_others_are_carried_as_they_are(path: Any) -> None:
    body = path.read_bytes()
    message = wrapped(body, Release.R4)
    assert unwrap(message, format=Format.JSON) == body
    found = read_notification(message, format=Format.JSON)
    assert found is not None
    assert (found.package, found.body) == (Package.WRAPPED, body)


def test_notification_in_xml_keeps_its_comments_and_spaces() -> None:
    body = (CORPUS / "HL7__fhir" / "notification-query-event.xml").read_bytes()
    out = unwrap(wrapped(body, Release.R5, Format.XML), format=Format.XML, release=Release.R5)
    assert out is not None
    assert out in body


@pytest.mark.parametrize(
    "body", [b"{}", b'{"resourceType":"Bundle","type":"message","entry":[{},{"resource":{"resourceType":"Patient"}}]}']
)
def test_message_without_a_notification_has_none(body: bytes) -> None:
    assert unwrap(body, format=Format.JSON) is None


def test_other_bundle_inside_is_no_notification() -> None:
    body = orjson.dumps(
        {
            "resourceType": "Bundle",
            "type": "message",
            "entry": [{}, {"resource": {"resourceType": "Bundle", "type": "batch"}}],
        }
    )
    assert unwrap(body, format=Format.JSON) is None


def test_what_is_no_resource_is_not_wrapped() -> None:
    with pytest.raises(ValueError, match="no json resource"):
        wrapped(b"[]", Release.R5)


def test_notification_comes_out_of_xml_that_declares_the_namespace_once() -> None:
    inner = b'<type value="history"/><entry><resource><Parameters/></resource></entry></Bundle>'
    body = (
        b'<Bundle xmlns="http://hl7.org/fhir"><type value="message"/><entry><resource><MessageHeader/></resource>'
        b"</entry><entry><resource><Bundle>%b</resource></entry></Bundle>" % inner
    )
    assert unwrap(body, format=Format.XML) == b'<Bundle xmlns="http://hl7.org/fhir">' + inner
