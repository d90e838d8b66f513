"""A notification as a FHIR message: the whole Bundle behind a MessageHeader, byte for byte, and out again (S-47…51)."""

from __future__ import annotations

from datetime import datetime

from broker.core.fhir.header import NOTIFICATION_EVENT, Event, Format, Release
from broker.core.fhir.splice import spliceable
from broker.core.fhir.write import Resource, instant, write
from broker.core.subscription.content import by_itself, opened
from broker.core.subscription.foreign import NOTIFICATIONS

EVENT = NOTIFICATION_EVENT


def wrap(
    notification: bytes,
    *,
    notification_id: str,
    format: Format,
    release: Release,
    endpoint: str,
    source: str,
    source_name: str,
    ids: tuple[str, str],
    at: datetime,
    event: Event = EVENT,
) -> bytes:
    """The message; `ids` are fresh UUIDs for Bundle and MessageHeader, `endpoint` is the Subscription's (S-51)."""
    bundle_id, header_id = ids
    inner = f"urn:uuid:{notification_id}"
    bundle: Resource = {"resourceType": "Bundle", "id": bundle_id}
    if release.identifies_by_bundle_identifier:  # M-16
        bundle["identifier"] = {"system": "urn:ietf:rfc:3986", "value": f"urn:uuid:{bundle_id}"}
    bundle |= {"type": "message", "timestamp": instant(at)}
    header = _header(header_id, inner, release, endpoint, source, source_name, event)
    contents = spliceable(notification, format)
    if contents is None:
        raise ValueError(f"no {format} resource to be wrapped")  # our own bytes: a bug
    bundle["entry"] = [
        {"fullUrl": f"urn:uuid:{header_id}", "resource": header},
        {"fullUrl": inner, "resource": contents},
    ]
    return write(bundle, format)


def _header(
    id: str, focus: str, release: Release, endpoint: str, source: str, source_name: str, event: Event
) -> Resource:
    header: Resource = {"resourceType": "MessageHeader", "id": id}
    r5 = release.identifies_by_bundle_identifier
    if event.system:
        header["eventCoding"] = {"system": event.system, "code": event.code}
    else:
        header["eventCanonical" if r5 else "eventUri"] = event.code
    if r5:
        header["destination"] = [{"endpointUrl": endpoint}]
        header["source"] = {"endpointUrl": source, "name": source_name}
    else:
        header["destination"] = [{"endpoint": endpoint}]
        header["source"] = {"name": source_name, "endpoint": source}
    header["focus"] = [{"reference": focus}]
    return header


def unwrap(body: bytes, *, format: Format, release: Release = Release.R4) -> bytes | None:
    """The notification inside a message, as it stands; None where the message holds none as a whole."""
    bundle = opened(body, format=format, release=release)
    if bundle.type != "message" or len(bundle.entries) < 2 or bundle.entries[1].type != "Bundle":
        return None
    inside = by_itself(bundle.entries[1].raw, format)
    return inside if opened(inside, format=format, release=release).type in NOTIFICATIONS else None
