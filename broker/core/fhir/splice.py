"""Decides whether the bytes of an original message may stand, as they came, inside a page that we write.

Only the start of the document (BOM, XML declaration, what stands before the root) is left out; nothing is rewritten.
"""

from __future__ import annotations

from xml.parsers import expat

import msgspec
import orjson

from broker.core.fhir.header import Format

BOM = b"\xef\xbb\xbf"
FHIR = "http://hl7.org/fhir"

# The original is parsed this many levels down: a page puts three levels around it, and most readers stop at 1000 or so.
_LEVELS = 128
_DOWN, _UP = b"[" * _LEVELS, b"]" * _LEVELS

_ENCODINGS = {None, "utf-8", "utf8", "us-ascii", "ascii"}


class Raw(msgspec.Struct, frozen=True):
    """Bytes of a whole resource that go into what we write as they are; only `spliceable` should make one."""

    contents: bytes


def spliceable(body: bytes, format: Format) -> Raw | None:
    """The original as it may stand in a page of this format, or None if it would spoil the page."""
    body = body.removeprefix(BOM)
    return _json(body) if format is Format.JSON else _xml(body)


def _json(body: bytes) -> Raw | None:
    # orjson is stricter than the grammar: UTF-8, no lone surrogates, no numbers beyond a double.
    try:
        value = orjson.loads(b"".join((_DOWN, body, _UP)))
    except orjson.JSONDecodeError:
        return None
    for _ in range(_LEVELS):
        if not isinstance(value, list) or len(value) != 1:
            return None  # brackets that close ours and open new ones
        value = value[0]
    if not isinstance(value, dict) or not isinstance(value.get("resourceType"), str):
        return None
    return Raw(body)


class _Unsafe(Exception):
    pass


class _Root:
    """Looks at what stands before and at the root element; expat itself refuses prefixes without a declaration."""

    def __init__(self) -> None:
        self.parser = expat.ParserCreate(encoding="utf-8", namespace_separator=" ")
        self.parser.XmlDeclHandler = self._declaration
        self.parser.StartDoctypeDeclHandler = self._doctype
        self.parser.StartElementHandler = self._start
        self.declared: str | None = None
        self.start = 0

    def _declaration(self, version: str, encoding: str | None, standalone: int) -> None:
        self.declared = encoding.lower() if encoding else None

    def _doctype(self, *about: object) -> None:
        raise _Unsafe  # its entities would be gone in the page

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if not name.startswith(FHIR + " "):
            raise _Unsafe  # without a namespace of its own it would take ours
        self.start = self.parser.CurrentByteIndex
        self.parser.StartElementHandler = None


def _xml(body: bytes) -> Raw | None:
    root = _Root()
    try:
        root.parser.Parse(body, True)
    except (expat.ExpatError, _Unsafe):
        return None
    if root.declared not in _ENCODINGS and not body.isascii():
        return None
    return Raw(body[root.start :])
