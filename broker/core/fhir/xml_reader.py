"""Reads the header out of a message in XML: expat without DTD; of the other entries only what the header refers to.

What is collected becomes the same loose values that JSON would have given, and goes the same way from there.
"""

from __future__ import annotations

from typing import Any, TypeVar
from xml.parsers import expat

import msgspec

from broker.core.fhir import complaints, spellings, wire
from broker.core.fhir.header import Format, Header, Release
from broker.core.outcome import MessageInvalid

T = TypeVar("T")

FHIR = "http://hl7.org/fhir"
XHTML = "http://www.w3.org/1999/xhtml"
XINCLUDE = "http://www.w3.org/2001/XInclude"
UTF16 = (b"\xff\xfe", b"\xfe\xff", b"<\0", b"\0<")

# fmt: off
PRIMITIVES = frozenset((
    "id", "type", "timestamp", "fullUrl", "eventUri", "eventCanonical", "endpoint", "endpointUrl", "name",
    "reference", "system", "value", "code", "profile", "valueCode",
))
OBJECTS = frozenset((
    "event", "eventCoding", "source", "destination", "response", "receiver", "sender", "meta", "identifier",
    "extension", "endpointReference", "focus", "data", "contained", "resource",
))
# fmt: on
LISTS = frozenset(("profile", "extension", "destination", "focus", "data", "contained"))
OF_BUNDLE = frozenset(("id", "type", "timestamp", "identifier", "meta", "entry"))
OF_OTHERS = frozenset(("id", "identifier", "address"))  # of a resource that may be referred to


class Node:
    """An element that is collected: its local name, its `value` and `url`, its children in order."""

    __slots__ = ("children", "name", "url", "value")

    def __init__(self, name: str, attributes: dict[str, str]) -> None:
        self.name = name
        self.value = attributes.get("value")
        self.url = attributes.get("url")
        self.children: list[Node] = []

    def child(self, name: str) -> Node | None:
        return next((child for child in self.children if child.name == name), None)


def read_xml(body: bytes, release: Release | None) -> Header:
    """The header of a message; `release` is what the transport says of it."""
    if body.startswith(UTF16):
        raise complaints.not_utf8()
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise complaints.not_utf8(error.start) from None
    reading = _Reading(body)
    parser = reading.parser
    try:
        parser.Parse(body, True)
    except expat.ExpatError as error:
        why = f"{expat.ErrorString(error.code)} at line {error.lineno}, column {error.offset + 1}"
        if body.lstrip().startswith((b"{", b"[")):
            why += " (it looks like JSON: say so in Content-Type)"
        raise complaints.malformed("XML", why) from None
    return reading.header(release)


