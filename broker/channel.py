"""The door between the broker and a channel: what a channel offers, and the few calls it may make back.

A channel is a plugin that speaks one protocol. Its receiver turns what comes in into an `Arrival` and hands it to
`Accept`; it acknowledges only after that call returned. Its sender makes one attempt of a `Transmission` and reports
one of three ends. It never retries, routes, stores or looks up.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol

import msgspec

from broker.core.answer import Answer, AnswerKind, Receipt, Taken
from broker.core.envelope import EMPTY, Envelope
from broker.core.fhir.header import Release
from broker.core.outcome import Problem

__all__ = [
    "Accept",
    "Answer",
    "AnswerKind",
    "Arrival",
    "Asked",
    "ChannelSpec",
    "Deferred",
    "Delivered",
    "Hold",
    "Host",
    "Kind",
    "Peer",
    "Receipt",
    "Receiver",
    "Refused",
    "Room",
    "Sender",
    "Taken",
    "Transmission",
]


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """Who is at the other end, as far as the channel has verified it."""

    address: str  # "127.0.0.1:41234", for logs and traces
    party: str | None = None  # name of the configured party whose credential was proved


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What the caller asks of us beside carrying the message."""

    asynchronous: bool = False  # async=true, Prefer: respond-async
    wait: timedelta | None = None  # Prefer: wait=N; how long the caller itself wants to wait
    response_url: str | None = None


class Hold(Protocol):
    """What a body that comes in pieces takes of the room for messages that are being taken in (`Room`)."""

    def grow(self, more: int) -> None:
        """So many bytes more have come; raises `Refusal` where there is no room for them."""

    def let_go(self) -> None: ...


class Room(Protocol):
    """The room for messages that are being taken in: all channels share it."""

    def check(self, size: int) -> None:
        """Raises `Refusal` if a message of so many bytes would find no room now; counts nothing."""

    def hold(self) -> Hold: ...


class Arrival(msgspec.Struct, frozen=True, kw_only=True):
    """What a channel hands in: bytes, the verified peer, transport facts, the envelope if the sender wrote one."""

    channel: str
    peer: Peer
    body: bytes
    media_type: str  # as it came: "application/fhir+json; fhirVersion=4.0"
    at: datetime  # the moment of reading
    release: Release | None = None  # of the URL (/fhir/R5); the MIME parameter goes before it
    envelope: Envelope = EMPTY
    asked: Asked = Asked()
    way_in: str | None = None  # {name} of /in/{name}/$process-message
    headers: tuple[tuple[str, str], ...] = ()  # transport headers, names in lower case; secrets left out
    hold: Hold | None = None  # of a body that came in pieces; the flow lets it go


class Transmission(msgspec.Struct, frozen=True, kw_only=True):
    """One message on its way to one address: the destinations that share it leave together (M-55)."""

    message_id: str
    body: bytes
    media_type: str
    address: str
    envelope: Envelope
    connect: timedelta  # limit for reaching the peer
    answer: timedelta  # limit for its whole answer
    caller_waits: bool = False  # ask for the response at once; otherwise `async=true`
    attempt: int = 1


class Delivered(msgspec.Struct, frozen=True, kw_only=True):
    taken: Taken = Taken.CUSTODY
    body: bytes | None = None  # a response message that came in the same exchange
    media_type: str | None = None
    status: int | None = None
    note: str = ""  # for the trace: "202 Accepted"


class Deferred(msgspec.Struct, frozen=True, kw_only=True):
    """Later. `of_peer`: the trouble is the whole peer's, not this delivery's (design: deliver)."""

    note: str
    of_peer: bool = False
    retry_after: timedelta | None = None
    status: int | None = None
    left: bool = True  # False where the bytes surely did not reach the other side


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """Never."""

    note: str
    problem: Problem
    status: int | None = None
    body: bytes | None = None  # the receiver's own OperationOutcome
    media_type: str | None = None


class Accept(Protocol):
    """Takes a message in; returns when the caller may be answered, raises `Refusal` if it is not kept."""

    async def __call__(self, arrival: Arrival) -> Answer: ...


class Host(Protocol):
    """What the broker offers a channel when it is built."""

    accept: Accept
    base_url: str  # of the FHIR base, without a slash at the end
    default_release: Release
    endpoint: str  # this broker's own name
    max_message: int  # bytes
    room: Room
    web: Any  # the partner-facing aiohttp Application; a channel may add ways in to it

    def may_be_here(self, host: str, /) -> bool:
        """Whether a host that a sender connects to may be this machine or its own link (A-27)."""
        ...

    def now(self) -> datetime:
        """The broker's clock, for `Arrival.at`: the machine's may be set at any moment."""


class Receiver(Protocol):
    async def start(self) -> None: ...  # returns once it is listening

    async def stop(self) -> None: ...  # takes nothing new; what is under way is finished by the flow


class Sender(Protocol):
    async def attempt(self, transmission: Transmission) -> Delivered | Deferred | Refused: ...

    async def stop(self) -> None: ...


class Kind(StrEnum):
    DIRECT = "direct"  # the receiver may answer in the same exchange
    STORE_AND_FORWARD = "store-and-forward"


class ChannelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A channel's manifest: what `plugins/<name>/__init__.py` calls CHANNEL."""

    name: str
    schemes: tuple[str, ...]
    settings: type  # a frozen dataclass; the configuration's block is read into it
    receiver: Callable[[Any, Host], Receiver] | None = None
    sender: Callable[[Any, Host], Sender] | None = None
    kind: Kind = Kind.DIRECT
    peer_of: Callable[[str], str]  # the lane that an address belongs to; raises ValueError for an address it cannot use
