"""The directory as FHIR resources, valid by the models of R4B and R5."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fhir.resources.endpoint import Endpoint as EndpointR5
from fhir.resources.organization import Organization as OrganizationR5
from fhir.resources.R4B.endpoint import Endpoint as EndpointR4B
from fhir.resources.R4B.organization import Organization as OrganizationR4B

from broker.core.fhir.header import Release
from broker.directory import Directory, Snapshot, as_fhir
from broker.directory.bundles import read_resources
from broker.directory.fhir_files import read_pool

NOW = datetime(2026, 11, 21, tzinfo=UTC)
CORPUS = Path(__file__).parents[1] / "corpus" / "directory"
MODELS: dict[tuple[Release, str], Any] = {
    (Release.R4, "Endpoint"): EndpointR4B,
    (Release.R4B, "Endpoint"): EndpointR4B,
    (Release.R5, "Endpoint"): EndpointR5,
    (Release.R4, "Organization"): OrganizationR4B,
    (Release.R4B, "Organization"): OrganizationR4B,
    (Release.R5, "Organization"): OrganizationR5,
}
WRITTEN: dict[str, object] = {
    "urn:oid:2.16.578.1.12.4.1.2.7": "https://a.example/fhir/$process-message",
    "https://fhir.nhs.uk/Id/dos-service-id|111": ["mailbox:", "https://b.example/in"],
    "test_one": {"first": ["amqps://user:secret@rabbit.example/v?exchange=x", "mailto:a@b.example", "mllp://h:1"]},
    "urn:oid:2.16.*": "https://national.example",
    "https://*.partner.example/*": "direct",
    "*": "https://gateway.example",
}


def everything() -> Snapshot:
    directory = Directory(WRITTEN, ["**/*.json"], folder=CORPUS)
    return directory.load()


@pytest.mark.parametrize("release", [Release.R4, Release.R4B, Release.R5])
def test_every_resource_is_valid_in_its_version_and_written_in_the_order_of_fhir(release: Release) -> None:
    for resource in as_fhir(everything(), release):
        model = MODELS[release, resource["resourceType"]].model_validate(resource)
        again = json.loads(model.model_dump_json())
        assert list(again) == list(resource)


def test_ids_are_unique_and_stay_the_same() -> None:
    one, other = as_fhir(everything(), Release.R4), as_fhir(everything(), Release.R5)
    ids = [(resource["resourceType"], resource["id"]) for resource in one]
    assert len(set(ids)) == len(ids)
    assert [(resource["resourceType"], resource["id"]) for resource in other] == ids


def test_every_endpoint_that_an_organisation_names_is_there() -> None:
    resources = as_fhir(everything(), Release.R4)
    ids = {f"Endpoint/{one['id']}" for one in resources if one["resourceType"] == "Endpoint"}
    for resource in resources:
        for reference in resource.get("endpoint", ()):
            assert reference["reference"] in ids


def test_patterns_and_the_gateway_are_nobodys_and_secrets_stay_here() -> None:
    text = json.dumps(as_fhir(Directory(WRITTEN).current, Release.R4))
    assert "*" not in text
    assert "gateway" not in text
    assert "secret" not in text
    assert "amqps://rabbit.example/v?exchange=x" in text


def test_a_partner_reaches_our_mailboxes_through_us() -> None:
    before = Directory(WRITTEN).current
    base = "https://broker.example/fhir"
    resources = as_fhir(before, Release.R5, base_url=base)
    bundle = {"resourceType": "Bundle", "entry": [{"resource": one} for one in resources]}
    listed, problems = read_pool(read_resources(json.dumps(bundle).encode(), file="f"))
    assert problems == ()
    after = Snapshot(listed)
    name = "urn:oid:2.16.578.1.12.4.1.2.7"
    assert after.resolve(name, now=NOW).addresses == before.resolve(name, now=NOW).addresses
    entries = after.find("https://fhir.nhs.uk/Id/dos-service-id|111")
    assert entries is not None
    assert [entry.addresses[0] for entry in entries.entries] == [
        "https://broker.example/fhir/$process-message",
        "https://b.example/in",
    ]


def test_status_period_and_owner_are_told() -> None:
    resources = [
        {
            "resourceType": "Endpoint",
            "id": "e",
            "status": status,
            "address": "https://e.example",
            "connectionType": {"code": "x"},
            "period": {"start": "2026-01-01"},
        }
        for status in ("error",)
    ]
    org = {
        "resourceType": "Organization",
        "id": "o",
        "name": "North",
        "identifier": [{"value": "urn:x:1"}, {"value": "urn:x:2"}],
        "endpoint": [{"reference": "Endpoint/e"}],
    }
    child = org | {
        "id": "c",
        "identifier": [{"value": "urn:x:3"}],
        "endpoint": [],
        "partOf": {"reference": "Organization/o"},
    }
    bundle = {"resourceType": "Bundle", "entry": [{"resource": one} for one in (*resources, org, child)]}
    listed, _ = read_pool(read_resources(json.dumps(bundle).encode(), file="f"))
    endpoint, organization = as_fhir(Snapshot(listed), Release.R4)
    assert endpoint["status"] == "suspended"
    assert endpoint["period"] == {"start": "2026-01-01T00:00:00+00:00"}
    assert organization["name"] == "North"
    assert [one["value"] for one in organization["identifier"]] == ["urn:x:1", "urn:x:2"]
