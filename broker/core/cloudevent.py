"""CloudEvents in JSON, one or a batch, with their data inside (C-4, C-5, C-19); what we write has `data_base64`."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator

import msgspec
import orjson

from broker.core.attributes import REQUIRED, BadAttribute, from_attributes, to_attributes
from broker.core.envelope import Envelope
from broker.core.outcome import BadRequest

MEDIA_TYPE = "application/cloudevents+json"
BATCH_MEDIA_TYPE = "application/cloudevents-batch+json"
DEFAULT_DATA = "application/json"  # of an event that does not say what its data is
NUMBERS = frozenset({"timeleft", "priority"})  # the Integers among what we write
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_EVENTS = msgspec.json.Decoder(list[msgspec.Raw])
_SCALAR = msgspec.json.Decoder(str | int | bool | None)
_READ = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")
_COLON = re.compile(r"[ \t\r\n]*:[ \t\r\n]*")
_TEXT = msgspec.json.Decoder(str)


class Event(msgspec.Struct, frozen=True, kw_only=True):
    envelope: Envelope
    body: bytes  # the data, as its sender wrote it; empty where there is none
    media_type: str  # empty where there is no data, and the event does not say what it would be


def write_event(envelope: Envelope, body: bytes, media_type: str) -> bytes:
    """The event in structured mode, its data in base64: so no JSON writer on the way can change a byte.

    An event without data (a thin one) stays without it.
    """
    members: dict[str, str | int] = {}
    for name, value in to_attributes(envelope).items():
        members[name] = int(value) if name in NUMBERS else value
    if media_type:
        members["datacontenttype"] = media_type
    if body:
        members["data_base64"] = base64.b64encode(body).decode()
    return orjson.dumps(members)


def read_event(text: bytes) -> Event:
    """The event in these bytes; `data` that is JSON is taken as it stood. Raises `BadRequest`."""
    members = _members(text)
    found: dict[str, str] = {}
    for name, raw in members.items():
        if name in ("data", "data_base64"):
            continue
        value = _attribute(name, raw)
        if value is not None:
            found[name] = value
    for name in REQUIRED:
        if not found.get(name):
            raise _refused(name, "is required and must not be empty")
    written = found.pop("datacontenttype", "")
    body = _data(members, written or DEFAULT_DATA)
    media_type = written if body is None else written or DEFAULT_DATA
    try:
        return Event(envelope=from_attributes(found), body=body or b"", media_type=media_type)
    except BadAttribute as bad:
        raise _refused(bad.name, str(bad)) from None


def read_batch(text: bytes) -> list[bytes]:
    """The events of a batch, each as it stands, for `read_event`. Raises `BadRequest`."""
    try:
        return [bytes(raw) for raw in _EVENTS.decode(text)]
    except (msgspec.DecodeError, UnicodeDecodeError):
        try:
            return list(_read_items(text.decode()))
        except (ValueError, IndexError, RecursionError) as error:
            raise BadRequest(f"the batch is not a JSON array: {error}", id="bad-event", expression="$") from None


def _read_items(text: str) -> Iterator[bytes]:
    """For what msgspec does not read, as `_read_members` is."""
    at = _SPACE.match(text, 0).end()  # type: ignore[union-attr]
    if text[at] != "[":
        raise ValueError("it begins otherwise")
    between = "["
    while text[at] == between:
        at = _SPACE.match(text, at + 1).end()  # type: ignore[union-attr]
        if between == "[" and text[at] == "]":
            break
        _, end = _READ.raw_decode(text, at)
        yield text[at:end].encode()
        between, at = ",", _SPACE.match(text, end).end()  # type: ignore[union-attr]
    if text[at] != "]" or text[at + 1 :].strip(" \t\r\n"):
        raise ValueError(f"it does not end at character {at}")


def _members(text: bytes) -> dict[str, bytes]:
    """The members of an object, their values as they stand."""
    try:
        return {name: bytes(raw) for name, raw in _MEMBERS.decode(text).items()}
    except (msgspec.DecodeError, UnicodeDecodeError):
        # halves of surrogate pairs, which a message may have in its texts: what reads them takes ten times longer
        try:
            return dict(_read_members(text.decode()))
        except (ValueError, IndexError, RecursionError) as error:
            raise _refused("$", f"is not a JSON object: {error}") from None


def _read_members(text: str) -> Iterator[tuple[str, bytes]]:
    at = _SPACE.match(text, 0).end()  # type: ignore[union-attr]  # it matches the empty text
    if text[at] != "{":
        raise ValueError("it begins otherwise")
    between = "{"
    while text[at] == between:
        at = _SPACE.match(text, at + 1).end()  # type: ignore[union-attr]
        if between == "{" and text[at] == "}":
            break
        name, at = _READ.raw_decode(text, at)
        colon = _COLON.match(text, at)
        if not isinstance(name, str) or colon is None:
            raise ValueError(f"a member has no name or no value at character {at}")
        _, end = _READ.raw_decode(text, colon.end())
        yield name, text[colon.end() : end].encode()
        between, at = ",", _SPACE.match(text, end).end()  # type: ignore[union-attr]
    if text[at] != "}" or text[at + 1 :].strip(" \t\r\n"):
        raise ValueError(f"it does not end at character {at}")


def _attribute(name: str, raw: bytes) -> str | None:
    """The canonical string of an attribute; None for null, which is the same as leaving it out (C-3)."""
    try:
        value = _SCALAR.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _refused(name, "is neither a string nor a whole number nor a boolean") from None
    if isinstance(value, bool):
        return "true" if value else "false"
    return None if value is None else str(value)


def _data(members: dict[str, bytes], media_type: str) -> bytes | None:
    """The bytes of the data; None where the event has none. `null` is data where data is JSON (C-5)."""
    raw, encoded = members.get("data"), members.get("data_base64")
    if encoded == b"null":
        encoded = None
    if raw is not None and encoded is not None:
        raise _refused("data_base64", "stands beside data: one event has one of them")
    if encoded is not None:
        try:
            return base64.b64decode(_TEXT.decode(encoded), validate=True)
        except (msgspec.DecodeError, binascii.Error, ValueError):
            raise _refused("data_base64", "is not base64") from None
    if raw is None or is_json(media_type):
        return raw
    if raw == b"null":
        return None
    try:
        return _TEXT.decode(raw).encode()
    except (msgspec.DecodeError, UnicodeError):
        raise _refused("data", f"must be a string, since {media_type} is not JSON") from None


def is_json(media_type: str) -> bool:
    essence = media_type.partition(";")[0].strip().lower()
    return essence in ("application/json", "text/json") or essence.endswith("+json")


def _refused(member: str, text: str) -> BadRequest:
    return BadRequest(f"the member {member} of the event {text}", id="bad-event", expression=member)
