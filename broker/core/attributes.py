"""The envelope as CloudEvents attributes and back: names and canonical strings, whatever carries them (C-1…C-3).

Each channel's binding says how they are written on its wire.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import quote, unquote

import msgspec

from broker.core.envelope import Envelope

SPECVERSION = "1.0"
REQUIRED = ("specversion", "id", "source", "type")
# Read also without the required four: they are ours, and steer this hop (C-18 speaks of CloudEvents' own).
STANDING_ALONE = ("destination", "via", "expirytime", "timeleft", "priority", "digest", "correlationid")
TRACE = ("traceparent", "tracestate")
OWN = frozenset({*REQUIRED, "time", *STANDING_ALONE, *TRACE, "datacontenttype"})

_NAME = re.compile(r"[a-z0-9]+", re.ASCII)
_REFERENCE = re.compile(r"(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+", re.ASCII)
_ESCAPED = re.compile(
    r"(?:[A-Za-z0-9._~-]|%[0-9A-Fa-f]{2})*%[0-9A-Fa-f]{2}(?:[A-Za-z0-9._~-]|%[0-9A-Fa-f]{2})*", re.ASCII
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,9})", re.ASCII)
_INSTANT = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d):(\d\d)(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-[\x20-\x7e]*)?", re.ASCII
)
_DIGEST = re.compile(r"sha-256=[A-Za-z0-9+/]{43}=", re.ASCII)

# Of what is written again and again: bounds the memory to a few MiB, whatever partners call themselves.
MOST_REMEMBERED = 2048
LONGEST_REMEMBERED = 256


class BadAttribute(ValueError):
    """An attribute whose value is not of its type."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


# --- names of parties ------------------------------------------------------------------------------------------------


Key = TypeVar("Key", bound=Hashable)


class Remembered(dict[Key, str]):
    """Texts by what they are made of: endpoints are few, messages are many, and a hit costs no call at all."""

    def __init__(self, write: Callable[[Key], str]) -> None:
        super().__init__()
        self._write = write

    def __missing__(self, key: Key) -> str:
        text = self._write(key)
        if len(text) <= LONGEST_REMEMBERED:
            if len(self) >= MOST_REMEMBERED:
                self.clear()  # those in use are back at once
            self[key] = text
        return text


def escape_name(name: str) -> str:
    """An endpoint as a URI-reference: as it stands if it is one, else percent-encoded as a whole.

    Encoded as a whole (`:` and `/` too), so that reading can tell it from a URI that has escapes of its own.
    """
    return name if _REFERENCE.fullmatch(name) and unescape_name(name) == name else quote(name, safe="")


def unescape_name(text: str) -> str:
    return unquote(text, errors="strict") if _ESCAPED.fullmatch(text) else text


def _escape_entry(name: str) -> str:
    """An entry of a list: only what has a space in it, or would be unescaped, needs to be escaped."""
    return quote(name, safe="") if _ESCAPED.fullmatch(name) or any(c.isspace() for c in name) else name


# --- writing ---------------------------------------------------------------------------------------------------------


def written_names(names: tuple[str, ...]) -> str:
    """A list of endpoints, one space between them."""
    return " ".join([_escape_entry(name) for name in names])


def written_instant(at: datetime) -> str:
    text: str = msgspec.to_builtins(at if at.tzinfo is UTC else at.astimezone(UTC))  # a tenth of what isoformat() takes
    return text


def to_attributes(envelope: Envelope) -> dict[str, str]:
    """The attributes of an envelope in the order in which they are written, as canonical strings."""
    id, source, type, time = envelope.id, envelope.source, envelope.type, envelope.time
    expirytime, timeleft, priority = envelope.expirytime, envelope.timeleft, envelope.priority
    written = {
        "specversion": SPECVERSION if id and source and type else None,
        "id": id,
        "source": None if source is None else escape_name(source),
        "type": type,
        "time": None if time is None else written_instant(time),
        "destination": written_names(envelope.destination) or None,
        "via": written_names(envelope.via) or None,
        "expirytime": None if expirytime is None else written_instant(expirytime),
        "timeleft": None if timeleft is None else str(timeleft),
        "priority": None if priority is None else str(priority),
        "digest": envelope.digest or None,
        "correlationid": envelope.correlationid,
        **{name: value for name, value in envelope.more if is_extension(name)},
        **trace_context(envelope.traceparent, envelope.tracestate),
    }
    return {name: value for name, value in written.items() if value is not None}


