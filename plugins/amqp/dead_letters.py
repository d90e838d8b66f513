"""What cannot be taken: published with the reason in its headers for somebody to look at, then acknowledged."""

from __future__ import annotations

from datetime import datetime

import msgspec

from broker.core.attributes import written_instant
from broker.core.fhir.header import Format, Release
from broker.core.fhir.outcomes import outcome_bytes
from broker.core.outcome import Refusal
from plugins.amqp.amqp_channel import Delivery
from plugins.amqp.publisher import Publication
from plugins.amqp.settings import Consume
from plugins.amqp.wire import (
    Malformed,
    Properties,
    fits,
    read_properties,
    read_table,
    write_entry,
    write_properties,
    write_table,
)

REASON = "x-error-"
ROUTES = ("CC", "BCC")  # headers by which RabbitMQ sends further copies
PERSISTENT = 2


def dead_queue(consume: Consume) -> str:
    return f"{consume.queue}.dead"


def dead_letter(delivery: Delivery, consume: Consume, refusal: Refusal, at: datetime) -> Publication:
    """The message as it came, byte for byte, with all of its properties but those that would act once more."""
    try:
        properties = read_properties(delivery.header)
        table = _without_own(properties.table or b"")
    except Malformed:
        properties, table = Properties(), b""
    said = delivery.said
    reason = {
        **reasons(refusal),
        "queue": consume.queue,
        "exchange": said.exchange,
        "routing-key": said.routing_key,
        "at": written_instant(at),
        "expiration": properties.expiration,  # would remove it from the queue of the dead
        "user-id": properties.user_id,  # RabbitMQ takes none but our own
    }
    written = msgspec.structs.replace(
        properties,
        table=table + b"".join(write_entry(REASON + name, value) for name, value in reason.items() if value),
        delivery_mode=PERSISTENT,
        expiration=None,
        user_id=None,
    )
    return Publication(
        exchange=consume.dead_letter or "",
        routing_key=consume.queue if consume.dead_letter else dead_queue(consume),
        message_id=properties.message_id,
        properties=write_properties(written),
        body=delivery.body,
    )


def reasons(refusal: Refusal) -> dict[str, str | None]:
    """A refusal's problem as headers say it."""
    problem = refusal.problem
    return {
        "id": problem.id,
        "code": problem.code,
        "who": problem.who.value,
        "text": problem.text,
        "expression": " ".join(problem.expression),
    }


def _without_own(table: bytes) -> bytes:
    if not any(name.encode() in table for name in (REASON, *ROUTES)):
        return table  # as nearly always: exactly as it came
    kept = {name: value for name, value in read_table(table) if not name.startswith(REASON) and name not in ROUTES}
    return write_table(kept)


def refusal_answer(queue: str, reference: str | None, refusal: Refusal, release: Release) -> Publication:
    """What a requester that waits at a queue is told: an OperationOutcome."""
    table = b"".join(write_entry(REASON + name, value) for name, value in reasons(refusal).items() if value)
    properties = Properties(
        content_type="application/fhir+json",
        table=table,
        delivery_mode=PERSISTENT,
        correlation_id=reference if fits(reference) else None,
    )
    return Publication(
        exchange="",
        routing_key=queue,
        message_id=None,
        properties=write_properties(properties),
        body=outcome_bytes(refusal.problems, format=Format.JSON, release=release),
    )
