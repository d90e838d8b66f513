"""Reads the header of whatever is carried: a message, or the notification of another server by itself (S-30, S-31).

A notification has no MessageHeader: what one would say is taken from its Bundle and from the status in its first entry.
"""

from __future__ import annotations

from typing import Any

import msgspec

from broker.core.fhir import complaints, json_text, wire
from broker.core.fhir.header import NOTIFICATION_EVENT, Format, Header, Identifier, Release
from broker.core.fhir.media import MediaType
from broker.core.fhir.read import read
from broker.core.outcome import MessageInvalid
from broker.core.subscription.foreign import NOTIFICATIONS, Foreign, Package, said_by
from broker.core.subscription.xml_values import values_of

_SUBSCRIPTION = "/Subscription/"  # before it, in the reference to a Subscription, stands the server


class _Bundle(msgspec.Struct, frozen=True, gc=False):
    id: str = ""
    type: str = ""
    timestamp: str = ""
    identifier: wire.Identifier | msgspec.UnsetType = msgspec.UNSET
    meta: wire.Meta | msgspec.UnsetType = msgspec.UNSET
    entry: msgspec.Raw = msgspec.Raw()


_JSON = msgspec.json.Decoder(_Bundle)
_FIRST = msgspec.json.Decoder(wire.FirstOf)


def read_header(body: bytes, media: MediaType, *, url_release: Release | None = None) -> Header:
    """The header of what is to be carried; raises a Refusal that says what is wrong with it, and nothing else."""
    try:
        return read(body, media, url_release=url_release)
    except MessageInvalid as refusal:
        if refusal.problem.id != complaints.NOT_A_MESSAGE:
            raise
        header = _notification(body, media, url_release)
        if header is None:
            raise
        return header


def _notification(body: bytes, media: MediaType, url_release: Release | None) -> Header | None:
    """The header of a notification; None where the Bundle is none. `read` has seen that it is a Bundle."""
    try:
        bundle, first = _json(body) if media.format is Format.JSON else _xml(body)
    except msgspec.DecodeError:  # of its elements one is not what it must be, which `read` does not look at
        return None
    resource = first.get("resource") if isinstance(first, dict) else None
    if bundle.type not in NOTIFICATIONS or not isinstance(resource, dict):
        return None
    said = said_by(resource, Package.BARE, body)
    return None if said is None else _header(bundle, said, resource, media.format, media.release or url_release)


def _json(body: bytes) -> tuple[_Bundle, Any]:
    text = json_text.text_of(body)
    try:
        bundle = _JSON.decode(text)
    except msgspec.DecodeError:
        bundle = _JSON.decode(json_text.without_lone_surrogates(text))
    first = bytes(_FIRST.decode(bundle.entry).first) if bundle.entry else b""
    if len(first) > wire.HEADER_BYTES:
        raise complaints.header_too_large()
    return bundle, json_text.strictly(first, "Bundle.entry[0]") if first else None


def _xml(body: bytes) -> tuple[_Bundle, Any]:
    values = values_of(body)
    entries = values.get("entry")
    first = entries[0] if isinstance(entries, list) and entries else entries
    return msgspec.convert({name: values[name] for name in values if name != "entry"}, _Bundle), first


def _header(bundle: _Bundle, said: Foreign, status: dict[str, Any], format: Format, release: Release | None) -> Header:
    identifier = bundle.identifier
    return Header(
        release=release or _release(bundle, status),
        format=format,
        event=NOTIFICATION_EVENT,
        bundle_id=bundle.id or None,
        bundle_identifier=None
        if identifier is msgspec.UNSET or not identifier.value
        else Identifier(identifier.system, identifier.value),
        timestamp=bundle.timestamp or None,
        source=_server(said.subscription),
        profiles=() if bundle.meta is msgspec.UNSET else tuple([one for one in bundle.meta.profile if one]),
        focus=said.focus,
        response_request="never",  # a server that notifies wants to hear that it was taken, and nothing else
    )


def _release(bundle: _Bundle, status: dict[str, Any]) -> Release:
    """By the spelling, where the transport does not say (S-2)."""
    if bundle.type == "subscription-notification":
        return Release.R5
    return Release.R4B if status.get("resourceType") == "SubscriptionStatus" else Release.R4


def _server(subscription: str) -> str | None:
    """Whose notification it is, if its Subscription is named in full."""
    server, mark, _ = subscription.rpartition(_SUBSCRIPTION)
    return server if mark and server.startswith(("https://", "http://")) else None
