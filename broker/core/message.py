"""A message as the broker keeps it: its header, its envelope, and how it came. The bytes travel beside it."""

from __future__ import annotations

import base64
from datetime import datetime
from enum import IntEnum

import msgspec

from broker.core.envelope import Envelope
from broker.core.fhir.header import Header

DIGEST = "sha-256="  # before the base64 of a SHA-256


class Fate(IntEnum):
    """What a message is to us."""

    MESSAGE = 0  # a request or a notification: something that came to be carried
    ANSWER = 1  # a response to an open request of ours
    LATE = 2  # a response to a request that is closed
    DOUBLE = 3  # one more response to a delivery that has its answer
    UNMATCHED = 4  # a response to nothing that we carried
    REPORT = 5  # our own: a bounce, or word that no answer came
    NOTICE = 6  # our own: a notification for a subscriber


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    header: Header
    envelope: Envelope  # complete: what was missing on arrival is filled in from the header
    media_type: str
    source: str | None  # endpoint of who sent it, as written
    digest: str  # "sha-256=" and base64
    size: int  # bytes
    channel: str
    peer: str
    at: datetime  # the moment of reading
    party: str | None = None
    way_in: str | None = None
    response_url: str | None = None
    listens: bool = False  # its sender waits at `response_url` for the response, as a caller does on its connection
    reference: str | None = None  # the id by which its sender knows it on its channel
    in_reply_to: str | None = None  # of a response or report: the reference of its request
    fate: Fate = Fate.MESSAGE


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Message).decode


def digest_text(sha256: bytes) -> str:
    return DIGEST + base64.b64encode(sha256).decode()


def digest_bytes(text: str) -> bytes:
    return base64.b64decode(text.removeprefix(DIGEST))
