"""What the broker reads out of a message, whatever release of FHIR it is written in (spec: messaging section 1)."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Release(StrEnum):
    """FHIR releases by the value of the `fhirVersion` MIME parameter."""

    DSTU2 = "1.0"
    STU3 = "3.0"
    R4 = "4.0"
    R4B = "4.3"
    R5 = "5.0"
    R6 = "6.0"

    @property
    def identifies_by_bundle_identifier(self) -> bool:
        """From R5 on, Bundle.identifier alone is the identity (M-20)."""
        return self in (Release.R5, Release.R6)


class Format(StrEnum):
    JSON = "json"
    XML = "xml"


class Identifier(msgspec.Struct, frozen=True, gc=False):
    system: str = ""
    value: str = ""

    def __str__(self) -> str:
        return f"{self.system}|{self.value}" if self.system else self.value


class Event(msgspec.Struct, frozen=True, gc=False):
    """`eventCoding` as system and code; `eventUri`, `eventCanonical` as code alone. Either may be empty."""

    system: str = ""
    code: str = ""

    def __str__(self) -> str:
        return f"{self.system}|{self.code}" if self.system else self.code


STATUS_EVENT = Event(system="urn:x-fhir-broker:event", code="status-check")  # ours, since no standard has one (M-37)
NOTIFICATION_EVENT = Event(
    system="urn:x-fhir-broker:message-event", code="subscription-notification"
)  # likewise (S-49)


class Destination(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    endpoint: str | None = None  # as written; `system|value` for a logical endpointReference (M-4)
    receivers: tuple[str, ...] = ()  # identifiers of `receiver`, each `system|value`


class ResponseLink(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """`MessageHeader.response`: what makes a message a response (M-7)."""

    identifier: Identifier  # a string in R4 has no system
    code: str  # ok | transient-error | fatal-error


class Header(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    release: Release  # by the order of M-2; R4 where R4 and R4B cannot be told apart
    format: Format
    event: Event
    bundle_id: str | None = None
    bundle_identifier: Identifier | None = None
    message_id: str | None = None  # MessageHeader.id
    timestamp: str | None = None  # Bundle.timestamp as written
    source: str | None = None  # source endpoint as written; None where only a name or an extension stands
    source_name: str | None = None
    destinations: tuple[Destination, ...] = ()
    response: ResponseLink | None = None
    senders: tuple[str, ...] = ()  # identifiers of `sender` / `source.sender`, each `system|value`
    profiles: tuple[str, ...] = ()  # meta.profile of Bundle and MessageHeader
    focus: tuple[str, ...] = ()  # references as written
    response_request: str | None = None  # M-34: always | on-error | never | on-success
    # The data of a CloudEvent that is no FHIR message (core/event_data.py): format and release are those in which we
    # write of it to its source, and say nothing of its bytes.
    opaque: bool = False

    @property
    def is_response(self) -> bool:
        return self.response is not None
