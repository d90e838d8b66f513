from __future__ import annotations

from datetime import UTC, datetime

import orjson
import pytest
from written import validated, values_of_json, values_of_xml

from broker.core.fhir.completion import batch_response, manifest
from broker.core.fhir.header import Format, Release
from broker.core.fhir.searchset import PageEntry
from broker.core.outcome import Problem, Who

AT = datetime(2026, 11, 21, tzinfo=UTC)
ID = "9d0f3b0e-6f4a-4c55-8a5f-1f7f5f0e1a01"
BODY = b'{"resourceType": "Bundle", "type": "message"}'
URL = f"https://broker.example/fhir/Bundle/{ID}"
RESPONSE = PageEntry(
    message_id=ID,
    position=4,
    body=BODY,
    format=Format.JSON,
    release=Release.R5,
    media_type="application/fhir+json",
)
REFUSED = Problem(code="forbidden", id="refused", text="The receiver refused it.", who=Who.RECEIVER)


def test_manifest_has_the_members_of_bulk_data() -> None:
    """M-50."""
    body = manifest(
        at=AT,
        request="https://broker.example/fhir/$process-message",
        requires_access_token=False,
        output=[("Bundle", URL)],
    )
    assert orjson.loads(body) == {
        "transactionTime": "2026-11-21T00:00:00.000Z",
        "request": "https://broker.example/fhir/$process-message",
        "requiresAccessToken": False,
        "output": [{"type": "Bundle", "url": URL}],
        "error": [],
    }


def test_manifest_of_a_failure_lists_the_outcome() -> None:
    body = manifest(at=AT, request="x", requires_access_token=True, error=[("OperationOutcome", "urn:o")])
    assert orjson.loads(body)["error"] == [{"type": "OperationOutcome", "url": "urn:o"}]


@pytest.mark.parametrize("release", [Release.R4, Release.R5, Release.R6])
def test_batch_response_is_valid_and_holds_the_response_as_it_came(release: Release) -> None:
    """M-50."""
    response = RESPONSE if release is Release.R5 else PageEntry(**_fields(RESPONSE) | {"release": release})
    body = batch_response(format=Format.JSON, release=release, status="200 OK", location=URL, response=response, at=AT)
    assert BODY in body
    (entry,) = validated(orjson.loads(body), release)["entry"]
    assert entry["fullUrl"] == f"urn:uuid:{ID}"
    assert entry["response"] == {"status": "200 OK", "location": URL, "lastModified": "2026-11-21T00:00:00.000Z"}


def _fields(entry: PageEntry) -> dict[str, object]:
    return {name: getattr(entry, name) for name in entry.__struct_fields__}


@pytest.mark.parametrize(("format", "release"), [(Format.XML, Release.R5), (Format.JSON, Release.R4)])
def test_response_that_may_not_stand_there_is_to_be_fetched(format: Format, release: Release) -> None:
    body = batch_response(format=format, release=release, status="200 OK", location=URL, response=RESPONSE)
    expected = {
        "resourceType": "Bundle",
        "type": "batch-response",
        "entry": [{"response": {"status": "200 OK", "location": URL}}],
    }
    if format is Format.JSON:
        assert orjson.loads(body) == expected
    else:
        assert values_of_xml(body) == values_of_json(expected)


def test_failure_is_told_inside_a_valid_batch_response() -> None:
    body = batch_response(format=Format.JSON, release=Release.R5, status="403 Forbidden", problems=[REFUSED])
    (entry,) = validated(orjson.loads(body), Release.R5)["entry"]
    assert entry["response"]["outcome"]["issue"][0]["code"] == "forbidden"
