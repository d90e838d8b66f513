"""The directory as FHIR resources, over HTTP."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from reading import BASE_URL, Side, listed, reading, validated

from broker.api.directory_resources import has_identifier
from broker.core.fhir.header import Release
from broker.core.resolution import State

NAMES = ("urn:oid:1.2.1", "urn:oid:1.2.2", "https://a.example/x", "urn:example:s|v")


@pytest.fixture
async def side(tmp_path: Path) -> AsyncIterator[Side]:
    async with reading(tmp_path) as one:
        one.snapshot = listed(*NAMES)
        yield one


@pytest.mark.parametrize("type", ["Endpoint", "Organization"])
@pytest.mark.parametrize(("base", "release"), [("", Release.R4), ("/R4B", Release.R4B), ("/R5", Release.R5)])
async def test_directory_is_a_valid_searchset_of_each_type(side: Side, type: str, base: str, release: Release) -> None:
    page = await side.get(f"/fhir{base}/{type}")
    assert validated(page.json, release)["total"] == len(NAMES)
    assert page.links == {"self": f"{BASE_URL}{base}/{type}?_offset=0"}
    for entry in page.entries:
        assert entry["fullUrl"] == f"{BASE_URL}{base}/{type}/{entry['resource']['id']}"
        one = await side.get(entry["fullUrl"])
        assert validated(one.json, release) == entry["resource"]


async def test_organization_leads_to_its_endpoint(side: Side) -> None:
    organization = (await side.get("/fhir/Organization")).entries[0]["resource"]
    endpoint = await side.get(f"/fhir/{organization['endpoint'][0]['reference']}")
    assert endpoint.json["identifier"] == organization["identifier"]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("identifier=urn:oid:1.2.2", NAMES[1:2]),
        ("identifier=urn:ietf:rfc:3986%7Curn:oid:1.2.2", NAMES[1:2]),
        ("identifier=urn:oid:1.2%7C2", NAMES[1:2]),
        ("identifier=https://a.example/x,urn:oid:1.2.1", (NAMES[0], NAMES[2])),
        ("identifier=urn:ietf:rfc:3986%7C", NAMES[:3]),
        ("identifier=urn:example:s%7Cv", NAMES[3:]),
        ("identifier=v", NAMES[3:]),
        ("identifier=%7Cv", ()),
        ("identifier=urn:example:t%7Cv", ()),
        ("status=active", NAMES),
        ("status=http://hl7.org/fhir/endpoint-status%7Coff,suspended", ()),
        ("_id=stranger", ()),
    ],
)
async def test_endpoints_are_found_by_what_they_are_called(side: Side, query: str, names: tuple[str, ...]) -> None:
    """A-3, A-4."""
    page = await side.get(f"/fhir/Endpoint?{query}")
    assert page.json["total"] == len(names)
    found = [entry["resource"]["identifier"][0]["value"] for entry in page.entries]
    assert found == [name.rpartition("|")[2] for name in names]


def test_identifier_without_a_system_is_found_as_such() -> None:
    one = {"identifier": [{"value": "v"}]}
    assert has_identifier(one, "|v")
    assert has_identifier(one, "v")
    assert not has_identifier(one, "s|v")
    assert not has_identifier({}, "v")


async def test_pages_lead_through_the_directory_and_end(side: Side) -> None:
    page = await side.get("/fhir/Endpoint?_count=3")
    assert (len(page.entries), page.json["total"]) == (3, 4)
    ids = [entry["resource"]["id"] for entry in page.entries]
    page = await side.get(page.links["next"])
    assert page.links == {"self": f"{BASE_URL}/Endpoint?_count=3&_offset=3"}
    assert len({*ids, page.entries[0]["resource"]["id"]}) == 4
    one = await side.get(f"/fhir/Endpoint?_id={ids[0]},{ids[2]}")
    assert [entry["resource"]["id"] for entry in one.entries] == [ids[0], ids[2]]


@pytest.mark.parametrize("query", ["_count=0", "_summary=count"])
async def test_number_alone_may_be_asked_for(side: Side, query: str) -> None:
    page = await side.get(f"/fhir/Endpoint?{query}")
    assert validated(page.json)["total"] == 4
    assert "entry" not in page.json
    assert "next" not in page.links


async def test_change_of_the_directory_is_seen_at_once(side: Side) -> None:
    assert (await side.get("/fhir/Endpoint")).json["total"] == 4
    side.snapshot = listed("urn:a", state=State.HOLD)
    page = await side.get("/fhir/Endpoint?status=suspended")
    assert [entry["resource"]["status"] for entry in page.entries] == ["suspended"]


async def test_search_may_be_posted_and_read_as_xml(side: Side) -> None:
    page = await side.ask("POST", "/fhir/Organization/_search", data={"identifier": "urn:oid:1.2.1", "_format": "xml"})
    assert len(ET.fromstring(page.body).findall("{http://hl7.org/fhir}entry")) == 1


async def test_unknown_parameters_and_ids_are_told(side: Side) -> None:
    page = await side.get("/fhir/Endpoint?identifiers=x")
    validated(page.json)
    assert "did you mean identifier?" in page.warnings[0]["details"]["text"]
    assert (await side.get("/fhir/Endpoint?identifiers=x", Prefer="handling=strict")).status == 400
    assert (await side.get("/fhir/Organization?status=active", Prefer="handling=strict")).status == 400
    for path in ("Endpoint/x", "Organization/Endpoint"):
        assert (await side.get(f"/fhir/{path}")).status == 404
