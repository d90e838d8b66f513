from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from subscribed import CORPUS

from broker.core.fhir.splice import Raw
from broker.core.outcome import MessageInvalid
from broker.core.subscription.xml_values import values_of

START = '<Patient xmlns="http://hl7.org/fhir">'


def inside(xml: str) -> dict[str, object]:
    found = values_of(f"{START}{xml}</Patient>".encode())
    assert found.pop("resourceType") == "Patient"
    return found


@pytest.mark.parametrize(
    ("xml", "values"),
    [
        ('<id value="1"/>', {"id": "1"}),
        ('<name><family value="A"/></name>', {"name": {"family": "A"}}),
        ('<name id="n"/><name><given value="B"/><given value="C"/></name>',
         {"name": [{"id": "n"}, {"given": ["B", "C"]}]}),
        ('<telecom><value value="1"/></telecom>', {"telecom": [{"value": "1"}]}),
        ('<birthDate value="1970" id="b"/>', {"birthDate": "1970", "_birthDate": {"id": "b"}}),
        ('<birthDate><extension url="u"><valueCode value="x"/></extension></birthDate>',
         {"_birthDate": {"extension": [{"url": "u", "valueCode": "x"}]}}),
        ('<timeout value="5"/><requireBoth value="true"/>', {"timeout": 5, "requireBoth": True}),
        ('<timeout value="soon"/><requireBoth value="1"/>', {"timeout": "soon", "requireBoth": "1"}),
        ('<contained><Group><id value="g"/></Group></contained>', {"contained": {"resourceType": "Group", "id": "g"}}),
        ('<text><div xmlns="http://www.w3.org/1999/xhtml"><p>hi</p></div></text>', {"text": {}}),
    ],
)  # fmt: skip
def test_element_has_the_value_of_its_json(xml: str, values: dict[str, object]) -> None:
    assert inside(xml) == values


def test_resources_of_entries_stay_bytes_if_asked() -> None:
    body = (CORPUS / "HL7__fhir" / "notification-query-event.xml").read_bytes()
    bundle = values_of(body, raw_entries=True)
    resources = [entry["resource"] for entry in bundle["entry"]]
    assert [one["resourceType"] for one in resources] == ["SubscriptionStatus", "Encounter", "Patient", "Encounter"]
    for one in resources:
        raw = one[""]
        assert isinstance(raw, Raw)
        assert raw.contents in body
        assert raw.contents.startswith(b"<" + one["resourceType"].encode())
        assert raw.contents.endswith(f"</{one['resourceType']}>".encode())
    assert bundle["entry"][1]["request"] == {"method": "PUT", "url": "Encounter/307"}


def test_status_is_read_with_its_lists() -> None:
    body = (CORPUS / "HL7__fhir" / "notification-query-event.xml").read_bytes()
    status = values_of(body)["entry"][0]["resource"]
    assert [event["eventNumber"] for event in status["notificationEvent"]] == ["307", "308"]


@given(st.binary(max_size=200))
def test_any_bytes_are_values_or_a_refusal(body: bytes) -> None:
    try:
        values_of(body)
    except MessageInvalid as refusal:
        assert refusal.problem.id in ("malformed-xml", "wrong-namespace", "doctype", "too-deep")  # noqa: PT017
