"""What a JSON text must keep to before we believe it: UTF-8, bounded depth, no name written twice (X-43)."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from broker.core.fhir import complaints
from broker.core.fhir.wire import DEPTH
from broker.core.outcome import MessageInvalid

BOM = b"\xef\xbb\xbf"
_SQUARE = bytes.maketrans(b"{}", b"[]")
_ALL_BUT_FRAME = bytes(set(range(256)) - set(b'{}[]"'))  # for bytes.translate: what is not bracket or quote
_TYPE = b'"resourceType"'
_SMALL = 1 << 14  # bytes; real messages that are longer open more
_ROUNDS = 8  # most messages end here; of what is left, no two peaks are closer than 18 brackets
_PEAK = re.compile(rb"(\[+)\]+")
_ESCAPED = re.compile(rb'\\["\\]')
_STRING = re.compile(rb'"[^"]*"')
_LONE_HIGH = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})")
_LONE_LOW = re.compile(rb"(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_BYTE = re.compile(r" ?\(byte (\d+)\)")

_ANY = msgspec.json.Decoder()
_NAMES = msgspec.json.Decoder(dict[str, msgspec.Raw])
_SYNTAX = msgspec.json.Decoder(msgspec.Raw)
UNEXPECTED_QUOTES = 20_000  # of elements beside the known ones: more would cost memory to look at one by one


class _WrittenTwiceError(ValueError):
    pass


def text_of(body: bytes) -> bytes:
    """The body without its BOM; refused where any byte of it is not UTF-8, also in parts that nobody reads."""
    text = body[len(BOM) :] if body.startswith(BOM) else body
    if not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError as error:
            raise complaints.not_utf8(error.start + len(body) - len(text)) from None
    return text


def check_syntax(text: bytes) -> None:
    """Raise the refusal of a text that is not JSON; silent where it is."""
    try:
        _SYNTAX.decode(text)
    except msgspec.DecodeError as error:
        raise malformed(text, error) from None
    except RecursionError:
        raise complaints.too_deep() from None


def malformed(text: bytes, error: msgspec.DecodeError) -> MessageInvalid:
    """The refusal of a text that the decoder gave up on; its words name bytes by place and never by value."""
    why = str(error).removeprefix("JSON is malformed: ")
    place = _BYTE.search(why)
    if place is not None:
        before = text[: int(place[1])]
        line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
        why = f"{why[: place.start()]} at line {line}, column {column}"
    if text.lstrip().startswith(b"<"):
        why += " (it looks like XML: say so in Content-Type)"
    return complaints.malformed("JSON", why)


def without_lone_surrogates(text: bytes) -> bytes:
    r"""A copy for reading in which half a pair (\ud800 alone) is \ufffd; what is carried on stays as it is (X-43)."""
    if b"\0" in text:  # no JSON at all; hence it can stand in for an escaped backslash below
        return text
    hidden = text.replace(b"\\\\", b"\0\0")
    hidden = _LONE_LOW.sub(rb"\\ufffd", _LONE_HIGH.sub(rb"\\ufffd", hidden))
    return hidden.replace(b"\0\0", b"\\\\")


def _frame_of(text: bytes) -> bytes:
    """The brackets, all written square, and the quotes of a text."""
    return text.translate(_SQUARE, _ALL_BUT_FRAME)


def check_depth(text: bytes) -> None:
    """Refuse what is nested too deeply. The text must be well-formed."""
    if _has_few_brackets(text):
        return
    frame = _frame_of(_ESCAPED.sub(b"", text) if b"\\" in text else text)  # now every quote opens or closes a string
    brackets = _STRING.sub(b"", frame.replace(b'""', b"")) if b'"' in frame else frame
    for _ in range(_ROUNDS):
        if not brackets:
            return
        brackets = brackets.replace(b"[]", b"")  # the innermost level of every branch
    depth = _ROUNDS
    for peak in _PEAK.finditer(brackets):
        up = len(peak[1])
        if depth + up > DEPTH:
            raise complaints.too_deep()
        depth += 2 * up - len(peak[0])


def _has_few_brackets(text: bytes) -> bool:
    """Whether no more are opened than may be nested; replacing finds them three times faster than counting does."""
    if len(text) > _SMALL:
        return False
    left = DEPTH - len(text) + len(text.replace(b"{", b"", DEPTH + 1))
    return left >= 0 and len(text) - len(text.replace(b"[", b"", DEPTH + 1)) <= left


def check_names(text: bytes, accounted: int) -> None:
    """Refuse a name written twice in the Bundle itself.

    `accounted` counts the quotes of the elements that were read: the decoder keeps the last of two, so that the first
    is missing from this number.
    """
    quotes = text.count(b'"')
    if quotes == accounted:
        return
    if quotes - accounted > UNEXPECTED_QUOTES:
        raise MessageInvalid(
            "The Bundle has far more elements beside `entry` than a Bundle can have: leave them out.",
            id="unknown-elements",
            expression="Bundle",
        )
    found = _NAMES.decode(text)
    if quotes != sum(2 + bytes(value).count(b'"') for value in found.values()):
        raise complaints.written_twice("Bundle")  # or a name with a quote in it, which is no FHIR either


def with_first_alone(text: bytes, entries: bytes) -> tuple[bytes, int]:
    """The Bundle with all entries but the first left out, and where in `entries` the first ends; empty if not certain.

    `entries` is the value of Bundle.entry in this well-formed text. Where the first ends is a guess: at the last brace
    before the second resource says its type. The guess is right exactly where the result is well-formed, has one entry
    and no backslash: in any other place it would end within a string or leave a bracket open.
    """
    at = text.find(b'"entry"')
    begin = text.find(b"[", at)
    if begin < 0 or text[at + 7 : begin].strip() != b":" or not text.startswith(entries, begin):
        return b"", 0
    end = begin + len(entries)
    second = text.find(_TYPE, text.find(_TYPE, begin, end) + len(_TYPE), end)
    stop = text.rfind(b"}", begin, end if second < 0 else second) + 1
    return text[:stop] + text[end - 1 :], stop - begin


def plainly(raw: bytes) -> Any:
    """The value of a (small) JSON text that has no name twice; None also where that takes a closer look."""
    if b"\\" in raw:
        return None
    try:
        value = _ANY.decode(raw)
        written = msgspec.json.encode(value)
    except (ValueError, OverflowError):  # numbers that no machine holds
        return None
    # written out again, a text without escapes has as many quotes as before, unless a name was lost
    return value if written == raw or written.count(b'"') == raw.count(b'"') else None


def strictly(raw: bytes, where: str) -> Any:
    """The value of a (small) JSON text; refused where any object in it has a name twice."""
    value = plainly(raw)
    if value is not None:
        return value
    try:
        return _EXACT.decode(raw.decode())
    except _WrittenTwiceError as error:
        raise complaints.written_twice(where, str(error)) from None


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _WrittenTwiceError
    return value


_EXACT = json.JSONDecoder(object_pairs_hook=_pairs, parse_int=str, parse_float=str)
