"""AMQP 0-9-1 on the wire: frames, the properties of a message and its header table; bytes <-> values. Pure.

What passes with every message is read and written here, at a tenth of the general codec's cost; all other methods, and
header values that are no text, are pamqp's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from pamqp import base, commands, decode, encode, exceptions
from pamqp import frame as frames

GREETING = b"AMQP\x00\x00\x09\x01"
METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
END = 0xCE
BEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"
ROUND_A_FRAME = 8  # bytes: its head and its end

# class and method as one number
DELIVER, RETURN, ACK, NACK, CANCEL = 0x003C003C, 0x003C0032, 0x003C0050, 0x003C0078, 0x003C001E

HEAD = struct.Struct(">BHI")
INDEX = struct.Struct(">I")
LONGEST_SHORT = 255  # bytes of a short string: of an id, a routing key
_CONTENT = struct.Struct(">HHQ")  # class, weight, size of the body
_CONFIRM = struct.Struct(">QB")
_SHORT = struct.Struct(">H")
_LONG = struct.Struct(">Q")
_ACKNOWLEDGE = struct.Struct(">BHIIQBB")
_BASIC = 60
_PUBLISH = struct.pack(">IH", 0x003C0028, 0)
_MANDATORY = (b"\x00", b"\x01")


class Malformed(ValueError):
    """The bytes are not AMQP."""


class Properties(msgspec.Struct, frozen=True, kw_only=True):
    """The basic properties of a message, in the order of the wire."""

    content_type: str | None = None
    content_encoding: str | None = None
    table: bytes | None = None  # the headers as they stand, without their length
    delivery_mode: int | None = None
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: str | None = None
    message_id: str | None = None
    timestamp: int | None = None  # seconds
    type: str | None = None
    user_id: str | None = None
    app_id: str | None = None
    cluster_id: str | None = None


_KINDS = {"table": "table", "delivery_mode": "octet", "priority": "octet", "timestamp": "long"}
_FIELDS = tuple(
    (1 << (15 - place), name, _KINDS.get(name, "text")) for place, name in enumerate(Properties.__struct_fields__)
)


def text_of(data: bytes) -> str:
    """Bytes that are no UTF-8 come through as lone surrogates, which the envelope refuses by name."""
    return data.decode("utf-8", "surrogateescape")


def fits(text: str | None) -> bool:
    """Whether a text can be a short string."""
    return text is not None and len(text.encode("utf-8", "surrogateescape")) <= LONGEST_SHORT


# --- properties ------------------------------------------------------------------------------------------------------


def read_properties(payload: bytes) -> Properties:
    """Of the payload of a header frame; raises `Malformed`."""
    try:
        return _read_properties(payload)
    except (struct.error, IndexError) as error:
        raise Malformed("the properties of a message break off") from error


def _read_properties(payload: bytes) -> Properties:
    (flags,) = _SHORT.unpack_from(payload, 12)
    at = 14
    found: dict[str, Any] = {}
    for flag, name, kind in _FIELDS:
        if not flags & flag:
            continue
        if kind == "text":
            end = at + 1 + payload[at]
            found[name] = text_of(payload[at + 1 : end])
            at = end
        elif kind == "octet":
            found[name] = payload[at]
            at += 1
        elif kind == "long":
            (found[name],) = _LONG.unpack_from(payload, at)
            at += 8
        else:
            end = at + 4 + INDEX.unpack_from(payload, at)[0]
            found[name] = payload[at + 4 : end]
            at = end
        if at > len(payload):
            raise Malformed("the properties of a message break off")
    return Properties(**found)


def write_properties(properties: Properties) -> bytes:
    """With the flags that say which there are; a text that is too long for a short string is a ValueError."""
    flags, pieces = 0, []
    for flag, name, kind in _FIELDS:
        value = getattr(properties, name)
        if value is None:
            continue
        flags |= flag
        if kind == "text":
            raw = value.encode("utf-8", "surrogateescape")
            if len(raw) > LONGEST_SHORT:
                raise ValueError(f"{name} is longer than {LONGEST_SHORT} bytes")
            pieces.append(b"%c%b" % (len(raw), raw))
        elif kind == "octet":
            pieces.append(b"%c" % value)
        elif kind == "long":
            pieces.append(_LONG.pack(value))
        else:
            pieces.append(INDEX.pack(len(value)) + value)
    return _SHORT.pack(flags) + b"".join(pieces)


# --- the header table ------------------------------------------------------------------------------------------------


def read_table(table: bytes) -> Iterator[tuple[str, Any]]:
    """The headers in their order; raises `Malformed`."""
    at, end = 0, len(table)
    try:
        while at < end:
            start = at + 1 + table[at]
            name = text_of(table[at + 1 : start])
            if table[start] == 0x53:  # S: a long string, as nearly all are
                at = start + 5 + INDEX.unpack_from(table, start + 1)[0]
                if at > end:
                    raise Malformed("the headers of a message break off")
                yield name, text_of(table[start + 5 : at])
            else:
                used, value = decode.embedded_value(table[start:])
                at = start + used
                yield name, value
    except (struct.error, IndexError, ValueError) as error:
        raise Malformed(f"the headers of a message cannot be read: {error}") from error


def write_entry(name: str, value: str) -> bytes:
    """One header whose value is a text."""
    key, raw = name.encode(), value.encode("utf-8", "surrogateescape")
    return b"%c%bS%b%b" % (len(key), key, INDEX.pack(len(raw)), raw)


def write_table(entries: Mapping[str, Any]) -> bytes:
    """Headers of any kind, without the length of the whole."""
    return encode.field_table(dict(entries))[4:]


# --- frames ----------------------------------------------------------------------------------------------------------


class Delivered(msgspec.Struct, frozen=True):
    """What `basic.deliver` says."""

    tag: int
    redelivered: bool
    exchange: str
    routing_key: str


def read_deliver(payload: bytes) -> Delivered:
    at = 5 + payload[4]  # past the consumer tag
    (tag,) = _LONG.unpack_from(payload, at)
    redelivered, at = bool(payload[at + 8]), at + 9
    end = at + 1 + payload[at]
    return Delivered(
        tag, redelivered, text_of(payload[at + 1 : end]), text_of(payload[end + 1 : end + 1 + payload[end]])
    )


def read_confirm(payload: bytes) -> tuple[int, bool]:
    """The tag of an ack or a nack, and whether all before it are meant as well."""
    tag, bits = _CONFIRM.unpack_from(payload, 4)
    return tag, bool(bits & 1)


def body_size(payload: bytes) -> int:
    size: int = _CONTENT.unpack_from(payload)[2]
    return size


def read_method(payload: bytes) -> base.Frame:
    """Any method; raises `Malformed`."""
    (index,) = INDEX.unpack_from(payload)
    made = commands.INDEX_MAPPING.get(index)
    if made is None:
        raise Malformed(f"no method has the number {index:#x}")
    method: base.Frame = made()
    try:
        method.unmarshal(payload[4:])
    except (struct.error, ValueError, exceptions.PAMQPException) as error:
        raise Malformed(f"{method.name} cannot be read: {error}") from error
    return method


def write_method(method: base.Frame, number: int) -> bytes:
    return frames.marshal(method, number)


def write_publish(
    number: int, exchange: bytes, routing_key: bytes, mandatory: bool, properties: bytes, body: bytes, frame_max: int
) -> bytes:
    """`basic.publish` with its content; exchange and key as short strings' bytes."""
    method = b"%b%c%b%c%b%b" % (
        _PUBLISH, len(exchange), exchange, len(routing_key), routing_key, _MANDATORY[mandatory],
    )  # fmt: skip
    header = _CONTENT.pack(_BASIC, 0, len(body)) + properties
    pieces = [
        HEAD.pack(METHOD, number, len(method)), method, b"\xce",
        HEAD.pack(HEADER, number, len(header)), header, b"\xce",
    ]  # fmt: skip
    room = frame_max - ROUND_A_FRAME
    if len(body) <= room:
        if body:
            pieces += (HEAD.pack(BODY, number, len(body)), body, b"\xce")
    else:
        for start in range(0, len(body), room):
            piece = body[start : start + room]
            pieces += (HEAD.pack(BODY, number, len(piece)), piece, b"\xce")
    return b"".join(pieces)


def write_ack(number: int, tag: int, *, multiple: bool) -> bytes:
    return _ACKNOWLEDGE.pack(METHOD, number, 13, ACK, tag, multiple, END)


def write_requeue(number: int, tag: int, *, multiple: bool) -> bytes:
    """`basic.nack`: it goes back to its queue."""
    return _ACKNOWLEDGE.pack(METHOD, number, 13, NACK, tag, multiple | 2, END)
