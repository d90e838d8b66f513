"""Every file of the corpus, and what the reader makes of it: messages of people who do not agree with each other."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from broker.core.fhir.header import Header
from broker.core.fhir.media import media_type
from broker.core.fhir.read import read
from broker.core.outcome import Refusal

CORPUS = Path(__file__).parent.parent / "corpus"


class Seen(NamedTuple):
    release: str
    event: str
    source: str
    destinations: tuple[str | None, ...] = ()
    answers: str | None = None  # the id that the response quotes


class Refused(NamedTuple):
    id: str
    expression: str = ""


MESSAGES: dict[str, dict[str, Seen | Refused]] = {
    "CDCgov__trusted-intermediary": {
        "001_Ochsner_OML_O21_1_hl7_translation.fhir": Seen(
            "R4",
            "http://terminology.hl7.org/CodeSystem/v2-0003|O21",
            "urn:oid:1.2.840.114350.1.13.286.2.7.2.695071",
            (None,),
        ),
        "003_3_ORM_O01_short_linked_to_002_ORU_R01_short.fhir": Seen(
            "R4",
            "http://terminology.hl7.org/CodeSystem/v2-0003|O21",
            "urn:oid:2.16.840.1.114222.4.1.000000",
            ("urn:oid:2.16.840.1.114222.4.1.181960.2",),
        ),
        "004_OML_O21.fhir": Seen(
            "R4",
            "http://terminology.hl7.org/CodeSystem/v2-0003|O21",
            "urn:oid:1.2.840.114350.1.13.145.2.7.2.695071",
            ("urn:dns:natus.health.state.mn.us",),
        ),
        "005_AL_ORU_R01_NBS_Simplified_1_hl7_translation.fhir": Seen(
            "R4", "http://terminology.hl7.org/CodeSystem/v2-0003|R01", "urn:oid:2.16.840.1.114222.4.1.237821", (None,)
        ),
    },
    "FHIR__fhir-test-cases": {
        "bundle-enrl.json": Seen(
            "R4",
            "http://terminology.gene.com/fhir/usix/uapi/CodeSystem/uapi-event-type|enrollment-with-consent",
            "http://vendor.com/fhir/enrollmentID/ENR-00001",
            ("https://test-us-e1.apis.roche.com/pharma-cmg-ehr-fhir-exp-test/v2/enrollment",),
        ),
        "bundle-with-contained.json": Seen("R4", "http://loinc.org|51726-8", "http://example.org/"),
        "bundle-with-extensions.xml": Seen("R4", "something", "http://somewhere.org"),
        "message-empty-entry.xml": Seen(
            "R4",
            "http://someorg/uri|notification-discharge",
            "https://example.org/Endpoints/P456",
            ("https://example.org/Endpoints/P123",),
        ),
        "message-infinite-loop.xml": Seen(
            "STU3", "https://fhir.nhs.uk/STU3/CodeSystem/ITK-MessageEvent-2|ITK003D", "NOWOT004", (None,)
        ),
        "slicing-example-uk.xml": Seen(
            "STU3",
            "https://fhir.nhs.uk/STU3/CodeSystem/ITK-MessageEvent-2|ITK009D",
            "1.2.826.0.1285.0.2.0.107",
            (None,),
        ),
        "uk-msg.json": Seen(
            "R4",
            "https://fhir.nhs.uk/CodeSystem/message-event|prescription-order",
            "urn:nhs-uk:addressing:ods:694X0",
            ("urn:nhs-uk:addressing:ods:FCW64",),
        ),
    },
    "HL7__fhir": {
        "message-request-link.xml": Seen(
            "R5",
            "http://example.org/fhir/message-events|patient-link",
            "http://example.org/clients/ehr-lite",
            (),
            "efdd254b-0e09-4164-883e-35cf3871715f",
        ),
    },
    "NHSDigital__booking-and-referral-fhir-api": {
        "POST-body.json": Seen(
            "R4",
            "https://fhir.nhs.uk/CodeSystem/message-events-bars|booking-request",
            "http://fhir.nhs.uk/Id/dos-service-id|2222222222",
            ("http://fhir.nhs.uk/Id/dos-service-id|111111111",),
        ),
        "POST-success.json": Seen(
            "R4",
            "https://fhir.nhs.uk/CodeSystem/message-event-servicerequest|booking-request",
            "[ODSCode]:[DoSId]",
            ("[ODSCode]:[DoSId]",),
        ),
        "ValidationRequest (HTTP Response) .json": Seen(
            "R4",
            "https://fhir.nhs.uk/CodeSystem/message-event-servicerequest|servicerequest-request",
            "[ODSCode]:[DoSId]",
            ("urn:uuid:4d1def34-68a7-4a37-8152-65f0e90329ee",),
        ),
        "ValidationRequest (POST) .json": Seen(
            "R4",
            "https://fhir.nhs.uk/CodeSystem/message-events-bars|servicerequest-request",
            "http://fhir.nhs.uk/Id/dos-service-id|2222222222",
            ("http://fhir.nhs.uk/Id/dos-service-id|111111111",),
        ),
        "ValidationResponse (POST) .json": Seen(
            "R4",
            "https://fhir.nhs.uk/CodeSystem/message-events-bars|servicerequest-response",
            "http://fhir.nhs.uk/Id/dos-service-id|2222222222",
            ("http://fhir.nhs.uk/Id/dos-service-id|111111111",),
            "86e3371d-1c15-4862-9552-d9560f8292ba",
        ),
    },
    "NHSDigital__electronic-prescription-service-api": {
        "1-Prepare-Request-200_OK.json": Seen(
            "R4",
            "https://fhir.nhs.uk/CodeSystem/message-event|prescription-order",
            "https://directory.spineservices.nhs.uk/STU3/Organization/RBA",
            ("https://directory.spineservices.nhs.uk/STU3/Organization/FH542",),
        ),
        "2-Prepare-Request-400_Invalid_Course_of_Therapy_mixed.json": Seen(
            "R4",
            "https://fhir.nhs.uk/CodeSystem/message-event|prescription-order",
            "https://directory.spineservices.nhs.uk/STU3/Organization/A83008",
            ("https://sandbox.api.service.nhs.uk/fhir-prescribing/$post-message",),
        ),
        "PrepareRequest-FhirMessageUnsigned.json": Seen(
            "R4",
            "https://fhir.nhs.uk/CodeSystem/message-event|prescription-order",
            "https://directory.spineservices.nhs.uk/STU3/Organization/RBA",
            ("https://directory.spineservices.nhs.uk/STU3/Organization/FA553",),
        ),
        "Process-Request-Dispense-eRD.json": Seen(
            "R4",
            "https://fhir.nhs.uk/CodeSystem/message-event|dispense-notification",
            "https://directory.spineservices.nhs.uk/STU3/Organization/RBA",
            ("https://directory.spineservices.nhs.uk/STU3/Organization/FH542",),
            "999f9999-9999-9999-9ff9-f9fff9999999",
        ),
        "R-0005-Cancellation.json": Seen(
            "R4",
            "https://fhir.nhs.uk/CodeSystem/message-event|prescription-order-response",
            "undefined/$process-message",
            ("urn:nhs-uk:addressing:ods:RRERP",),
            "47c2efe1-f29b-4108-8c63-53bc164497c2",
        ),
        "acute-primary-example-03-req.json": Seen(
            "R4",
            "https://fhir.nhs.uk/CodeSystem/message-event|dispense-notification",
            "https://directory.spineservices.nhs.uk/STU3/Organization/VNE51",
            (),
            "a5d77265-8ba5-4c74-b8ce-ea0dbaafbdb8",
        ),
        "acute-primary-example-05-req.json": Seen(
            "R4",
            "https://fhir.nhs.uk/CodeSystem/message-event|dispense-notification",
            "https://directory.spineservices.nhs.uk/STU3/Organization/VNCEL",
            ("https://sandbox.api.service.nhs.uk/fhir-prescribing/$post-message",),
            "999f9999-9999-9999-9ff9-f9fff9999999",
        ),
        "bundle-success.json": Seen(
            "R4",
            "https://fhir.nhs.uk/CodeSystem/message-event|prescription-order-response",
            "https://internal-dev.api.service.nhs.uk/fhir-prescribing/$process-message",
            ("https://directory.spineservices.nhs.uk/STU3/Organization/A99968",),
            "d03e713b-e62c-4a2f-964d-d83b68d825a9",
        ),
    },
    "gematik__api-app-transport-framework": {
        "Bundle-ExampleBundleMessageContainer.json": Seen(
            "R4",
            "https://gematik.de/fhir/atf/CodeSystem/operation-identifier-cs|atf;Empfangsbestaetigung",
            "mailto:sender@example.peter.kim.telematik",
            ("mailto:receiver@example.klaus.kim.telematik",),
        ),
        "Selbsttest_Lieferung.json": Seen(
            "R4",
            "https://gematik.de/fhir/atf/CodeSystem/service-identifier-cs|Selbsttest;Lieferung",
            "https://sender.example.com/endpoint",
            ("https://receiver.example.com/endpoint",),
        ),
        "atf_Empfangsbestaetigung.json": Seen(
            "R4",
            "https://gematik.de/fhir/atf/CodeSystem/operation-identifier-cs|atf;Empfangsbestaetigung",
            "https://receiver.example.com/endpoint",
            ("https://sender.example.com/endpoint",),
        ),
    },
    "gematik__spec-VSDM-Ersatzbescheinigung": {
        "Bundle-4a270af6-nneu-ohne-kvnr-dfe20acfb5c5.json": Seen(
            "R4",
            "https://gematik.de/fhir/directory/CodeSystem/OrganizationProfessionOID|1.2.276.0.76.4.50",
            "http://www.tk.de",
            (),
            "8e2df5fe-2691-4277-936c-9cc2140b189b",
        ),
        "Bundle-9b6ac30d-246d-4eab-af83-544564792089.json": Seen(
            "R4",
            "https://gematik.de/fhir/directory/CodeSystem/PractitionerProfessionOID|1.2.276.0.76.4.30",
            "https://Test-Krankenkasse.de/KIM",
            (),
            "79939e34-c5cc-4da6-ba55-f4bd85832760",
        ),
        "Bundle-cecef81d-ab68-4d5a-9e22-7b3e8edce6e6.json": Seen(
            "R4",
            "https://gematik.de/fhir/directory/CodeSystem/PractitionerProfessionOID|1.2.276.0.76.4.49",
            "https://Test-Krankenkasse.de/KIM",
        ),
        "Bundle-eeb-anfrage-v2.json": Seen(
            "R4",
            "https://gematik.de/fhir/directory/CodeSystem/OrganizationProfessionOID|1.2.276.0.76.4.50",
            "kim://praxis@example.kim.telematik",
        ),
        "Testdatensatz_Wayne_Bruce.xml": Seen(
            "R4",
            "https://gematik.de/fhir/directory/CodeSystem/OrganizationProfessionOID|1.2.276.0.76.4.59",
            "https://kbvbc-appliance01-ru-rz05.app.rtu.kbvbc.vrz0506.riseops.de/KIM/risePkvDemo",
        ),
    },
    "google__fhir": {
        "1.0.2__package__Bundle-10bb101f-a121-4264-a920-67be9cb82c74.json": Seen(
            "DSTU2",
            "http://hl7.org/fhir/message-events|patient-link",
            "http://example.org/clients/ehr-lite",
            ("http://acme.com/ehr/fhir",),
        ),
        "Bundle-10bb101f-a121-4264-a920-67be9cb82c74.json": Seen(
            "R4", "http://example.org/fhir/message-events|patient-link", "http://example.org/clients/ehr-lite"
        ),
        "Bundle-3a0707d3-549e-4467-b8b8-5a2ab3800efe.json": Seen(
            "R4",
            "http://example.org/fhir/message-events|patient-link",
            "http://acme.com/ehr/fhir",
            (),
            "efdd254b-0e09-4164-883e-35cf3871715f",
        ),
        "package__Bundle-10bb101f-a121-4264-a920-67be9cb82c74.json": Seen(
            "STU3", "http://hl7.org/fhir/message-events|patient-link", "http://example.org/clients/ehr-lite"
        ),
    },
    "microsoft__FHIR-Converter": {
        "ADT04-251-expected.json": Refused("not-a-message", "Bundle.type"),
    },
    "navikt__fhir": {
        "message-with-invalid-her-id.json": Seen(
            "R4",
            "http://fhir.nav.no/test/CodeSystem/Messages|test",
            "urn:oid:2.16.578.1.12.4.1.2.123",
            ("urn:oid:2.16F578.1.12.4.1.2.456",),
        ),
    },
    "nightingaleproject__vital_records_fhir_messaging_ig": {
        "cause_of_death_acknowledgement_message_537_example.json": Seen(
            "R4",
            "http://nchs.cdc.gov/vrdr_acknowledgement",
            "http://mitre.org/vrdr",
            ("http://nchs.cdc.gov/vrdr_submission",),
            "b1fae7d8-d84f-4ac0-a545-8b1d8ff6e397",
        ),
        "cause_of_death_coding_response_message_538_example.json": Seen(
            "R4",
            "http://nchs.cdc.gov/vrdr_causeofdeath_coding",
            "http://nchs.cdc.gov/vrdr_submission",
            ("http://mitre.org/vrdr",),
        ),
        "demographics_acknowledgement_message_537_example.json": Seen(
            "R4",
            "http://nchs.cdc.gov/vrdr_acknowledgement",
            "http://mitre.org/vrdr",
            ("HTTP://NCHS.CDC.GOV/VRDR_SUBMISSION",),
            "09838faf-8db7-4a3f-ba4b-16964a40881d",
        ),
        "demographics_coding_response_message_537_example.json": Seen(
            "R4",
            "http://nchs.cdc.gov/vrdr_demographics_coding",
            "HTTP://NCHS.CDC.GOV/VRDR_SUBMISSION",
            ("http://mitre.org/vrdr",),
        ),
    },
    "nightingaleproject__vrdr-dotnet": {
        "MultipleDestinationsMessage.json": Seen(
            "R4",
            "http://nchs.cdc.gov/vrdr_acknowledgement",
            "http://nchs.cdc.gov/vrdr_submission",
            ("test_one", "test_two"),
            "a9d66d2e-2480-4e8d-bab3-4e4c761da1b7",
        ),
    },
}

INVALID: dict[str, dict[str, Seen | Refused]] = {
    "FHIR__fhir-test-cases": {
        "bad-json-close-1.json": Refused("malformed-json"),
        "bundle-bad-empty.json": Refused("not-a-message", "Bundle.type"),
        "bundle-duplicate-id.json": Refused("not-a-message", "Bundle.type"),
        "empty-array.json": Refused("not-a-bundle", "Bundle"),
        "fhirpath-null.json": Refused("not-a-bundle", "Bundle"),
        "json-comma-bad-1.json": Refused("malformed-json"),
        "json-comments-1.json": Refused("malformed-json"),
        "json-good.json": Refused("not-a-bundle", "Bundle"),
        "json-no-quotes-1.json": Refused("malformed-json"),
        "json-prop-key.json": Refused("not-a-bundle", "Bundle"),
        "list-bad-syntax.json": Refused("malformed-json"),
        "list-wrong-ns.xml": Refused("wrong-namespace", "Bundle"),
        "mcode-pat-bad.json": Refused("malformed-json"),
        "med-dispense.json": Refused("malformed-json"),
        "observation-with-trailing-dot.json": Refused("malformed-json"),
    },
    "NHSDigital__booking-and-referral-fhir-api": {
        "GET-success.json": Refused("malformed-json"),
    },
    "nst__JSONTestSuite": {
        "i_number_huge_exp.json": Refused("wrong-type", "Bundle"),
        "i_number_too_big_pos_int.json": Refused("wrong-type", "Bundle"),
        "i_string_1st_surrogate_but_2nd_missing.json": Refused("wrong-type", "Bundle"),
        "i_string_invalid_utf-8.json": Refused("not-utf-8"),
        "i_structure_UTF-8_BOM_empty_object.json": Refused("not-a-bundle", "Bundle"),
        "n_number_NaN.json": Refused("malformed-json"),
        "n_object_trailing_comma.json": Refused("malformed-json"),
        "n_structure_100000_opening_arrays.json": Refused("too-deep"),
        "y_object_duplicated_key.json": Refused("not-a-bundle", "Bundle"),
    },
}

SUBSCRIPTIONS: dict[str, dict[str, Seen | Refused]] = {
    "FHIR__fhir-candle": {
        "Bundle-notification-handshake.json": Refused("not-a-message", "Bundle.type"),
        "Bundle-notification-id.json": Refused("not-a-message", "Bundle.type"),
        "Subscription-encounter-complete.json": Refused("not-a-bundle", "Bundle"),
        "SubscriptionTopic-encounter-complete-qualified.json": Refused("not-a-bundle", "Bundle"),
        "SubscriptionTopic-encounter-complete.json": Refused("not-a-bundle", "Bundle"),
        "r4b__Bundle-notification-handshake.json": Refused("not-a-message", "Bundle.type"),
        "r5__Bundle-notification-handshake.json": Refused("not-a-message", "Bundle.type"),
        "r5__Subscription-encounter-complete.json": Refused("not-a-bundle", "Bundle"),
        "subscription-encounter-complete-fhirpath.json": Refused("not-a-bundle", "Bundle"),
    },
    "HL7__fhir": {
        "notification-query-event.xml": Refused("not-a-message", "Bundle.type"),
    },
}


def read_file(category: str, owner: str, name: str) -> Header:
    body = (CORPUS / category / owner / name).read_bytes()
    return read(body, media_type("xml" if name.endswith(".xml") else "json"))


def rows(category: str, table: dict[str, dict[str, Seen | Refused]]) -> list[object]:
    return [
        pytest.param(category, owner, name, expected, id=f"{owner}/{name}")
        for owner, files in table.items()
        for name, expected in files.items()
    ]


@pytest.mark.parametrize(
    ("category", "owner", "name", "expected"),
    [*rows("messages", MESSAGES), *rows("invalid", INVALID), *rows("subscriptions", SUBSCRIPTIONS)],
)
def test_file_is_read_or_refused_as_the_table_says(
    category: str, owner: str, name: str, expected: Seen | Refused
) -> None:
    if isinstance(expected, Refused):
        with pytest.raises(Refusal) as refusal:
            read_file(category, owner, name)
        problem = refusal.value.problem
        assert (problem.id, "".join(problem.expression)) == expected
        assert len(problem.text) > 20
        return
    header = read_file(category, owner, name)
    seen = Seen(
        header.release.name,
        str(header.event),
        header.source or "",
        tuple(destination.endpoint for destination in header.destinations),
        None if header.response is None else str(header.response.identifier),
    )
    assert seen == expected


@pytest.mark.parametrize(
    ("category", "table"), [("messages", MESSAGES), ("invalid", INVALID), ("subscriptions", SUBSCRIPTIONS)]
)
def test_table_has_a_row_for_every_file(category: str, table: dict[str, dict[str, Seen | Refused]]) -> None:
    files = {file.relative_to(CORPUS / category) for file in (CORPUS / category).rglob("*") if file.is_file()}
    assert files == {Path(owner, name) for owner, names in table.items() for name in names}


def test_identifiers_of_sender_and_receiver_are_found_in_the_entries_they_refer_to() -> None:
    header = read_file(
        "messages",
        "CDCgov__trusted-intermediary",
        "003_3_ORM_O01_short_linked_to_002_ORU_R01_short.fhir",
    )
    assert header.destinations[0].receivers == ("ALlab", "urn:ietf:rfc:3986|2.16.840.1.114222.4.1.181960")
    assert header.senders == ("BaptistEast", "urn:ietf:rfc:3986|2.16.840.1.114222.4.1.000001")


def test_stu3_receiver_in_xml_is_a_destination_without_an_endpoint() -> None:
    header = read_file("messages", "FHIR__fhir-test-cases", "message-infinite-loop.xml")
    assert header.destinations[0].endpoint is None
    assert header.destinations[0].receivers == ("https://fhir.nhs.uk/Id/ods-organization-code|A111111",)
