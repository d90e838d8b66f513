from __future__ import annotations

import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from written import ALL, R4_AND_LATER, validated, values_of_json, values_of_xml

from broker.core.fhir.bounce import report
from broker.core.fhir.header import Event, Format, Header, Identifier, Release
from broker.core.outcome import Problem, Who

IDS = (
    "3b6b2f5a-0d55-4b0e-8f66-4f3f0a2f7a01",
    "3b6b2f5a-0d55-4b0e-8f66-4f3f0a2f7a02",
    "3b6b2f5a-0d55-4b0e-8f66-4f3f0a2f7a03",
)
AT = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
GAVE_UP = Problem(
    code="timeout",
    id="gave-up",
    text="The message could not be delivered within 24 hours: no connection to the receiver. Send it again later.",
    who=Who.RECEIVER,
    diagnostics="12 attempts",
)
EVENT = Event("http://example.org/events", "admit")


def request(**changed: Any) -> Header:
    known: dict[str, Any] = {
        "release": Release.R4,
        "format": Format.JSON,
        "event": EVENT,
        "bundle_id": "b-1",
        "bundle_identifier": Identifier("urn:sys", "i-1"),
        "message_id": "m-1",
        "source": "urn:oid:2.16.578.1.12.4.1.2.1001",
    }
    return Header(**(known | changed))


def bounce(
    header: Header,
    *,
    release: Release = Release.R4,
    format: Format = Format.JSON,
    final: bool = True,
    problem: Problem = GAVE_UP,
    destination: str | None = "urn:oid:2.16.578.1.12.4.1.2.102287",
) -> bytes:
    return report(
        request=header,
        release=release,
        format=format,
        problem=problem,
        final=final,
        broker_endpoint="urn:oid:2.16.578.1.12.4.1.2.8142",
        broker_name="North broker",
        ids=IDS,
        at=AT,
        response_to_destination=destination,
    )


def header_of(body: bytes) -> dict[str, Any]:
    header: dict[str, Any] = orjson.loads(body)["entry"][0]["resource"]
    return header


@pytest.mark.parametrize("final", [True, False])
@pytest.mark.parametrize("release", R4_AND_LATER)
def test_bounce_is_a_valid_message(release: Release, final: bool) -> None:
    bundle = validated(orjson.loads(bounce(request(), release=release, final=final)), release)
    assert bundle["type"] == "message"
    assert bundle["timestamp"] == "2026-11-21T10:00:00.000Z"
    assert [entry["fullUrl"] for entry in bundle["entry"]] == [f"urn:uuid:{id}" for id in IDS[1:]]
    assert [entry["resource"]["id"] for entry in bundle["entry"]] == list(IDS[1:])


def test_bounce_for_stu3_is_a_valid_message_of_stu3() -> None:
    bundle = validated(orjson.loads(bounce(request(), release=Release.STU3)), Release.STU3, "fhir.resources.STU3")
    header = bundle["entry"][0]["resource"]
    assert (header["event"], header["timestamp"]) == (
        {"system": EVENT.system, "code": "admit"},
        "2026-11-21T10:00:00.000Z",
    )
    assert "timestamp" not in bundle


def test_bounce_for_dstu2_has_the_elements_in_the_order_of_dstu2() -> None:
    bundle = orjson.loads(bounce(request(), release=Release.DSTU2))
    assert list(bundle) == ["resourceType", "id", "type", "entry"]
    assert list(bundle["entry"][0]["resource"]) == [
        "resourceType",
        "id",
        "text",
        "timestamp",
        "event",
        "response",
        "source",
        "destination",
    ]


@pytest.mark.parametrize("release", ALL)
def test_bounce_says_the_same_in_xml(release: Release) -> None:
    as_json = orjson.loads(bounce(request(), release=release))
    assert values_of_xml(bounce(request(), release=release, format=Format.XML)) == values_of_json(as_json)


def test_source_and_destination_are_reversed_in_r4() -> None:
    """A-43, M-30."""
    header = header_of(bounce(request()))
    assert header["source"] == {"name": "North broker", "endpoint": "urn:oid:2.16.578.1.12.4.1.2.8142"}
    assert header["destination"] == [{"endpoint": "urn:oid:2.16.578.1.12.4.1.2.1001"}]
    assert header["response"] == {
        "identifier": "m-1",
        "code": "fatal-error",
        "details": {"reference": f"urn:uuid:{IDS[2]}"},
    }


def test_source_and_destination_are_urls_and_the_identifier_an_object_in_r5() -> None:
    body = bounce(request(), release=Release.R5)
    header = header_of(body)
    assert header["source"] == {"endpointUrl": "urn:oid:2.16.578.1.12.4.1.2.8142", "name": "North broker"}
    assert header["destination"] == [{"endpointUrl": "urn:oid:2.16.578.1.12.4.1.2.1001"}]
    assert header["response"]["identifier"] == {"system": "urn:sys", "value": "i-1"}
    assert orjson.loads(body)["identifier"] == {"system": "urn:ietf:rfc:3986", "value": f"urn:uuid:{IDS[0]}"}


def test_r4_bundle_has_no_identifier() -> None:
    """M-16: some communities forbid it."""
    assert "identifier" not in orjson.loads(bounce(request()))


