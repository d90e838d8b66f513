"""Writes a FHIR resource of ours, held as the dict of its JSON form, as XML; elements come in the order of the dict."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from itertools import zip_longest
from typing import Any

from broker.core.fhir.splice import FHIR, Raw

_DECLARATION = b'<?xml version="1.0" encoding="UTF-8"?>\n'

# What holds a whole resource; `resourceType` is an element elsewhere (Subscription.filterBy).
_HOLDERS = frozenset({"resource", "contained", "outcome", "issues"})

# What XML 1.0 cannot carry at all, not even escaped.
_UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")

# White space is escaped too: a reader would otherwise turn it into spaces (attribute value normalisation).
_ESCAPES = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\t": "&#9;", "\n": "&#10;", "\r": "&#13;"}
)


def to_xml(resource: Mapping[str, Any]) -> bytes:
    """The resource as an XML document in UTF-8."""
    out = [_DECLARATION]
    _resource(resource, out, f' xmlns="{FHIR}"')
    return b"".join(out)


def escape(text: str) -> str:
    """Text as it may stand in an attribute or between tags; what XML cannot carry becomes U+FFFD."""
    return _UNWRITABLE.sub("\ufffd", text).translate(_ESCAPES)


def _resource(resource: Mapping[str, Any], out: list[bytes], namespace: str = "") -> None:
    name = resource["resourceType"]
    out.append(f"<{name}{namespace}>".encode())
    _children(resource, ("resourceType",), out)
    out.append(f"</{name}>".encode())


def _children(element: Mapping[str, Any], left_out: tuple[str, ...], out: list[bytes]) -> None:
    done = set(left_out)
    for key in element:
        name = key.removeprefix("_")
        if name in done:
            continue
        done.add(name)
        for value, more in _pairs(element.get(name), element.get("_" + name)):
            _element(name, value, more, out)


def _pairs(value: Any, more: Any) -> Iterator[tuple[Any, Any]]:
    """Each value of an element beside the id and extensions that JSON keeps for it in `_element`."""
    if isinstance(value, (list, tuple)) or isinstance(more, (list, tuple)):
        yield from zip_longest(value or (), more or ())
    else:
        yield value, more


def _element(name: str, value: Any, more: Mapping[str, Any] | None, out: list[bytes]) -> None:
    if value is None and not more:
        return
    if isinstance(value, Raw):
        out.append(b"".join((f"<{name}>".encode(), value.contents, f"</{name}>".encode())))
    elif name in _HOLDERS and isinstance(value, Mapping) and "resourceType" in value:
        out.append(f"<{name}>".encode())
        _resource(value, out)
        out.append(f"</{name}>".encode())
    elif isinstance(value, Mapping):
        _tag(name, value, "", out)
    elif name == "div":
        out.append(str(value).encode())  # XHTML of our own making
    else:
        _tag(name, more or {}, "" if value is None else f' value="{escape(_primitive(value))}"', out)


def _tag(name: str, content: Mapping[str, Any], value: str, out: list[bytes]) -> None:
    # FHIR XML: the id of an element and the url of an extension are attributes; all else are elements.
    attributes = ("id", "url") if name in ("extension", "modifierExtension") else ("id",)
    written = "".join(f' {key}="{escape(content[key])}"' for key in attributes if key in content)
    inside: list[bytes] = []
    _children(content, attributes, inside)
    if inside:
        out.append(f"<{name}{written}{value}>".encode())
        out.extend(inside)
        out.append(f"</{name}>".encode())
    else:
        out.append(f"<{name}{written}{value}/>".encode())


def _primitive(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float, Decimal)):
        return str(value)
    raise TypeError(f"no FHIR primitive: {type(value).__name__}")
