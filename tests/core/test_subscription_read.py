from __future__ import annotations

from datetime import timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from subscribed import CANDLE, ENCOUNTERS, extension, r4, r5, read

from broker.core.fhir.header import Format, Release
from broker.core.fhir.outcomes import http_status
from broker.core.outcome import Refusal, SubscriptionRefused
from broker.core.subscription.read import LARGEST, read_subscription
from broker.core.subscription.read_r4 import filters_of
from broker.core.subscription.subscription import (
    OWN_CHANNELS,
    R4_CHANNELS,
    R5_CHANNELS,
    ChannelType,
    Content,
    Filter,
    Header,
    Model,
    Status,
    with_secrets_of,
)

R4_XML = b"""<?xml version="1.0" encoding="UTF-8"?>
<Subscription xmlns="http://hl7.org/fhir"><status value="requested"/>
<contact><system value="phone"/><value value="1"/></contact><reason value="to know"/>
<criteria value="http://example.org/FHIR/SubscriptionTopic/encounter-complete"><extension
 url="http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-filter-criteria"><valueString
 value="Encounter?patient=Patient/example"/></extension></criteria>
<channel><extension url="http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-max-count"
><valuePositiveInt value="20"/></extension><type value="rest-hook"/><endpoint value="https://example.org/hook"/>
<payload value="application/fhir+xml"><extension
 url="http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-payload-content"><valueCode
 value="full-resource"/></extension></payload><header value="Authorization: Bearer a:b"/></channel></Subscription>"""

R5_XML = b"""<Subscription xmlns="http://hl7.org/fhir"><identifier><value value="1"/></identifier>
<status value="requested"/><topic value="http://example.org/t|2"/><filterBy><resourceType value="Encounter"/>
<filterParameter value="length"/><comparator value="gt"/><value value="5"/></filterBy>
<channelType><system value="http://terminology.hl7.org/CodeSystem/subscription-channel-type"/>
<code value="websocket"/></channelType><heartbeatPeriod value="60"/><maxCount value="3"/><content value="empty"/>
</Subscription>"""


def refusal_of(
    resource: dict[str, Any] | bytes, release: Release = Release.R5, format: Format = Format.JSON
) -> Refusal:
    with pytest.raises(Refusal) as raised:
        read(resource, release, format)
    return raised.value


def complained(resource: dict[str, Any], release: Release = Release.R5) -> list[str]:
    return [problem.expression[0] for problem in refusal_of(resource, release).problems]


# --- the corpus ---


def test_example_of_the_backport_is_read() -> None:
    """fhir-candle's own R4 subscription, BOM and `valueInteger` included."""
    body = (CANDLE / "Subscription-encounter-complete.json").read_bytes()
    found = read_subscription(body, format=Format.JSON, release=Release.R4)
    assert (found.model, found.topic, found.content) == (Model.BACKPORT, ENCOUNTERS, Content.ID_ONLY)
    assert found.filters == (Filter(parameter="patient", value="Patient/example", resource_type="Encounter"),)
    assert found.channel == ChannelType(R5_CHANNELS, "rest-hook")
    assert found.heartbeat == timedelta(seconds=120)
    assert found.end is not None
    assert found.end.isoformat() == "2023-08-30T17:06:34.743172+00:00"
    assert b"lastUpdated" not in found.kept


@pytest.mark.parametrize("name", ["r5__Subscription-encounter-complete", "subscription-encounter-complete-fhirpath"])
def test_examples_of_r5_are_read(name: str) -> None:
    found = read((CANDLE / f"{name}.json").read_bytes())
    assert (found.model, found.content, found.channel.code) == (Model.NATIVE, Content.ID_ONLY, "rest-hook")
    assert found.filters[0].parameter == "patient"
    assert found.topic_url.startswith("http://example.org/FHIR/")


def test_example_with_a_secret_keeps_it_and_does_not_show_it() -> None:
    """S-7, S-60."""
    found = read((CANDLE / "subscription-encounter-complete-fhirpath.json").read_bytes())
    assert found.headers == (Header("Authorization", "Bearer secret-token-abc-123"),)
    assert "secret-token" not in repr(found)
    assert (found.max_count, found.timeout) == (100, timedelta(seconds=5))


# --- the models (S-1) ---


@pytest.mark.parametrize(
    "criteria", ["Encounter?status=finished", "Encounter", "Encounter?subject=https://a/Patient/1"]
)
def test_search_string_is_the_classic_model(criteria: str) -> None:
    found = read(r4(criteria=criteria), Release.R4)
    assert (found.model, found.criteria, found.topic) == (Model.CLASSIC, criteria, "")
    assert (found.content, found.media_type) == (None, "")


@pytest.mark.parametrize("criteria", ["http://example.org/topic", "urn:example:topic|1"])
def test_canonical_is_the_backport_without_any_extension(criteria: str) -> None:
    found = read(r4(criteria=criteria), Release.R4B)
    assert (found.model, found.topic, found.content) == (Model.BACKPORT, criteria, None)
    assert found.release is Release.R4B


