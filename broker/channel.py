"""The door between the broker and a channel: what a channel offers, and the few calls it may make back.

A channel is a plugin that speaks one protocol. Its receiver turns what comes in into an `Arrival` and hands it to
`Accept`; it acknowledges only after that call returned. Its sender makes one attempt of a `Transmission` and reports
one of three ends. It never retries, routes, stores or looks up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

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
    "Finishing",
    "Happening",
    "Hold",
    "Host",
    "Kind",
    "Late",
    "LateReport",
    "Mail",
    "MailPage",
    "Mailboxes",
    "Manner",
    "Peer",
    "Receipt",
    "Receiver",
    "Refused",
    "Room",
    "Sender",
    "Subscriber",
    "Subscriptions",
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
    response_url: str | None = None  # any address; it must be on the operator's list of those allowed
    # The address where this channel's own caller listens for its response, and waits: an AMQP reply queue. The channel
    # answers for it, so it is on no list; it goes before `response_url`. A copy of a request that has its response is
    # answered with it (`AnswerKind.RESPONSE`), and the channel sends it there, as far as it can.
    reply_to: str | None = None


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
    reference: str | None = None  # the id by which its sender knows it on this channel: a Message-ID, a correlation id
    hold: Hold | None = None  # of a body that came in pieces; the flow lets it go
    event: bool = False  # it came as a CloudEvent, whose data may be anything (C-63); otherwise it must be a message


class Manner(msgspec.Struct, frozen=True, kw_only=True):
    """How a subscriber asked to be told: the bytes exactly so, with nothing of ours around them."""

    method: str = "POST"  # PUT: a resource to its own URL (S-41); OPTIONS: whether it may be told at all (C-28)
    path: str = ""  # after the address: "Patient/1"
    headers: tuple[tuple[str, str], ...] = ()  # the subscriber's own; secrets, so never logged
    subject: str = ""  # of a mail
    origin: str = ""  # WebHook-Request-Origin, of what asks for consent and of what was consented to (C-28, C-29)
    callback: str = ""  # WebHook-Request-Callback: where consent may be given later (C-30)
    rate: int | None = None  # WebHook-Request-Rate: notifications a minute


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
    listens_on: bool = False  # the caller asked to wait for the response message: a plain acknowledgement is not enough
    attempt: int = 1
    in_reply_to: str | None = None  # of a response or report: the `reference` that its request came with
    event: bool = False  # the data of a CloudEvent, and no FHIR message
    manner: Manner | None = None  # of a notification: nothing is added to what it says


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


class Late(StrEnum):
    """What the other side says of a message after it took custody of it (A-40)."""

    FAILED = "failed"  # the delivery is dead after all, and its source is told
    DELAYED = "delayed"
    DELIVERED = "delivered"


class LateReport(msgspec.Struct, frozen=True, kw_only=True):
    """Word that comes after the attempt has ended: a delivery status notification."""

    message_id: str  # of the transmission that it is about
    address: str  # of the transmission; empty where the report does not say
    what: Late
    note: str  # for the trace: "failed 5.1.1; smtp; 550 no such user"
    problem: Problem | None = None  # of a failure: why


class Mail(msgspec.Struct, frozen=True, kw_only=True):
    """A message in a mailbox."""

    message_id: str
    position: int
    accepted: datetime
    body: bytes
    media_type: str
    envelope: Envelope


class MailPage(msgspec.Struct, frozen=True, kw_only=True):
    mail: tuple[Mail, ...]  # oldest first
    reached: int  # the position read up to: where the next page starts after
    more: bool


class Mailboxes(Protocol):
    """The mailboxes, for a channel that shows them. A mailbox is named by its endpoint."""

    async def read(self, endpoint: str, after: int, limit: int) -> MailPage:
        """What follows a position; readers who stand at the same place share one read.

        Raises `Refusal`: `Gone` with the first position left where retention has removed what followed, `Busy` or
        `StoreUnavailable` where it cannot be read now.
        """
        ...

    def following(self, endpoint: str) -> AbstractContextManager[asyncio.Event]:
        """An event that is set when the mailbox gets a message; enter before reading, so that none is missed."""

    async def acknowledge(self, endpoint: str, message_ids: Sequence[str], reader: str) -> int:
        """The reader says that it has them; returns how many of them are in the mailbox. On disk when it returns."""
        ...


class Happening(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to a message, for whoever follows an endpoint: after the commit, live only."""

    endpoint: str  # whose: the mailbox's, or that of the message's source
    what: str  # "arrived" in the mailbox; else of a message it sent: "accepted" or a delivery `Event`'s value
    message_id: str
    position: int
    at: datetime
    destination: str = ""  # of the delivery; endpoints separated by spaces where it serves several
    note: str = ""  # id of the problem of what failed, id of the response of what was answered


class Subscriber(Protocol):
    """One socket of a subscriber. What it is told comes from the log: nothing waits for it in memory."""

    async def say(self, text: str) -> None:
        """Something the client wrote: `bind ID`, `bind-with-token TOKEN`. Raises `Refusal` for what is refused."""
        ...

    async def next(self) -> str:
        """The next text to write, as soon as there is one; raises `Refusal` where the socket is to be closed: why."""
        ...

    def close(self) -> None: ...


class Subscriptions(Protocol):
    """The subscriptions that are told over sockets, for a channel that has some."""

    def subscriber(self, peer: Peer) -> Subscriber: ...


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
    mailboxes: Mailboxes
    subscriptions: Subscriptions | None  # None where the configuration serves none

    def may_be_here(self, host: str, /) -> bool:
        """Whether a host that a sender connects to may be this machine or its own link (A-27)."""
        ...

    def now(self) -> datetime:
        """The broker's clock, for `Arrival.at`: the machine's may be set at any moment."""

    async def report(self, report: LateReport) -> bool:
        """Takes word of what was delivered before; False if we carried no such message. On disk when it returns."""
        ...

    def follow(self, endpoint: str, listener: Callable[[Happening], None]) -> Callable[[], None]:
        """Calls the listener with all that happens to an endpoint, until what is returned is called.

        The listener is called on the loop, must not wait and is not told of what it missed: the mailbox and the trace
        have it.
        """
        ...


class Receiver(Protocol):
    """One with a listener of its own says in an attribute `listening` where, once it has started: "127.0.0.1:8081".

    One that subscribers connect to says in an attribute `subscribers_at` to which URL.
    One that depends on somebody else's server says in an attribute `trouble` why it takes nothing in now, for health.
    """

    async def start(self) -> None: ...  # returns once it is listening

    async def stop(self) -> None: ...  # takes nothing new; what is under way is finished by the flow


@runtime_checkable
class Finishing(Protocol):
    """A receiver that has something left to say once everything under way has ended: the last answers, a good-bye."""

    async def finish(self) -> None:
        """Called after `stop`, when nothing can be under way any more; what it waits for has a deadline."""
        ...


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
