"""From the spellings of a MessageHeader to one Header: release, event, endpoints, parties (M-1 to M-5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import UNSET

from broker.core.fhir import complaints, wire
from broker.core.fhir.header import Destination, Event, Format, Header, Identifier, Release, ResponseLink

Inside = Mapping[str, wire.Resource]  # what references lead to inside the Bundle

RESPONSE_REQUEST = "http://hl7.org/fhir/StructureDefinition/messageheader-response-request"
RESPONSE_REQUESTS = ("always", "on-error", "never", "on-success")


def header_of(
    message: wire.MessageHeader,
    *,
    bundle_id: str,
    identifier: wire.Identifier | None,
    timestamp: str,
    meta: wire.Meta | None,
    format: Format,
    release: Release | None,
    inside: Inside,
) -> Header:
    """The header of a message; `release` is what the transport says, which goes before the content (M-2)."""
    source = message.source
    if source is UNSET:
        raise complaints.missing(f"{complaints.FIRST}.source")
    profiles = message.meta.profile if meta is None else (*meta.profile, *message.meta.profile)
    focus = message.focus or message.data
    sender = message.sender if message.sender is not UNSET else source.sender
    return Header(
        release=release or release_of(message),
        format=format,
        event=event_of(message),
        bundle_id=bundle_id or None,
        bundle_identifier=Identifier(identifier.system, identifier.value)
        if identifier is not None and identifier.value
        else None,
        message_id=message.id or None,
        timestamp=timestamp or message.timestamp or None,  # STU3 and DSTU2 have it in the MessageHeader
        source=_endpoint(source, "source", message, inside),
        source_name=source.name or None,
        destinations=_destinations(message, inside),
        response=None if message.response is UNSET else _response(message.response),
        senders=() if sender is UNSET else _identifiers(sender, message, inside),
        profiles=tuple([profile for profile in profiles if profile]) if profiles else (),
        focus=tuple([reference.reference for reference in focus if reference.reference]) if focus else (),
        response_request=_response_request(message) if message.extension else None,
    )


def references_in(message: wire.MessageHeader) -> set[str]:
    """The references that have to be looked up among the other entries."""
    found = [message.sender, message.receiver]
    if message.source is not UNSET:
        found += (message.source.sender, message.source.endpointReference)
    for destination in message.destination:
        found += (destination.receiver, destination.endpointReference)
    references = [reference.reference for reference in found if reference is not UNSET]
    return {reference for reference in references if reference and reference[0] != "#"} if references else set()


def release_of(message: wire.MessageHeader) -> Release:
    """The release by the spelling alone (M-2)."""
    source = message.source
    if source is not UNSET and source.sender is not UNSET:
        return Release.R6
    if message.eventCanonical or (message.response is not UNSET and not isinstance(message.response.identifier, str)):
        return Release.R5
    for party in message.destination if source is UNSET else (source, *message.destination):
        if party.endpointUrl or party.endpointReference is not UNSET:
            return Release.R5
    if message.event is not UNSET:  # `event` as a Coding ended with STU3, which had renamed `data` to `focus`
        return Release.DSTU2 if message.data else Release.STU3
    return Release.R4  # or R4B: the content does not tell


def event_of(message: wire.MessageHeader) -> Event:
    """The event, of which a message has one; its code may be absent (corpus)."""
    coding = message.eventCoding if message.eventCoding is not UNSET else message.event
    uri = message.eventUri or message.eventCanonical
    if coding is not UNSET:
        if uri:
            raise complaints.contradiction(f"{complaints.FIRST}.event[x]", ("Coding", "uri or canonical"))
        return Event(coding.system, coding.code)
    if not uri and message.eventUriElement is None:
        raise complaints.missing(f"{complaints.FIRST}.event[x]")
    return Event("", uri)


def _destinations(message: wire.MessageHeader, inside: Inside) -> tuple[Destination, ...]:
    # STU3 and DSTU2 name one receiver, for the whole message
    common = () if message.receiver is UNSET else _identifiers(message.receiver, message, inside)
    if not message.destination:
        return (Destination(receivers=common),) if common else ()
    return tuple(
        [
            Destination(
                endpoint=_endpoint(party, "destination", message, inside),
                receivers=common if party.receiver is UNSET else _identifiers(party.receiver, message, inside),
            )
            for party in message.destination
        ]
    )


def _endpoint(party: wire.Endpointed, where: str, message: wire.MessageHeader, inside: Inside) -> str | None:
    """The endpoint as written, or what `endpointReference` leads to, in the order of M-4."""
    plain, url = party.endpoint, party.endpointUrl
    if url:
        if plain and plain != url:
            raise complaints.contradiction(f"{complaints.FIRST}.{where}.endpoint[x]", ("endpoint", "endpointUrl"))
        return url
    if plain or party.endpointReference is UNSET:
        return plain or None
    reference = party.endpointReference
    target = _target(reference.reference, message, inside)
    if target is not None:
        if isinstance(target.address, str) and target.address:
            return target.address
        for identifier in _identifiers_in(target.identifier):
            return identifier
    if ":" in reference.reference or reference.identifier is UNSET:
        return reference.reference or None
    return next(_identifiers_in(reference.identifier), None) or reference.reference or None


def _identifiers(reference: wire.Reference, message: wire.MessageHeader, inside: Inside) -> tuple[str, ...]:
    """The identifiers of a party: those of the reference itself first, then those of what it leads to."""
    found = list(_identifiers_in(reference.identifier))
    target = _target(reference.reference, message, inside)
    if target is not None:
        found += _identifiers_in(target.identifier)
    return tuple(dict.fromkeys(found))


def _target(reference: str, message: wire.MessageHeader, inside: Inside) -> wire.Resource | None:
    if reference.startswith("#"):
        return next((one for one in message.contained if one.id and f"#{one.id}" == reference), None)
    return inside.get(reference)


def _identifiers_in(found: Any) -> Iterator[str]:
    """Each `system|value` of an `identifier`, in whatever shape a resource has it; what is none is passed over."""
    if isinstance(found, list):
        for one in found:
            yield from _identifiers_in(one)
        return
    if isinstance(found, wire.Identifier):
        system: Any = found.system
        value: Any = found.value
    elif isinstance(found, dict):
        system, value = found.get("system", ""), found.get("value", "")
    else:
        return
    if isinstance(system, str) and isinstance(value, str) and value:
        yield str(Identifier(system, value))


def _response(response: wire.Response) -> ResponseLink:
    found = response.identifier
    identifier = Identifier(value=found) if isinstance(found, str) else Identifier(found.system, found.value)
    if not identifier.value:
        raise complaints.missing(f"{complaints.FIRST}.response.identifier")
    if not response.code:
        raise complaints.missing(f"{complaints.FIRST}.response.code")
    return ResponseLink(identifier=identifier, code=response.code)


def _response_request(message: wire.MessageHeader) -> str | None:
    for extension in message.extension:  # M-34
        if extension.url == RESPONSE_REQUEST and extension.valueCode in RESPONSE_REQUESTS:
            return extension.valueCode
    return None
