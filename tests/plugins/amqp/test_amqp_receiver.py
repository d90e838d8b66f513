"""What comes from queues, with a real RabbitMQ: kept, then acknowledged; laid aside where it is refused (C-40)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import aio_pika
import orjson
import pytest
from aiormq.abc import ChannelFrame
from amqp_desk import MESSAGE, Bench, eventually, full_envelope, listed, send, until, until_there
from pamqp import header
from pamqp.body import ContentBody
from pamqp.commands import Basic

from broker.channel import Arrival, Asked
from broker.core.envelope import Envelope
from broker.core.outcome import Busy, MessageInvalid, NotKnownYet, StoreUnavailable
from plugins.amqp.settings import Consume, Declare, Mode


def fresh() -> str:
    return f"in-{uuid4()}"


# -- what comes in


@pytest.mark.parametrize(
    "body",
    [b"\xef\xbb\xbf" + MESSAGE, b'<?xml version="1.0"?>\r\n<Bundle />', b"\x00\xff\xce", b"", b"x" * 20 * 2**20],
    ids=["bom", "crlf", "any bytes", "nothing", "20 MiB"],
)
async def test_bytes_in_are_the_bytes_that_are_kept(bench: Bench, body: bytes) -> None:
    queue = await bench.queue()
    await bench.receiver(consume=(Consume(queue=queue),))
    await bench.put(queue, body)
    (arrival,) = await bench.host.until(1, within=60)
    assert arrival.body == body


async def test_arrival_says_what_the_message_and_its_queue_say(bench: Bench) -> None:
    queue = await bench.queue()
    await bench.receiver(consume=(Consume(queue=queue),))
    await bench.put(
        queue, content_type="application/fhir+json; fhirVersion=4.0", message_id="m-1", correlation_id="theirs",
        reply_to="clinic replies", headers={"X-Ward": "7", "ce-destination": "urn:x"}, user_id="guest",
    )  # fmt: skip
    (arrival,) = await bench.host.until(1)
    assert (arrival.channel, arrival.way_in, arrival.peer.address) == ("amqp", queue, f"amqp:{queue}")
    assert arrival.asked == Asked(asynchronous=True, reply_to="amqp:?routing_key=clinic%20replies")
    assert (arrival.reference, arrival.media_type) == ("theirs", "application/fhir+json; fhirVersion=4.0")
    assert arrival.envelope == Envelope(id="m-1", correlationid="theirs", destination=("urn:x",))
    assert dict(arrival.headers) == {"x-ward": "7", "user-id": "guest"}


@pytest.mark.parametrize("mode", list(Mode))
async def test_envelope_passes_from_broker_to_broker(bench: Bench, mode: Mode) -> None:
    queue = await bench.queue()
    await bench.receiver(consume=(Consume(queue=queue),))
    await send(bench.sender(mode=mode), f"amqp:?routing_key={queue}", envelope=full_envelope())
    (arrival,) = await bench.host.until(1)
    assert arrival.envelope == full_envelope()


async def test_messages_are_begun_in_the_order_of_the_queue(bench: Bench) -> None:
    queue = await bench.queue()
    for number in range(300):
        await bench.put(queue, b"%d" % number)
    await bench.receiver(consume=(Consume(queue=queue, prefetch=50),))
    assert [arrival.body for arrival in await bench.host.until(300)] == [b"%d" % n for n in range(300)]


async def test_direct_requester_is_answered_by_its_pseudo_queue(bench: Bench) -> None:
    queue = await bench.queue()
    await bench.receiver(consume=(Consume(queue=queue),))
    direct = await bench.channel.get_queue("amq.rabbitmq.reply-to", ensure=False)

    async def ignored(message: aio_pika.abc.AbstractIncomingMessage) -> None: ...

    await direct.consume(ignored, no_ack=True)
    await bench.put(queue, reply_to="amq.rabbitmq.reply-to")
    (arrival,) = await bench.host.until(1)
    assert arrival.asked.reply_to is not None
    assert arrival.asked.reply_to.startswith("amqp:?routing_key=amq.rabbitmq.reply-to.")


# -- acknowledgement


async def test_nothing_is_acknowledged_before_it_is_kept_and_all_of_it_after(bench: Bench) -> None:
    queue, kept = await bench.queue(), asyncio.Event()
    bench.host.answer = lambda arrival: kept.wait()  # what it returns is as good as nothing to the scripted host
    await bench.receiver(consume=(Consume(queue=queue, prefetch=7),))
    for _ in range(10):
        await bench.put(queue)
    await bench.host.until(7)
    assert (await listed(bench.node))[queue] == (3, 7)  # prefetch bounds what is in hand
    kept.set()
    await bench.host.until(10)

    async def is_acknowledged() -> bool:
        return (await listed(bench.node))[queue] == (0, 0)

    await eventually(is_acknowledged)


@pytest.mark.parametrize(
    "later", [Busy("full"), StoreUnavailable("no disk", retry_after=0.1), NotKnownYet("soon")], ids=lambda one: one.id
)
async def test_message_that_finds_no_room_is_kept_in_hand_and_offered_again(bench: Bench, later: Exception) -> None:
    queue, answers = await bench.queue(), [later, later]

    async def answer(arrival: Arrival) -> Exception | None:
        return answers.pop() if answers else None

    bench.host.answer = answer
    await bench.receiver(consume=(Consume(queue=queue),))
    started = asyncio.get_running_loop().time()
    await bench.put(queue)
    await bench.host.until(3)
    assert asyncio.get_running_loop().time() - started > 0.9  # half a second at least between two offers
    assert len({arrival.body for arrival in bench.host.arrivals}) == 1


async def test_stop_finishes_what_is_in_hand_and_gives_the_rest_back(bench: Bench) -> None:
    queue = await bench.queue()
    entered, kept = asyncio.Event(), asyncio.Event()

    async def answer(arrival: Arrival) -> None:
        entered.set()
        await kept.wait()

    bench.host.answer = answer
    receiver = await bench.receiver(consume=(Consume(queue=queue, prefetch=1),))
    for number in range(5):
        await bench.put(queue, b"%d" % number)
    await entered.wait()
    stopping = asyncio.create_task(receiver.stop())
    await asyncio.sleep(0.1)
    assert not stopping.done()
    kept.set()
    await stopping
    assert [arrival.body for arrival in bench.host.arrivals] == [b"0"]
    assert await bench.waiting(queue) == 4
    first = await bench.get(queue)
    assert (first.body, first.redelivered) == (b"1", False)


async def test_stop_does_not_wait_for_what_finds_no_room(bench: Bench) -> None:
    queue = await bench.queue()
    bench.host.answer = Busy("the broker is stopping", retry_after=300)
    receiver = await bench.receiver(consume=(Consume(queue=queue),))
    for _ in range(3):
        await bench.put(queue)
    await bench.host.until(3)
    async with asyncio.timeout(5):
        await receiver.stop()
    assert await bench.waiting(queue) == 3


async def test_our_own_mistake_loses_no_message(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    queue = await bench.queue()
    bench.host.answer = RuntimeError("a bug")
    receiver = await bench.receiver(consume=(Consume(queue=queue),))
    await bench.put(queue)
    await bench.host.until(1)
    await receiver.stop()
    assert await bench.waiting(queue) == 1
    assert "could not be taken" in capsys.readouterr().out


async def test_large_messages_in_hand_stop_the_reading_and_not_the_broker(bench: Bench) -> None:
    """Twenty messages of 1 MiB with a buffer of 4 MiB: a handful is in memory, whatever prefetch says."""
    queue, kept = await bench.queue(), asyncio.Event()
    bench.host.answer = lambda arrival: kept.wait()
    await bench.receiver(consume=(Consume(queue=queue, prefetch=100),), buffer=4 * 2**20)
    for _ in range(20):
        await bench.put(queue, b"x" * 2**20)
    await bench.host.until(5)
    await asyncio.sleep(0.5)  # more would have come by now
    assert len(bench.host.arrivals) <= 6
    kept.set()
    await bench.host.until(20)


# -- what is refused


async def test_what_is_refused_is_laid_aside_as_it_came_with_the_reason(bench: Bench) -> None:
    queue = await bench.queue()
    bench.host.answer = MessageInvalid("the Bundle has no MessageHeader", expression="Bundle.entry[0]")
    await bench.receiver(consume=(Consume(queue=queue),))
    await bench.put(
        queue, b"\xff no message", message_id="m-1", headers={"X-Ward": "7", "n": 5}, expiration=600, priority=3,
        correlation_id="k", user_id="guest", content_type="text/plain",
    )  # fmt: skip
    dead = await bench.get(f"{queue}.dead")
    assert (dead.body, dead.content_type, dead.message_id, dead.correlation_id) == (
        b"\xff no message", "text/plain", "m-1", "k",
    )  # fmt: skip
    assert (dead.priority, dead.expiration, dead.user_id) == (3, None, None)
    headers = dict(dead.headers)
    headers.pop("x-delivery-count")  # the quorum queue's own
    at = datetime.fromisoformat(str(headers.pop("x-error-at")))
    assert abs((datetime.now(UTC) - at).total_seconds()) < 60
    assert headers == {
        "X-Ward": "7", "n": 5, "x-error-id": "invalid-message", "x-error-code": "structure", "x-error-who": "sender",
        "x-error-text": "the Bundle has no MessageHeader", "x-error-expression": "Bundle.entry[0]",
        "x-error-queue": queue, "x-error-routing-key": queue, "x-error-expiration": "600000",
        "x-error-user-id": "guest",
    }  # fmt: skip
    assert (await listed(bench.node))[queue] == (0, 0)


async def test_what_failed_twice_has_the_last_reason_once_and_is_copied_nowhere(bench: Bench) -> None:
    queue, other = await bench.queue(), await bench.queue()
    bench.host.answer = MessageInvalid("second")
    await bench.receiver(consume=(Consume(queue=queue),))
    await bench.put(queue, headers={"x-error-text": "first", "x-error-old": "1", "BCC": [other], "n": 5})
    await bench.get(other)  # the sender's own copy
    dead = await bench.get(f"{queue}.dead")
    assert (dead.headers["x-error-text"], dead.headers["n"]) == ("second", 5)
    assert "x-error-old" not in dead.headers
    assert await bench.waiting(other) == 0


async def test_dead_letter_waits_until_somebody_takes_it(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """An exchange without a queue: the message stays unacknowledged, and is laid aside once there is one."""
    queue, graves = await bench.queue(), await bench.queue()
    exchange = await bench.channel.declare_exchange(f"dead-{uuid4()}", aio_pika.ExchangeType.DIRECT, durable=True)
    bench.host.answer = MessageInvalid("no")
    await bench.receiver(consume=(Consume(queue=queue, dead_letter=exchange.name),))
    await bench.put(queue, b"to be buried")
    await bench.host.until(1)
    said = ""

    def is_said() -> bool:
        nonlocal said
        said += capsys.readouterr().out
        return "a dead letter is not taken" in said

    await until(is_said)
    assert (await listed(bench.node))[queue] == (0, 1)
    await (await bench.channel.get_queue(graves)).bind(exchange, queue)
    assert (await bench.get(graves)).body == b"to be buried"
    await exchange.delete()


@pytest.mark.parametrize(
    ("properties", "error"),
    [
        ({"correlation_id": "k??"}, "bad-properties"),
        ({"headers": {"X-??": "1"}}, "bad-properties"),
        ({"message_id": "??", "reply_to": "??"}, "bad-properties"),
        ({"headers": {"ce-via": "??", "X-Deep": {"a": ["??"]}}}, "bad-envelope"),
    ],
    ids=["property", "name of a header", "id and reply_to", "values of headers"],
)
async def test_what_pamqp_cannot_read_holds_up_nothing_behind_it(
    bench: Bench, properties: dict[str, Any], error: str
) -> None:
    """Texts that are no UTF-8, which RabbitMQ passes on: else the connection would end over each, again and again."""
    queue = await bench.queue()
    await bench.receiver(consume=(Consume(queue=queue),))
    await damaged(bench, queue, Basic.Properties(content_type="text/plain", **properties))
    await bench.put(queue, b"behind it")
    (arrival,) = await bench.host.until(1)
    assert arrival.body == b"behind it"
    dead = await bench.get(f"{queue}.dead")
    assert (dead.body, dead.content_type, dead.headers["x-error-id"]) == (b"damaged", "text/plain", error)


async def damaged(bench: Bench, queue: str, properties: Basic.Properties) -> None:
    """Published with bytes that are no UTF-8 in the place of `??`; no client of ours would write it."""
    channel = await bench.connection.channel(publisher_confirms=False)
    underlay = await channel.get_underlay_channel()
    content = header.ContentHeader(0, 7, properties)
    frames = [Basic.Publish(routing_key=queue), content, ContentBody(b"damaged")]
    written = ChannelFrame.marshall(underlay.number, frames)
    torn = ChannelFrame(payload=written.payload.replace(b"??", b"\xff\xfe"), should_close=False)
    await underlay.connection.write_queue.put(torn)
    await channel.close()


async def test_requester_hears_of_the_refusal_at_its_reply_queue(bench: Bench) -> None:
    queue, replies = await bench.queue(), await bench.queue()
    bench.host.answer = MessageInvalid("no header")
    await bench.receiver(consume=(Consume(queue=queue),))
    await bench.put(queue, reply_to=replies, correlation_id="k-9")
    answer = await bench.get(replies)
    assert (answer.correlation_id, answer.headers["x-error-id"]) == ("k-9", "invalid-message")
    outcome = orjson.loads(answer.body)
    assert outcome["resourceType"] == "OperationOutcome"
    assert outcome["issue"][0]["details"]["text"] == "no header"
    assert (await bench.get(f"{queue}.dead")).correlation_id == "k-9"


async def test_reply_queue_that_is_not_permitted_is_refused(bench: Bench) -> None:
    queue, secret = await bench.queue(), await bench.queue()
    await bench.receiver(consume=(Consume(queue=queue),), reply_to=("clinic.*",))
    await bench.put(queue, reply_to=secret)
    dead = await bench.get(f"{queue}.dead")
    assert dead.headers["x-error-id"] == "reply-to-not-allowed"
    assert bench.host.arrivals == []
    assert await bench.waiting(secret) == 0
    await bench.put(queue, reply_to="clinic.ward")
    (arrival,) = await bench.host.until(1)
    assert arrival.asked.reply_to == "amqp:?routing_key=clinic.ward"


async def test_our_own_queue_as_reply_to_is_a_slip_of_who_copies_properties(bench: Bench) -> None:
    queue, replies = fresh(), fresh()
    await bench.receiver(consume=(Consume(queue=queue),), reply_queue=replies)
    await until_there(bench.node, replies)
    await bench.put(replies, reply_to=replies)
    (arrival,) = await bench.host.until(1)
    assert (arrival.asked.reply_to, arrival.way_in) == (None, replies)


# -- queues


@pytest.mark.parametrize("kind", [Declare.CLASSIC, Declare.QUORUM])
async def test_queue_that_is_not_there_is_made_with_the_one_for_its_dead(bench: Bench, kind: Declare) -> None:
    queue = fresh()
    await bench.receiver(consume=(Consume(queue=queue, declare=kind),))
    await until_there(bench.node, queue)
    await until_there(bench.node, f"{queue}.dead")
    listed = bench.node.control("list_queues", "name", "durable", "type").splitlines()
    types = {name: (durable, type) for name, durable, type in map(str.split, listed)}
    assert types[queue] == types[f"{queue}.dead"] == ("true", kind.value)
    await bench.put(queue)
    await bench.host.until(1)


async def test_queue_that_is_only_checked_is_waited_for(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    queue = fresh()
    await bench.receiver(consume=(Consume(queue=queue, declare=Declare.CHECK),))
    said = ""

    def is_said() -> bool:
        nonlocal said
        said += capsys.readouterr().out
        return f"NOT_FOUND - no queue '{queue}'" in said

    await until(is_said)
    await bench.queue(queue)
    await bench.put(queue)
    await bench.host.until(1)


async def test_queue_that_is_otherwise_than_we_would_make_it_is_used_as_it_is(bench: Bench) -> None:
    queue = await bench.queue(**{"x-max-length": 5})
    await bench.receiver(consume=(Consume(queue=queue, declare=Declare.QUORUM),))
    await bench.put(queue)
    await bench.host.until(1)


async def test_queue_that_is_deleted_is_made_anew_and_its_neighbour_goes_on(bench: Bench) -> None:
    queue, other = fresh(), await bench.queue()
    await bench.receiver(consume=(Consume(queue=queue, declare=Declare.CLASSIC), Consume(queue=other)))
    await until_there(bench.node, queue)
    await bench.put(queue)
    await bench.host.until(1)
    await bench.channel.queue_delete(queue)
    await bench.put(other)
    await bench.host.until(2)
    await until_there(bench.node, queue)
    await bench.put(queue)
    await bench.host.until(3)


async def test_stop_ends_at_whatever_moment_of_the_start_it_comes(bench: Bench) -> None:
    """The library below may take a cancellation for one of its own, and go on."""
    queue = await bench.queue()
    for wait in range(40):
        receiver = await bench.receiver(consume=(Consume(queue=queue),))
        await asyncio.sleep(wait / 1000)
        async with asyncio.timeout(10):
            await receiver.stop()
