"""What an operator sets for the AMQP channel: the block `channels: amqp:`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from pathlib import Path

from broker.core.tls import described
from plugins.amqp.address import LONGEST_EXCHANGE, LONGEST_SHORT, NAME, read_server

LONGEST_QUEUE = LONGEST_SHORT - len(".dead")
MOST_UNACKNOWLEDGED = 65_535  # what a prefetch can say


class Declare(StrEnum):
    """What is done about a queue that is not there."""

    CHECK = "check"  # it is waited for
    CLASSIC = "classic"
    QUORUM = "quorum"


class Prefix(StrEnum):
    """Of the headers that carry the envelope (C-39)."""

    CE = "ce-"
    COLON = "cloudEvents:"
    UNDERSCORE = "cloudEvents_"


class Mode(StrEnum):
    """How a message leaves: its bytes as the body and the envelope in headers, or all of it as one JSON event."""

    BINARY = "binary"
    STRUCTURED = "structured"


def _check_name(key: str, name: str, longest: int) -> None:
    if not NAME.fullmatch(name) or len(name) > longest:
        raise ValueError(f"{key}: a name of 1 to {longest} ASCII letters, digits, spaces and -_.:@#,/+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Consume:
    """A queue that messages are taken from."""

    queue: str = field(metadata=described("The name of the queue."))
    declare: Declare = field(
        default=Declare.QUORUM,
        metadata=described(
            "Where the queue is not there, it is made so, durable; `check`: it is waited for. One that is there is "
            "used as it is."
        ),
    )
    prefetch: int = field(
        default=100, metadata=described("Messages of this queue that are under way at once, not yet acknowledged.")
    )
    dead_letter: str | None = field(
        default=None,
        metadata=described(
            "The exchange that what cannot be taken is published to, with the queue's name as routing key; absent: the "
            "queue `NAME.dead`, which is made where it is not there."
        ),
    )

    def __post_init__(self) -> None:
        _check_name("queue", self.queue, LONGEST_QUEUE)
        if self.dead_letter is not None:
            _check_name("dead_letter", self.dead_letter, LONGEST_EXCHANGE)
        if not 1 <= self.prefetch <= MOST_UNACKNOWLEDGED:
            raise ValueError(f"prefetch: from 1 to {MOST_UNACKNOWLEDGED}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """User and password at another server."""

    user: str = field(metadata=described("The user."))
    password: str = field(metadata=described("Its password; `${file:…}` keeps it out of this file."))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTls:
    """How we know an amqps server, and how we prove ourselves to it."""

    ca: Path | None = field(
        default=None,
        metadata=described("The authorities whose certificates servers may show, PEM; absent: the system's."),
    )
    cert: Path | None = field(
        default=None, metadata=described("Our own certificate, where a server asks for one, PEM.")
    )
    key: Path | None = field(default=None, metadata=described("The private key of `cert`, PEM."))

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise ValueError("tls: `cert` and `key` stand together")


@dataclass(frozen=True, slots=True, kw_only=True)
class AmqpSettings:
    url: str = field(
        default="amqp://guest:guest@127.0.0.1/",
        metadata=described(
            "The server that is consumed from, and that `amqp:?…` leads to: amqp(s)://user:password@host/vhost."
        ),
    )
    consume: tuple[Consume, ...] = field(
        default=(),
        metadata={**described("The queues that messages are taken from: names, or mappings."), "short": "queue"},
    )
    reply_queue: str | None = field(
        default=None,
        metadata=described("The queue named as `reply_to` in what is sent; it is consumed from as well."),
    )
    reply_to: tuple[str, ...] = field(
        default=("*",),
        metadata=described("Queues that requesters may name as `reply_to`; `*` at the end of a name is any rest."),
    )
    mode: Mode = field(
        default=Mode.BINARY,
        metadata=described("How messages leave: `binary` (envelope in headers), or `structured` (one JSON event)."),
    )
    prefix: Prefix = field(
        default=Prefix.CE, metadata=described("Of the headers with the envelope that are written; all three are read.")
    )
    buffer: int = field(
        default=16 * 2**20,
        metadata={
            **described("Bytes of messages that were read from queues and are not yet kept; above it reading pauses."),
            "size": True,
        },
    )
    heartbeat: timedelta = field(
        default=timedelta(seconds=30),
        metadata=described("A server that is silent for some three times as long is given up."),
    )
    tls: ClientTls = field(
        default_factory=ClientTls, metadata=described("Certificates for amqps, of this server and of others.")
    )
    logins: Mapping[str, Login] = field(
        default_factory=dict,
        metadata=described("Logins at other servers, by host or host:port; sent over TLS or on this machine only."),
    )

    def __post_init__(self) -> None:
        try:
            read_server(self.url, user=True)
        except ValueError as error:
            raise ValueError(f"url: {error}") from None
        if not 1 <= self.heartbeat.total_seconds() <= 3600:
            raise ValueError("heartbeat: from 1s to 1h")
        if self.buffer < 1:
            raise ValueError("buffer: at least one byte")
        if self.reply_queue is not None:
            _check_name("reply_queue", self.reply_queue, LONGEST_QUEUE)
        names = [one.queue for one in self.queues()]
        if len(set(names)) < len(names):
            raise ValueError("consume: a queue is named twice")
        if any("*" in pattern[:-1] for pattern in self.reply_to):
            raise ValueError("reply_to: `*` stands at the end of a name")

    def queues(self) -> tuple[Consume, ...]:
        """All that are consumed, the reply queue among them."""
        if self.reply_queue is None or any(one.queue == self.reply_queue for one in self.consume):
            return self.consume
        return (*self.consume, Consume(queue=self.reply_queue))

    def may_reply_to(self, queue: str) -> bool:
        return any(
            queue.startswith(pattern[:-1]) if pattern.endswith("*") else queue == pattern for pattern in self.reply_to
        )
