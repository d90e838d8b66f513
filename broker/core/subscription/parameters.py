"""Search parameters that can be evaluated on the content of a message: where their values stand, and of which kind.

FHIR defines some 1,400; here are those that people filter messages by. A topic may name the place of any other one
itself (`paths` and `type` of its filter). A path names elements, one after the other; lists are looked through.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec


class Kind(StrEnum):
    TOKEN = "token"
    REFERENCE = "reference"
    STRING = "string"
    DATE = "date"
    NUMBER = "number"
    QUANTITY = "quantity"
    URI = "uri"


class Definition(msgspec.Struct, frozen=True):
    kind: Kind
    paths: tuple[tuple[str, ...], ...]
    target: str = ""  # of a reference: the one type that counts


def define(kind: str, paths: str, target: str = "") -> Definition:
    """Paths with spaces between them: `effectiveDateTime effectivePeriod.start`."""
    return Definition(Kind(kind), tuple(tuple(path.split(".")) for path in paths.split()), target)


def _table(text: str) -> dict[str, Definition]:
    """Lines of `name kind paths…`; a kind may be `reference(Type)`."""
    found = {}
    for line in text.split("\n"):
        if line.strip():
            name, kind, paths = line.split(maxsplit=2)
            kind, _, target = kind.rstrip(")").partition("(")
            found[name] = define(kind, paths, target)
    return found


EVERY: Mapping[str, Definition] = _table(
    """
    _id token id
    _profile uri meta.profile
    _tag token meta.tag
    _security token meta.security
    _source uri meta.source
    _lastUpdated date meta.lastUpdated
    _language token language
    """
)

_PERSON = """
    identifier token identifier
    active token active
    gender token gender
    birthdate date birthDate
    family string name.family
    given string name.given
    phone token telecom.value
    email token telecom.value
    address-city string address.city
    address-postalcode string address.postalCode
    address-country string address.country
"""

_ABOUT = """
    identifier token identifier
    subject reference subject
    patient reference(Patient) subject patient
