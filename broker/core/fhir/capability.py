"""What the broker says it can do: its CapabilityStatement, with `messaging` (M-75)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from broker.core.fhir.header import Release
from broker.core.fhir.write import Resource, instant, shapes

TRANSPORT = "urn:x-fhir-broker:transport"  # own protocol codes: amqp, ws, mailto, mailbox, …
_HL7_TRANSPORT = "http://terminology.hl7.org/CodeSystem/message-transport"
_HL7_CODES = {"http", "ftp", "mllp"}

_FHIR_VERSIONS = {Release.R4: "4.0.1", Release.R4B: "4.3.0", Release.R5: "5.0.0"}

_DOCUMENTATION = (
    "Messages are kept before they are acknowledged and are forwarded byte for byte. A message that is sent again is "
    "recognised as long as reliableCache says, and gets the first answer."
)

_ACKNOWLEDGE: Resource = {
    "name": "acknowledge",
    "definition": "urn:x-fhir-broker:operation:acknowledge",
    "documentation": "POST [base]/Bundle/[id]/$acknowledge: the reader of a mailbox says that it has the message.",
}


class SearchParam(NamedTuple):
    name: str
    type: str
    documentation: str


SEARCH_PARAMS: Mapping[str, Sequence[SearchParam]] = {
    "Bundle": (
        SearchParam("message.destination-uri", "uri", "The mailbox: what was delivered to this endpoint."),
        SearchParam("message.source-uri", "uri", "Messages from this endpoint."),
        SearchParam("message.event", "token", "Messages of this event, as code or system|code."),
        SearchParam("message.response-id", "token", "Responses to this message; :missing tells them from requests."),
        SearchParam("identifier", "token", "Bundle.identifier of the message."),
        SearchParam("_lastUpdated", "date", "When the broker stored the message."),
        SearchParam("_offset", "number", "Messages after this position of the mailbox, oldest first; 0 is its start."),
        SearchParam("_count", "number", "The most messages of one page; 0 asks for their number only."),
    ),
    "Endpoint": (
        SearchParam("_id", "token", "The resource's id."),
        SearchParam("identifier", "token", "The endpoint's identifier, as system|value."),
    ),
    "Organization": (
        SearchParam("_id", "token", "The resource's id."),
        SearchParam("identifier", "token", "The organisation's identifier, as system|value."),
    ),
}


def capability_statement(
    *,
    release: Release,
    base_url: str,
    software_version: str,
    date: datetime,
    endpoints: Sequence[tuple[str, str]],
    reliable_cache_minutes: int,
    events: Sequence[str] = (),
    definitions: Sequence[str] = (),
    search_params: Mapping[str, Sequence[SearchParam]] = SEARCH_PARAMS,
    more: Sequence[Resource] = (),
    extensions: Sequence[Resource] = (),
) -> Resource:
    """The statement; `endpoints` are pairs of protocol code and address, `definitions` canonical MessageDefinitions.

    `events` (free of any definition) are named in the documentation, since the element takes definitions only. `more`
    are further entries of `rest.resource`, `extensions` those of `rest`.
    """
    version = _FHIR_VERSIONS[release if release is Release.R4B else shapes(release)]
    return {
        "resourceType": "CapabilityStatement",
        "url": f"{base_url}/metadata",
        "version": software_version,
        "name": "FhirBroker",
        "title": "FHIR message broker",
        "status": "active",
        "date": instant(date),
        "description": "Takes FHIR messages in, keeps them, carries them on and brings the answers back.",
        "kind": "instance",
        "software": {"name": "fhir-broker", "version": software_version},
        "implementation": {"description": "FHIR message broker", "url": base_url},
        "fhirVersion": version,
        "format": ["application/fhir+json", "application/fhir+xml", "json", "xml"],
        "rest": [_rest(search_params, more, extensions)],
        "messaging": [_messaging(endpoints, reliable_cache_minutes, events, definitions)],
    }


def _rest(
    search_params: Mapping[str, Sequence[SearchParam]], more: Sequence[Resource], extensions: Sequence[Resource]
) -> Resource:
    extended: Resource = {"extension": list(extensions)} if extensions else {}
    return {
        **extended,
        "mode": "server",
        "resource": [*(_resource(type, params) for type, params in search_params.items()), *more],
        "operation": [
            {
                "name": "process-message",
                "definition": "http://hl7.org/fhir/OperationDefinition/MessageHeader-process-message",
                "documentation": "At the base of the system; the body is the message itself.",
            }
        ],
    }


def _resource(type: str, params: Sequence[SearchParam]) -> Resource:
    resource: Resource = {"type": type}
    interactions = ["read", "search-type"]
    if type == "Bundle":
        resource["documentation"] = (
            "Bundles of type message only. Create is another way to send one; it is stored and read as it came."
        )
        interactions.insert(0, "create")
    resource["interaction"] = [{"code": code} for code in interactions]
    resource["versioning"] = "no-version"
    if params:
        resource["searchParam"] = [param._asdict() for param in params]
    if type == "Bundle":
        resource["operation"] = [_ACKNOWLEDGE]
    return resource


def _messaging(
    endpoints: Sequence[tuple[str, str]], minutes: int, events: Sequence[str], definitions: Sequence[str]
) -> Resource:
    messaging: Resource = {}
    if endpoints:
        messaging["endpoint"] = [
            {"protocol": _protocol(protocol), "address": address} for protocol, address in endpoints
        ]
    messaging["reliableCache"] = min(minutes, 2**31 - 1)  # M-25: in minutes; an unsignedInt
    named = f" Events: {', '.join(events)}." if events else ""
    messaging["documentation"] = _DOCUMENTATION + named
    if definitions:
        messaging["supportedMessage"] = [
            {"mode": mode, "definition": definition} for definition in definitions for mode in ("receiver", "sender")
        ]
    return messaging


def _protocol(code: str) -> Resource:
    return {"system": _HL7_TRANSPORT if code in _HL7_CODES else TRANSPORT, "code": code}
