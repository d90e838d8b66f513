"""One attempt over AMQP, against a real RabbitMQ: what goes out, and what its answer means (C-40)."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import aio_pika
import pytest
from amqp_desk import MESSAGE, Bench, full_envelope, send

from broker.channel import Deferred, Delivered, Refused
from broker.core.outcome import Who
from plugins.amqp.address import queue_address
from plugins.amqp.settings import Login, Mode

CONFIRMED = Delivered(note="confirmed")


@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbf" + MESSAGE,
        MESSAGE.replace(b",", b",\r\n\t "),
        MESSAGE.replace(b'"x"', b'"\\ud800 \\u0000"'),
        b'<?xml version="1.0"?>\r\n<Bundle />',
        b"\x00\xff\xce not even text",
        b"",
        b'{"a":"' + b"0123456789abcdef" * (20 * 65536) + b'"}',
    ],
    ids=["bom", "crlf", "lone surrogate", "xml", "any bytes", "nothing", "20 MiB"],
)
async def test_bytes_out_equal_bytes_in(bench: Bench, body: bytes) -> None:
    queue, sender = await bench.queue(), bench.sender()
    assert await send(sender, f"amqp:?routing_key={queue}", body, answer=timedelta(seconds=60)) == CONFIRMED
    assert (await bench.get(queue)).body == body


async def test_another_client_reads_envelope_and_properties(bench: Bench) -> None:
    queue, sender = await bench.queue(), bench.sender(reply_queue="fhir.replies")
    await send(sender, f"amqp:?routing_key={queue}", envelope=full_envelope())
    got = await bench.get(queue)
    assert (got.message_id, got.correlation_id, got.reply_to, got.priority) == ("b-1", "c-1", "fhir.replies", 7)
    assert got.delivery_mode is aio_pika.DeliveryMode.PERSISTENT
    assert got.headers["ce-destination"] == "urn:oid:2.999.2.1 urn:oid:2.999.2.2"
    assert got.headers["ce-via"] == "urn:oid:2.999.8 urn:oid:2.999.9"


async def test_exchange_routes_by_the_key_of_the_address(bench: Bench) -> None:
    queue, sender = await bench.queue(), bench.sender(mode=Mode.STRUCTURED)
    exchange = await bench.channel.declare_exchange("clinic", aio_pika.ExchangeType.TOPIC, durable=True)
    await (await bench.channel.get_queue(queue)).bind(exchange, "letters.*")
    assert await send(sender, "amqp:?exchange=clinic&routing_key=letters.north", envelope=full_envelope()) == CONFIRMED
    assert (await bench.get(queue)).content_type == "application/cloudevents+json; charset=utf-8"
    refused = await send(sender, "amqp:?exchange=clinic&routing_key=other")
    assert isinstance(refused, Refused)
    assert "No queue is bound to the exchange clinic for the routing key other" in refused.problem.text


async def test_what_no_queue_takes_is_refused_and_its_neighbours_are_not(bench: Bench) -> None:
    """C-40: `mandatory` and `basic.return`; the same id to two queues, one of which is not there."""
    queue, sender = await bench.queue(), bench.sender()
    envelope = full_envelope()
    ends = await asyncio.gather(
        *(send(sender, f"amqp:?routing_key={key}", envelope=envelope) for key in (queue, "nowhere") * 50)
    )
    assert ends[::2] == [CONFIRMED] * 50
    for end in ends[1::2]:
        assert isinstance(end, Refused)
        assert (end.note, end.status) == ("returned: 312 NO_ROUTE", 312)
        assert (end.problem.id, end.problem.code, end.problem.who) == ("no-queue", "not-found", Who.RECEIVER)
    assert await bench.waiting(queue) == 50


async def test_exchange_that_is_not_there_is_waited_for_and_harms_no_other(bench: Bench) -> None:
    queue, sender = await bench.queue(), bench.sender()
    ends = await asyncio.gather(
        *(send(sender, address) for address in (f"amqp:?routing_key={queue}", "amqp:?exchange=nope") * 10)
    )
    assert ends[::2] == [CONFIRMED] * 10
    for end in ends[1::2]:
        assert isinstance(end, Deferred)
        assert (end.of_peer, end.left) == (True, False)
        assert "404 NOT_FOUND - no exchange 'nope'" in end.note
    await bench.channel.declare_exchange("nope", aio_pika.ExchangeType.FANOUT)
    late = await send(sender, "amqp:?exchange=nope")
    assert isinstance(late, Refused)  # it is there now, and has no queue
    await bench.channel.exchange_delete("nope")


async def test_queue_that_is_full_defers_its_own_delivery(bench: Bench) -> None:
    """A nack: the queue rejects what it has no room for."""
    full = await bench.queue(**{"x-max-length": 1, "x-overflow": "reject-publish"})
    sender = bench.sender()
    assert await send(sender, f"amqp:?routing_key={full}") == CONFIRMED
    end = await send(sender, f"amqp:?routing_key={full}")
    assert end == Deferred(note="the server did not take it (nack)")


async def test_message_that_the_server_itself_refuses_is_refused(bench: Bench) -> None:
    """406 PRECONDITION_FAILED, while nothing else is under way; the next message has an amqp_channel again."""
    queue, sender = await bench.queue(), bench.sender()
    bench.node.control("eval", "application:set_env(rabbit, max_message_size, 100000).")
    try:
        end = await send(sender, f"amqp:?routing_key={queue}", b"x" * 200_000)
    finally:
        bench.node.control("eval", "application:set_env(rabbit, max_message_size, 134217728).")
    assert isinstance(end, Refused)
    assert (end.status, end.problem.id) == (406, "refused-by-receiver")
    assert await send(sender, f"amqp:?routing_key={queue}") == CONFIRMED


async def test_thousand_messages_share_one_connection_and_one_channel(bench: Bench) -> None:
    queue, sender = await bench.queue(), bench.sender()
    ends = await asyncio.gather(*(send(sender, f"amqp:?routing_key={queue}", b"%d" % n) for n in range(1000)))
    assert ends == [CONFIRMED] * 1000
    listed = bench.node.control("list_connections", "client_properties", "channels")
    ours = [line for line in listed.splitlines() if "fhir-broker publish" in line]
    assert len(ours) == 1
    assert ours[0].split()[-1] == "1"
    assert await bench.waiting(queue) == 1000


async def test_direct_reply_to_reaches_who_asked(bench: Bench) -> None:
    """The pseudo queue of a requester is no queue to RabbitMQ: `mandatory` would return the answer."""
    got: asyncio.Queue[bytes] = asyncio.Queue()

    async def answered(message: aio_pika.abc.AbstractIncomingMessage) -> None:
        await got.put(message.body)

    direct = await bench.channel.get_queue("amq.rabbitmq.reply-to", ensure=False)
    await direct.consume(answered, no_ack=True)
    queue = await bench.queue()
    await bench.put(queue, reply_to="amq.rabbitmq.reply-to")
    reply_to = (await bench.get(queue)).reply_to
    assert reply_to is not None
    assert await send(bench.sender(), queue_address(reply_to), b"the answer") == CONFIRMED
    async with asyncio.timeout(10):
        assert await got.get() == b"the answer"


async def test_direct_reply_that_somebody_made_up_harms_no_other_message(bench: Bench) -> None:
    """RabbitMQ 3.10 answers it with an internal error and hangs up."""
    queue, sender = await bench.queue(), bench.sender()
    made_up = queue_address("amq.rabbitmq.reply-to.made.up")
    ends = await asyncio.gather(send(sender, made_up), *(send(sender, f"amqp:?routing_key={queue}") for _ in range(50)))
    assert ends[1:] == [CONFIRMED] * 50
    assert isinstance(ends[0], Refused)
    assert ends[0].status == 541


async def test_server_that_is_not_there_is_the_peers_trouble_and_nothing_has_left(bench: Bench) -> None:
    end = await send(bench.sender(), "amqp://127.0.0.1:1/?exchange=x")
    assert end == Deferred(note="not connected: no connection: connection refused", of_peer=True, left=False)


async def test_server_that_says_nothing_is_given_up_in_time(bench: Bench) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        began = time.monotonic()
        end = await send(bench.sender(), f"amqp://127.0.0.1:{port}/?exchange=x", connect=timedelta(seconds=0.5))
        assert 0.4 < time.monotonic() - began < 5
        assert end == Deferred(note="not connected: no connection in time", of_peer=True, left=False)


async def test_server_that_speaks_something_else_is_no_server(bench: Bench) -> None:
    async def babble(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(babble, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        end = await send(bench.sender(), f"amqp://127.0.0.1:{port}/?exchange=x")
    assert isinstance(end, Deferred)
    assert (end.of_peer, end.left) == (True, False)
    assert "no AMQP 0-9-1" in end.note


async def test_login_that_is_wrong_is_said_and_the_password_is_not(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    url = bench.node.url.replace("guest:guest", "guest:hunter2")
    end = await send(bench.sender(url=url), "amqp:?exchange=amq.topic")
    assert isinstance(end, Deferred)
    assert (end.of_peer, end.left) == (True, False)
    assert "ACCESS_REFUSED" in end.note
    assert "hunter2" not in end.note + "".join(capsys.readouterr())


async def test_login_at_another_server_is_taken_from_the_settings(bench: Bench) -> None:
    bench.node.control("add_user", "partner", "hunter2")
    bench.node.control("set_permissions", "partner", ".*", ".*", ".*")
    queue, place = await bench.queue(), f"127.0.0.1:{bench.node.port}"
    try:
        sender = bench.sender(url="amqp://127.0.0.1:1/", logins={place: Login(user="partner", password="hunter2")})
        assert await send(sender, f"amqp://{place}/?routing_key={queue}") == CONFIRMED
        assert "partner" in bench.node.control("list_connections", "user")
    finally:
        bench.node.control("delete_user", "partner")


async def test_address_that_leads_to_this_machine_is_not_taken_on_a_strangers_word(bench: Bench) -> None:
    """A-27."""
    bench.host.may_be_here = lambda host: False
    end = await send(bench.sender(), "amqp://localhost:1/?exchange=x")
    assert isinstance(end, Deferred)
    assert "leads to this machine" in end.note
    queue = await bench.queue()
    assert await send(bench.sender(), f"amqp:?routing_key={queue}") == CONFIRMED  # its own url is the operator's word


async def test_address_that_cannot_be_used_is_refused(bench: Bench) -> None:
    end = await send(bench.sender(), "amqp:?exchang=x")
    assert isinstance(end, Refused)
    assert (end.problem.id, end.problem.who) == ("unusable-address", Who.BROKER)


async def test_attempt_that_is_given_up_leaves_the_others_alone(bench: Bench) -> None:
    queue, sender = await bench.queue(), bench.sender()
    await send(sender, f"amqp:?routing_key={queue}")
    gone = asyncio.create_task(send(sender, f"amqp:?routing_key={queue}"))
    await asyncio.sleep(0)
    gone.cancel()
    assert await send(sender, f"amqp:?routing_key={queue}") == CONFIRMED
    with pytest.raises(asyncio.CancelledError):
        await gone