def test_given_up_for_time_is_transient_and_refused_is_fatal() -> None:
    """M-32."""
    assert header_of(bounce(request(), final=False))["response"]["code"] == "transient-error"
    assert header_of(bounce(request(), final=True))["response"]["code"] == "fatal-error"


@pytest.mark.parametrize(
    ("changed", "quoted"),
    [
        ({}, "m-1"),
        ({"message_id": None}, "b-1"),
        ({"message_id": None, "bundle_id": None}, "i-1"),
        ({"message_id": "urn:uuid:6d8f"}, "6d8f"),
        ({"message_id": "urn:uuid:a/b"}, "urn:uuid:a/b"),
    ],
)
def test_r4_quotes_the_id_that_the_request_has(changed: dict[str, Any], quoted: str) -> None:
    """M-30, M-31."""
    assert header_of(bounce(request(**changed)))["response"]["identifier"] == quoted


@pytest.mark.parametrize(
    ("changed", "quoted"),
    [
        ({}, {"system": "urn:sys", "value": "i-1"}),
        ({"bundle_identifier": Identifier("", "i-1")}, {"value": "i-1"}),
        ({"bundle_identifier": Identifier("urn:sys", "")}, {"value": "b-1"}),
        ({"bundle_identifier": None}, {"value": "b-1"}),
        ({"bundle_identifier": None, "bundle_id": None}, {"value": "m-1"}),
    ],
)
def test_r5_quotes_the_identifier_or_what_stands_for_it(changed: dict[str, Any], quoted: dict[str, str]) -> None:
    """M-23, M-30."""
    assert header_of(bounce(request(**changed), release=Release.R5))["response"]["identifier"] == quoted


@pytest.mark.parametrize("release", R4_AND_LATER)
def test_request_without_any_id_event_or_source_still_gets_a_valid_bounce(release: Release) -> None:
    bare = request(message_id=None, bundle_id=None, bundle_identifier=None, source=None, event=Event())
    header = validated(orjson.loads(bounce(bare, release=release)), release)["entry"][0]["resource"]
    assert "destination" not in header


@pytest.mark.parametrize(
    ("release", "event", "element", "value"),
    [
        (Release.R4, EVENT, "eventCoding", {"system": EVENT.system, "code": "admit"}),
        (Release.R5, EVENT, "eventCoding", {"system": EVENT.system, "code": "admit"}),
        (Release.R4, Event("", "urn:e"), "eventUri", "urn:e"),
        (Release.R5, Event("", "http://e"), "eventCanonical", "http://e"),
        (Release.R4, Event("http://s", ""), "eventCoding", {"system": "http://s"}),
        (Release.STU3, Event("", "admit"), "event", {"code": "admit"}),
    ],
)
def test_event_is_that_of_the_request(release: Release, event: Event, element: str, value: Any) -> None:
    """M-35."""
    assert header_of(bounce(request(event=event), release=release))[element] == value


SOURCES = [
    "[ODSCode]:[DoSId]",
    "test_one",
    "http://fhir.nhs.uk/Id/dos-service-id|111111111",
    "https://medcom.example/fhir/#id=953741000016009",
    "kim:someone@arzt.kim.example",
    "HTTP://SHOUTING.example/",
    "with blanks & <marks>",
]


@pytest.mark.parametrize("release", R4_AND_LATER)
@pytest.mark.parametrize("source", SOURCES)
def test_source_that_is_no_uri_is_answered_as_it_was_written(source: str, release: Release) -> None:
    """A-2, A-3."""
    element = "endpoint" if release in (Release.R4, Release.R4B) else "endpointUrl"
    bundle = validated(orjson.loads(bounce(request(source=source), release=release)), release)
    assert bundle["entry"][0]["resource"]["destination"] == [{element: source}]


def test_outcome_and_narrative_name_the_destination_that_failed() -> None:
    bundle = orjson.loads(bounce(request()))
    issue = bundle["entry"][1]["resource"]["issue"][0]
    assert issue["details"]["text"].endswith("(destination urn:oid:2.16.578.1.12.4.1.2.102287)")
    assert issue["diagnostics"] == "12 attempts; destination: urn:oid:2.16.578.1.12.4.1.2.102287"
    assert issue["code"] == "timeout"
    for entry in bundle["entry"]:
        assert GAVE_UP.text in entry["resource"]["text"]["div"]


def test_destination_that_the_text_names_is_not_named_twice() -> None:
    problem = Problem(code="not-found", id="x", text="urn:x is gone.")
    bundle = orjson.loads(bounce(request(), problem=problem, destination="urn:x"))
    assert bundle["entry"][1]["resource"]["issue"][0]["details"]["text"] == "urn:x is gone."


def test_bounce_without_a_destination_says_the_problem_alone() -> None:
    bundle = orjson.loads(bounce(request(), destination=None))
    assert bundle["entry"][1]["resource"]["issue"][0]["diagnostics"] == "12 attempts"


anything = st.text(max_size=30)


@settings(deadline=None)
@given(anything, anything, anything, anything, st.sampled_from(ALL))
def test_any_foreign_text_leaves_both_formats_readable(
    source: str, code: str, message_id: str, text: str, release: Release
) -> None:
    header = request(source=source, event=Event("", code), message_id=message_id)
    problem = Problem(code="timeout", id="gave-up", text=text)
    orjson.loads(bounce(header, release=release, problem=problem))
    ET.fromstring(bounce(header, release=release, problem=problem, format=Format.XML))
