"""The shapes of Bundle and MessageHeader on the wire: every spelling from DSTU2 to R6 in one set of types (M-1).

A text that is absent is empty; an object that is absent is UNSET, so that `null` stays what it is in FHIR: an error.
Names are those of the wire.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

DEPTH = 128  # levels of nesting; real messages have about 15, and our peers' parsers give up at some hundreds
HEADER_BYTES = 1 << 20  # of the first entry, which is read whole; real ones have 1 to 5 KiB


class Coding(Struct, frozen=True, gc=False):
    system: str = ""
    code: str = ""


class Identifier(Struct, frozen=True, gc=False):
    system: str = ""
    value: str = ""


class Reference(Struct, frozen=True, gc=False):
    reference: str = ""
    identifier: Identifier | UnsetType = UNSET


class Extension(Struct, frozen=True, gc=False):
    url: str = ""
    valueCode: str = ""


class Meta(Struct, frozen=True, gc=False):
    profile: tuple[str | None, ...] = ()  # null stands where only an extension is given


class Endpointed(Struct, frozen=True, gc=False):
    """What `source` and `destination` have in common."""

    name: str = ""
    endpoint: str = ""
    endpointUrl: str = ""
    endpointReference: Reference | UnsetType = UNSET


class Destination(Endpointed, frozen=True, gc=False):
    receiver: Reference | UnsetType = UNSET


class Source(Endpointed, frozen=True, gc=False):
    sender: Reference | UnsetType = UNSET


class Response(Struct, frozen=True, gc=False):
    identifier: str | Identifier = ""
    code: str = ""


class Resource(Struct, frozen=True):
    """A contained or another entry's resource, as far as a reference may lead to it."""

    resourceType: str = ""
    id: str = ""
    address: Any = None  # of an Endpoint, a url; of others something else
    identifier: Any = None


class MessageHeader(Struct, frozen=True):
    id: str = ""
    meta: Meta = Meta()
    contained: tuple[Resource, ...] = ()
    extension: tuple[Extension, ...] = ()
    event: Coding | UnsetType = UNSET
    eventCoding: Coding | UnsetType = UNSET
    eventUri: str = ""
    eventUriElement: Any = msgspec.field(name="_eventUri", default=None)
    eventCanonical: str = ""
    timestamp: str = ""
    source: Source | UnsetType = UNSET
    destination: tuple[Destination, ...] = ()
    sender: Reference | UnsetType = UNSET
    receiver: Reference | UnsetType = UNSET
    response: Response | UnsetType = UNSET
    focus: tuple[Reference, ...] = ()
    data: tuple[Reference, ...] = ()


class HeaderEntry(Struct, frozen=True):
    resource: MessageHeader


class OtherEntry(Struct, frozen=True):
    fullUrl: str = ""
    resource: Resource = Resource()


class Outer(Struct, frozen=True, gc=False):
    """A Bundle of which nothing is read but where its entries stand."""

    entry: Raw = Raw()


class Plain(Struct, frozen=True):
    """A Bundle that is read at once; of its entries only the first is left."""

    resourceType: str = ""
    id: str = ""
    type: str = ""
    timestamp: str = ""
    identifier: Identifier | UnsetType = UNSET
    meta: Meta | UnsetType = UNSET
    entry: tuple[HeaderEntry, ...] = ()


class Bundle(Struct, frozen=True, gc=False):
    resourceType: str = ""
    id: str = ""
    type: str = ""
    timestamp: str = ""
    identifier: Raw = Raw()
    meta: Raw = Raw()
    entry: Raw = Raw()


class FirstOf(Struct, frozen=True, gc=False, array_like=True):
    """The first of a list; the rest is skipped without being kept."""

    first: Raw = Raw()
