"""The envelope in HTTP: CloudEvents binary mode (C-16, C-17), and the headers of the trade beside it (C-52)."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec
from multidict import CIMultiDictProxy

from broker.core.attributes import (
    SPECVERSION,
    BadAttribute,
    Remembered,
    escape_name,
    from_attributes,
    is_extension,
    trace_context,
    written_instant,
    written_names,
)
from broker.core.envelope import EMPTY, Envelope
from broker.core.outcome import BadRequest
from plugins.http.digest import content_digest

PREFIX = "ce-"
_ENCODE = re.compile(r"[^\x21-\x7e]+|[\"%]")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_PERCENT = re.compile(rb"%([0-9A-Fa-f]{2})")
SECRET = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key"})
UNTOLD = SECRET | {"content-length"}  # which is of the connection, and not of what the caller says


def encode(value: str) -> str:
    """C-17: space, `"`, `%` and everything outside U+0021–U+007E as UTF-8 bytes, upper-case hex."""
    if value.isascii() and value.isprintable() and not (" " in value or "%" in value or '"' in value):
        return value  # as nearly all are; a quarter of the time that the expression takes
    return _ENCODE.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), value)


def decode(value: str) -> str:
    """C-17 backwards: quoted strings of old senders first, then one round; ValueError for what is not UTF-8."""
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = _ESCAPE.sub(r"\1", value[1:-1])
    raw = value.encode("utf-8", "surrogateescape")  # as the server read the bytes of the header
    return _PERCENT.sub(lambda match: bytes([int(match[1], 16)]), raw).decode("utf-8")


def write_envelope(envelope: Envelope) -> str:
    """The header lines that carry this envelope. Each message that leaves passes here, so it is written out."""
    id, source, type = envelope.id, envelope.source, envelope.type
    digest = envelope.digest
    text = f"ce-specversion: {SPECVERSION}\r\n" if id and source and type else ""
    if id is not None:
        text += _in_both("ce-id", "Event-Id", id)
    if source is not None:
        text += _SOURCE[source]
    if type is not None:
        text += _TYPE[type]
    if envelope.time is not None:
        text += f"ce-time: {written_instant(envelope.time)}\r\n"
    if envelope.destination:
        text += _DESTINATION[envelope.destination]
    if envelope.via:
        text += _VIA[envelope.via]
    if envelope.expirytime is not None:
        text += f"ce-expirytime: {written_instant(envelope.expirytime)}\r\n"
    if envelope.timeleft is not None:
        text += f"ce-timeleft: {envelope.timeleft}\r\n"
    if envelope.priority is not None:
        text += f"ce-priority: {envelope.priority}\r\n"
    if digest:
        written = encode(digest)
        text += f"ce-digest: {written}\r\nContent-Digest: {content_digest(written)}\r\n"
    if envelope.correlationid is not None:
        text += _in_both("ce-correlationid", "Correlation-Id", envelope.correlationid)
    for name, value in envelope.more:
        if is_extension(name):
            text += f"{PREFIX}{name}: {encode(value)}\r\n"
    if envelope.traceparent is not None:
        for name, value in trace_context(envelope.traceparent, envelope.tracestate).items():
            text += f"{name}: {value}\r\n"
    return text


# What few messages differ in, as whole lines.
_SOURCE = Remembered[str](lambda source: f"ce-source: {encode(escape_name(source))}\r\n")
_TYPE = Remembered[str](lambda type: f"ce-type: {encode(type)}\r\n")
_DESTINATION = Remembered[tuple[str, ...]](lambda names: f"ce-destination: {encode(written_names(names))}\r\n")
_VIA = Remembered[tuple[str, ...]](lambda names: f"ce-via: {encode(written_names(names))}\r\n")


def _in_both(name: str, of_the_trade: str, value: str) -> str:
    """Under CloudEvents' name, and under the one of the trade (C-52), which knows no encoding, if it needs none."""
    written = encode(value)
    if written != value or not value:
        return f"{name}: {written}\r\n"
    return f"{name}: {value}\r\n{of_the_trade}: {value}\r\n"


def read_envelope(headers: CIMultiDictProxy[str]) -> Envelope:
    """The envelope of a request; a malformed attribute is refused by the name of its header."""
    found: dict[str, str] = {}
    for name, value in headers.items():
        lower = name.lower()
        if not lower.startswith(PREFIX):
            continue
        attribute = lower.removeprefix(PREFIX)
        if attribute in found:
            raise _refused(attribute, "is there more than once")
        try:
            found[attribute] = decode(value)
        except ValueError:
            raise _refused(attribute, "is not percent-encoded UTF-8 (CloudEvents HTTP binding)") from None
    _add_headers_of_the_trade(headers, found)
    try:
        envelope = from_attributes(found) if found else EMPTY
    except BadAttribute as bad:
        raise _refused(bad.name, str(bad)) from None
    event_id = headers.get("Event-Id")
    if envelope.id is None and event_id and event_id.isprintable():
        return msgspec.structs.replace(envelope, id=event_id)
    return envelope


def _add_headers_of_the_trade(headers: CIMultiDictProxy[str], found: dict[str, str]) -> None:
    """`Correlation-Id` where the envelope has none; the W3C trace headers, which are this hop's and go first."""
    for name in ("Correlation-Id", "X-Correlation-Id"):
        value = headers.get(name)
        if value and value.isprintable():
            found.setdefault("correlationid", value)
    parents = headers.getall("traceparent", [])
    if len(parents) == 1:  # two are none (Trace Context, section 3.2.1)
        found["traceparent"] = parents[0].strip()
        found["tracestate"] = ",".join(headers.getall("tracestate", []))


def _refused(attribute: str, text: str) -> BadRequest:
    header = PREFIX + attribute
    return BadRequest(f"the header {header} {text}", id="bad-envelope", expression=f"http.{header}")


def told(headers: CIMultiDictProxy[str]) -> tuple[tuple[str, str], ...]:
    """The transport headers for rules and traces: lower-case names, no secrets, no framing, all Unicode."""
    return tuple(_kept(headers.items()))


def _kept(items: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    for name, value in items:
        lower = name.lower()
        if lower not in UNTOLD:
            yield (
                lower,
                value if value.isascii() else value.encode("utf-8", "surrogateescape").decode("utf-8", "replace"),
            )