def test_known_topic_is_the_backport_whatever_it_looks_like() -> None:
    body = orjson.dumps(r4(criteria="Admissions"))
    found = read_subscription(body, format=Format.JSON, release=Release.R4, is_topic=lambda url: url == "Admissions")
    assert found.model is Model.BACKPORT


def test_any_extension_of_the_backport_makes_it_one() -> None:
    channel = {"extension": [extension("timeout", valueUnsignedInt=9)]}
    found = read(r4(criteria="Admissions", channel=channel), Release.R4)
    assert (found.model, found.timeout) == (Model.BACKPORT, timedelta(seconds=9))


def test_elements_of_r5_are_read_as_r5_although_the_version_says_r4() -> None:
    found = read(r5(), Release.R4)
    assert (found.model, found.release) == (Model.NATIVE, Release.R5)


# --- XML ---


def test_backport_in_xml_is_read_as_in_json() -> None:
    found = read(R4_XML, Release.R4, Format.XML)
    assert (found.model, found.max_count, found.content) == (Model.BACKPORT, 20, Content.FULL)
    assert found.filters == (Filter(parameter="patient", value="Patient/example", resource_type="Encounter"),)
    assert found.headers == (Header("Authorization", "Bearer a:b"),)
    assert orjson.loads(found.kept) == {"contact": [{"system": "phone", "value": "1"}]}


def test_r5_in_xml_is_read_as_in_json() -> None:
    found = read(R5_XML, Release.R5, Format.XML)
    assert (found.topic_url, found.topic_version) == ("http://example.org/t", "2")
    assert found.filters[0].comparator == "gt"
    assert (found.heartbeat, found.max_count) == (timedelta(minutes=1), 3)
    assert orjson.loads(found.kept) == {"identifier": [{"value": "1"}]}


# --- spellings ---


@pytest.mark.parametrize("system", [None, R4_CHANNELS, R5_CHANNELS])
def test_standard_channel_is_the_same_by_either_system_or_none(system: str | None) -> None:
    """S-5."""
    coding = {"code": "email"} | ({"system": system} if system else {})
    assert read(r5(channelType=coding)).channel == ChannelType(R5_CHANNELS, "email")


def test_other_channel_of_the_backport_stands_in_an_extension() -> None:
    coding = {"system": OWN_CHANNELS, "code": "amqp"}
    channel = {"_type": {"extension": [extension("channel-type", valueCoding=coding)]}}
    found = read(r4(criteria="http://t", channel=channel), Release.R4)
    assert found.channel == ChannelType(OWN_CHANNELS, "amqp")
    assert str(found.channel) == f"{OWN_CHANNELS}|amqp"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("patient=1", [("", "patient", "", "1")]),
        ("status:not=planned", [("", "status", "not", "planned")]),
        ("Encounter.status=planned", [("Encounter", "status", "", "planned")]),
        ("Encounter?patient=Patient/1&status:not=a,b", [("Encounter", "patient", "", "Patient/1"),
                                                        ("Encounter", "status", "not", "a,b")]),
        ("date=gt2026-11-21T12:00:00+01:00", [("", "date", "", "gt2026-11-21T12:00:00+01:00")]),
        ("code=a%26b", [("", "code", "", "a&b")]),
    ],
)  # fmt: skip
def test_filters_of_the_backport_have_these_forms(text: str, expected: list[tuple[str, ...]]) -> None:
    found = filters_of(text)
    assert found is not None
    assert [(one.resource_type, one.parameter, one.modifier, one.value) for one in found] == expected


@given(st.text())
def test_any_text_is_filters_or_none(text: str) -> None:
    found = filters_of(text)
    assert found is None or all(one.parameter for one in found)


# --- what is wrong is named (S-8) ---


def test_every_mistake_is_told_at_once() -> None:
    wrong = r5(status="asleep", topic=None, channelType=None, heartbeatPeriod="1", end="tomorrow", content="some")
    assert set(complained(wrong)) == {
        "Subscription.status",
        "Subscription.topic",
        "Subscription.channelType",
        "Subscription.heartbeatPeriod",
        "Subscription.end",
        "Subscription.content",
    }
    assert http_status(refusal_of(wrong)) == 422


