from __future__ import annotations

from typing import Any

import msgspec
import orjson
import pytest
from subscribed import CANDLE, ENCOUNTERS, NOW, extension, r4, r5, read
from written import validated, values_of_json, values_of_xml

from broker.core.fhir.header import Format, Release
from broker.core.subscription.subscription import OWN_CHANNELS, Filter, Status, Subscription
from broker.core.subscription.write import as_resource, write_subscription

CODING = {"system": OWN_CHANNELS, "code": "amqp"}
WHOLE_R5 = r5(
    identifier=[{"system": "urn:x", "value": "1"}],
    name="Admissions",
    contact=[{"system": "phone", "value": "1"}],
    end="2027-01-01T00:00:00.000Z",
    reason="to know",
    filterBy=[
        {"resourceType": "Encounter", "filterParameter": "length", "comparator": "gt", "value": "5"},
        {"filterParameter": "patient", "modifier": "missing", "value": "false"},
    ],
    channelType=CODING,
    parameter=[{"name": "Authorization", "value": "secret"}],
    heartbeatPeriod=60,
    timeout=5,
    maxCount=10,
)
WHOLE_R4 = {
    **r4(
        criteria=ENCOUNTERS,
        contact=[{"system": "phone", "value": "1"}],
        channel={
            "extension": [
                extension("heartbeat-period", valueUnsignedInt=60),
                extension("max-count", valuePositiveInt=3),
            ],
            "payload": "application/fhir+json",
            "_payload": {"extension": [extension("payload-content", valueCode="id-only")]},
            "_type": {"extension": [extension("channel-type", valueCoding=CODING)]},
            "type": "message",
            "header": ["Authorization: secret"],
        },
    ),
    "_criteria": {"extension": [extension("filter-criteria", valueString="Encounter?patient=Patient/1%262")]},
}


def shown(one: Subscription) -> dict[str, Any]:
    written: dict[str, Any] = orjson.loads(
        write_subscription(one, format=Format.JSON, last_updated=NOW, version="3", error="no answer")
    )
    return written


@pytest.mark.parametrize(
    ("resource", "release"),
    [(WHOLE_R5, Release.R5), (WHOLE_R4, Release.R4), (WHOLE_R4, Release.R4B), (r4(), Release.R4)],
)
def test_written_subscription_is_valid_and_in_order(resource: dict[str, Any], release: Release) -> None:
    one = msgspec.structs.replace(read(resource, release), id="123", status=Status.ERROR)
    written = validated(shown(one), release)
    assert written["id"] == "123"
    assert written["status"] == "error"
    assert written["meta"]["versionId"] == "3"
    assert ("error" in written) is (release is not Release.R5)


@pytest.mark.parametrize(("resource", "release"), [(WHOLE_R5, Release.R5), (WHOLE_R4, Release.R4), (r4(), Release.R4)])
def test_what_was_written_is_read_as_the_same_but_for_secrets(resource: dict[str, Any], release: Release) -> None:
    """S-60."""
    one = read(resource, release)
    body = write_subscription(one, format=Format.JSON)
    assert b"secret" not in body
    again = read(body, release)
    bare = {"headers": (), "kept": b""}
    assert msgspec.structs.replace(again, **bare) == msgspec.structs.replace(one, **bare)
    assert [header.name for header in again.headers] == [header.name for header in one.headers]


@pytest.mark.parametrize(("resource", "release"), [(WHOLE_R5, Release.R5), (WHOLE_R4, Release.R4)])
def test_xml_holds_the_same_and_is_read_as_the_same(resource: dict[str, Any], release: Release) -> None:
    one = read(resource, release)
    xml = write_subscription(one, format=Format.XML)
    plain = {pair for pair in values_of_json(as_resource(one)) if "._" not in pair[0] and ".extension" not in pair[0]}
    assert plain <= set(values_of_xml(xml))
    again = read(xml, release, Format.XML)
    bare = {"headers": (), "kept": b""}
    assert msgspec.structs.replace(again, **bare) == msgspec.structs.replace(one, **bare)
    assert orjson.loads(again.kept).get("contact") == orjson.loads(one.kept).get("contact")


@pytest.mark.parametrize("name", ["Subscription-encounter-complete", "r5__Subscription-encounter-complete"])
def test_examples_come_back_with_all_they_said(name: str) -> None:
    release = Release.R5 if name.startswith("r5") else Release.R4
    body = (CANDLE / f"{name}.json").read_bytes()
    one = read(body, release)
    given = orjson.loads(body.removeprefix(b"\xef\xbb\xbf"))
    written = validated(shown(one), release)
    assert written["end"][:19] == given["end"][:19]
    for element in ("status", "reason", "criteria", "_criteria", "topic", "filterBy", "channelType", "content"):
        assert written.get(element) == given.get(element)


def test_filter_keeps_what_the_search_syntax_would_take_for_its_own() -> None:
    one = read(WHOLE_R4, Release.R4)
    assert one.filters == (Filter(parameter="patient", value="Patient/1&2", resource_type="Encounter"),)
    assert "Patient/1%262" in str(as_resource(one)["_criteria"])


def test_profile_of_the_backport_stands_once() -> None:
    one = read(write_subscription(read(WHOLE_R4, Release.R4), format=Format.JSON), Release.R4)
    assert len(as_resource(one)["meta"]["profile"]) == 1