def is_extension(name: str) -> bool:
    """Whether an attribute of this name may be carried on as it came."""
    return name not in OWN and _NAME.fullmatch(name) is not None


# --- reading ---------------------------------------------------------------------------------------------------------


def from_attributes(found: Mapping[str, str]) -> Envelope:
    """The envelope of these attributes; raises `BadAttribute`. Order of `found` is kept in `more`."""
    for name, value in found.items():
        if _CONTROL.search(value):
            raise BadAttribute(name, "has a control character or is not Unicode")
    values: dict[str, Any] = {}
    is_event = all(name in found for name in REQUIRED)  # C-18
    if is_event and found["specversion"] != SPECVERSION:
        raise BadAttribute("specversion", f"must be {SPECVERSION}, the one version that is understood")
    readable = ("id", "source", "type", "time", *STANDING_ALONE) if is_event else STANDING_ALONE
    for name in readable:
        if name in found:
            values[name] = _READ[name](name, found[name])
    values.update(trace_context(found.get("traceparent"), found.get("tracestate")))
    if is_event:
        values["more"] = tuple((n, v) for n, v in found.items() if is_extension(n))
    return Envelope(**values)


def trace_context(traceparent: str | None, tracestate: str | None) -> dict[str, str]:
    """The W3C trace context; one that cannot be read is left out, never refused (Trace Context, section 3.2)."""
    if traceparent is None or not _TRACEPARENT.fullmatch(traceparent):
        return {}
    if not tracestate or len(tracestate) > 512 or not tracestate.isascii() or not tracestate.isprintable():
        return {"traceparent": traceparent}
    return {"traceparent": traceparent, "tracestate": tracestate}


def _read_text(name: str, text: str) -> str:
    if not text:
        raise BadAttribute(name, "must not be empty")
    return text


def _read_source(name: str, text: str) -> str:
    try:
        return unescape_name(_read_text(name, text))
    except UnicodeDecodeError:
        raise BadAttribute(name, "is not percent-encoded UTF-8") from None


def _read_list(name: str, text: str) -> tuple[str, ...]:
    entries = tuple(_read_source(name, entry) for entry in text.split(" ") if entry)
    if not entries:
        raise BadAttribute(name, "is a list of endpoints, separated by one space; leave it out rather than empty")
    return entries


def _read_instant(name: str, text: str) -> datetime:
    match = _INSTANT.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        date, minute, second, fraction, zone = match.groups()
        second = "59" if second == "60" else second  # a leap second, which RFC 3339 has and Python has not
        fraction = (fraction or "")[:7]
        return datetime.fromisoformat(f"{date}T{minute}:{second}{fraction}{zone.upper()}")
    except ValueError:
        raise BadAttribute(name, "is not an RFC 3339 instant with a time zone") from None


def _read_integer(name: str, text: str) -> int:
    if not _INTEGER.fullmatch(text) or not -(2**31) <= int(text) < 2**31:
        raise BadAttribute(name, "is not a whole number of 32 bits")
    return int(text)


def _read_timeleft(name: str, text: str) -> int:
    number = _read_integer(name, text)
    if number < 0:
        raise BadAttribute(name, "is in milliseconds and not negative")
    return number


def _read_digest(name: str, text: str) -> str:
    if not _DIGEST.fullmatch(text):
        raise BadAttribute(name, "is written sha-256= and base64")
    return text


_READ: dict[str, Callable[[str, str], Any]] = {
    "id": _read_text,
    "source": _read_source,
    "type": _read_text,
    "time": _read_instant,
    "destination": _read_list,
    "via": _read_list,
    "expirytime": _read_instant,
    "timeleft": _read_timeleft,
    "priority": _read_integer,
    "digest": _read_digest,
    "correlationid": _read_text,
}
