from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from written import ALL, validated, values_of_json, values_of_xml

from broker.core.fhir.capability import SearchParam, capability_statement
from broker.core.fhir.header import Format, Release
from broker.core.fhir.write import write


def statement(release: Release, **changed: Any) -> dict[str, Any]:
    known: dict[str, Any] = {
        "base_url": "https://broker.example/fhir",
        "software_version": "0.1.0",
        "date": datetime(2026, 11, 21, tzinfo=UTC),
        "endpoints": [("http", "https://broker.example/fhir"), ("amqp", "amqp://broker.example/?exchange=fhir")],
        "reliable_cache_minutes": 90 * 24 * 60,
        "events": ["http://example.org/events|admit"],
        "definitions": ["http://example.org/MessageDefinition/admit"],
    }
    return capability_statement(release=release, **(known | changed))


@pytest.mark.parametrize("release", ALL)
def test_statement_is_valid_in_its_release(release: Release) -> None:
    validated(statement(release), release)


@pytest.mark.parametrize(
    ("release", "version"),
    [
        (Release.DSTU2, "4.0.1"),
        (Release.STU3, "4.0.1"),
        (Release.R4, "4.0.1"),
        (Release.R4B, "4.3.0"),
        (Release.R5, "5.0.0"),
        (Release.R6, "5.0.0"),
    ],
)
def test_fhir_version_is_that_of_the_shapes_written(release: Release, version: str) -> None:
    assert statement(release)["fhirVersion"] == version


def test_messaging_says_how_it_is_reached_and_how_long_it_remembers() -> None:
    """M-25, M-75."""
    (messaging,) = statement(Release.R4)["messaging"]
    http = "http://terminology.hl7.org/CodeSystem/message-transport"
    assert [one["protocol"] for one in messaging["endpoint"]] == [
        {"system": http, "code": "http"},
        {"system": "urn:x-fhir-broker:transport", "code": "amqp"},
    ]
    assert messaging["reliableCache"] == 129600
    assert "http://example.org/events|admit" in messaging["documentation"]
    assert [one["mode"] for one in messaging["supportedMessage"]] == ["receiver", "sender"]


def test_messaging_says_only_what_there_is() -> None:
    (messaging,) = validated(
        statement(Release.R5, endpoints=[], events=[], definitions=[], reliable_cache_minutes=2**40), Release.R5
    )["messaging"]
    assert set(messaging) == {"reliableCache", "documentation"}
    assert messaging["reliableCache"] == 2**31 - 1


def test_mailbox_parameters_are_listed_in_every_release() -> None:
    """M-62: R5 does not define them, so we have to."""
    for release in ALL:
        bundle = statement(release)["rest"][0]["resource"][0]
        names = {param["name"] for param in bundle["searchParam"]}
        assert {"message.destination-uri", "message.source-uri", "_offset"} <= names
        assert [one["code"] for one in bundle["interaction"]] == ["create", "read", "search-type"]


def test_process_message_is_an_operation_of_the_system() -> None:
    """M-40."""
    assert statement(Release.R4)["rest"][0]["operation"][0]["name"] == "process-message"


def test_other_resources_may_be_named_by_the_caller() -> None:
    params = {"Task": (), "Endpoint": (SearchParam("status", "token", "Its status."),)}
    resources = validated(statement(Release.R4B, search_params=params), Release.R4B)["rest"][0]["resource"]
    assert [one["type"] for one in resources] == ["Task", "Endpoint"]
    assert "searchParam" not in resources[0]


def test_statement_says_the_same_in_xml() -> None:
    resource = statement(Release.R4)
    assert values_of_xml(write(resource, Format.XML)) == values_of_json(resource)