@pytest.mark.parametrize(
    ("resource", "place"),
    [
        (r4(reason=None), "Subscription.reason"),
        (r4(criteria=None), "Subscription.criteria"),
        ({**r4(), "channel": None}, "Subscription.channel"),
        ({**r4(), "channel": "rest-hook"}, "Subscription.channel"),
        (r4(channel={"type": None}), "Subscription.channel.type"),
        (r4(channel={"endpoint": 7}), "Subscription.channel.endpoint"),
        (r4(channel={"header": ["no colon"]}), "Subscription.channel.header[0]"),
        (r4(channel={"header": [1]}), "Subscription.channel.header"),
        (r4(channel={"header": ["Host: elsewhere"]}), "Subscription.channel.header[0]"),
        (r4(channel={"header": ["A b: c"]}), "Subscription.channel.header[0]"),
        (r4(channel={"header": ["X: a\r\nY: b"]}), "Subscription.channel.header[0]"),
        (r4(channel={"extension": [extension("max-count", valueString="3")]}), "Subscription.channel.extension[0]"),
        (
            r4(channel={"extension": [extension("max-count", valuePositiveInt=0)]}),
            "Subscription.channel.extension[0].valuePositiveInt",
        ),
        (
            {**r4(criteria="http://t"), "_criteria": {"extension": [extension("filter-criteria", valueString="?")]}},
            "Subscription.criteria.extension[0].valueString",
        ),
        (
            {**r4(criteria="http://t"), "_criteria": {"extension": [extension("filter-criteria")]}},
            "Subscription.criteria.extension[0].valueString",
        ),
    ],
)  # fmt: skip
def test_mistake_of_r4_is_named_by_its_element(resource: dict[str, Any], place: str) -> None:
    if "max-count" in str(resource):
        resource["criteria"] = "http://t"
    assert complained(resource, Release.R4)[0] == place


def test_element_of_the_prose_of_r5_is_answered_with_the_right_one() -> None:
    """S-7."""
    refusal = refusal_of(r5(header=["A: b"]))
    assert "Subscription.parameter" in str(refusal)


@pytest.mark.parametrize(
    ("body", "id"),
    [
        (b"", "empty-body"),
        (b"[]", "wrong-resource-type"),
        (b'{"resourceType":"Patient"}', "wrong-resource-type"),
        (b'{"resourceType":"Subscription","endpoint":"a","endpoint":"b"}', "duplicate-key"),
        (b"{", "malformed-json"),
        (b"\xff", "not-utf-8"),
        (b'"' + b"x" * LARGEST + b'"', "too-large"),
    ],
)
def test_body_that_is_no_subscription_is_refused(body: bytes, id: str) -> None:
    assert refusal_of(body).problem.id == id


@pytest.mark.parametrize(
    ("body", "id"),
    [
        (b"<a/>", "wrong-namespace"),
        (b"<a", "malformed-xml"),
        (b'<!DOCTYPE a><Subscription xmlns="http://hl7.org/fhir"/>', "doctype"),
        (b'<Patient xmlns="http://hl7.org/fhir"/>', "wrong-resource-type"),
        (b'<a xmlns="http://hl7.org/fhir">' * 200, "too-deep"),
    ],
)
def test_xml_that_is_no_subscription_is_refused(body: bytes, id: str) -> None:
    assert refusal_of(body, format=Format.XML).problem.id == id


def test_problems_are_many_but_not_endless() -> None:
    refusal = refusal_of(r5(filterBy=[{}] * 100))
    assert isinstance(refusal, SubscriptionRefused)
    assert len(refusal.problems) == 20


# --- updates ---


def test_secret_that_is_written_back_as_it_was_shown_stays() -> None:
    """S-60: a client that reads, changes and writes must not lose its secret."""
    parameters = [{"name": "Authorization", "value": "one"}, {"name": "X", "value": "two"}]
    old = read(r5(parameter=parameters))
    shown = [{"name": "x", "value": "(hidden)"}, {"name": "Authorization", "value": "new"}]
    new = with_secrets_of(read(r5(parameter=shown)), old)
    assert new.headers == (Header("X", "two"), Header("Authorization", "new"))


def test_secret_that_is_not_written_anew_does_not_go_elsewhere() -> None:
    """S-60: whoever may change the endpoint need not know the secret."""
    old = read(r5(parameter=[{"name": "Authorization", "value": "one"}]))
    moved = read(r5(parameter=[{"name": "Authorization", "value": "(hidden)"}], endpoint="https://example.org/other"))
    with pytest.raises(SubscriptionRefused) as raised:
        with_secrets_of(moved, old)
    assert raised.value.problem.id == "secret-needed"
    anew = read(r5(parameter=[{"name": "Authorization", "value": "two"}], endpoint="https://example.org/other"))
    assert with_secrets_of(anew, old) == anew


def test_narrative_is_not_kept_since_it_may_repeat_a_secret() -> None:
    """S-60."""
    told = r5(text={"status": "generated", "div": "<div>Authorization: one</div>"}, name="kept")
    assert orjson.loads(read(told).kept) == {"name": "kept"}


def test_hidden_value_of_an_unknown_header_is_taken_as_it_stands() -> None:
    shown = read(r5(parameter=[{"name": "X", "value": "(hidden)"}]))
    assert with_secrets_of(shown, read(r5())).headers == (Header("X", "(hidden)"),)


def test_status_may_be_any_of_fhir_when_it_is_read() -> None:
    assert [read(r5(status=status)).status for status in Status] == list(Status)
