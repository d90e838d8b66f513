"""What a Bundle holds, or a page of a server's answer: its resources, cut down to what the directory looks at.

A Bundle is cut into its entries first, and those are read one by one: reading many megabytes at once would keep the
interpreter from everything else for as long as it takes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import orjson

from broker.directory.written import Unreadable

Json = dict[str, Any]

# Those that say how somebody is reached.
TYPES = (
    "Endpoint", "Organization", "HealthcareService", "Location", "OrganizationAffiliation", "PractitionerRole",
)  # fmt: skip

# Whatever else a resource has (texts, telephone numbers, practitioners) is not kept: a register of a hundred thousand
# is a third of the size without it, and what is not here cannot leak.
_LOOKED_AT = frozenset({
    "resourceType", "id", "identifier", "status", "active", "name", "partOf", "endpoint", "organization",
    "participatingOrganization", "connectionType", "payloadType", "payloadMimeType", "payload", "address", "header",
    "period", "extension", "contained",
})  # fmt: skip
_CONTAINED = 100  # resources looked at inside one
_CHANGED = re.compile(r"(?:^|/)([A-Z][A-Za-z]+/[A-Za-z0-9.\-]{1,64})(?:/_history/[^/?]*)?(?:\?.*)?$")


class Resource(msgspec.Struct, frozen=True, gc=False, eq=False):
    """A resource and where it came from. Its content stays text: less memory, and no work for the collector."""

    raw: bytes
    kind: str
    id: str | None
    url: str | None  # fullUrl
    file: str
    place: str = ""  # in its Bundle
    foreign: bool = False  # of a server elsewhere: it may not point to this machine

    @property
    def body(self) -> Json:
        """Read anew each time; who asks twice keeps it."""
        body: Json = orjson.loads(self.raw)
        return body

    @property
    def reference(self) -> str:
        return f"{self.kind}/{self.id}"

    @property
    def origin(self) -> str:
        return f"{self.file}: {self.reference if self.id else self.url or self.place or self.kind}"


def resource_of(body: Json, url: str | None, file: str, place: str = "", *, foreign: bool = False) -> Resource:
    """A resource, cut down to what the directory looks at."""
    id = body.get("id")
    try:
        written = orjson.dumps(_cut_down(body))
    except TypeError:  # it reads deeper than it writes
        raise Unreadable("a resource is nested too deeply") from None
    raw = bytes(memoryview(written))  # a copy: what orjson gives holds several KiB, however short it is
    return Resource(raw, str(body.get("resourceType")), str(id) if id else None, url, file, place, foreign)


class Page(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One Bundle of a server's answer."""

    changes: tuple[tuple[str, Resource | None], ...]  # `Endpoint/1`: as it is now, or None: deleted
    next: str | None = None
    updated: str | None = None  # the server's own time of the answer


class _Link(msgspec.Struct, gc=False):
    relation: str = ""
    url: str = ""


class _Meta(msgspec.Struct, gc=False):
    lastUpdated: str | None = None


class _Request(msgspec.Struct, gc=False):
    method: str = ""
    url: str = ""


class _Entry(msgspec.Struct, gc=False):
    fullUrl: str | None = None
    resource: msgspec.Raw = msgspec.Raw()
    request: _Request | None = None


class _Bundle(msgspec.Struct, gc=False):
    resourceType: str
    meta: _Meta | None = None
    link: list[_Link] = []
    entry: list[_Entry] = []


_decode = msgspec.json.Decoder(_Bundle).decode


def read_resources(data: bytes, *, file: str) -> tuple[Resource, ...]:
    """The resources of a Bundle, or the one that a file is; Unreadable for what is neither."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    if (bundle := _cut(data)) is not None:
        return tuple(resource_of(body, url, file, place) for _, url, place, body in _entries(bundle) if body)
    body = _json(data)
    if not isinstance(body, dict) or not isinstance(body.get("resourceType"), str):
        raise Unreadable("this is no FHIR resource: it has no resourceType")
    if body["resourceType"] != "Bundle":
        return (resource_of(body, None, file),)
    # A Bundle that is not written as one has to be; what can be made out is used.
    return tuple(
        resource_of(entry["resource"], text_of(entry.get("fullUrl")), file, f"entry[{number}]")
        for number, entry in enumerate(list_of(body.get("entry")))
        if isinstance(entry, dict) and isinstance(entry.get("resource"), dict)
    )


def read_page(data: bytes, *, file: str, base: str, foreign: bool) -> Page:
    """A page of a search or of a history (A-26: what was deleted comes as an entry, too)."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    bundle = _cut(data)
    if bundle is None:
        body = _json(data)
        kind = body.get("resourceType") if isinstance(body, dict) else None
        raise Unreadable(f"a Bundle was asked for, and {kind or 'something else'} came" + _wrong_shape(kind))
    changes: list[tuple[str, Resource | None]] = []
    for request, url, place, body in _entries(bundle):
        if body:
            if body.get("resourceType") == "OperationOutcome":  # a server's remark on the search
                continue
            if url is None and body.get("id"):
                url = f"{base}/{body.get('resourceType')}/{body['id']}"
            one = resource_of(body, url, file, place, foreign=foreign)
            changes.append((one.reference if one.id else url or f"{one.kind} {place}", one))
        elif request is not None and request.method == "DELETE":
            gone = _CHANGED.search(request.url) or _CHANGED.search(url or "")
            if gone is None:
                raise Unreadable(f"{place} is a deletion that does not say of what")
            changes.append((gone[1], None))
    following = next((link.url for link in bundle.link if link.relation == "next" and link.url), None)
    updated = bundle.meta.lastUpdated if bundle.meta else None
    return Page(changes=tuple(changes), next=following, updated=updated)


def _cut(data: bytes) -> _Bundle | None:
    """None for what is no Bundle, or not written as one has to be."""
    try:
        bundle = _decode(data)
    except (msgspec.DecodeError, RecursionError):
        return None
    return bundle if bundle.resourceType == "Bundle" else None


def _wrong_shape(kind: object) -> str:
    return " whose entries or links are no lists of objects" if kind == "Bundle" else ""


def _entries(bundle: _Bundle) -> Iterator[tuple[_Request | None, str | None, str, Json]]:
    for number, entry in enumerate(bundle.entry):
        body = _json(bytes(entry.resource)) if bytes(entry.resource) else None
        place = f"entry[{number}]"
        yield entry.request, entry.fullUrl or None, place, body if isinstance(body, dict) else {}


def _json(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise Unreadable(f"this is no JSON: {error.msg}", error.lineno) from None


def _cut_down(body: Json) -> Json:
    kept = {key: value for key, value in body.items() if key in _LOOKED_AT}
    if "contained" in kept:
        inside = list_of(kept["contained"])[:_CONTAINED]
        kept["contained"] = [
            {key: value for key, value in one.items() if key in _LOOKED_AT} for one in inside if isinstance(one, dict)
        ]
    return kept


def list_of(value: object) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def text_of(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
