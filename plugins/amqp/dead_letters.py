"""What cannot be taken: published with the reason in its headers for somebody to look at, then acknowledged."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic
from pamqp.common import FieldValue

from broker.core.attributes import written_instant
from broker.core.fhir.header import Format, Release
from broker.core.fhir.outcomes import outcome_bytes
from broker.core.outcome import Refusal
from plugins.amqp.address import fits
from plugins.amqp.lenient import as_unicode
from plugins.amqp.publisher import Publication
from plugins.amqp.settings import Consume

REASON = "x-error-"
ROUTES = ("CC", "BCC")  # headers by which RabbitMQ sends further copies
KEPT = (
    "content_type", "content_encoding", "priority", "correlation_id", "reply_to", "message_id", "timestamp",
    "message_type", "app_id",
)  # fmt: skip
PERSISTENT = 2


def dead_queue(consume: Consume) -> str:
    return f"{consume.queue}.dead"


def dead_letter(message: DeliveredMessage, consume: Consume, refusal: Refusal, at: datetime) -> Publication:
    """The message as it came, byte for byte, with all of its properties but those that would act once more."""
    properties = message.header.properties
    reason = {
        **reasons(refusal),
        "queue": consume.queue,
        "exchange": message.exchange,
        "routing-key": message.routing_key,
        "at": written_instant(at),
        "expiration": properties.expiration,  # would remove it from the queue of the dead
        "user-id": properties.user_id,  # RabbitMQ takes none but our own
    }
    kept = {
        name: _writable(value)
        for name, value in (properties.headers or {}).items()
        if not name.startswith(REASON) and name not in ROUTES
    }
    return Publication(
        exchange=consume.dead_letter or "",
        routing_key=consume.queue if consume.dead_letter else dead_queue(consume),
        properties=Basic.Properties(
            **{name: _writable(properties[name]) for name in KEPT},
            headers=kept | _headers(reason),
            delivery_mode=PERSISTENT,
        ),
        body=message.body,
    )


def _writable(value: Any) -> Any:
    """As pamqp writes what it has read."""
    match value:
        case str():
            return as_unicode(value)
        case bytes():  # a text that is no UTF-8
            return bytearray(value)
        case dict():
            return {name: _writable(one) for name, one in value.items()}
        case list():
            return [_writable(one) for one in value]
    return value


def _headers(reason: Mapping[str, str | None]) -> dict[str, FieldValue]:
    return {REASON + name: as_unicode(value) for name, value in reason.items() if value}


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


def refusal_answer(queue: str, reference: str | None, refusal: Refusal, release: Release) -> Publication:
    """What a requester that waits at a queue is told: an OperationOutcome."""
    return Publication(
        exchange="",
        routing_key=queue,
        properties=Basic.Properties(
            content_type="application/fhir+json",
            headers=_headers(reasons(refusal)),
            delivery_mode=PERSISTENT,
            correlation_id=reference if fits(reference) else None,
        ),
        body=outcome_bytes(refusal.problems, format=Format.JSON, release=release),
    )
