"""The frames of the subprotocol `fhir-broker.v1`, bytes <-> values. Pure; docs/websocket.md says what each is for.

A Text message is one JSON object. A Binary message is the same object on a line of its own, and after the line feed
the body, byte for byte: JSON that is written without line breaks holds no line feed, so the first one ends the head.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeAlias

import msgspec
import orjson

from broker.core.attributes import BadAttribute, from_attributes, to_attributes, written_instant
from broker.core.envelope import EMPTY, Envelope
from broker.core.fhir.header import Format, Release
from broker.core.fhir.outcomes import outcome_bytes
from broker.core.outcome import BadRequest, Problem

SUBPROTOCOL = "fhir-broker.v1"
LONGEST_HEAD = 64 * 1024  # bytes; an envelope has some hundred
DEFAULT_MEDIA_TYPE = "application/fhir+json"
Ref = str | int
Payload = tuple[bytes, bool]  # a message of the WebSocket, and whether it is Text


class Send(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="send"):
    ref: Ref
    media_type: str = DEFAULT_MEDIA_TYPE
    envelope: dict[str, str | int | bool] = {}
    wait: bool | float = False  # seconds; true: as long as the receiver's rule says
    response_url: str | None = None


class Subscribe(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="subscribe"):
    mailbox: str
    after: int = 0
    window: int = 64


class Ack(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="ack"):
    mailbox: str
    position: int


class Unsubscribe(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="unsubscribe"):
    mailbox: str


class Follow(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="follow"):
    endpoint: str


class Unfollow(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="unfollow"):
    endpoint: str


class Receipt(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="receipt"):
    ref: Ref
    kind: str = "accepted"
    id: str = ""


class Response(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="response"):
    ref: Ref
    media_type: str = DEFAULT_MEDIA_TYPE


class Refusal(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="refusal"):
    ref: Ref | None = None
    code: str = "processing"
    problem: str = "refused-by-receiver"
    who: str = "receiver"
    text: str = ""
    again: bool = False
    retry_after: float | None = None
    about: str = ""  # "destination" where the trouble is one destination's alone
    media_type: str | None = None
    outcome: msgspec.Raw = msgspec.Raw(b"")


class Other(msgspec.Struct, frozen=True):
    """A frame that is not for us: of a newer peer, or of the other role."""

    type: str


FromClient: TypeAlias = Send | Subscribe | Ack | Unsubscribe | Follow | Unfollow
FromServer: TypeAlias = Receipt | Response | Refusal | Send
_FROM_CLIENT: msgspec.json.Decoder[FromClient] = msgspec.json.Decoder(FromClient)
_FROM_SERVER: msgspec.json.Decoder[FromServer] = msgspec.json.Decoder(FromServer)
_ANY = msgspec.json.Decoder(dict[str, Any])


def cut(message: str | bytes) -> tuple[bytes, bytes]:
    """The head of a message, and the body after it; raises `BadRequest`."""
    if isinstance(message, str):
        head, body = message.encode(), b""
    else:
        end = message.find(b"\n", 0, LONGEST_HEAD + 1)
        if end < 0:
            raise _bad(f"a binary message begins with its head, a line of JSON of at most {LONGEST_HEAD} bytes")
        head, body = message[:end], message[end + 1 :]
    if len(head) > LONGEST_HEAD:
        raise _bad(f"the head is larger than {LONGEST_HEAD} bytes; a body goes into a binary message")
    return head, body


def read_from_client(head: bytes) -> FromClient:
    """Raises `BadRequest`, with the `ref` where there is one."""
    try:
        return _FROM_CLIENT.decode(head)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _bad(f"the frame cannot be read: {error}") from None


def read_from_server(head: bytes) -> FromServer | Other:
    """As a client: what is not for us is no error."""
    try:
        return _FROM_SERVER.decode(head)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        frame = _any(head)
        if isinstance(frame.get("type"), str) and frame["type"] not in ("receipt", "response", "refusal", "send"):
            return Other(frame["type"])
        raise _bad(f"the frame cannot be read: {error}") from None


def ref_of(head: bytes) -> Ref | None:
    """The `ref` of a frame that could not be read, so that its refusal can name it."""
    ref = _any(head).get("ref")
    return ref if isinstance(ref, str | int) else None


def _any(head: bytes) -> dict[str, Any]:
    try:
        return _ANY.decode(head)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}


def envelope_of(send: Send) -> Envelope:
    """Raises `BadRequest`."""
    if not send.envelope:
        return EMPTY
    found = {
        name: ("true" if value else "false") if isinstance(value, bool) else str(value)
        for name, value in send.envelope.items()
        if name != "datacontenttype"
    }
    try:
        return from_attributes(found)
    except BadAttribute as bad:
        raise BadRequest(
            f"the attribute {bad.name} of the envelope {bad}", id="bad-envelope", expression=f"envelope.{bad.name}"
        ) from None


def _bad(text: str) -> BadRequest:
    return BadRequest(text, id="bad-frame")


# --- writing ---------------------------------------------------------------------------------------------------------


def text(frame: dict[str, Any]) -> Payload:
    return orjson.dumps(frame), True


def with_body(frame: dict[str, Any], body: bytes) -> Payload:
    return b"".join((orjson.dumps(frame), b"\n", body)), False


def send(ref: Ref, envelope: Envelope, body: bytes, media_type: str, wait: float | None) -> Payload:
    frame: dict[str, Any] = {"type": "send", "ref": ref, "media_type": media_type}
    if attributes := to_attributes(envelope):
        frame["envelope"] = attributes
    if wait is not None:
        frame["wait"] = wait
    return with_body(frame, body)


def gap(endpoint: str) -> Payload:
    """Some live events of this endpoint were left out."""
    return text({"type": "gap", "endpoint": endpoint})


def delivery(
    mailbox: str, position: int, id: str, accepted: datetime, envelope: Envelope, body: bytes, media_type: str
) -> Payload:
    frame = {
        "type": "delivery",
        "mailbox": mailbox,
        "position": position,
        "id": id,
        "accepted": written_instant(accepted),
        "media_type": media_type,
        "envelope": to_attributes(envelope),
    }
    return with_body(frame, body)


def outcome(problems: list[Problem], release: Release) -> orjson.Fragment:
    """An OperationOutcome, as a member of a frame."""
    return orjson.Fragment(outcome_bytes(problems, format=Format.JSON, release=release))
