from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from subscribed import CANDLE, ENCOUNTERS, NOW
from written import HERE, validated

from broker.core.fhir.header import Format, Release
from broker.core.outcome import Problem
from broker.core.subscription.content import Entry
from broker.core.subscription.foreign import Package, read_notification
from broker.core.subscription.notification import (
    DEFAULT_COUNT,
    About,
    Carried,
    Event,
    Kind,
    batches,
    carried,
    notification,
    statuses,
)
from broker.core.subscription.subscription import Content, Status
from broker.core.subscription.topic import Interaction

SERVED = (Release.R4, Release.R4B, Release.R5, Release.R6)
IDS = ("64578ab3-2bf6-497a-a873-7c29fa2090d6", "a3671fee-b159-478b-9a96-335376d006e9")
URL = "https://broker.example/fhir/Subscription/123"
# In the order, with the white space and the escapes of its author: none of it may change.
ENCOUNTER = (
    rb'{ "resourceType":"Encounter",  "id":"2","status":"finished",'
    rb' "class" : {"code":"AMB","display":"\u0041mbulatory"} }'
)
PROBLEM = Problem(code="processing", id="no-answer", text="The endpoint did not answer.")


def encounter(shape: Release, **changed: Any) -> Carried:
    body = ENCOUNTER
    if shape.identifies_by_bundle_identifier:
        body = (
            body.replace(b'{"code"', b'[{"coding":[{"code"')
            .replace(b'y"}', b'y"}]}]')
            .replace(b"finished", b"completed")
        )
    known: dict[str, Any] = {
        "reference": "https://source.example/fhir/Encounter/2",
        "type": "Encounter",
        "id": "2",
        "interaction": Interaction.UPDATE,
        "body": body,
        "release": shape,
    }
    return Carried(**(known | changed))


PATIENT = Carried(reference="https://source.example/fhir/Patient/1", type="Patient", id="1")


def about(release: Release, content: Content = Content.ID_ONLY, **changed: Any) -> About:
    known = {"url": URL, "topic": ENCOUNTERS, "since_start": 2, "content": content, "release": release}
    return About(**(known | changed))


def event(release: Release, number: int = 2, **changed: Any) -> Event:
    known: dict[str, Any] = {"number": number, "at": NOW, "focus": encounter(release), "more": (PATIENT,)}
    return Event(**(known | changed))


def written(kind: Kind, to: About, events: Sequence[Event] = (), errors: Sequence[Problem] = ()) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(notification(kind, to, ids=IDS, at=NOW, events=events, errors=errors))
    return found


def assert_history(bundle: dict[str, Any]) -> None:
    """S-31: what bdl-3 and bdl-4 ask of a history, and the profile of the backport of its first entry."""
    assert bundle["type"] == "history"
    for entry in bundle["entry"]:
        assert entry["request"]["method"] in ("GET", "PUT", "POST", "DELETE")
        assert entry["request"]["url"]
        assert entry["response"]["status"]
    first = bundle["entry"][0]
    assert first["request"] == {"method": "GET", "url": f"{URL}/$status"}
    assert first["response"] == {"status": "200"}


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("content", Content)
@pytest.mark.parametrize("release", SERVED)
def test_every_notification_is_valid_in_its_release(kind: Kind, content: Content, release: Release) -> None:
    """Of all kinds, on all levels (spec sections 4 and 5)."""
    events = (event(release, 1), event(release)) if kind in (Kind.EVENT, Kind.QUERY_EVENT) else ()
    bundle = validated(written(kind, about(release, content), events, [PROBLEM]), release)
    first = bundle["entry"][0]["resource"]
    assert first["resourceType"] == ("Parameters" if release is Release.R4 else "SubscriptionStatus")  # S-30
    if release in (Release.R4, Release.R4B):
        assert_history(bundle)
    else:
        assert bundle["type"] == "subscription-notification"
        assert all(("response" in entry) is (release is Release.R5) for entry in bundle["entry"][1:])  # S-32
    assert first["id"] == IDS[1]
    assert bundle["id"] == IDS[0]


@pytest.mark.parametrize("release", SERVED)
def test_empty_tells_numbers_and_nothing_else(release: Release) -> None:
    """S-23: not even the topic."""
    body = notification(Kind.EVENT, about(release, Content.EMPTY), ids=IDS, at=NOW, events=[event(release)])
    assert len(orjson.loads(body)["entry"]) == 1
    for secret in (b"Encounter", b"Patient", ENCOUNTERS.encode()):
        assert secret not in body


@pytest.mark.parametrize("release", SERVED)
def test_id_only_names_each_resource_and_shows_none(release: Release) -> None:
    bundle = written(Kind.EVENT, about(release), [event(release, 1), event(release)])
    names = [entry["fullUrl"] for entry in bundle["entry"][1:]]
    assert names.count(PATIENT.reference) == 1
    assert not any("resource" in entry for entry in bundle["entry"][1:])
    assert bundle["entry"][1]["request"] == {"method": "PUT", "url": "Encounter/2"}


