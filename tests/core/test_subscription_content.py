from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.fhir.header import Event, Format, Header, Release
from broker.core.subscription.content import Content, Entry, fragment, opened, places_in
from broker.core.subscription.topic import Interaction

MESSAGES = Path(__file__).parent.parent / "corpus" / "messages"
JSON = sorted(MESSAGES.rglob("*.json"))
XML = sorted(MESSAGES.rglob("*.xml"))
PATIENT = {"resourceType": "Patient", "id": "p1", "active": True}
BUNDLE = {
    "resourceType": "Bundle",
    "type": "message",
    "entry": [
        {"fullUrl": "urn:uuid:h", "resource": {"resourceType": "MessageHeader", "id": "h"}},
        {"fullUrl": "urn:uuid:p", "resource": PATIENT, "request": {"method": "PUT", "url": "Patient/p1"}},
        {"fullUrl": "https://s.example/fhir/Encounter/2", "resource": {"resourceType": "Encounter", "id": "2"}},
        {"request": {"method": "DELETE", "url": "Observation/7?x=y"}},
        {"resource": {"resourceType": "Basic"}},
    ],
}


def header(*focus: str, format: Format = Format.JSON) -> Header:
    return Header(release=Release.R4, format=format, event=Event(code="admit"), focus=focus)


def content(*focus: str) -> Content:
    return Content(orjson.dumps(BUNDLE), header(*focus))


@pytest.mark.parametrize("path", [*JSON, *XML], ids=lambda path: path.name)
def test_real_messages_are_taken_apart_and_their_resources_stay_bytes(path: Path) -> None:
    body = path.read_bytes()
    found = Content(body, header(format=Format.JSON if path.suffix == ".json" else Format.XML))
    assert found.entries
    for entry in found.entries:
        assert entry.raw in body
        assert entry.values.get("resourceType") == entry.type
        assert fragment(entry.raw, entry.format) is not None or not entry.raw


def test_entry_says_its_names_and_what_is_done() -> None:
    found = content().entries
    assert [entry.reference for entry in found] == [
        "urn:uuid:h",
        "urn:uuid:p",
        "https://s.example/fhir/Encounter/2",
        "Observation/7",
        "",
    ]
    assert [entry.interaction for entry in found] == [None, Interaction.UPDATE, None, Interaction.DELETE, None]
    assert found[1].names == ("urn:uuid:p", "Patient/p1")
    assert found[1].values == PATIENT
    assert (found[3].type, found[3].raw, found[3].values) == ("Observation", b"", {"resourceType": "Observation"})


def test_reference_finds_its_entry_by_either_name() -> None:
    found = content("urn:uuid:p", "Encounter/2", "https://elsewhere/Patient/p1", "Patient/none")
    assert [entry.type for entry in found.focus()] == ["Patient", "Encounter", "Patient"]
    assert found.aliases("urn:uuid:p") == ("urn:uuid:p", "Patient/p1")
    assert found.aliases("urn:uuid:x") == ()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"resourceType":"Patient"}', b'{"entry":7}', b"\xff"])
def test_what_cannot_be_taken_apart_has_no_entries(body: bytes) -> None:
    assert opened(body, format=Format.JSON, release=Release.R4).entries == ()


@pytest.mark.parametrize("body", [b"", b"<a/>", b'<Patient xmlns="http://hl7.org/fhir"/>', b"<a"])
def test_xml_that_cannot_be_taken_apart_has_no_entries(body: bytes) -> None:
    assert opened(body, format=Format.XML, release=Release.R4).entries == ()


@given(st.binary(max_size=100), st.sampled_from(Format))
def test_any_bytes_are_taken_apart_or_not(body: bytes, format: Format) -> None:
    assert opened(body, format=format, release=Release.R4).entries == ()


def test_half_a_surrogate_pair_hides_nothing() -> None:
    """X-43."""
    body = (
        rb'{"resourceType":"Bundle","type":"message","entry":[{"resource":{"resourceType":"Patient","id":"\ud800"}}]}'
    )
    (entry,) = opened(body, format=Format.JSON, release=Release.R4).entries
    assert entry.type == "Patient"
    assert entry.id == ""


def test_resource_that_leans_on_prefixes_of_its_bundle_is_no_fragment() -> None:
    body = (
        b'<f:Bundle xmlns:f="http://hl7.org/fhir"><f:entry><f:fullUrl value="urn:uuid:1"/>'
        b'<f:resource><f:Patient><f:id value="1"/></f:Patient></f:resource></f:entry></f:Bundle>'
    )
    (entry,) = opened(body, format=Format.XML, release=Release.R4).entries
    assert (entry.type, entry.raw, entry.full_url) == ("Patient", b"", "urn:uuid:1")
    assert fragment(b"<f:Patient/>", Format.XML) is None


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"{}"])
def test_what_would_spoil_a_bundle_is_no_fragment(raw: bytes) -> None:
    assert fragment(raw, Format.JSON) is None


def test_values_of_what_is_not_json_are_its_type_alone() -> None:
    assert Entry(type="Patient", raw=b"{").values == {"resourceType": "Patient"}


@pytest.mark.parametrize("path", [*JSON, *XML], ids=lambda path: path.name)
def test_message_taken_apart_elsewhere_is_the_same(path: Path) -> None:
    body, about = path.read_bytes(), header(format=Format.JSON if path.suffix == ".json" else Format.XML)
    places = places_in(body, about.format)
    assert places is not None
    here, there = Content(body, about), Content(body, about, places)
    for one, other in zip(here.entries, there.entries, strict=True):
        names = ("full_url", "type", "id", "method", "url", "raw", "format", "release", "values")
        assert [getattr(one, name) for name in names] == [getattr(other, name) for name in names]


def test_entry_that_stands_twice_is_found_in_both_places() -> None:
    body = orjson.dumps({"resourceType": "Bundle", "entry": [{"resource": PATIENT}, {"resource": PATIENT}]})
    first, second = places_in(body, Format.JSON) or ()
    assert first.end <= second.start
    assert body[first.start : first.end] == body[second.start : second.end] == orjson.dumps(PATIENT)


def test_what_was_mended_to_be_read_has_no_place() -> None:
    """X-43, and XML that leans on names of the document around it."""
    assert places_in(b'{"resourceType":"Bundle","entry":[{"resource":{"id":"\\ud800"}}]}', Format.JSON) is None
    body = b'<f:Bundle xmlns:f="http://hl7.org/fhir"><f:entry><f:resource><f:Basic/></f:resource></f:entry></f:Bundle>'
    assert places_in(body, Format.XML) is None
