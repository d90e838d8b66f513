"""Whether two bodies are the same message for R4, though not the same bytes (spec: messaging M-21).

Left out of the comparison: Bundle.timestamp, Bundle.meta, Bundle.signature, MessageHeader.meta, MessageHeader.timestamp
(where STU3 and DSTU2 have it) and white space that means nothing. Key order does not count. Numbers are compared as
written: 1.0 and 1.00 differ, since FHIR's decimals carry their precision.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from xml.parsers import expat

import msgspec

from broker.core.fhir.header import Format

OF_BUNDLE = frozenset(("timestamp", "_timestamp", "meta", "signature"))
OF_HEADER = frozenset(("timestamp", "_timestamp", "meta"))
FHIR, XHTML = "http://hl7.org/fhir ", "http://www.w3.org/1999/xhtml "


class _Element(msgspec.Struct):
    """An XML element; `content` holds elements and texts."""

    name: str  # of FHIR without its namespace
    attributes: dict[str, str]
    content: list[_Element | str]


class _Number(str):
    """A JSON number as written, which is not the text of the same characters."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Number) and str.__eq__(self, other)

    __hash__ = str.__hash__


def same_content(a: bytes, a_format: Format, b: bytes, b_format: Format) -> bool:
    """True if both say the same; a body that cannot be read is the same as none."""
    try:
        one, other = _tree(a, a_format), _tree(b, b_format)
        if a_format is b_format:
            return bool(one == other)
        return bool(_loose(one) == _loose(other))
    except (ValueError, expat.ExpatError, RecursionError):
        return False


def _tree(body: bytes, format: Format) -> Any:
    if format is Format.JSON:
        return _json_tree(body)
    root = _xml_tree(body)
    _leave_out(root, OF_BUNDLE)
    header = root
    for name in ("entry", "resource", "MessageHeader"):
        header = next((child for child in _elements(header) if child.name == name), _Element("", {}, []))
    _leave_out(header, OF_HEADER)
    return root


def _json_tree(body: bytes) -> Any:
    tree = json.loads(body.decode("utf-8-sig"), object_pairs_hook=_object, parse_int=_Number, parse_float=_Number)
    if isinstance(tree, dict):
        for name in OF_BUNDLE:
            tree.pop(name, None)
        match tree:
            case {"entry": [{"resource": dict() as header}, *_]}:
                for name in OF_HEADER:
                    header.pop(name, None)
    return tree


def _object(pairs: list[tuple[str, Any]]) -> Any:
    value = dict(pairs)
    return value if len(value) == len(pairs) else tuple(pairs)  # a name twice: both count, in their order


def _xml_tree(text: bytes | str) -> _Element:
    top = _Element("", {}, [])
    stack = [top]

    def start(name: str, attributes: dict[str, str]) -> None:
        kept = {key: value for key, value in attributes.items() if " " not in key}  # no xsi:schemaLocation
        element = _Element(name.removeprefix(FHIR), kept, [])
        stack[-1].content.append(element)
        stack.append(element)

    def data(text: str) -> None:
        words = " ".join(text.split())
        if words:
            stack[-1].content.append(words)

    parser = expat.ParserCreate("UTF-8", " ")
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: stack.pop()
    parser.CharacterDataHandler = data
    parser.Parse(text, True)
    return next(_elements(top))


def _elements(element: _Element) -> Iterator[_Element]:
    return (child for child in element.content if isinstance(child, _Element))


def _leave_out(element: _Element, names: frozenset[str]) -> None:
    element.content = [child for child in element.content if isinstance(child, str) or child.name not in names]


def _loose(tree: Any) -> Any:
    """A form that JSON and XML share: an element is {name: [elements]}, its own value stands under an empty name."""
    return {tree.name: [_of_xml(tree)]} if isinstance(tree, _Element) else _of_json(tree)


def _of_xml(element: _Element) -> dict[str, Any]:
    if element.name.startswith(XHTML):
        return {"": element}
    found: dict[str, Any] = {
        name: value if name == "value" else [{"": value}] for name, value in element.attributes.items()
    }
    if "value" in found:
        found[""] = found.pop("value")
    for child in element.content:
        name, value = ("#", child) if isinstance(child, str) else (child.name.removeprefix(XHTML), _of_xml(child))
        found.setdefault(name, []).append(value)
    return found


def _of_json(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        return {"": str(value).lower() if isinstance(value, bool) else str(value)}
    found: dict[str, Any] = {}
    for name, content in value.items():
        if name == "resourceType":
            continue
        if name == "div":
            found["div"] = [{"": _xml_tree(str(content))}]
            continue
        items = [_of_json(item) for item in (content if isinstance(content, list) else [content])]
        kept = found.setdefault(name.removeprefix("_"), [])
        for index, item in enumerate(items):  # `_name` adds to `name`, item by item
            if index < len(kept):
                kept[index] |= item
            else:
                kept.append(item)
    return {str(value["resourceType"]): [found]} if "resourceType" in value else found
