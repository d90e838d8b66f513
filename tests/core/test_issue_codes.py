"""The codes of an OperationOutcome's issues, alone or in a message, in JSON and XML."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.fhir.header import Format
from broker.core.fhir.issue_codes import LARGEST, MOST, issue_codes

CODING = {"system": "urn:x", "code": "E1"}
OUTCOME: dict[str, Any] = {
    "resourceType": "OperationOutcome",
    "issue": [
        {
            "severity": "error",
            "code": "processing",
            "details": {"coding": [CODING, {"code": "bare"}], "text": "secret"},
        },
        {"severity": "error", "code": "not-found"},
    ],
}
FOUND = ("processing", "urn:x|E1", "bare", "not-found")
XML = """<OperationOutcome xmlns="http://hl7.org/fhir"><issue><severity value="error"/><code value="processing"/>
<details><coding><system value="urn:x"/><code value="E1"/></coding><coding><code value="bare"/></coding>
<text value="secret"/></details></issue><issue><code value="not-found"/></issue></OperationOutcome>"""


def as_json(resource: object) -> tuple[str, ...]:
    return issue_codes(json.dumps(resource).encode(), Format.JSON)


def test_codes_of_an_outcome_alone_and_in_a_message_are_the_same() -> None:
    message = {"resourceType": "Bundle", "entry": [{"resource": {"resourceType": "MessageHeader", "code": "no"}},
                                                   {"resource": OUTCOME}]}  # fmt: skip
    assert as_json(OUTCOME) == as_json(message) == FOUND


def test_xml_says_the_same_as_json() -> None:
    bundle = f'<Bundle xmlns="http://hl7.org/fhir"><entry><resource>{XML}</resource></entry></Bundle>'
    assert issue_codes(XML.encode(), Format.XML) == issue_codes(bundle.encode(), Format.XML) == FOUND


@pytest.mark.parametrize(
    ("body", "format"),
    [
        (b"", Format.JSON), (b"{", Format.JSON), (b"[1]", Format.JSON), (b"<", Format.XML),
        (b'{"resourceType":"OperationOutcome","issue":{"code":"x"}}', Format.JSON),
        (b'<!DOCTYPE a [<!ENTITY b "c">]>' + XML.encode(), Format.XML),
        (b'{"resourceType":"Patient","issue":[{"code":"x"}]}', Format.JSON),
    ],
)  # fmt: skip
def test_what_is_no_outcome_has_no_codes(body: bytes, format: Format) -> None:
    assert issue_codes(body, format) == ()


def test_codes_are_bounded_in_number_and_length() -> None:
    many = {**OUTCOME, "issue": [{"code": f"c{n}"} for n in range(99)]}
    assert len(as_json(many)) == MOST
    assert as_json({**OUTCOME, "issue": [{"code": "x" * 101}, {"code": "a\u0007b"}, {"code": "fine"}]}) == ("fine",)
    assert issue_codes(json.dumps({**OUTCOME, "x": "y" * LARGEST}).encode(), Format.JSON) == ()


@given(st.binary() | st.recursive(st.none() | st.text(), lambda inner: st.dictionaries(
    st.sampled_from(["resourceType", "entry", "resource", "issue", "code", "details", "coding", "system"]),
    inner | st.lists(inner) | st.just("OperationOutcome"),
)).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_any_bytes_have_codes_or_none(body: bytes) -> None:
    for format in Format:
        assert all(isinstance(code, str) for code in issue_codes(body, format))
