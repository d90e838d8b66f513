"""What a message is about: the resources that its `focus` refers to, read out of the body.

Routing needs none of this. It is asked for the few messages whose rule says that a conversation goes on, or that
something is called off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from xml.parsers import expat

import msgspec
import orjson

from broker.core.fhir.header import Format, Header

LONGEST = 1 << 20  # bytes of a message that is looked into: longer ones are documents, not conversation
_DEPTH = 64
_REFERRING = ("basedOn", "focus", "replaces")  # elements by which a request or Task names another one
TERMINAL = frozenset({"rejected", "cancelled", "failed", "completed", "entered-in-error"})  # Task.status (W-25)


class Focus(msgspec.Struct, frozen=True, kw_only=True):
    """One resource that the message is about."""

    type: str
    id: str = ""
    url: str = ""  # fullUrl of its entry
    status: str = ""
    refers_to: tuple[str, ...] = ()  # references in basedOn, focus and replaces

    @property
    def names(self) -> tuple[str, ...]:
        """By which others refer to it."""
        return tuple(name for name in (self.url, f"{self.type}/{self.id}" if self.id else "") if name)


def focused(body: bytes, header: Header) -> tuple[Focus, ...]:
    """The resources in the message that its focus refers to; none where they lie outside, or nothing can be read."""
    if not header.focus or len(body) > LONGEST:
        return ()
    entries = _from_xml(body) if header.format is Format.XML else _from_json(body)
    wanted = set(header.focus)
    return tuple([one for one in entries if not wanted.isdisjoint(one.names)])


def is_over(found: Sequence[Focus]) -> bool:
    """Whether a Task in the message is in a state that it does not leave (W-19, W-25)."""
    return any(one.type == "Task" and one.status in TERMINAL for one in found)


def _from_json(body: bytes) -> list[Focus]:
    try:
        bundle = orjson.loads(body.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError:  # half a surrogate pair, say: the header's reader is more patient
        return []
    found = []
    for entry in _list(bundle.get("entry") if isinstance(bundle, dict) else None):
        resource = entry.get("resource") if isinstance(entry, dict) else None
        if isinstance(resource, dict):
            found.append(
                Focus(
                    type=_text(resource.get("resourceType")),
                    id=_text(resource.get("id")),
                    url=_text(entry.get("fullUrl")),
                    status=_text(resource.get("status")),
                    refers_to=tuple(_references(resource)),
                )
            )
    return found


def _references(resource: dict[str, Any]) -> list[str]:
    values = [resource.get(name) for name in _REFERRING]
    each = [one for value in values for one in (value if isinstance(value, list) else [value])]
    found = [_text(one.get("reference")) for one in each if isinstance(one, dict)]
    return [one for one in found if one]


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


# --- XML ---


class _Unwanted(Exception):
    """A DTD, or what is nested too deeply: the header's reader has refused both."""


class _Entries:
    """Collects, entry by entry, the few values that are wanted, by their paths."""

    def __init__(self) -> None:
        self.path: list[str] = []
        self.found: list[dict[str, Any]] = []

    def start(self, qualified: str, attributes: dict[str, str]) -> None:
        if len(self.path) >= _DEPTH:
            raise _Unwanted
        self.path.append(qualified.rpartition(" ")[2])
        path, value = self.path, attributes.get("value", "")
        if path == ["Bundle", "entry"]:
            self.found.append({"refers_to": []})
        elif path == ["Bundle", "entry", "fullUrl"]:
            self.found[-1]["url"] = value
        elif path[:3] == ["Bundle", "entry", "resource"]:
            self._in_resource(path[3:], value)

    def _in_resource(self, path: list[str], value: str) -> None:
        match path:
            case [type]:
                self.found[-1]["type"] = type
            case [_, "id" | "status" as name]:
                self.found[-1][name] = value
            case [_, name, "reference"] if name in _REFERRING and value:
                self.found[-1]["refers_to"].append(value)

    def end(self, _qualified: str) -> None:
        self.path.pop()

    def doctype(self, *_: object) -> None:
        raise _Unwanted


def _from_xml(body: bytes) -> list[Focus]:
    entries = _Entries()
    parser = expat.ParserCreate("UTF-8", " ")
    parser.StartElementHandler, parser.EndElementHandler = entries.start, entries.end
    parser.StartDoctypeDeclHandler = entries.doctype
    try:
        parser.Parse(body, True)
    except (expat.ExpatError, _Unwanted):
        return []
    return [Focus(**{**one, "refers_to": tuple(one["refers_to"])}) for one in entries.found if "type" in one]
