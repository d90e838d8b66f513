"""Takes a mail apart: header fields, the tree of its parts, and the bytes that a part was made of. Pure.

Header blocks are read by the standard library; the bodies are found by their boundaries and never copied until one is
asked for, so that a large mail costs no more than its size.
"""

from __future__ import annotations

import binascii
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesHeaderParser

from broker.core.outcome import MessageInvalid, Unsupported

DEEPEST = 8  # multiparts within each other; mail clients and gateways make three or four
MOST_PARTS = 100
LONGEST_HEAD = 64 * 1024  # octets of one header block: `via`, `destination`, and what every server on the way adds
_PARSER = BytesHeaderParser()
# What the standard library is known to raise for fields that make no sense; which it is says nothing.
_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
Field = tuple[str, str]


def damaged(what: str) -> MessageInvalid:
    return MessageInvalid(f"the mail cannot be read: {what}", id="damaged-mail", code="structure")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part that has no parts, or the mail itself."""

    type: str  # "application/fhir+json"
    parameters: tuple[Field, ...]  # of the type, names in lower case
    filename: str
    encoding: str
    start: int
    end: int

    def parameter(self, name: str) -> str:
        return next((value for known, value in self.parameters if known == name), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """A mail taken apart."""

    data: bytes
    fields: tuple[Field, ...]  # of the mail itself, names in lower case, values unfolded
    top: Part
    leaves: tuple[Part, ...]  # in the order in which they stand

    def field(self, name: str) -> str:
        return next((value for known, value in self.fields if known == name), "")

    def body(self, part: Part) -> bytes:
        """The bytes that the sender put into a part."""
        return decoded(self.data[part.start : part.end], part.encoding)


def read_mail(data: bytes) -> Mail:
    """Raises `MessageInvalid` where it cannot be taken apart."""
    if b"\r\n\r\n" not in data and b"\n\n" in data:
        raise damaged("its lines end in a bare LF, and in CRLF they must (RFC 5321, section 2.3.8)")
    leaves: list[Part] = []
    head, top = _part(data, 0, len(data))
    _walk(data, top, leaves, itertools.count(), 0)
    fields = tuple((name.lower(), _unfolded(value)) for name, value in head.raw_items())
    return Mail(data=data, fields=fields, top=top, leaves=tuple(leaves))


def fields_of(data: bytes) -> list[dict[str, str]]:
    """Blocks of fields that an empty line parts, as in a delivery status; the first of a name counts."""
    if len(data) > LONGEST_HEAD:
        raise damaged(f"a report of more than {LONGEST_HEAD} octets")
    blocks = []
    for block in data.replace(b"\r\n", b"\n").split(b"\n\n"):
        if block.strip():
            found: dict[str, str] = {}
            for name, value in _head(block.lstrip(b"\n") + b"\n\n").raw_items():
                found.setdefault(name.lower(), _unfolded(value))
            blocks.append(found)
    return blocks


def _walk(data: bytes, part: Part, leaves: list[Part], count: Iterator[int], depth: int) -> None:
    if next(count) > MOST_PARTS:  # multiparts without parts count as well: a mail has room for a million of them
        raise damaged(f"it has more than {MOST_PARTS} parts")
    if not part.type.startswith("multipart/"):
        leaves.append(part)
        return
    if depth >= DEEPEST:
        raise damaged(f"more than {DEEPEST} multiparts stand within each other")
    boundary = part.parameter("boundary").encode("utf-8", "surrogateescape")
    if not boundary or len(boundary) > 200:
        raise damaged("a multipart names no boundary")
    for start, end in _pieces(data, part.start, part.end, b"\r\n--" + boundary):
        _walk(data, _part(data, start, end)[1], leaves, count, depth + 1)


def _pieces(data: bytes, start: int, end: int, line: bytes) -> Iterator[tuple[int, int]]:
    """Where the parts of a multipart start and end (RFC 2046, section 5.1.1)."""
    opened: int | None = None
    at = start - 2  # the first boundary may stand at once: the line before it ends the header block
    while (found := data.find(line, max(at, 0), end)) >= 0:
        after = found + len(line)
        closes = data.startswith(b"--", after)
        line_end = data.find(b"\r\n", after, end)
        line_end = end if line_end < 0 else line_end
        if data[after + 2 * closes : min(line_end, after + 200)].strip(b" \t"):
            at = after  # another boundary, which begins with this one
            continue
        if opened is not None:
            yield opened, max(opened, found)
        if closes:
            return
        opened, at = min(line_end + 2, end), line_end
    raise damaged("a multipart does not end: it was cut off on the way, or its boundary is wrong")


def _part(data: bytes, start: int, end: int) -> tuple[Message, Part]:
    if data.startswith(b"\r\n", start) and start < end:
        stop, body = start, start + 2
    else:
        stop = data.find(b"\r\n\r\n", start, end)
        stop, body = (end, end) if stop < 0 else (stop + 2, stop + 4)
    if stop - start > LONGEST_HEAD:
        raise damaged(f"a header of more than {LONGEST_HEAD} octets")
    head = _head(data[start:stop])
    try:
        parameters = head.get_params(failobj=[], unquote=True) or []
        part = Part(
            type=head.get_content_type(),
            parameters=tuple((name.lower(), _text(value)) for name, value in parameters[1:]),
            filename=_text(head.get_filename() or ""),
            encoding=_text(head.get("Content-Transfer-Encoding", "7bit")).split(";")[0].strip().lower(),
            start=body,
            end=end,
        )
    except _UNREADABLE:
        raise damaged("the fields that describe a part make no sense") from None
    return head, part


def _head(block: bytes) -> Message:
    try:
        return _PARSER.parsebytes(block)
    except _UNREADABLE:
        raise damaged("a header makes no sense") from None


def _text(value: object) -> str:
    """A parameter: text, or (RFC 2231) charset, language and text."""
    if isinstance(value, tuple):
        charset, _, text = value
        try:
            return str(text).encode("latin-1").decode(charset or "utf-8", "replace")
        except (UnicodeError, LookupError):
            return str(text)
    return str(value)


def _unfolded(value: object) -> str:
    text = str(value).replace("\r", "").replace("\n", "")
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").strip()


def decoded(raw: bytes, encoding: str) -> bytes:
    """What was encoded for the way; raises where it was damaged there, or the encoding is unknown."""
    match encoding:
        case "base64":
            try:
                return binascii.a2b_base64(raw.translate(None, b"\r\n \t"), strict_mode=True)
            except binascii.Error:
                raise damaged("the base64 of the message is broken, or something was added to it") from None
        case "quoted-printable":
            return binascii.a2b_qp(raw)
        case "7bit" | "8bit" | "binary" | "":
            return raw
    raise Unsupported(
        "the Content-Transfer-Encoding of the message is unknown here: use base64", id="unsupported-transfer-encoding"
    )