class _Reading:
    """One pass over one document."""

    def __init__(self, body: bytes) -> None:
        self.stack: list[Node] = []  # the open elements that are collected
        self.skipped = 0  # the open ones inside them that are not
        self.includes = XINCLUDE.encode() in body  # or else what is skipped need not be looked at
        self.bundle = Node("Bundle", {})
        self.first: Node | None = None  # entry[0]
        self.message: wire.MessageHeader | None = None
        self.wanted: set[str] = set()
        self.found: dict[str, wire.Resource] = {}
        self.starts = 0  # byte at which the element of the Bundle that is being collected starts
        self.parser = parser = expat.ParserCreate("UTF-8", " ")
        parser.StartElementHandler = self.start
        parser.EndElementHandler = self.end
        parser.XmlDeclHandler = _declared
        parser.StartDoctypeDeclHandler = _doctype

    def start(self, qualified: str, attributes: dict[str, str]) -> None:
        depth = len(self.stack)
        if depth + self.skipped >= wire.DEPTH:
            raise complaints.too_deep()
        if self.skipped and not self.includes:
            self.skipped += 1
            return
        namespace, _, name = qualified.rpartition(" ")
        node = None
        if namespace != FHIR:
            self.foreign(namespace, depth)
        elif depth == 0:
            if name != "Bundle":
                raise complaints.not_a_bundle(name)
            node = self.bundle
        elif not self.skipped:
            node = self.collected(name, attributes, depth)
        if node is None:
            self.skipped += 1
        else:
            self.stack.append(node)

    def collected(self, name: str, attributes: dict[str, str], depth: int) -> Node | None:
        """The node for an element that is read; None for one that is not, with all that is in it."""
        if depth == 1:
            if name not in OF_BUNDLE or (name == "entry" and self.first is not None and not self.wanted):
                return None
            self.starts = self.parser.CurrentByteIndex
            node = Node(name, attributes)
            if name == "entry" and self.first is None:
                self.first = node
            elif name != "entry":
                if self.bundle.child(name) is not None:
                    raise complaints.written_twice("Bundle", name)
                self.bundle.children.append(node)
            return node
        if self.stack[1].name == "entry" and self.stack[1] is not self.first:
            if depth == 4 and name not in OF_OTHERS:
                return None
        elif self.parser.CurrentByteIndex - self.starts > wire.HEADER_BYTES:
            raise complaints.header_too_large()
        node = Node(name, attributes)
        self.stack[-1].children.append(node)
        return node

    def foreign(self, namespace: str, depth: int) -> None:
        """Other namespaces: the narrative's is at home in FHIR; the rest only where nobody here reads it."""
        read_here = not self.skipped and (depth < 2 or self.stack[1] is self.first)
        if namespace == XINCLUDE or depth == 0 or (read_here and namespace != XHTML):
            where = "The root" if depth == 0 else "An element"
            raise MessageInvalid(
                f"{where} is in the namespace {namespace[:200]!r}: FHIR's is {FHIR}.",
                id="wrong-namespace",
                expression="Bundle" if depth < 2 else complaints.FIRST,
            )

    def end(self, _: str) -> None:
        if self.skipped:
            self.skipped -= 1
            return
        node = self.stack.pop()
        if node.name != "entry" or len(self.stack) != 1:
            return
        if node is self.first:
            self.message = self.read_first(node)
            self.wanted = spellings.references_in(self.message)
        else:
            self.look_at(node)

    def read_first(self, entry: Node) -> wire.MessageHeader:
        type_ = self.bundle.child("type")
        if type_ is not None and type_.value != "message":
            raise complaints.not_a_message(type_.value or "")
        resource = entry.child("resource")
        if resource is None or not resource.children:
            raise complaints.no_message_header(None, [child.name for child in entry.children])
        if resource.children[0].name != "MessageHeader":
            raise complaints.no_message_header(resource.children[0].name)
        value = _value(entry, "Bundle.entry[0]")
        return _typed(wire.HeaderEntry, value, "Bundle.entry[0]").resource

    def look_at(self, entry: Node) -> None:
        """Keep another entry's resource if the header refers to it (M-14)."""
        full_url, holder = entry.child("fullUrl"), entry.child("resource")
        if holder is None or not holder.children:
            return
        resource = holder.children[0]
        id_, address = resource.child("id"), resource.child("address")
        found = wire.Resource(
            resourceType=resource.name,
            address=None if address is None else address.value,
            identifier=[_loose(child) for child in resource.children if child.name == "identifier"],
        )
        by_id = f"{resource.name}/{id_.value}" if id_ is not None else ""
        for name in ((full_url.value or "") if full_url is not None else "", by_id):
            if name in self.wanted:
                self.found.setdefault(name, found)

    def header(self, release: Release | None) -> Header:
        bundle = _value(self.bundle, "Bundle")
        type_ = bundle.get("type", "")
        if type_ != "message":
            raise complaints.not_a_message(type_)
        if self.message is None:
            raise complaints.missing("Bundle.entry")
        identifier, meta = bundle.get("identifier"), bundle.get("meta")
        return spellings.header_of(
            self.message,
            bundle_id=bundle.get("id", ""),
            identifier=None if identifier is None else _typed(wire.Identifier, identifier, "Bundle.identifier"),
            timestamp=bundle.get("timestamp", ""),
            meta=None if meta is None else _typed(wire.Meta, meta, "Bundle.meta"),
            format=Format.XML,
            release=release,
            inside=self.found,
        )


def _value(node: Node, where: str) -> Any:
    """The value that JSON would have for an element, as far as it is read; a single element twice is refused."""
    if not node.children and node.value is not None:
        return node.value
    value: dict[str, Any] = {} if node.url is None else {"url": node.url}
    for child in node.children:
        name = child.name
        found: Any
        if name in PRIMITIVES:
            found = child.value
            if found is None:  # only an extension stands here
                if name == "eventUri":
                    value["_eventUri"] = {}
                continue
        elif name == "contained":
            found = _contained(child)
        elif name == "resource":
            found = _value(child.children[0], f"{where}.resource")
        elif name in OBJECTS:
            found = _value(child, f"{where}.{name}")
        else:
            continue
        if name in LISTS:
            value.setdefault(name, []).append(found)
        elif name in value:
            raise complaints.written_twice(where, name)
        else:
            value[name] = found
    return value


def _contained(holder: Node) -> dict[str, Any]:
    if not holder.children:
        return {}
    resource = holder.children[0]
    value = {child.name: child.value for child in resource.children if child.name in ("id", "address")}
    return {
        "resourceType": resource.name,
        "id": value.get("id") or "",
        "address": value.get("address"),
        "identifier": [_loose(child) for child in resource.children if child.name == "identifier"],
    }


def _loose(node: Node) -> dict[str, str]:
    return {child.name: child.value for child in node.children if child.value is not None}


def _typed(type_: type[T], value: Any, where: str) -> T:
    try:
        return msgspec.convert(value, type_)
    except msgspec.ValidationError as error:
        raise complaints.wrong_type_of(error, where) from None


def _declared(version: str, encoding: str | None, standalone: int) -> None:
    if encoding is not None and encoding.lower() not in ("utf-8", "utf8", "us-ascii"):
        raise MessageInvalid(f"The XML is declared as {encoding[:40]!r}: FHIR is written in UTF-8.", id="not-utf-8")


def _doctype(name: str, system: str | None, public: str | None, internal: bool) -> None:
    raise MessageInvalid("The XML has a DOCTYPE, which FHIR does not allow: leave it out.", id="doctype")
