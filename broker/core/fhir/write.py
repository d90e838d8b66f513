"""Writes the FHIR of the broker's own making: which release's shapes, which format, which media type."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson

from broker.core.fhir.header import Format, Release
from broker.core.fhir.splice import Raw
from broker.core.fhir.xml_writer import escape, to_xml

Resource = dict[str, Any]  # a resource in the form of FHIR JSON; a `Raw` may stand where a resource stands

_SHAPES = {
    Release.DSTU2: Release.R4,
    Release.STU3: Release.R4,
    Release.R4: Release.R4,
    Release.R4B: Release.R4,
    Release.R5: Release.R5,
    Release.R6: Release.R5,
}


def shapes(release: Release) -> Release:
    """The release whose shapes we write for one that is asked for: R4 or R5."""
    return _SHAPES[release]


def media_type(format: Format, release: Release) -> str:
    return f"application/fhir+{format}; fhirVersion={release}"


def write(resource: Resource, format: Format) -> bytes:
    """The resource in the bytes of a format, UTF-8."""
    if format is Format.XML:
        return to_xml(resource)
    try:
        return orjson.dumps(resource, default=_fragment)
    except orjson.JSONEncodeError:
        return orjson.dumps(_writable(resource), default=_fragment)  # lone surrogates, out of a foreign id


def instant(at: datetime) -> str:
    """A FHIR instant in UTC, to the millisecond."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def narrative(*paragraphs: str) -> Resource:
    """A generated Narrative."""
    inside = "".join(f"<p>{escape(text)}</p>" for text in paragraphs)
    return {"status": "generated", "div": f'<div xmlns="http://www.w3.org/1999/xhtml">{inside}</div>'}


def _fragment(value: object) -> orjson.Fragment:
    if isinstance(value, Raw):
        return orjson.Fragment(value.contents)
    raise TypeError(f"not FHIR: {type(value).__name__}")


def _writable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {key: _writable(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_writable(inner) for inner in value]
    return value
