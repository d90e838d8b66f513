"""Notifications over AMQP, a channel type of ours: what a subscriber finds in its queue, on a real RabbitMQ."""

from __future__ import annotations

from typing import Any

import aio_pika
import pytest
from amqp_desk import Bench, full_envelope, send

from broker.channel import Delivered, Manner, Refused
from plugins.amqp.settings import Consume, Mode

R5 = "application/fhir+json; fhirVersion=5.0"
BUNDLE = b'{"resourceType":"Bundle",\r\n "type":"subscription-notification"}'


def asked(*headers: tuple[str, str], **more: Any) -> dict[str, Any]:
    """What the flow hands over: an envelope there may be, but the subscriber asked for the notification alone."""
    manner = Manner(headers=headers, subject="for mails only")
    return {"media_type": R5, "manner": manner, "envelope": full_envelope(), **more}


@pytest.mark.parametrize("mode", list(Mode))
async def test_a_notification_is_its_bytes_and_its_media_type_and_nothing_of_ours(bench: Bench, mode: Mode) -> None:
    queue, sender = await bench.queue(), bench.sender(mode=mode, reply_queue="fhir.replies")
    end = await send(sender, f"amqp:?routing_key={queue}", BUNDLE, **asked(message_id="n-1"))
    assert isinstance(end, Delivered), end
    got = await bench.get(queue)
    assert (got.body, got.content_type, got.message_id) == (BUNDLE, R5, "n-1")
    assert (got.headers, got.reply_to, got.correlation_id, got.type, got.expiration) == ({}, None, None, None, None)
    assert got.delivery_mode is aio_pika.DeliveryMode.PERSISTENT


async def test_headers_of_the_subscriber_are_headers_of_the_message(bench: Bench) -> None:
    queue, sender = await bench.queue(), bench.sender()
    headers = (("Authorization", "Bearer æ"), ("X-Ward", "7"), ("X-Ward", "8"))
    assert isinstance(await send(sender, f"amqp:?routing_key={queue}", BUNDLE, **asked(*headers)), Delivered)
    assert (await bench.get(queue)).headers == {"Authorization": "Bearer æ", "X-Ward": "7, 8"}


async def test_an_event_in_structured_mode_goes_as_it_was_composed(bench: Bench) -> None:
    """C-37: the media type says it; nothing is mirrored beside it."""
    queue, sender = await bench.queue(), bench.sender()
    event = b'{"specversion":"1.0","id":"s/1#7","source":"http://b.example/fhir","type":"org.example.admission"}'
    media = "application/cloudevents+json; charset=utf-8"
    assert isinstance(await send(sender, f"amqp:?routing_key={queue}", event, **asked(media_type=media)), Delivered)
    got = await bench.get(queue)
    assert (got.body, got.content_type, got.headers) == (event, media, {})


@pytest.mark.parametrize("name", ["CC", "bcc", "X" * 256])
async def test_a_header_that_would_lead_elsewhere_is_refused(bench: Bench, name: str) -> None:
    queue, sender = await bench.queue(), bench.sender()
    end = await send(sender, f"amqp:?routing_key={queue}", BUNDLE, **asked((name, "other")))
    assert isinstance(end, Refused)
    assert (end.problem.id, await bench.waiting(queue)) == ("unusable-address", 0)


async def test_a_queue_that_we_consume_is_not_told(bench: Bench) -> None:
    queue = await bench.queue()
    sender = bench.sender(consume=(Consume(queue=queue),))
    end = await send(sender, f"amqp:?routing_key={queue}", BUNDLE, **asked())
    assert isinstance(end, Refused)
    assert "told of again" in end.note
    assert isinstance(await send(sender, f"amqp:?routing_key={queue}", BUNDLE), Delivered)


async def test_nobody_at_the_queue_is_a_refusal_that_names_it(bench: Bench) -> None:
    end = await send(bench.sender(), "amqp:?routing_key=nobody", BUNDLE, **asked())
    assert isinstance(end, Refused)
    assert end.problem.id == "no-queue"