"""
_STATUS = _ABOUT + "    status token status\n"
_CATEGORY = _STATUS + "    category token category\n"
_CODE = "    code token code code.concept\n    encounter reference encounter\n"
_EVENT = _CATEGORY + _CODE

BY_TYPE: Mapping[str, Mapping[str, Definition]] = {
    "Patient": _table(
        _PERSON
        + """
    deceased token deceasedBoolean
    death-date date deceasedDateTime
    organization reference managingOrganization
    general-practitioner reference generalPractitioner
    link reference link.other
    """
    ),
    "Practitioner": _table(_PERSON),
    "RelatedPerson": _table(_PERSON + "    patient reference(Patient) patient\n    relationship token relationship"),
    "Encounter": _table(
        _STATUS
        + """
    class token class
    type token type
    date date period actualPeriod
    length quantity length
    location reference location.location
    participant reference participant.individual participant.actor
    practitioner reference(Practitioner) participant.individual participant.actor
    service-provider reference serviceProvider
    episode-of-care reference episodeOfCare
    based-on reference basedOn
    part-of reference partOf
    account reference account
    reason-code token reasonCode reason.value.concept
    diagnosis reference diagnosis.condition
    """
    ),
    "Observation": _table(
        _EVENT
        + """
    date date effectiveDateTime effectivePeriod effectiveInstant
    performer reference performer
    value-concept token valueCodeableConcept
    value-quantity quantity valueQuantity
    value-string string valueString
    combo-code token code component.code
    based-on reference basedOn
    device reference device
    specimen reference specimen
    """
    ),
    "DiagnosticReport": _table(
        _EVENT
        + """
    date date effectiveDateTime effectivePeriod
    issued date issued
    performer reference performer
    result reference result
    conclusion token conclusionCode
    based-on reference basedOn
    specimen reference specimen
    """
    ),
    "ServiceRequest": _table(
        _EVENT
        + """
    intent token intent
    priority token priority
    authored date authoredOn
    occurrence date occurrenceDateTime occurrencePeriod
    requester reference requester
    performer reference performer
    performer-type token performerType
    requisition token requisition
    based-on reference basedOn
    replaces reference replaces
    specimen reference specimen
    """
    ),
    "Condition": _table(
        _ABOUT
        + _CODE
        + """
    category token category
    clinical-status token clinicalStatus
    verification-status token verificationStatus
    severity token severity
    onset-date date onsetDateTime onsetPeriod
    recorded-date date recordedDate
    asserter reference asserter
    """
    ),
    "Procedure": _table(
        _EVENT
        + """
    date date performedDateTime performedPeriod occurrenceDateTime occurrencePeriod
    performer reference performer.actor
    location reference location
    based-on reference basedOn
    """
    ),
    "MedicationRequest": _table(
        _EVENT
        + """
    code token medicationCodeableConcept medication.concept
    medication reference medicationReference medication.reference
    intent token intent
    priority token priority
    authoredon date authoredOn
    requester reference requester
    intended-performer reference performer
    intended-dispenser reference dispenseRequest.performer
    """
    ),
    "MedicationDispense": _table(
        _EVENT
        + """
    code token medicationCodeableConcept medication.concept
    whenhandedover date whenHandedOver
    performer reference performer.actor
    prescription reference authorizingPrescription
    """
    ),
    "Immunization": _table(
        """
    identifier token identifier
    status token status
    patient reference(Patient) patient
    vaccine-code token vaccineCode
    date date occurrenceDateTime
    lot-number string lotNumber
    performer reference performer.actor
    location reference location
    """
    ),
    "AllergyIntolerance": _table(
        """
    identifier token identifier
    patient reference(Patient) patient
    clinical-status token clinicalStatus
    verification-status token verificationStatus
    code token code
    category token category
    criticality token criticality
    date date recordedDate
    """
    ),
    "Appointment": _table(
        """
    identifier token identifier
    status token status
    date date start
    patient reference(Patient) participant.actor subject
    actor reference participant.actor
    practitioner reference(Practitioner) participant.actor
    location reference(Location) participant.actor
    appointment-type token appointmentType
    service-type token serviceType serviceType.concept
    service-category token serviceCategory
    specialty token specialty
    based-on reference basedOn
    """
    ),
    "Task": _table(
        """
    identifier token identifier
    status token status
    intent token intent
    priority token priority
    code token code
    business-status token businessStatus
    focus reference focus
    subject reference for
    patient reference(Patient) for
    encounter reference encounter
    owner reference owner
    requester reference requester
    based-on reference basedOn
    part-of reference partOf
    authored-on date authoredOn
    modified date lastModified
    group-identifier token groupIdentifier
    """
    ),
    "Communication": _table(
        _CATEGORY + "    sent date sent\n    sender reference sender\n    recipient reference recipient"
    ),
    "CommunicationRequest": _table(
        _CATEGORY + "    priority token priority\n    requester reference requester\n    recipient reference recipient"
    ),
    "DocumentReference": _table(
        _CATEGORY
        + """
    type token type
    date date date
    author reference author
    custodian reference custodian
    security-label token securityLabel
    format token content.format content.profile.valueCoding
    """
    ),
    "Composition": _table(
        _CATEGORY + "    type token type\n    date date date\n    author reference author\n    title string title"
    ),
    "QuestionnaireResponse": _table(
        """
    identifier token identifier
    status token status
    subject reference subject
    patient reference(Patient) subject
    encounter reference encounter
    authored date authored
    author reference author
    questionnaire uri questionnaire
    """
    ),
    "CarePlan": _table(_CATEGORY + "    date date period\n    intent token intent"),
    "Coverage": _table(
        """
    identifier token identifier
    status token status
    type token type
    beneficiary reference beneficiary
    patient reference(Patient) beneficiary
    payor reference payor insurer
    subscriber reference subscriber
    """
    ),
    "Claim": _table(
        """
    identifier token identifier
    status token status
    use token use
    patient reference(Patient) patient
    created date created
    insurer reference insurer
    provider reference provider
    priority token priority
    """
    ),
    "Organization": _table(
        "    identifier token identifier\n    active token active\n    name string name\n    type token type\n"
        "    partof reference partOf"
    ),
    "Location": _table(
        "    identifier token identifier\n    status token status\n    name string name\n    type token type\n"
        "    organization reference managingOrganization"
    ),
    "MessageHeader": _table(
        """
    event token eventCoding
    event-uri uri eventUri eventCanonical
    code token response.code
    source-uri uri source.endpoint source.endpointUrl
    destination-uri uri destination.endpoint destination.endpointUrl
    source string source.name
    destination string destination.name
    sender reference sender source.sender
    receiver reference destination.receiver
    focus reference focus
    author reference author
    """
    ),
    "Bundle": _table("    identifier token identifier\n    type token type\n    timestamp date timestamp"),
}


def definition_of(resource: str, parameter: str) -> Definition | None:
    """Where a parameter's values stand in a resource of this type; None where we do not know."""
    return BY_TYPE.get(resource, {}).get(parameter) or EVERY.get(parameter)
