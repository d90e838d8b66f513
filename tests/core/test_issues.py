"""Somebody else's OperationOutcome: its issues are kept as they stand, and nothing else is believed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.fhir.header import Format, Release
from broker.core.fhir.issues import LONGEST, MOST, issues_of

ISSUE = {
    "severity": "error",
    "code": "required",
    "details": {"coding": [{"system": "urn:s", "code": "E17", "display": "No author"}], "text": "who wrote it?"},
    "diagnostics": "line 4",
    "location": ["/f:Bundle"],
    "expression": ["Bundle.entry[1]"],
}
XML = b"""<?xml version="1.0"?><OperationOutcome xmlns="http://hl7.org/fhir"><text><div
 xmlns="http://www.w3.org/1999/xhtml">hidden</div></text><issue><severity value="error"/><code value="required"/>
 <details>
 <coding><system value="urn:s"/><code value="E17"/><display value="No author"/></coding><text value="who wrote it?"/>
 </details><diagnostics value="line 4"/><location value="/f:Bundle"/><expression value="Bundle.entry[1]"/></issue>
 </OperationOutcome>"""


def outcome(*issues: object, **more: object) -> bytes:
    return json.dumps({"resourceType": "OperationOutcome", "issue": list(issues), **more}).encode()


@pytest.mark.parametrize(("body", "format"), [(outcome(ISSUE), Format.JSON), (XML, Format.XML)])
def test_issue_is_read_as_it_stands(body: bytes, format: Format) -> None:
    assert issues_of(body, format, release=Release.R4) == [ISSUE]


def test_dstu2_has_no_expression() -> None:
    [issue] = issues_of(outcome(ISSUE), Format.JSON, release=Release.DSTU2)
    assert "expression" not in issue
    assert issue["location"] == ["/f:Bundle"]


@pytest.mark.parametrize(
    "issue",
    [
        "text",
        {},
        {"severity": "terrible", "code": "required"},
        {"severity": "error"},
        {"severity": "error", "code": 7},
    ],
)
def test_what_is_no_issue_is_left_out(issue: object) -> None:
    assert issues_of(outcome(issue, ISSUE), Format.JSON, release=Release.R4) == [ISSUE]


def test_elements_of_other_types_and_unknown_ones_are_left_out() -> None:
    strange = {
        "severity": "error", "code": "invalid", "details": {"coding": ["x", {"code": 7}], "text": ["y"]},
        "diagnostics": {}, "expression": "Bundle", "extension": [{"url": "u"}],
    }  # fmt: skip
    bare = {"severity": "error", "code": "invalid"}
    assert issues_of(outcome(strange), Format.JSON, release=Release.R4) == [bare]
    assert issues_of(outcome({**bare, "details": "x"}), Format.JSON, release=Release.R4) == [bare]


@pytest.mark.parametrize(
    ("body", "format"),
    [
        (b"{", Format.JSON),
        (b"[]", Format.JSON),
        (b'{"resourceType": "Bundle", "issue": []}', Format.JSON),
        (b'{"resourceType": "OperationOutcome", "issue": {}}', Format.JSON),
        (b"<OperationOutcome", Format.XML),
        (b'<!DOCTYPE x [<!ENTITY a "b">]><OperationOutcome/>', Format.XML),
        (b"<a>" * 100, Format.XML),
        (b'<Bundle><issue><severity value="error"/><code value="x"/></issue></Bundle>', Format.XML),
        (outcome(ISSUE, pad="x" * LONGEST), Format.JSON),
    ],
)
def test_what_is_no_outcome_has_no_issues(body: bytes, format: Format) -> None:
    assert issues_of(body, format, release=Release.R4) == []


def test_of_many_issues_the_first_are_kept() -> None:
    assert len(issues_of(outcome(*[ISSUE] * (MOST + 5)), Format.JSON, release=Release.R4)) == MOST


@given(st.one_of(st.binary(), st.text().map(str.encode)), st.sampled_from(Format))
def test_any_bytes_have_issues_or_none(body: bytes, format: Format) -> None:
    assert isinstance(issues_of(body, format, release=Release.R4), list)


VALUES = st.recursive(
    st.none() | st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@given(VALUES)
def test_any_value_in_the_place_of_an_issue_is_left_out_or_read(value: object) -> None:
    assert isinstance(issues_of(outcome(value, details=value), Format.JSON, release=Release.R4), list)
