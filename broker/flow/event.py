"""A CloudEvent that came in: its data is a message like any other, or is carried unread (spec: cloudevents C-63)."""

from __future__ import annotations

import asyncio

from broker.channel import Arrival
from broker.core.event_data import header_of, is_something_else, may_be_message
from broker.core.fhir.header import Header
from broker.core.outcome import BadRequest, Refusal
from broker.flow.aside import ASIDE, Aside
from broker.flow.letter import opened_here, sha256_of


async def opened_event(arrival: Arrival, aside: Aside) -> tuple[Header, bytes]:
    """The header of what came, and the SHA-256 of its bytes; raises Refusal for a message that cannot be read."""
    large = len(arrival.body) > ASIDE
    if may_be_message(arrival.body, arrival.media_type):
        try:
            return await aside.opened(arrival) if large else opened_here(arrival)
        except Refusal as refusal:
            if not is_something_else(refusal.problem) or not arrival.envelope.is_event:
                raise
    elif not arrival.envelope.is_event:
        raise BadRequest(
            "the data is no FHIR message, and what it comes with is no CloudEvent: specversion, id, source and type are"
            " required",
            id="not-an-event",
        )
    sha256 = await asyncio.to_thread(sha256_of, arrival.body) if large else sha256_of(arrival.body)
    return header_of(arrival.envelope, arrival.release), sha256
