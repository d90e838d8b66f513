"""The issues of somebody else's OperationOutcome: what the far end said, for the report that tells its source."""

from __future__ import annotations

from typing import Any
from xml.parsers import expat

import orjson

from broker.core.fhir.header import Format, Release
from broker.core.fhir.write import Resource

MOST = 20  # issues; the first say what matters, and a report is no place for thousands
LONGEST = 64 * 1024  # bytes of an outcome that is worth looking into
_DEPTH = 16  # elements; an issue has five
_TEXTS = ("severity", "code", "diagnostics")
_LISTS = ("expression", "location")
_SEVERITIES = ("fatal", "error", "warning", "information")
_BOM = b"\xef\xbb\xbf"


def issues_of(body: bytes, format: Format, *, release: Release) -> list[Resource]:
    """The issues as they stand, as far as they can be read; what is no OperationOutcome has none."""
    if len(body) > LONGEST:
        return []
    outcome = _from_xml(body) if format is Format.XML else _from_json(body)
    found = outcome.get("issue")
    written = [_issue(one, release) for one in (found if isinstance(found, list) else [])[:MOST]]
    return [one for one in written if one is not None]


def _from_json(body: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(body.removeprefix(_BOM))
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) and found.get("resourceType") == "OperationOutcome" else {}


def _issue(found: object, release: Release) -> Resource | None:
    """Elements that every release knows, of the types that they have; None without the two that must be there."""
    if not isinstance(found, dict) or found.get("severity") not in _SEVERITIES or not _is_text(found.get("code")):
        return None
    written: Resource = {name: found[name] for name in ("severity", "code")}
    details = _details(found.get("details"))
    if details:
        written["details"] = details
    if _is_text(found.get("diagnostics")):
        written["diagnostics"] = found["diagnostics"]
    for name in _LISTS:
        texts = [text for text in _list(found.get(name)) if _is_text(text)]
        if texts and not (name == "expression" and release is Release.DSTU2):  # which has `location` only
            written[name] = texts
    # the order of elements is that of the resource, for XML
    order = ("severity", "code", "details", "diagnostics", "location", "expression")
    return {name: written[name] for name in order if name in written}


def _details(found: object) -> Resource:
    if not isinstance(found, dict):
        return {}
    written: Resource = {}
    codings = [_coding(one) for one in _list(found.get("coding")) if isinstance(one, dict)]
    if any(codings):
        written["coding"] = [one for one in codings if one]
    if _is_text(found.get("text")):
        written["text"] = found["text"]
    return written


def _coding(found: dict[str, Any]) -> Resource:
    return {name: found[name] for name in ("system", "code", "display") if _is_text(found.get(name))}


def _list(found: object) -> list[object]:
    return found if isinstance(found, list) else []


def _is_text(found: object) -> bool:
    return isinstance(found, str) and bool(found)


# --- XML ---


class _Unwanted(Exception):
    """A DTD, or what is nested too deeply."""


def _from_xml(body: bytes) -> dict[str, Any]:
    """As loose values, such as JSON would have given."""
    outcome: dict[str, Any] = {}
    stack: list[tuple[str, dict[str, Any]]] = []

    def start(qualified: str, attributes: dict[str, str]) -> None:
        name = qualified.rpartition(" ")[2]
        if len(stack) >= _DEPTH:
            raise _Unwanted
        below: dict[str, Any] = {}
        if stack:
            _put(stack[-1][1], name, attributes.get("value", below))
        elif name == "OperationOutcome":
            below = outcome
        stack.append((name, below))

    def end(_qualified: str) -> None:
        stack.pop()

    def doctype(*_: object) -> None:
        raise _Unwanted

    parser = expat.ParserCreate("UTF-8", " ")
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(body, True)
    except (expat.ExpatError, _Unwanted, UnicodeError):
        return {}
    return outcome


def _put(into: dict[str, Any], name: str, value: object) -> None:
    if name in ("issue", "coding", *_LISTS):
        into.setdefault(name, []).append(value)
    else:
        into[name] = value
