"""A real RabbitMQ, the channel before a host whose `accept` is scripted, and aio-pika as an independent peer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from aiormq.exceptions import ChannelNotFoundEntity, ConnectionInternalError
from rabbitmq_node import RabbitNode, rabbitmq

from broker.channel import Answer, AnswerKind, Arrival, Deferred, Delivered, Receipt, Refused, Transmission
from broker.core.envelope import EMPTY, Envelope
from broker.core.fhir.header import Release
from plugins.amqp import CHANNEL
from plugins.amqp.receiver import AmqpReceiver
from plugins.amqp.sender import AmqpSender
from plugins.amqp.settings import AmqpSettings

MESSAGE = (
    b'{"resourceType":"Bundle","type":"message","entry":[{"resource":{"resourceType":"MessageHeader",'
    b'"eventCoding":{"code":"x"},"source":{"endpoint":"urn:oid:1.2.3"}}}]}'
)
AT = datetime(2026, 3, 1, 12, 0, 0, 250000, tzinfo=UTC)
RECEIPT = Receipt(message_id="3f2c8b1e-7a52-4f0e-9f3a-0d6f4f7b7a11", position=7)


def full_envelope(**more: Any) -> Envelope:
    """Every attribute there is."""
    values: dict[str, Any] = {
        "id": "b-1",
        "source": "urn:oid:2.999.1 with a space",
        "type": "org.example.discharge-letter",
        "time": AT,
        "destination": ("urn:oid:2.999.2.1", "urn:oid:2.999.2.2"),
        "correlationid": "c-1",
        "expirytime": AT + timedelta(days=3650),
        "timeleft": 4500,
        "via": ("urn:oid:2.999.8", "urn:oid:2.999.9"),
        "priority": 7,
        "digest": "sha-256=" + "A" * 43 + "=",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": "vendor=x",
        "more": (("sequence", "12"), ("subject", "Patient/æøå")),
    }
    return Envelope(**{**values, **more})


@dataclass
class ScriptedHost:
    """Answers every arrival with `answer`: nothing, an exception, or a function that is awaited."""

    base_url: str = "http://broker.example/fhir"
    default_release: Release = Release.R4
    endpoint: str = "urn:oid:9.9.9"
    max_message: int = 1 << 25
    room: Any = None
    web: Any = None
    mailboxes: Any = None
    may_be_here: Callable[[str], bool] = lambda host: True
    answer: Any = None
    arrivals: list[Arrival] = field(default_factory=list)

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def accept(self, arrival: Arrival) -> Answer:
        self.arrivals.append(arrival)
        answer = self.answer
        if callable(answer):
            answer = await answer(arrival)
        if isinstance(answer, Exception):
            raise answer
        return answer or Answer(kind=AnswerKind.ACCEPTED, receipt=RECEIPT)

    async def until(self, count: int, within: float = 20.0) -> list[Arrival]:
        await until(lambda: len(self.arrivals) >= count, within)
        return self.arrivals


async def until(enough: Callable[[], bool], within: float = 20.0) -> None:
    """Another process takes real time."""
    end = time.monotonic() + within
    while not enough():
        assert time.monotonic() < end, "it did not come about"
        await asyncio.sleep(0.01)


async def eventually(look: Callable[[], Awaitable[bool]], within: float = 30.0) -> None:
    """As `until`, where looking takes a while itself."""
    end = time.monotonic() + within
    while not await look():
        assert time.monotonic() < end, "it did not come about"
        await asyncio.sleep(0.05)


async def listed(node: RabbitNode) -> dict[str, tuple[int, int]]:
    """Queues, each with the messages that nobody has in hand, and those in hand, as the server counts them."""
    said = await asyncio.to_thread(
        node.control, "list_queues", "name", "messages_ready", "messages_unacknowledged", "--no-table-headers"
    )
    rows = (line.rsplit(maxsplit=2) for line in said.splitlines())
    return {name: (int(ready), int(in_hand)) for name, ready, in_hand in rows}


async def until_there(node: RabbitNode, queue: str) -> None:
    async def is_there() -> bool:
        return queue in await listed(node)

    await eventually(is_there)


@dataclass
class Bench:
    """One RabbitMQ, as the channel and as its peer see it."""

    node: RabbitNode
    connection: AbstractConnection  # the peer's
    channel: AbstractChannel
    host: ScriptedHost = field(default_factory=ScriptedHost)
    running: list[AmqpReceiver | AmqpSender] = field(default_factory=list)

    def settings(self, **more: Any) -> AmqpSettings:
        return AmqpSettings(**{"url": self.node.url, **more})

    async def receiver(self, **more: Any) -> AmqpReceiver:
        assert CHANNEL.receiver is not None
        made = CHANNEL.receiver(self.settings(**more), self.host)  # type: ignore[arg-type]
        assert isinstance(made, AmqpReceiver)
        self.running.append(made)
        await made.start()
        return made

    def sender(self, **more: Any) -> AmqpSender:
        assert CHANNEL.sender is not None
        made = CHANNEL.sender(self.settings(**more), self.host)  # type: ignore[arg-type]
        assert isinstance(made, AmqpSender)
        self.running.append(made)
        return made

    async def queue(self, name: str = "", **arguments: Any) -> str:
        """A classic durable queue of its own."""
        name = name or f"q-{uuid4()}"
        await self.channel.declare_queue(name, durable=True, arguments=arguments or None)
        return name

    async def put(self, queue: str, body: bytes = MESSAGE, **properties: Any) -> None:
        message = aio_pika.Message(body, **{"content_type": "application/fhir+json", **properties})
        await self.channel.default_exchange.publish(message, queue)

    async def get(self, queue: str, within: float = 20.0) -> AbstractIncomingMessage:
        """The next message of a queue, taken out of it."""
        end = time.monotonic() + within
        while time.monotonic() < end:
            channel = await self.connection.channel()  # of its own: a queue that is not there yet closes it
            try:
                there = await channel.get_queue(queue)
                while time.monotonic() < end:
                    message = await there.get(fail=False, no_ack=True)
                    if message is not None:
                        await channel.close()
                        return message
                    await asyncio.sleep(0.01)
            except ChannelNotFoundEntity:
                pass
            except ConnectionInternalError:  # what RabbitMQ says, and hangs up, of a queue that is just being made
                self.connection = await aio_pika.connect(self.node.url)
            await asyncio.sleep(0.02)
        raise AssertionError(f"nothing came into {queue}")

    async def waiting(self, queue: str) -> int:
        """Messages in a queue that nobody has in hand; it must not hold up what has them."""
        declared = await self.channel.declare_queue(queue, passive=True)
        return declared.declaration_result.message_count or 0

    async def close(self) -> None:
        for one in self.running:
            await one.stop()


def transmission(address: str, body: bytes = MESSAGE, **more: Any) -> Transmission:
    values: dict[str, Any] = {
        "message_id": str(uuid4()),
        "media_type": "application/fhir+json",
        "envelope": EMPTY,
        "connect": timedelta(seconds=5),
        "answer": timedelta(seconds=15),
    }
    return Transmission(address=address, body=body, **{**values, **more})


async def send(sender: AmqpSender, address: str, body: bytes = MESSAGE, **more: Any) -> Delivered | Deferred | Refused:
    return await sender.attempt(transmission(address, body, **more))


@asynccontextmanager
async def opened(node: RabbitNode) -> AsyncIterator[Bench]:
    connection = await aio_pika.connect(node.url)
    try:
        bench = Bench(node, connection, await connection.channel())
        try:
            yield bench
        finally:
            await bench.close()
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitNode]:
    with rabbitmq(tmp_path_factory.mktemp("rabbitmq")) as started:
        yield started


@pytest.fixture
async def bench(node: RabbitNode) -> AsyncIterator[Bench]:
    async with opened(node) as one:
        yield one
