"""A FHIR resource in XML as the values that its JSON would have, as far as that can be known without its definition.

What stands once is a value, what is repeated a list; only the names below are lists, numbers or booleans in any case.
Whoever reads the result takes a value for a list of one, as searches and FHIRPath do.
"""

from __future__ import annotations

from typing import Any
from xml.parsers import expat

from broker.core.fhir import complaints
from broker.core.fhir.splice import FHIR, Raw
from broker.core.fhir.wire import DEPTH
from broker.core.outcome import MessageInvalid

XHTML = "http://www.w3.org/1999/xhtml"

# Of what is written again as it was read; everybody who looks at values takes one for a list of one.
LISTS = frozenset(("extension", "contact", "telecom", "coding", "profile", "tag", "security"))
# fmt: off
WHOLE = frozenset((
    "heartbeatPeriod", "timeout", "maxCount", "valueUnsignedInt", "valuePositiveInt", "valueInteger", "total",
))
BOOLEAN = frozenset(("requireBoth", "valueBoolean", "experimental"))
# fmt: on
HOLDERS = frozenset(("resource", "contained"))  # what is inside is a resource
ATTRIBUTES = ("id", "url")  # of elements and extensions


class _Node:
    __slots__ = ("ends", "name", "starts", "value")

    def __init__(self, name: str, attributes: dict[str, str], starts: int) -> None:
        self.name = name
        self.value: dict[str, Any] = {key: attributes[key] for key in ATTRIBUTES if key in attributes}
        if "value" in attributes:
            self.value[""] = attributes["value"]
        self.starts = starts
        self.ends = 0


class _Reading:
    def __init__(self, body: bytes, *, raw: bool) -> None:
        self.body = body
        self.raw = raw  # whether the resources of the entries stay bytes, as `Raw`
        self.stack: list[_Node] = []
        self.skipped = 0
        self.inside: _Node | None = None  # the resource that stays bytes
        self.root: dict[str, Any] = {}
        self.parser = parser = expat.ParserCreate("UTF-8", " ")
        parser.StartElementHandler = self.start
        parser.EndElementHandler = self.end
        parser.StartDoctypeDeclHandler = _doctype

    def start(self, qualified: str, attributes: dict[str, str]) -> None:
        if len(self.stack) + self.skipped >= DEPTH:
            raise complaints.too_deep()
        namespace, _, name = qualified.rpartition(" ")
        if self.skipped or namespace != FHIR or self.inside is not None:
            if not self.stack:
                raise _not_fhir(namespace)
            self.skipped += 1
            return
        node = _Node(name, attributes, self.parser.CurrentByteIndex)
        if self.raw and len(self.stack) == 3 and self.stack[-1].name == "resource":
            self.inside = node
        self.stack.append(node)

    def end(self, _: str) -> None:
        if self.skipped:
            self.skipped -= 1
            return
        node = self.stack.pop()
        if not self.stack:
            self.root = {"resourceType": node.name, **node.value}
            return
        holder = self.stack[-1]
        if node is self.inside:
            self.inside = None
            ends = self.body.index(b">", self.parser.CurrentByteIndex) + 1
            raw = Raw(self.body[node.starts : ends])
            holder.value[""] = {"resourceType": node.name, "": raw}
        elif holder.name in HOLDERS:
            holder.value[""] = {"resourceType": node.name, **node.value}
        else:
            _put(holder.value, node)


def values_of(body: bytes, *, raw_entries: bool = False) -> dict[str, Any]:
    """The values; with `raw_entries` each resource in `Bundle.entry` is `{"resourceType": …, "": Raw}`.

    Raises MessageInvalid for what is not FHIR in XML.
    """
    reading = _Reading(body, raw=raw_entries)
    try:
        reading.parser.Parse(body, True)
    except expat.ExpatError as error:
        why = f"{expat.ErrorString(error.code)} at line {error.lineno}, column {error.offset + 1}"
        raise complaints.malformed("XML", why) from None
    return reading.root


def _put(holder: dict[str, Any], node: _Node) -> None:
    value = node.value
    primitive = value.pop("", None)
    if isinstance(primitive, str):
        found: Any = _typed(node.name, primitive)
        if value:  # an id or extensions beside it
            holder["_" + node.name] = value
    else:
        found = value if primitive is None else primitive
        if primitive is None and value.keys() == {"extension"} and node.name != "extension":
            holder["_" + node.name] = value  # a primitive without a value has only extensions
            return
    if node.name in holder:
        before = holder[node.name]
        holder[node.name] = [*before, found] if isinstance(before, list) else [before, found]
    else:
        holder[node.name] = [found] if node.name in LISTS else found


def _typed(name: str, text: str) -> Any:
    if name in WHOLE and text.isascii() and text.isdigit():
        return int(text)
    if name in BOOLEAN and text in ("true", "false"):
        return text == "true"
    return text


def _not_fhir(namespace: str) -> MessageInvalid:
    return MessageInvalid(f"The root is in the namespace {namespace[:200]!r}: FHIR's is {FHIR}.", id="wrong-namespace")


def _doctype(*about: object) -> None:
    raise MessageInvalid("The XML has a DOCTYPE, which FHIR does not allow: leave it out.", id="doctype")
