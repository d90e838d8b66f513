"""The block `channels: amqp:`: what is said of a mistake, and which queues follow from it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from plugins.amqp.settings import AmqpSettings, ClientTls, Consume


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"url": "amqp://"}, "url: the address names no host"),
        ({"url": "http://x/"}, "url: it begins with amqp:// or amqps://"),
        ({"url": "amqp://h/a/b"}, "url: the path is the vhost"),
        ({"heartbeat": timedelta()}, "heartbeat: from 1s to 1h"),
        ({"buffer": 0}, "buffer: at least one byte"),
        ({"consume": (Consume(queue="a"), Consume(queue="a"))}, "consume: a queue is named twice"),
        ({"reply_to": ("a*b",)}, "reply_to: `.` stands at the end"),
        ({"reply_queue": ""}, "reply_queue: a name of 1 to 250"),
    ],
)
def test_mistake_is_named_by_its_key(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        AmqpSettings(**settings)


@pytest.mark.parametrize(
    ("consume", "said"),
    [
        ({"queue": ""}, "queue: a name"),
        ({"queue": "kø"}, "queue: a name"),
        ({"queue": "q" * 251}, "queue: a name"),
        ({"queue": "q", "dead_letter": "d" * 256}, "dead_letter: a name"),
        ({"queue": "q", "prefetch": 65_536}, "prefetch: from 1 to 65535"),
    ],
)
def test_queue_that_cannot_be_asked_for_is_a_mistake(consume: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Consume(**consume)


def test_key_without_its_certificate_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="`cert` and `key` stand together"):
        ClientTls(key=Path("k.pem"))


def test_reply_queue_is_consumed_once_whether_it_is_listed_or_not() -> None:
    listed = Consume(queue="replies", prefetch=7)
    assert AmqpSettings(consume=(listed,), reply_queue="replies").queues() == (listed,)
    assert AmqpSettings(reply_queue="replies").queues() == (Consume(queue="replies"),)


def test_patterns_say_where_requesters_may_be_answered() -> None:
    settings = AmqpSettings(reply_to=("clinic.*", "one"))
    answers = {name: settings.may_reply_to(name) for name in ("clinic.a", "clinic.", "clinic", "one", "one.more")}
    assert answers == {"clinic.a": True, "clinic.": True, "clinic": False, "one": True, "one.more": False}
    assert AmqpSettings().may_reply_to("amq.rabbitmq.reply-to.x")
