"""The directory as FHIR resources, for GET /Endpoint and GET /Organization."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from broker.core.fhir.header import Release
from broker.core.resolution import How, State
from broker.directory.snapshot import Entry, Listed, Snapshot

Json = dict[str, Any]

_CONNECTION = "http://terminology.hl7.org/CodeSystem/endpoint-connection-type"
_OWN_CONNECTION = "urn:fhir-broker:connection-type"  # FHIR has no codes for the rest
_PAYLOAD = "http://terminology.hl7.org/CodeSystem/endpoint-payload-type"
_FHIR_CODES = {"mllp": "hl7v2-mllp"}
_OPERATION = "/$process-message"
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:\S+")
_USER_PART = re.compile(r"(?<=//)[^/?#]*@")
_R5 = (Release.R5, Release.R6)


def as_fhir(snapshot: Snapshot, release: Release, *, base_url: str | None = None) -> list[Json]:
    """Endpoints and Organizations of all names; patterns and the default gateway are nobody's, and left out.

    With `base_url`, our own mailboxes are shown as others reach them: by posting to us.
    """
    endpoints: dict[str, Json] = {}
    organizations: dict[tuple[str, ...], tuple[Listed, list[str]]] = {}
    for line in snapshot.names():
        if line.how is not How.EXACT:
            continue
        own = [entry for entry in line.entries if entry.distance == 0]
        ids = []
        for entry in own:
            for number, address in enumerate(entry.addresses):
                id = _id("Endpoint", entry.id, entry.names[0] if entry.names else entry.origin, number)
                ids.append(id)
                if base_url is not None and address.startswith("mailbox:"):
                    address = base_url.rstrip("/") + _OPERATION
                if id not in endpoints:
                    endpoints[id] = _endpoint(id, entry, address, release)
        if own:
            organizations.setdefault(tuple(ids), (line, []))[1].append(line.name)
    return [
        *endpoints.values(),
        *(_organization(names, ids, line) for ids, (line, names) in organizations.items()),
    ]


def _id(*parts: object) -> str:
    """Stable as long as the name is: a digest of it, within FHIR's 64 characters."""
    text = "\n".join(str(part) for part in parts)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _identifier(name: str) -> Json:
    system, mark, value = name.partition("|")
    if mark and value and _URI.fullmatch(system):
        return {"system": system, "value": value}
    if _URI.fullmatch(name):
        return {"system": "urn:ietf:rfc:3986", "value": name}
    return {"value": name}


def _endpoint(id: str, entry: Entry, address: str, release: Release) -> Json:
    coding, address = _connection(_USER_PART.sub("", address))
    status = {State.USE: "active", State.HOLD: "suspended", State.NONE: "off"}[entry.state]
    body: Json = {"resourceType": "Endpoint", "id": id}
    if entry.names:
        body["identifier"] = [_identifier(name) for name in entry.names]
    body["status"] = status
    body["connectionType"] = [{"coding": [coding]}] if release in _R5 else coding
    period = {key: moment.isoformat() for key, moment in (("start", entry.start), ("end", entry.end)) if moment}
    if period:
        body["period"] = period
    payload_type = {"coding": [{"system": _PAYLOAD, "code": "any"}]}
    if release in _R5:
        body["payload"] = [{"type": [payload_type]}]
    else:
        body["payloadType"] = [payload_type]
    body["address"] = address
    return body


def _connection(address: str) -> tuple[Json, str]:
    """The connection's code, and the address as this code means it: `hl7-fhir-msg` means the base (A-21)."""
    scheme = address.split(":", 1)[0].lower()
    path, mark, query = address.partition("?")
    if scheme in ("http", "https") and path.endswith(_OPERATION):
        base = path.removesuffix(_OPERATION) + mark + query
        return {"system": _CONNECTION, "code": "hl7-fhir-msg"}, base
    if scheme in _FHIR_CODES:
        return {"system": _CONNECTION, "code": _FHIR_CODES[scheme]}, address
    return {"system": _OWN_CONNECTION, "code": scheme}, address


def _organization(names: list[str], endpoints: tuple[str, ...], line: Listed) -> Json:
    body: Json = {
        "resourceType": "Organization",
        "id": _id("Organization", names[0]),
        "identifier": [_identifier(name) for name in names],
    }
    owner = next((entry.owner for entry in line.entries if entry.owner), None)
    if owner:
        body["name"] = owner
    body["endpoint"] = [{"reference": f"Endpoint/{id}"} for id in endpoints]
    return body
