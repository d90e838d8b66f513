"""What the broker says it can do, over HTTP (M-75)."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from reading import BASE_URL, Side, reading, validated

from broker.core.fhir.header import Release


@pytest.fixture
async def side(tmp_path: Path) -> AsyncIterator[Side]:
    async with reading(tmp_path) as one:
        yield one


@pytest.mark.parametrize(
    ("base", "version", "release"),
    [
        ("/fhir", "4.0.1", Release.R4),
        ("/fhir/R4", "4.0.1", Release.R4),
        ("/fhir/R4B", "4.3.0", Release.R4B),
        ("/fhir/R5", "5.0.0", Release.R5),
    ],
)
async def test_statement_is_valid_in_the_release_of_the_base(
    side: Side, base: str, version: str, release: Release
) -> None:
    for _ in range(2):
        reply = await side.get(f"{base}/metadata")
        statement = validated(reply.json, release)
        assert (reply.status, statement["fhirVersion"]) == (200, version)
        assert statement["implementation"]["url"] == BASE_URL + base.removeprefix("/fhir")
        (messaging,) = statement["messaging"]
        assert messaging["endpoint"][0]["address"] == f"{BASE_URL}{base.removeprefix('/fhir')}/$process-message"


async def test_statement_comes_in_the_asked_release_and_format(side: Side) -> None:
    reply = await side.get("/fhir/metadata", Accept="application/fhir+xml; fhirVersion=5.0")
    assert reply.headers["Content-Type"] == "application/fhir+xml; fhirVersion=5.0"
    version = ET.fromstring(reply.body).find("{http://hl7.org/fhir}fhirVersion")
    assert version is not None
    assert version.get("value") == "5.0.0"


async def test_every_search_parameter_of_the_statement_is_served(side: Side) -> None:
    (rest,) = (await side.get("/fhir/metadata")).json["rest"]
    values = {"_lastUpdated": "2026", "_offset": "0", "_count": "1", "message.code": "ok", "type": "message"}
    for resource in rest["resource"]:
        for param in resource["searchParam"]:
            path = f"/fhir/{resource['type']}?{param['name']}={values.get(param['name'], 'x')}"
            assert (await side.get(path, Prefer="handling=strict")).status == 200, path


@pytest.mark.parametrize(("mode", "status"), [("full", 200), ("normative", 200), ("terminology", 200), ("x", 400)])
async def test_mode_is_ignored_as_fhir_allows(side: Side, mode: str, status: int) -> None:
    assert (await side.get(f"/fhir/metadata?mode={mode}")).status == status
