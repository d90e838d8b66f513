"""Endpoints, and who is reached by them, out of FHIR resources of R4 and R5 (A-20 … A-25)."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from broker.core.fhir.header import Format, Release
from broker.directory import Directory, DirectoryProblem, Snapshot, State
from broker.directory.bundles import read_resources
from broker.directory.fhir_files import instant, message_address, read_pool
from broker.directory.written import Unreadable

NOW = datetime(2026, 11, 21, tzinfo=UTC)
CORPUS = Path(__file__).parents[1] / "corpus" / "directory"
CODES = "http://terminology.hl7.org/CodeSystem/endpoint-connection-type"


def endpoint(id: str, **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Endpoint",
        "id": id,
        "status": "active",
        "connectionType": {"system": CODES, "code": "hl7-fhir-msg"},
        "payloadType": [{"coding": [{"code": "any"}]}],
        "address": f"https://{id}.example/fhir",
    } | more


def organization(id: str, *endpoints: str, **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Organization",
        "id": id,
        "identifier": [{"system": "urn:oid:2.16.578.1.12.4.1.2", "value": id}],
        "name": f"Organisation {id}",
        "endpoint": [{"reference": one} for one in endpoints],
    } | more


def bundle(*resources: dict[str, Any], base: str = "https://dir.example/fhir") -> bytes:
    entries = [{"fullUrl": f"{base}/{one['resourceType']}/{one.get('id')}", "resource": one} for one in resources]
    return json.dumps({"resourceType": "Bundle", "type": "searchset", "entry": entries}).encode()


def read(*files: bytes) -> tuple[Snapshot, tuple[DirectoryProblem, ...]]:
    resources = [one for n, data in enumerate(files) for one in read_resources(data, file=f"{n}.json")]
    listed, problems = read_pool(resources)
    return Snapshot(listed), problems


def addresses(snapshot: Snapshot, name: str, **more: Any) -> tuple[str, ...]:
    return snapshot.resolve(name, now=NOW, **more).addresses


def test_the_identifiers_of_an_endpoint_are_its_names_in_every_form() -> None:
    identifiers = [
        {"system": "urn:oid:2.16.578.1.12.4.1.2", "value": "7"},
        {"system": "https://fhir.nhs.uk/Id/nhsMHSId", "value": "S1"},
        {"system": "urn:ietf:rfc:3986", "value": "urn:oid:1.2.3"},
        {"value": "urn:uuid:4d1def34-68a7-4a37-8152-65f0e90329ee"},
        {"value": "7"},
        {"system": "https://empty.example"},
        "nonsense",
    ]
    found, problems = read(bundle(endpoint("e", identifier=identifiers)))
    assert problems == ()
    for name in (
        "urn:oid:2.16.578.1.12.4.1.2.7",
        "urn:oid:2.16.578.1.12.4.1.2|7",
        "https://fhir.nhs.uk/Id/nhsMHSId|S1",
        "https://fhir.nhs.uk/Id/nhsMHSId%7CS1",
        "urn:oid:1.2.3",
        "urn:uuid:4D1DEF34-68A7-4A37-8152-65F0E90329EE",
        "https://dir.example/fhir/Endpoint/e",  # an endpointReference may say this (M-4)
    ):
        assert addresses(found, name) == ("https://e.example/fhir/$process-message",), name
    assert addresses(found, "7") == ()
    assert len(found) == 5


def test_the_identifiers_of_an_organisation_lead_to_its_endpoints() -> None:
    found, problems = read(bundle(endpoint("e"), organization("7", "Endpoint/e")))
    assert problems == ()
    assert addresses(found, "urn:oid:2.16.578.1.12.4.1.2.7") == ("https://e.example/fhir/$process-message",)
    origin = found.resolve("urn:oid:2.16.578.1.12.4.1.2.7", now=NOW).origin
    assert origin == "0.json: Endpoint/e"


@pytest.mark.parametrize(
    "reference",
    ["Endpoint/e", "https://dir.example/fhir/Endpoint/e", "#c"],
)
def test_references_are_relative_absolute_or_contained(reference: str) -> None:
    org = organization("7", reference, contained=[endpoint("c", address="https://e.example/fhir"), "odd"])
    found, problems = read(bundle(endpoint("e"), org))
    assert problems == ()
    assert addresses(found, "urn:oid:2.16.578.1.12.4.1.2.7") == ("https://e.example/fhir/$process-message",)


def test_an_organisation_and_its_endpoint_may_be_two_files() -> None:
    found, problems = read(
        json.dumps(organization("7", "Endpoint/e")).encode(), b"\xef\xbb\xbf" + json.dumps(endpoint("e")).encode()
    )
    assert problems == ()
    assert addresses(found, "urn:oid:2.16.578.1.12.4.1.2.7")


def test_two_endpoints_of_one_id_are_not_guessed_between() -> None:
    """A guess would send a message to a stranger."""
    one, other = bundle(endpoint("e"), base="https://a"), bundle(endpoint("e"), base="https://b")
    found, problems = read(json.dumps(organization("7", "Endpoint/e")).encode(), one, other)
    assert addresses(found, "urn:oid:2.16.578.1.12.4.1.2.7") == ()
    assert [str(problem) for problem in problems] == [
        "0.json: 1 reference(s) that no source answers, or more than one: Endpoint/e"
    ]
    own = bundle(endpoint("e", address="https://own.example"), organization("7", "Endpoint/e"), base="https://a")
    found, problems = read(own, other)
    assert problems == ()
    assert addresses(found, "urn:oid:2.16.578.1.12.4.1.2.7") == ("https://own.example/$process-message",)


def test_references_that_lead_nowhere_are_told_once_per_file() -> None:
    references = ["Endpoint/1", "Endpoint/2", "#3", "Organization/7", "Endpoint/1"]
    org = organization("7", *references)
    org["endpoint"] += [{"display": "only words"}, "odd"]
    _, problems = read(bundle(org))
    assert [problem.text for problem in problems] == [
        "4 reference(s) that no source answers, or more than one: Endpoint/1, Endpoint/2, #3, …"
    ]


def test_without_an_endpoint_of_its_own_the_parents_is_used() -> None:
    """A-25."""
    found, problems = read(
        bundle(
            endpoint("p"),
            endpoint("off", status="off"),
            organization("1", "Endpoint/p"),
            organization("2", partOf={"reference": "Organization/1"}),
            organization("3", "Endpoint/off", partOf={"reference": "Organization/2"}),
        )
    )
    assert problems == ()
    for value in (1, 2, 3):
        assert addresses(found, f"urn:oid:2.16.578.1.12.4.1.2.{value}") == ("https://p.example/fhir/$process-message",)


def test_a_circle_of_parents_ends() -> None:
    found, _ = read(
        bundle(
            organization("1", partOf={"reference": "Organization/2"}),
            organization("2", partOf={"reference": "Organization/1"}),
        )
    )
    assert len(found) == 0


def test_an_affiliation_reaches_whoever_takes_part_after_its_own_endpoints() -> None:
    """A-25."""
    affiliation = {
        "resourceType": "OrganizationAffiliation",
        "participatingOrganization": {"reference": "Organization/1"},
        "endpoint": [{"reference": "Endpoint/hie"}, {"reference": "Endpoint/bad"}],
    }
    resources = [endpoint("hie"), endpoint("bad", address="no"), affiliation]
    found, _ = read(bundle(*resources, organization("1")))
    assert addresses(found, "urn:oid:2.16.578.1.12.4.1.2.1") == ("https://hie.example/fhir/$process-message",)
    found, _ = read(bundle(*resources, endpoint("own"), organization("1", "Endpoint/own")))
    assert addresses(found, "urn:oid:2.16.578.1.12.4.1.2.1") == ("https://own.example/fhir/$process-message",)


@pytest.mark.parametrize("kind", ["HealthcareService", "PractitionerRole", "Location"])
def test_services_roles_and_places_have_endpoints_too(kind: str) -> None:
    one = organization("1", "Endpoint/e", resourceType=kind)
    found, _ = read(bundle(endpoint("e"), one))
    assert addresses(found, "urn:oid:2.16.578.1.12.4.1.2.1")


def test_an_organisation_that_is_no_more_names_nobody() -> None:
    found, _ = read(bundle(endpoint("e"), organization("1", "Endpoint/e", active=False)))
    assert not found.resolve("urn:oid:2.16.578.1.12.4.1.2.1", now=NOW).known


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("active", State.USE),
        ("test", State.USE),
        ("suspended", State.HOLD),
        ("error", State.HOLD),
        ("off", State.NONE),
        ("entered-in-error", State.NONE),
    ],
)
def test_the_status_says_what_to_do(status: str, state: State) -> None:
    """A-22."""
    found, problems = read(bundle(endpoint("e", status=status)))
    assert problems == ()
    resolution = found.resolve("https://dir.example/fhir/Endpoint/e", now=NOW)
    assert resolution.state is state
    assert resolution.known
    assert bool(resolution.reason) is (state is not State.USE)


@pytest.mark.parametrize("status", ["Active", None, 1])
def test_a_status_that_is_none_is_told_and_not_used(status: object) -> None:
    found, problems = read(bundle(endpoint("e", status=status)))
    assert "is none that an Endpoint has" in problems[0].text
    assert found.resolve("https://dir.example/fhir/Endpoint/e", now=NOW).state is State.NONE


@pytest.mark.parametrize(
    "address", [None, "", "10.0.0.1:80", "https://a b", "file:///etc/passwd", "FILE:/x", "mailbox:x", 7]
)
def test_an_address_that_is_none_is_told_and_not_used(address: object) -> None:
    found, problems = read(bundle(endpoint("e", address=address)))
    assert "is none that an Endpoint may have" in problems[0].text
    assert len(found) == 0


@pytest.mark.parametrize(
    ("address", "code", "expected"),
    [
        ("https://a.example/fhir", "hl7-fhir-msg", "https://a.example/fhir/$process-message"),
        ("https://a.example/fhir/", "hl7-fhir-msg", "https://a.example/fhir/$process-message"),
        ("https://a.example/fhir", "hl7-fhir-rest", "https://a.example/fhir/$process-message"),
        ("https://a.example/fhir/$process-message", "hl7-fhir-msg", "https://a.example/fhir/$process-message"),
        ("https://a.example/fhir/%24process-message", "hl7-fhir-msg", "https://a.example/fhir/%24process-message"),
        ("https://a.example/fhir?t=1", "hl7-fhir-msg", "https://a.example/fhir/$process-message?t=1"),
        ("https://a.example", "hl7-fhir-msg", "https://a.example/$process-message"),
        ("https://a.example/in", "other", "https://a.example/in"),
        ("amqps://a.example/v", "hl7-fhir-msg", "amqps://a.example/v"),
        ("mailto:a@b.example", "secure-email", "mailto:a@b.example"),
    ],
)
def test_the_operation_is_appended_to_a_base_and_never_twice(address: str, code: str, expected: str) -> None:
    """A-21."""
    assert message_address(address, (code,)) == expected
    assert message_address(expected, (code,)) == expected


def test_connections_of_other_trades_carry_no_messages() -> None:
    """A-20."""
    image = endpoint("image", connectionType={"coding": [{"code": "dicom-wado-rs"}]})
    both = [image, endpoint("e")]
    found, _ = read(bundle(*both, organization("1", "Endpoint/image", "Endpoint/e")))
    assert addresses(found, "urn:oid:2.16.578.1.12.4.1.2.1") == ("https://e.example/fhir/$process-message",)
    found, _ = read(bundle(image, organization("1", "Endpoint/image")))
    assert "carries no messages" in found.resolve("urn:oid:2.16.578.1.12.4.1.2.1", now=NOW).reason


def test_the_message_chooses_the_endpoint_of_its_fhir_version_by_mime_type_or_extension() -> None:
    """A-23."""
    version = "http://hl7.org/fhir/StructureDefinition/endpoint-fhir-version"
    r5 = {
        "connectionType": [{"coding": [{"code": "hl7-fhir-msg"}]}],
        "payload": [
            {"type": [{"coding": [{"code": "any"}]}], "mimeType": ["application/fhir+xml; fhirVersion=5.0"]},
            1,
        ],
        "payloadType": None,
    }
    found, problems = read(
        bundle(
            endpoint("r4", payloadMimeType=["application/fhir+json; fhirVersion=4.0"]),
            endpoint("r5", **r5),
            endpoint("stu3", extension=[{"url": version, "valueCode": "3.0.2"}, {"url": "other"}]),
            organization("1", "Endpoint/r4", "Endpoint/r5", "Endpoint/stu3"),
        )
    )
    assert problems == ()
    for release, id in ((Release.R4, "r4"), (Release.R5, "r5"), (Release.STU3, "stu3"), (Release.R4B, "r4")):
        chosen = addresses(found, "urn:oid:2.16.578.1.12.4.1.2.1", release=release, format=Format.JSON)
        assert chosen == (f"https://{id}.example/fhir/$process-message",)


def test_what_takes_any_payload_goes_before_what_takes_some_or_none() -> None:
    found, _ = read(
        bundle(
            endpoint("a", payloadType=[{"coding": [{"code": "none"}]}]),
            endpoint("b", payloadType=[{"coding": [{"code": "urn:x"}]}]),
            endpoint("c"),
            organization("1", "Endpoint/a", "Endpoint/b", "Endpoint/c"),
            organization("2", "Endpoint/a", "Endpoint/b"),
        )
    )
    assert addresses(found, "urn:oid:2.16.578.1.12.4.1.2.1") == ("https://c.example/fhir/$process-message",)
    assert addresses(found, "urn:oid:2.16.578.1.12.4.1.2.2") == ("https://b.example/fhir/$process-message",)


def test_a_period_ends_with_its_last_day() -> None:
    found, _ = read(bundle(endpoint("e", period={"start": "2026-11-20", "end": "2026-11-21"})))
    for moment, state in (
        (NOW - timedelta(days=1, seconds=1), State.NONE),
        (NOW, State.USE),
        (NOW + timedelta(hours=23), State.USE),
        (NOW + timedelta(days=1), State.NONE),
    ):
        assert found.resolve("https://dir.example/fhir/Endpoint/e", now=moment).state is state


@pytest.mark.parametrize("end", ["soon", "2026-13", "9999", "2026-11-21T25:00:00Z"])
def test_a_period_that_is_no_date_is_told(end: str) -> None:
    found, problems = read(bundle(endpoint("e", period={"end": end})))
    assert "period.end is no date" in problems[0].text
    assert found.resolve("https://dir.example/fhir/Endpoint/e", now=NOW).state is State.USE


@pytest.mark.parametrize(
    ("text", "start", "after"),
    [
        ("2026", "2026-01-01T00:00:00+00:00", "2027-01-01T00:00:00+00:00"),
        ("2026-12", "2026-12-01T00:00:00+00:00", "2027-01-01T00:00:00+00:00"),
        ("2026-11-21", "2026-11-21T00:00:00+00:00", "2026-11-22T00:00:00+00:00"),
        ("2026-11-21T10:00:00+01:00", "2026-11-21T10:00:00+01:00", "2026-11-21T10:00:01+01:00"),
        ("2026-11-21T10:00:60", "2026-11-21T10:00:59+00:00", "2026-11-21T10:01:00+00:00"),
        ("2026-11-21T10:00:00.5Z", "2026-11-21T10:00:00.500000+00:00", "2026-11-21T10:00:00.500000+00:00"),
    ],
)
def test_a_date_is_as_long_as_it_is_written(text: str, start: str, after: str) -> None:
    assert instant(text, after=False).isoformat() == start
    assert instant(text, after=True).isoformat() == after


def test_headers_are_kept() -> None:
    found, _ = read(bundle(endpoint("e", header=["X-Party: 7", 1])))
    assert next(found.names()).entries[0].headers == ("X-Party: 7",)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"a": 1}', b'{"resourceType": 1}', b"\xff", b"[" * 5000, b'{"resourceType": "Bundle"']
)
def test_what_is_no_resource_is_unreadable(data: bytes) -> None:
    with pytest.raises(Unreadable):
        read_resources(data, file="f")


def test_odd_bundles_are_read_as_far_as_they_go() -> None:
    entries = [None, 1, {}, {"resource": []}, {"resource": {"resourceType": "OperationOutcome"}}, {"resource": {}}]
    data = json.dumps({"resourceType": "Bundle", "entry": entries}).encode()
    assert read(data)[1] == ()
    assert read(b'{"resourceType": "Bundle", "entry": {"resource": {"resourceType": "Endpoint"}}}')[1] != ()


def test_endpoints_without_id_in_one_bundle_stay_two() -> None:
    one, other = endpoint("a", identifier=[{"value": "urn:x:1"}]), endpoint("b", identifier=[{"value": "urn:x:1"}])
    del one["id"], other["id"]
    entries = [{"resource": one}, {"resource": other}]
    found, _ = read(json.dumps({"resourceType": "Bundle", "entry": entries}).encode())
    assert [entry.origin for entry in next(found.names()).entries] == ["0.json: entry[0]", "0.json: entry[1]"]


# --- other people's directories


@pytest.mark.parametrize("path", sorted(CORPUS.rglob("*.json")), ids=lambda path: path.name)
def test_real_directories_are_read(path: Path) -> None:
    resources = read_resources(path.read_bytes(), file=path.name)
    assert resources
    listed, _ = read_pool(resources)
    if any(one.kind == "Endpoint" for one in resources):
        assert listed


def test_all_real_directories_load_together_and_answer() -> None:
    directory = Directory(sources=["**/*.json"], folder=CORPUS)
    found = directory.load()
    assert [problem.text for problem in directory.problems] == [
        "1 reference(s) that no source answers, or more than one: Endpoint/4e958d43-ad80-40c9-85ff-2be003d1ea86"
    ]
    party = found.resolve("https://fhir.nhs.uk/Id/nhsMhsPartyKey|X26-200150", now=NOW)
    assert party.addresses == ("https://msg.int.spine2.ncrs.nhs.uk/reliablemessaging/intermediary/$process-message",)
    service = found.resolve("https://fhir.nhs.uk/Id/dos-service-id%7C1000099999", now=NOW)
    assert service.addresses == ("https://myService.nhs.uk/Base/Address/$process-message",)


@pytest.mark.parametrize("depth", [300, 900, 2000])
def test_a_resource_that_is_nested_too_deeply_is_unreadable_and_nothing_worse(depth: int) -> None:
    with pytest.raises(Unreadable):
        read_resources(b'{"resourceType": "Organization", "name": %s%s}' % (b"[" * depth, b"]" * depth), file="f")
