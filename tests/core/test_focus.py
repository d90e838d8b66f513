"""What a message is about: the resources that its focus refers to, in JSON and in XML."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.fhir.focus import LONGEST, Focus, focused, is_over
from broker.core.fhir.header import Event, Format, Header, Release

TASK = {
    "resourceType": "Task", "id": "t1", "status": "completed", "basedOn": [{"reference": "ServiceRequest/1"}, {}],
    "focus": {"reference": "urn:uuid:f"},
}  # fmt: skip
FOUND = Focus(type="Task", id="t1", url="urn:uuid:t", status="completed", refers_to=("ServiceRequest/1", "urn:uuid:f"))
XML = b"""<Bundle xmlns="http://hl7.org/fhir"><type value="message"/>
<entry><fullUrl value="urn:uuid:h"/><resource><MessageHeader><id value="m"/></MessageHeader></resource></entry>
<entry><fullUrl value="urn:uuid:t"/><resource><Task><id value="t1"/>
<basedOn><reference value="ServiceRequest/1"/></basedOn><basedOn><display value="x"/></basedOn>
<status value="completed"/><focus><reference value="urn:uuid:f"/></focus></Task></resource></entry>
<entry><fullUrl value="urn:uuid:nothing"/></entry></Bundle>"""


def bundle(*resources: Any) -> bytes:
    entries = [{"fullUrl": "urn:uuid:t", "resource": resource} for resource in resources]
    return json.dumps({"resourceType": "Bundle", "entry": entries}).encode()


def header(*focus: str, format: Format = Format.JSON) -> Header:
    return Header(release=Release.R4, format=format, event=Event(code="x"), focus=focus)


@pytest.mark.parametrize("by", ["urn:uuid:t", "Task/t1"])
@pytest.mark.parametrize(("body", "format"), [(bundle(TASK), Format.JSON), (XML, Format.XML)])
def test_resource_is_found_by_its_full_url_or_its_type_and_id(by: str, body: bytes, format: Format) -> None:
    assert focused(body, header(by, format=format)) == (FOUND,)


@pytest.mark.parametrize("focus", [(), ("Task/t2",), ("https://elsewhere.example/Task/t1",)])
def test_what_lies_outside_the_message_is_not_found(focus: tuple[str, ...]) -> None:
    assert focused(bundle(TASK), header(*focus)) == ()


def test_resource_without_an_id_has_the_name_of_its_entry() -> None:
    assert Focus(type="Task").names == ()
    assert focused(bundle({"resourceType": "Task"}), header("urn:uuid:t"))[0].names == ("urn:uuid:t",)


@pytest.mark.parametrize(
    ("body", "format"),
    [
        (b"[]", Format.JSON), (b"{", Format.JSON), (b'{"entry": {}}', Format.JSON),
        (b'{"entry": [7, {}]}', Format.JSON),
        (b"<Bundle>", Format.XML), (b"<!DOCTYPE a><Bundle/>", Format.XML), (b"<a>" * 100, Format.XML),
        (bundle(TASK) + b" " * LONGEST, Format.JSON),
    ],
)  # fmt: skip
def test_what_cannot_be_read_or_is_too_long_is_about_nothing(body: bytes, format: Format) -> None:
    assert focused(body, header("Task/t1", format=format)) == ()


def test_values_of_other_types_are_nothing() -> None:
    strange = {"resourceType": "Task", "id": 7, "status": [], "basedOn": "x", "focus": {"reference": 7}}
    assert focused(bundle(strange), header("urn:uuid:t")) == (Focus(type="Task", url="urn:uuid:t"),)


@pytest.mark.parametrize(
    ("status", "over"),
    [("requested", False), ("in-progress", False), ("on-hold", False), ("", False), ("rejected", True),
     ("cancelled", True), ("failed", True), ("completed", True), ("entered-in-error", True)],
)  # fmt: skip
def test_task_is_over_in_a_state_that_it_does_not_leave(status: str, over: bool) -> None:
    """W-25."""
    assert is_over((Focus(type="Task", status=status),)) is over


def test_only_tasks_come_to_an_end() -> None:
    assert not is_over((Focus(type="Observation", status="cancelled"),))


@given(st.binary(), st.sampled_from(Format))
def test_any_bytes_are_about_something_or_nothing(body: bytes, format: Format) -> None:
    assert isinstance(focused(body, header("Task/t1", format=format)), tuple)
