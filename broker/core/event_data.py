"""The data of a CloudEvent that is no FHIR message: carried as it came, routed by what its envelope says (C-63).

Whether data is a message is asked of its bytes, since a media type like `application/json` may stand before anything.
"""

from __future__ import annotations

from broker.core.attributes import written_instant
from broker.core.envelope import Envelope
from broker.core.fhir.header import Destination, Event, Format, Header, Release
from broker.core.fhir.media import media_type
from broker.core.outcome import Problem, Refusal

# What a FHIR message of any release has in it, however it is written; `\u` may hide any of it.
_JSON = (b"MessageHeader", b"Bundle", b"message")
_XML = (b"MessageHeader", b"Bundle")
# Of what is FHIR, and something else than a message: a resource, a notification, a page of a search.
NO_MESSAGE = frozenset({"not-a-bundle", "not-a-message"})


def may_be_message(body: bytes, written: str) -> bool:
    """Whether the data is to be read as a message, and refused if it cannot be read."""
    try:
        media = media_type(written)
    except Refusal:
        return False
    if "fhir" in media.bare:
        return bool(body)
    words = _JSON if media.format is Format.JSON else _XML
    return all(word in body for word in words)


def is_something_else(problem: Problem) -> bool:
    """Whether what could not be read as a message is none, and nothing is wrong with it."""
    return problem.id in NO_MESSAGE


def header_of(envelope: Envelope, release: Release | None = None) -> Header:
    """What an event says of itself, in the words of a header; `release` is the one its source is written to in.

    An event asks for no response: who sent it is told if it cannot be delivered, and of nothing else.
    """
    return Header(
        release=release or Release.R4,
        format=Format.JSON,
        event=Event(code=envelope.type or ""),
        message_id=envelope.id,
        timestamp=None if envelope.time is None else written_instant(envelope.time),
        source=envelope.source,
        destinations=tuple([Destination(endpoint=name) for name in envelope.destination]),
        response_request="never",
        opaque=True,
    )
