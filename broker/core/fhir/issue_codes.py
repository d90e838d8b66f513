"""What an OperationOutcome says to programs: the codes of its issues. Texts may be clinical and stay unread."""

from __future__ import annotations

from typing import Any
from xml.parsers import expat

import orjson

from broker.core.fhir.header import Format

MOST = 10  # codes; more say nothing new
LONGEST = 100  # characters of one
LARGEST = 1 << 20  # bytes: a larger answer is not read for this


class _Unsafe(Exception):
    """A DTD, which is never read."""


def issue_codes(body: bytes, format: Format) -> tuple[str, ...]:
    """The issue codes and the codings of `details`, as `system|code`, of every OperationOutcome in a resource.

    Empty where there is none, or where the resource cannot be read.
    """
    if len(body) > LARGEST:
        return ()
    found = _of_json(body) if format is Format.JSON else _of_xml(body)
    codes = [code for code in dict.fromkeys(found) if code and len(code) <= LONGEST and code.isprintable()]
    return tuple(codes[:MOST])


def _of_json(body: bytes) -> list[str]:
    try:
        resource = orjson.loads(body)
    except orjson.JSONDecodeError:
        return []
    entries = _list(_get(resource, "entry"))
    codes: list[str] = []
    for one in (resource, *(_get(entry, "resource") for entry in entries)):
        if _get(one, "resourceType") == "OperationOutcome":
            for issue in _list(_get(one, "issue")):
                codes.append(_text(_get(issue, "code")))
                codings = _list(_get(_get(issue, "details"), "coding"))
                codes += [_coded(_text(_get(one, "system")), _text(_get(one, "code"))) for one in codings]
    return codes


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _coded(system: str, code: str) -> str:
    return f"{system}|{code}" if system and code else code


def _of_xml(body: bytes) -> list[str]:
    reading = _Xml()
    try:
        reading.parser.Parse(body, True)
    except (expat.ExpatError, _Unsafe):
        return []
    return reading.codes


class _Xml:
    """Follows the path of elements; `code` and `coding` count below an issue only."""

    def __init__(self) -> None:
        self.codes: list[str] = []
        self._path: list[str] = []
        self._system = self._code = ""
        self.parser = expat.ParserCreate("UTF-8", " ")
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.StartDoctypeDeclHandler = self._doctype

    def _doctype(self, *_: object) -> None:
        raise _Unsafe

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._path.append(name.rpartition(" ")[2])
        value = attributes.get("value", "")
        match self._path[-4:]:
            case [*_, "OperationOutcome", "issue", "code"]:
                self.codes.append(value)
            case ["issue", "details", "coding", "system"]:
                self._system = value
            case ["issue", "details", "coding", "code"]:
                self._code = value

    def _end(self, _name: str) -> None:
        if self._path[-3:] == ["issue", "details", "coding"]:
            self.codes.append(_coded(self._system, self._code))
            self._system = self._code = ""
        self._path.pop()
