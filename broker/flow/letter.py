"""A message on its way through the steps: what was read of it, and what is asked for it."""

from __future__ import annotations

import hashlib
from datetime import datetime

import msgspec

from broker.channel import Arrival
from broker.core.envelope import Envelope
from broker.core.fhir.header import Header
from broker.core.fhir.media import media_type
from broker.core.identity import Identity
from broker.core.message import Fate, Message
from broker.core.reading import read_header
from broker.flow.here import Here

GIVES_UP = 2047  # bytes; hashlib keeps the interpreter for pieces up to this size


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    arrival: Arrival
    header: Header
    message: Message
    sha256: bytes
    source_key: str
    identity: Identity
    destinations: tuple[str, ...]  # those that this arrival asks for; empty where none is named

    @property
    def via(self) -> tuple[str, ...]:
        """The brokers passed, as far as who says so may be believed."""
        return self.message.envelope.via

    @property
    def body(self) -> bytes:
        return self.arrival.body


def opened_here(arrival: Arrival) -> tuple[Header, bytes]:
    """The header of what came, and the SHA-256 of its bytes; raises Refusal. What is large is opened `aside`."""
    return read_header(arrival.body, media_type(arrival.media_type), url_release=arrival.release), sha256_of(
        arrival.body
    )


def sha256_of(body: bytes) -> bytes:
    """SHA-256 of a body of ordinary size.

    hashlib gives the interpreter up for pieces from 2 KiB on, and getting it back from the store's writer takes longer
    than the sum itself: so it is fed smaller ones.
    """
    if len(body) > GIVES_UP * 64:
        return hashlib.sha256(body).digest()
    digest = hashlib.sha256()
    for start in range(0, len(body), GIVES_UP):
        digest.update(body[start : start + GIVES_UP])
    return digest.digest()


def envelope_of(
    given: Envelope, header: Header, *, here: Here, source: str, identity: Identity, at: datetime, trusted: bool
) -> Envelope:
    """The envelope that goes on: what the sender wrote, completed from the header (spec: cloudevents C-60).

    What steers is kept only of those who may steer.
    """
    return Envelope(
        id=given.id or identity.key,
        source=given.source or source,
        type=given.type or event_type(here.event_prefix, header),
        time=given.time or _instant(header.timestamp) or at,
        correlationid=given.correlationid or _correlation(header),
        expirytime=given.expirytime if trusted else None,
        via=given.via if trusted else (),
        priority=given.priority if trusted else None,
        digest=given.digest,
        traceparent=given.traceparent,
        tracestate=given.tracestate,
        more=given.more,
    )


def event_type(prefix: str, header: Header) -> str:
    """The CloudEvents type of a message: our prefix and its event."""
    return f"{prefix}.{header.event.code}" if header.event.code else prefix


def _correlation(header: Header) -> str | None:
    return header.response.identifier.value if header.response else None


def _instant(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        return None
    return instant if instant.tzinfo is not None else None


def message_of(
    arrival: Arrival,
    header: Header,
    *,
    here: Here,
    source: str | None,
    identity: Identity,
    digest: str,
    trusted: bool,
    fate: Fate = Fate.MESSAGE,
) -> Message:
    return Message(
        header=header,
        envelope=envelope_of(
            arrival.envelope,
            header,
            here=here,
            source=source or "about:unknown",
            identity=identity,
            at=arrival.at,
            trusted=trusted,
        ),
        media_type=arrival.media_type,
        source=source,
        digest=digest,
        size=len(arrival.body),
        channel=arrival.channel,
        peer=arrival.peer.address,
        at=arrival.at,
        party=arrival.peer.party,
        way_in=arrival.way_in,
        response_url=arrival.asked.reply_to or arrival.asked.response_url,
        listens=arrival.asked.reply_to is not None,
        reference=arrival.reference,
        fate=fate,
    )