@pytest.mark.parametrize("release", SERVED)
def test_full_resource_stands_byte_for_byte(release: Release) -> None:
    """Promise 3."""
    one = event(release)
    assert one.focus is not None
    body = notification(Kind.EVENT, about(release, Content.FULL), ids=IDS, at=NOW, events=[one])
    assert b'"resource":' + one.focus.body + b"," in body


@pytest.mark.parametrize(
    "changed",
    [
        {"format": Format.XML, "body": b'<Encounter xmlns="http://hl7.org/fhir"/>'},
        {"release": Release.R5},
        {"interaction": Interaction.DELETE},
        {"body": b""},
        {"body": b"{"},
    ],
)
def test_resource_that_cannot_be_shown_is_named(changed: dict[str, Any]) -> None:
    """Section 5: `request` and `response` in its place."""
    one = event(Release.R4, focus=encounter(Release.R4, **changed))
    entry = written(Kind.EVENT, about(Release.R4, Content.FULL), [one])["entry"][1]
    assert "resource" not in entry
    assert entry["request"]["url"] == "Encounter/2"


@pytest.mark.parametrize(
    ("interaction", "method", "url", "status"),
    [
        (Interaction.CREATE, "POST", "Encounter", "201"),
        (Interaction.UPDATE, "PUT", "Encounter/2", "200"),
        (Interaction.DELETE, "DELETE", "Encounter/2", "204"),
        (None, "GET", "Encounter/2", "200"),
    ],
)
def test_entry_says_what_was_done(interaction: Interaction | None, method: str, url: str, status: str) -> None:
    one = event(Release.R4, focus=encounter(Release.R4, interaction=interaction))
    entry = written(Kind.EVENT, about(Release.R4), [one])["entry"][1]
    assert entry["request"] == {"method": method, "url": url}
    assert entry["response"] == {"status": status}


def test_numbers_are_texts_in_every_json() -> None:
    """Section 4: a string in R4B, integer64 in R5."""
    for release in (Release.R4B, Release.R5):
        first = written(Kind.EVENT, about(release), [event(release)])["entry"][0]["resource"]
        assert first["eventsSinceSubscriptionStart"] == "2"
        assert first["notificationEvent"][0]["eventNumber"] == "2"


@pytest.mark.parametrize("release", SERVED)
def test_xml_says_the_same(release: Release) -> None:
    patient = Carried(reference="urn:uuid:1", type="Patient", body=b"<Patient/>", format=Format.XML, release=release)
    to = about(release, Content.FULL, format=Format.XML)
    body = notification(Kind.EVENT, to, ids=IDS, at=NOW, events=[event(release, focus=patient, more=())])
    root = ET.fromstring(body)
    assert b"<resource><Patient/></resource>" in body
    assert [entry.find(f"{HERE}resource/{HERE}Patient") is not None for entry in root.iter(f"{HERE}entry")] == [
        False,
        True,
    ]
    read = read_notification(body, format=Format.XML, release=release)
    assert read is not None
    assert (read.numbers, read.since_start, read.subscription, read.focus) == ((2,), 2, URL, ("urn:uuid:1",))


@pytest.mark.parametrize("release", SERVED)
@pytest.mark.parametrize("kind", Kind)
def test_what_is_written_is_read_as_it_was_meant(release: Release, kind: Kind) -> None:
    body = notification(kind, about(release), ids=IDS, at=NOW, events=[event(release, 1), event(release)])
    read = read_notification(body, format=Format.JSON, release=release)
    assert read is not None
    assert (read.package, read.kind, read.numbers, read.topic) == (Package.BARE, kind, (1, 2), ENCOUNTERS)
    assert read.has_parameters is (release is Release.R4)


