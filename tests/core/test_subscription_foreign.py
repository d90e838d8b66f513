from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from subscribed import CANDLE, CORPUS, ENCOUNTERS, NOW

from broker.core.cloudevent import read_event, write_event
from broker.core.fhir.header import Format, Release
from broker.core.subscription.cloud import envelope_of
from broker.core.subscription.foreign import Foreign, Package, missed, read_notification
from broker.core.subscription.notification import About, Carried, Event, Kind, notification
from broker.core.subscription.wrap import wrap

STATUS: dict[str, Any] = {
    "resourceType": "SubscriptionStatus",
    "type": "event-notification",
    "status": "active",
    "eventsSinceSubscriptionStart": "12",
    "notificationEvent": [{"eventNumber": "12", "focus": {"reference": "Encounter/2"}}],
    "subscription": {"reference": "https://s.example/Subscription/1"},
}
# The shape of Argonaut's idonly-mh-splice example.
SPLICED = {
    "resourceType": "Bundle",
    "type": "message",
    "entry": [
        {"resource": {"resourceType": "MessageHeader", "eventUri": "http://x"}},
        {"resource": STATUS},
        {"fullUrl": "https://s.example/Encounter/2", "request": {"method": "POST", "url": "Encounter"}},
    ],
}


def read(bundle: dict[str, Any]) -> Foreign | None:
    return read_notification(orjson.dumps(bundle), format=Format.JSON)


def bare(first: dict[str, Any], type: str = "subscription-notification") -> dict[str, Any]:
    return {"resourceType": "Bundle", "type": type, "entry": [{"resource": first}]}


@pytest.mark.parametrize("prefix", ["", "r4b__", "r5__"])
def test_handshakes_of_another_server_are_read(prefix: str) -> None:
    body = (CANDLE / f"{prefix}Bundle-notification-handshake.json").read_bytes()
    found = read_notification(body, format=Format.JSON)
    assert found is not None
    assert (found.kind, found.since_start, found.numbers, found.topic) == ("handshake", 0, (), ENCOUNTERS)
    assert found.subscription.startswith("https://subscriptions.argo.run/fhir/r")
    assert found.body == body
    assert not found.is_event


def test_event_of_another_server_keeps_its_number() -> None:
    """S-24; its subscription is a text where the profile has a reference."""
    found = read_notification((CANDLE / "Bundle-notification-id.json").read_bytes(), format=Format.JSON)
    assert found is not None
    assert (found.kind, found.numbers, found.since_start, found.has_parameters) == ("event-notification", (1,), 1, True)
    assert found.focus == ("https://subscriptions.argo.run/fhir/r4/Encounter/36e1c9d9-6878-4ef0-b1ff-9f5986e2def6",)


def test_answer_to_events_in_xml_has_all_its_numbers() -> None:
    body = (CORPUS / "HL7__fhir" / "notification-query-event.xml").read_bytes()
    found = read_notification(body, format=Format.XML, release=Release.R5)
    assert found is not None
    assert (found.kind, found.numbers, found.since_start) == ("query-event", (307, 308), 310)
    assert found.focus[0] == "http://example.org/FHIR/R5/Encounter/307"
    assert found.is_event


def test_spliced_notification_is_recognised() -> None:
    """S-50."""
    found = read(SPLICED)
    assert found is not None
    assert (found.package, found.numbers, found.focus) == (Package.SPLICED, (12,), ("Encounter/2",))
    assert found.body == orjson.dumps(SPLICED)


def test_wrapped_notification_is_read_where_it_stands() -> None:
    """S-48."""
    message = {**SPLICED, "entry": [SPLICED["entry"][0], {"resource": bare(STATUS)}]}
    found = read(message)
    assert found is not None
    assert found.package is Package.WRAPPED
    assert orjson.loads(found.body) == bare(STATUS)


@pytest.mark.parametrize(
    "bundle",
    [
        {"resourceType": "Bundle", "type": "message", "entry": [SPLICED["entry"][0]]},
        {"resourceType": "Bundle", "type": "history", "entry": [{"resource": {"resourceType": "Patient"}}]},
        {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": STATUS}]},
        {"resourceType": "Bundle", "type": "history"},
        bare({"resourceType": "SubscriptionStatus"}),
        bare({"resourceType": "Parameters"}),
        bare({"resourceType": "Parameters", "parameter": [{"name": "type", "valueCode": "handshake"}]}),
        {**SPLICED, "entry": [SPLICED["entry"][0], {"resource": bare(STATUS, type="collection")}]},
        {**SPLICED, "entry": [SPLICED["entry"][0], {"resource": {"resourceType": "Patient"}}]},
        {"resourceType": "Patient"},
    ],
)
def test_what_is_no_notification_is_none(bundle: dict[str, Any]) -> None:
    assert read(bundle) is None


@pytest.mark.parametrize(
    ("written", "number"),
    [("12", 12), (12, 12), ("-1", None), ("9" * 30, None), (True, None), (None, None), ([], None)],
)
def test_number_is_read_as_text_or_number(written: object, number: int | None) -> None:
    found = read(bare({**STATUS, "eventsSinceSubscriptionStart": written, "notificationEvent": "odd"}))
    assert found is not None
    assert (found.since_start, found.numbers) == (number, ())


@given(st.binary(max_size=100), st.sampled_from(Format))
def test_any_bytes_are_read_or_not(body: bytes, format: Format) -> None:
    assert read_notification(body, format=format) is None


@pytest.mark.parametrize(
    ("last", "numbers", "since", "gap"),
    [
        (3, (4, 5), 5, None),
        (3, (6,), 6, (4, 5)),
        (3, (3,), 3, None),
        (3, (), 3, None),
        (3, (), 5, (4, 5)),
        (3, (), None, None),
    ],
)
def test_gap_is_what_lies_between(
    last: int, numbers: tuple[int, ...], since: int | None, gap: tuple[int, int] | None
) -> None:
    """S-24, for a heartbeat too."""
    foreign = Foreign(package=Package.BARE, kind="event-notification", numbers=numbers, since_start=since)
    assert missed(last, foreign) == gap


def test_one_subscriber_reads_the_same_from_every_channel() -> None:
    """Sources: the notification is one and the same, wrapped or bare (recommendations 2 and 3)."""
    ids = ("64578ab3-2bf6-497a-a873-7c29fa2090d6", "a3671fee-b159-478b-9a96-335376d006e9")
    about = About(url="https://b.example/Subscription/1", topic=ENCOUNTERS, since_start=4, release=Release.R5)
    focus = Carried(reference="https://s.example/Encounter/2", type="Encounter", id="2", release=Release.R5)
    events = [Event(number=4, at=NOW, focus=focus)]
    bare = notification(Kind.EVENT, about, ids=ids, at=NOW, events=events)  # rest-hook, websocket, mail attachment
    message = wrap(
        bare, notification_id=ids[0], format=Format.JSON, release=Release.R5, endpoint="https://c.example/fhir",
        source="urn:oid:1.2.3", source_name="broker", ids=(ids[1], ids[0]), at=NOW,
    )  # fmt: skip
    envelope = envelope_of(events, about, prefix="org.example", base_url="https://b.example", at=NOW)
    event = read_event(write_event(envelope, bare, "application/fhir+json; fhirVersion=5.0"))
    found = [read_notification(body, format=Format.JSON) for body in (bare, message, event.body)]
    told = {(one.kind, one.numbers, one.focus, one.topic, one.body) for one in found if one is not None}
    assert told == {("event-notification", (4,), ("https://s.example/Encounter/2",), ENCOUNTERS, bare)}
    assert len(found) == 3
