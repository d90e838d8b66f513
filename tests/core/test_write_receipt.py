from __future__ import annotations

from uuid import UUID

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from written import ALL, validated, values_of_json, values_of_xml

from broker.core.fhir.header import Format, Release
from broker.core.fhir.receipt import Kind, receipt, receipt_bytes
from broker.core.fhir.write import write
from broker.core.outcome import Problem, Severity

ID = "0b1b2ad4-5a3c-4a0e-9f9b-52a1f5f0a7c1"
NOTE = Problem(code="not-found", id="unknown-destination", text="Nowhere for urn:x.", severity=Severity.WARNING)


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("release", ALL)
def test_receipt_is_valid_in_its_release(kind: Kind, release: Release) -> None:
    validated(receipt(kind, ID, release=release, notes=[NOTE]), release)


@settings(deadline=None)
@given(st.uuids(), st.sampled_from(Kind), st.sampled_from(Format), st.sampled_from(ALL))
def test_quick_receipt_equals_the_slow_one(id: UUID, kind: Kind, format: Format, release: Release) -> None:
    slow = write(receipt(kind, str(id), release=release), format)
    assert receipt_bytes(kind, str(id), format, release=release) == slow


def test_receipt_with_notes_says_them_after_what_became_of_the_message() -> None:
    body = orjson.loads(receipt_bytes(Kind.ACCEPTED, ID, notes=(NOTE,)))
    assert [issue["details"]["coding"][0]["code"] for issue in body["issue"]] == ["accepted", "unknown-destination"]
    assert body["issue"][1]["severity"] == "warning"


def test_receipt_with_notes_in_xml_says_the_same() -> None:
    resource = receipt(Kind.DUPLICATE, ID, release=Release.R4, notes=[NOTE])
    body = receipt_bytes(Kind.DUPLICATE, ID, Format.XML, notes=(NOTE,))
    assert values_of_xml(body) == values_of_json(resource)


@pytest.mark.parametrize("kind", [Kind.ACCEPTED, Kind.DUPLICATE, Kind.TAKEN, Kind.KEPT, Kind.CANCELLED])
def test_good_news_is_information_with_our_id(kind: Kind) -> None:
    """M-44."""
    (issue,) = orjson.loads(receipt_bytes(kind, ID))["issue"]
    assert (issue["severity"], issue["code"]) == ("information", "informational")
    assert ID in issue["details"]["text"]
    assert issue["details"]["coding"] == [
        {"system": "urn:x-fhir-broker:error", "code": kind.value},
        {"system": "urn:x-fhir-broker:message", "code": ID},
    ]


def test_kept_after_the_wait_says_not_to_resend_under_new_ids() -> None:
    assert b"do not resend it under new ids" in receipt_bytes(Kind.KEPT, ID)


@pytest.mark.parametrize("kind", [Kind.WITHDRAWN, Kind.WITHDRAWN_AFTER_LEAVING])
def test_withdrawn_after_the_wait_is_a_timeout_that_says_whether_it_had_left(kind: Kind) -> None:
    (issue,) = orjson.loads(receipt_bytes(kind, ID))["issue"]
    assert (issue["severity"], issue["code"]) == ("error", "timeout")
    assert ("Nothing had left" in issue["details"]["text"]) is (kind is Kind.WITHDRAWN)