@pytest.mark.parametrize(
    ("name", "release", "kind"),
    [
        ("Bundle-notification-handshake", Release.R4, Kind.HANDSHAKE),
        ("r4b__Bundle-notification-handshake", Release.R4B, Kind.HANDSHAKE),
        ("r5__Bundle-notification-handshake", Release.R5, Kind.HANDSHAKE),
        ("Bundle-notification-id", Release.R4, Kind.EVENT),
    ],
)
def test_ours_have_all_that_examples_have(name: str, release: Release, kind: Kind) -> None:
    """fhir-candle's notifications, written again from what is read out of them."""
    theirs = orjson.loads((CANDLE / f"{name}.json").read_bytes())
    read = read_notification(orjson.dumps(theirs), format=Format.JSON, release=release)
    assert read is not None
    to = about(release, url=read.subscription, since_start=read.since_start, topic=read.topic)
    focus = [Carried(reference=reference, type="Encounter") for reference in read.focus]
    events = [
        Event(number=number, at=NOW, focus=one, more=(PATIENT,))
        for number, one in zip(read.numbers, focus, strict=True)
    ]
    ours = written(kind, to, events)
    assert ours["type"] == theirs["type"]
    first, example = ours["entry"][0]["resource"], theirs["entry"][0]["resource"]
    assert first["resourceType"] == example["resourceType"]
    if release is Release.R4:
        assert [one["name"] for one in first["parameter"]] == [one["name"] for one in example["parameter"]]
        parts = [[part["name"] for part in one.get("part", ())] for one in first["parameter"]]
        assert parts == [[part["name"] for part in one.get("part", ())] for one in example["parameter"]]
    else:
        assert {**first, "id": 0} == {**example, "id": 0}


def test_query_stands_where_each_release_has_it() -> None:
    """S-57a, bp 1.2.0: a part in R4, an extension since."""
    query = "https://source.example/fhir/Encounter?_lastUpdated=gt2026-11-21"
    parameters = written(Kind.EVENT, about(Release.R4, Content.EMPTY), [event(Release.R4, query=query)])
    part = parameters["entry"][0]["resource"]["parameter"][-1]["part"][-1]
    assert part == {"name": "related-query", "part": [{"name": "query", "valueString": query}]}
    for release in (Release.R4B, Release.R5):
        status = validated(written(Kind.EVENT, about(release), [event(release, query=query)]), release)
        (extension,) = status["entry"][0]["resource"]["notificationEvent"][0]["extension"]
        assert extension["extension"] == [{"url": "query", "valueString": query}]


def test_event_without_a_focus_has_its_number_and_time() -> None:
    bare = written(Kind.EVENT, about(Release.R5, Content.FULL), [Event(number=7)])
    assert bare["entry"][0]["resource"]["notificationEvent"] == [{"eventNumber": "7"}]
    assert len(bare["entry"]) == 1


def test_resource_of_unknown_place_has_no_full_url() -> None:
    focus = Carried(reference="Encounter/2", type="Encounter", id="2")
    entry = written(Kind.EVENT, about(Release.R5), [event(Release.R5, focus=focus, more=())])["entry"][1]
    assert "fullUrl" not in entry
    assert entry["request"]["url"] == "Encounter/2"


def test_retry_repeats_the_bytes() -> None:
    """S-33."""
    first, second = (
        notification(Kind.EVENT, about(Release.R5), ids=IDS, at=NOW, events=[event(Release.R5)]) for _ in range(2)
    )
    assert first == second


# --- $status ---


@pytest.mark.parametrize("release", SERVED)
def test_statuses_are_a_searchset(release: Release) -> None:
    many = [
        (about(release, status=status), f"00000000-0000-0000-0000-00000000000{n}") for n, status in enumerate(Status)
    ]
    body = statuses(many, format=Format.JSON, self_url=f"{URL}/$status", errors=[[], [PROBLEM]])
    bundle = validated(orjson.loads(body), release)
    assert (bundle["type"], bundle["total"]) == ("searchset", len(Status))
    assert b"query-status" in body
    assert body.count(b"no-answer") == 1


def test_no_statuses_are_an_empty_searchset() -> None:
    bundle = orjson.loads(statuses([], format=Format.JSON, self_url="x"))
    assert "entry" not in bundle
    assert bundle["total"] == 0


# --- batches ---


@given(st.lists(st.integers(0, 50), max_size=60), st.one_of(st.none(), st.integers(1, 9)), st.integers(1, 100))
def test_batches_hold_every_event_once_in_order_and_within_both_limits(
    sizes: list[int], most: int | None, room: int
) -> None:
    """S-34; what is larger than the room goes alone."""
    focus = [Carried(reference="r", type="t", body=b"x" * size) for size in sizes]
    events = [Event(number=number, focus=one) for number, one in enumerate(focus, 1)]
    found = list(batches(events, most=most, bytes_each=room))
    assert [event for batch in found for event in batch] == events
    for batch in found:
        assert 0 < len(batch) <= (most or DEFAULT_COUNT)
        size = sum(len(event.focus.body) for event in batch if event.focus)
        assert len(batch) == 1 or size <= room


def test_entry_of_a_message_is_carried_with_or_without_its_bytes() -> None:
    entry = Entry(full_url="urn:uuid:1", type="Patient", id="1", raw=b"{}", release=Release.R5)
    with_body = carried(entry, interaction=Interaction.CREATE, with_body=True)
    assert (with_body.reference, with_body.body, with_body.release) == ("urn:uuid:1", b"{}", Release.R5)
    assert carried(entry, with_body=False).body == b""
