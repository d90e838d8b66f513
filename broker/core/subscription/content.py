"""Opens a message for those who look at its content: its entries, as bytes and, when asked, as values."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple
from xml.parsers import expat

import msgspec
import orjson

from broker.core.fhir import json_text
from broker.core.fhir.header import Format, Header, Release
from broker.core.fhir.splice import FHIR, Raw
from broker.core.outcome import Refusal
from broker.core.subscription.elements import Values, listed
from broker.core.subscription.topic import Interaction
from broker.core.subscription.xml_values import values_of

METHODS = {
    "POST": Interaction.CREATE,
    "PUT": Interaction.UPDATE,
    "PATCH": Interaction.UPDATE,
    "DELETE": Interaction.DELETE,
}
_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_TYPE = re.compile(r"[A-Z][A-Za-z]{1,63}")
_ROOT = re.compile(rb"<[A-Za-z]+")


class Entry:
    """One entry of a message; its resource is taken apart when somebody looks into it."""

    __slots__ = ("_values", "format", "full_url", "id", "method", "raw", "release", "type", "url")

    def __init__(
        self,
        *,
        full_url: str = "",
        type: str = "",
        id: str = "",
        method: str = "",
        url: str = "",
        raw: bytes = b"",
        format: Format = Format.JSON,
        release: Release = Release.R4,
        values: Values | None = None,
    ) -> None:
        self.full_url = full_url
        self.type = type
        self.id = id if _ID.fullmatch(id) else ""
        self.method = method
        self.url = url  # of the request: says type and id of what was deleted
        self.raw = raw  # the resource as it stands in the message; empty where there is none
        self.format = format
        self.release = release
        self._values = values

    @property
    def values(self) -> Values:
        if self._values is None:
            self._values = _values(self.raw, self.format) or {"resourceType": self.type}
        return self._values

    @property
    def reference(self) -> str:
        """How others refer to it: as the message does, so that its own references still fit."""
        if self.full_url.startswith(("https://", "http://", "urn:")):
            return self.full_url
        return f"{self.type}/{self.id}" if self.id else self.full_url

    @property
    def interaction(self) -> Interaction | None:
        """What the entry itself says is done; None where it does not."""
        return METHODS.get(self.method)

    @property
    def names(self) -> tuple[str, ...]:
        """All that references inside the message may say to mean it."""
        return tuple(name for name in (self.full_url, f"{self.type}/{self.id}" if self.id else "") if name)

    def is_meant_by(self, references: Iterable[str]) -> bool:
        """Whether one of the references means it, from wherever it is written."""
        return any(one in self.names or (self.id and one.endswith(f"/{self.type}/{self.id}")) for one in references)


class Opened(NamedTuple):
    """A Bundle that was taken apart."""

    type: str = ""
    entries: tuple[Entry, ...] = ()


class Place(msgspec.Struct, frozen=True, array_like=True):
    """An entry, and from where to where its resource stands in the body."""

    full_url: str
    type: str
    id: str
    method: str
    url: str
    start: int
    end: int


class Content:
    """A message that was opened; `places`: elsewhere, by `places_in`."""

    def __init__(self, body: bytes, header: Header, places: Iterable[Place] | None = None) -> None:
        self.body = body
        self.header = header
        if places is None:
            self.entries = opened(body, format=header.format, release=header.release).entries
        else:
            self.entries = tuple([_placed(one, body, header) for one in places])
        self._by_name: dict[str, Entry] = {}
        for entry in self.entries:
            for name in entry.names:
                self._by_name.setdefault(name, entry)

    def find(self, reference: str) -> Entry | None:
        """The entry that a reference of this message means."""
        return self._by_name.get(reference) or self._by_name.get("/".join(reference.split("/")[-2:]))

    def focus(self) -> list[Entry]:
        """What MessageHeader.focus names, as far as it is inside."""
        found = (self.find(reference) for reference in self.header.focus)
        return [entry for entry in found if entry is not None]

    def aliases(self, reference: str) -> Iterable[str]:
        """What else a reference of this message is called: `urn:uuid:…` is also `Patient/1`."""
        entry = self._by_name.get(reference)
        return () if entry is None else entry.names


class _Request(msgspec.Struct, frozen=True):
    method: str = ""
    url: str = ""


class _Entry(msgspec.Struct, frozen=True):
    fullUrl: str = ""
    resource: msgspec.Raw = msgspec.Raw()
    request: _Request = _Request()


class _Bundle(msgspec.Struct, frozen=True):
    resourceType: str = ""
    type: str = ""
    entry: list[_Entry] = []


class _Known(msgspec.Struct, frozen=True):
    resourceType: str = ""
    id: str = ""


_BUNDLE = msgspec.json.Decoder(_Bundle)
_KNOWN = msgspec.json.Decoder(_Known)


def opened(body: bytes, *, format: Format, release: Release) -> Opened:
    """A Bundle taken apart; nothing where it cannot be read, which is no reason not to carry it."""
    try:
        if format is Format.XML:
            return _opened_xml(body, release)
        return _opened_json(body, release)
    except (msgspec.DecodeError, Refusal, ValueError, RecursionError):
        return Opened()


def places_in(body: bytes, format: Format) -> tuple[Place, ...] | None:
    """Where the entries of a Bundle stand, for whoever has the body too; None where only `opened` can tell."""
    found, end = [], 0
    for one in opened(body, format=format, release=Release.R4).entries:
        start = body.find(one.raw, end)
        if start < 0 or (one.format is Format.XML and not one.raw and one.type):
            return None  # it was mended to be read, or leans on names around it
        end = start + len(one.raw)
        found.append(Place(one.full_url, one.type, one.id, one.method, one.url, start, end))
    return tuple(found)


def _placed(one: Place, body: bytes, header: Header) -> Entry:
    return Entry(
        full_url=one.full_url, type=one.type, id=one.id, method=one.method, url=one.url,
        raw=body[one.start : one.end], format=header.format, release=header.release,
    )  # fmt: skip


def _opened_json(body: bytes, release: Release) -> Opened:
    text = json_text.text_of(body)
    try:
        bundle = _BUNDLE.decode(text)
    except msgspec.DecodeError:
        bundle = _BUNDLE.decode(json_text.without_lone_surrogates(text))
    if bundle.resourceType != "Bundle":
        return Opened()
    found = []
    for entry in bundle.entry:
        raw = bytes(entry.resource)
        known = _KNOWN.decode(raw) if raw else _Known()
        type, id = _named(known.resourceType, known.id, entry.request.url)
        found.append(
            Entry(
                full_url=entry.fullUrl,
                type=type,
                id=id,
                method=entry.request.method,
                url=entry.request.url,
                raw=raw,
                release=release,
            )
        )
    return Opened(bundle.type, tuple(found))


def _opened_xml(body: bytes, release: Release) -> Opened:
    bundle = values_of(body, raw_entries=True)
    if bundle.get("resourceType") != "Bundle":
        return Opened()
    found = []
    for entry in listed(bundle.get("entry")):
        resource, request = entry.get("resource") or {}, entry.get("request") or {}
        raw = resource[""].contents if "" in resource else b""
        values = _values(raw, Format.XML) if raw else {}
        if values is None:  # it leans on names of the Bundle around it
            raw, values = b"", {"resourceType": resource["resourceType"]}
        type, id = _named(resource.get("resourceType", ""), values.get("id", ""), request.get("url", ""))
        found.append(
            Entry(
                full_url=entry.get("fullUrl", ""),
                type=type,
                id=id,
                method=request.get("method", ""),
                url=request.get("url", ""),
                raw=raw,
                format=Format.XML,
                release=release,
                values=values or None,
            )
        )
    return Opened(bundle.get("type", ""), tuple(found))


def _named(type: str, id: str, url: str) -> tuple[str, str]:
    """Type and id; of what was deleted nothing is left but the URL of the request."""
    parts = url.partition("?")[0].split("/")
    if type or len(parts) < 2 or not _TYPE.fullmatch(parts[-2]):
        return type, id
    return parts[-2], parts[-1]


def _values(raw: bytes, format: Format) -> Values | None:
    """The values of a resource that stands inside a Bundle; None where it cannot be read without the Bundle."""
    if format is Format.JSON:
        try:
            value: Any = orjson.loads(raw) if raw else None
        except orjson.JSONDecodeError:
            return None
        return value if isinstance(value, dict) else None
    if not may_stand_alone(raw):
        return None
    around = b'<Bundle xmlns="%b"><resource>%b</resource></Bundle>' % (FHIR.encode(), raw)
    value = values_of(around).get("resource")
    return value if isinstance(value, dict) else None


def may_stand_alone(raw: bytes) -> bool:
    """Whether an element cut out of XML means the same in another document whose default namespace is FHIR's."""
    parser = expat.ParserCreate("UTF-8", " ")
    try:
        parser.Parse(b'<Bundle xmlns="%b">%b</Bundle>' % (FHIR.encode(), raw), True)
    except expat.ExpatError:
        return False  # a prefix that the document around it declared
    return True


def by_itself(raw: bytes, format: Format) -> bytes:
    """A resource out of a message as a document of its own: what only the message had said is the namespace."""
    if format is Format.XML and b"xmlns" not in raw.partition(b">")[0]:
        return _ROOT.sub(rb'\g<0> xmlns="%b"' % FHIR.encode(), raw, count=1)
    return raw


def fragment(raw: bytes, format: Format) -> Raw | None:
    """A resource out of a message as it may stand in a Bundle of ours, byte for byte; None if it would spoil it."""
    if not raw:
        return None
    if format is Format.XML:
        return Raw(raw) if may_stand_alone(raw) else None
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return Raw(raw) if isinstance(value, dict) and "resourceType" in value else None
