"""The daemon between HTTP, mailboxes and a real RabbitMQ: what goes in by one comes out by the other, answers too."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import uuid4

import aio_pika
import aiohttp
import orjson
import pytest
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from e2e_daemon import StartDaemon
from e2e_messages import FHIR_JSON, NORTH, SOUTH, ask, eventually, message, response_to, send
from e2e_receiver import OpenReceiver, Reply
from rabbitmq_node import RabbitNode, rabbitmq

pytestmark = pytest.mark.slow
WEST = "urn:oid:2.999.2.3"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitNode]:
    with rabbitmq(tmp_path_factory.mktemp("rabbitmq")) as started:
        yield started


@asynccontextmanager
async def peer(node: RabbitNode) -> AsyncIterator[AbstractChannel]:
    """Another AMQP client."""
    async with await aio_pika.connect(node.url) as connection:
        yield await connection.channel()


@pytest.fixture
async def channel(node: RabbitNode) -> AsyncIterator[AbstractChannel]:
    async with peer(node) as opened:
        yield opened


async def queue(channel: AbstractChannel) -> str:
    name = f"q-{uuid4()}"
    await channel.declare_queue(name, durable=True)
    return name


async def put(channel: AbstractChannel, name: str, body: bytes, **properties: Any) -> None:
    carried = aio_pika.Message(body, delivery_mode=2, **{"content_type": FHIR_JSON, **properties})
    await channel.default_exchange.publish(carried, name)


async def get(channel: AbstractChannel, name: str, within: float = 20.0) -> AbstractIncomingMessage:
    there, end = await channel.get_queue(name), time.monotonic() + within
    while (found := await there.get(fail=False, no_ack=True)) is None:
        assert time.monotonic() < end, f"nothing came into {name}"
        await asyncio.sleep(0.02)
    return found


def config(node: RabbitNode, endpoints: dict[str, Any], **amqp: Any) -> dict[str, Any]:
    return {"channels": {"amqp": {"url": node.url, **amqp}}, "directory": {"endpoints": endpoints}}


# -- from channel to channel


async def test_synchronous_question_over_http_is_answered_over_amqp(
    node: RabbitNode, channel: AbstractChannel, daemon: StartDaemon, http: aiohttp.ClientSession
) -> None:
    """HTTP in, AMQP out, the answer on AMQP, the HTTP response."""
    out, replies = await queue(channel), await queue(channel)
    broker = await daemon(config(node, {SOUTH: f"amqp:?routing_key={out}"}, reply_queue=replies))
    request = message()
    asking = asyncio.create_task(
        send(http, broker.base, request, headers={"Prefer": "wait=20", "Correlation-Id": "case-7"})
    )
    question = await get(channel, out)
    assert (question.body, question.reply_to, question.correlation_id) == (request, replies, "case-7")
    assert question.headers["ce-destination"] == SOUTH
    answer = response_to(request)
    await put(channel, question.reply_to, answer, correlation_id=question.correlation_id)
    said = await asking
    assert (said.status, said.body) == (200, answer)


async def test_requester_over_amqp_has_its_answer_at_its_reply_queue(
    node: RabbitNode, channel: AbstractChannel, daemon: StartDaemon, receiver: OpenReceiver
) -> None:
    """Of a receiver over HTTP that answers in the same exchange, as the requester waits."""
    into, replies, ehr = await queue(channel), await queue(channel), await receiver()
    answers: list[bytes] = []

    def answered(got: Any) -> Reply:
        answers.append(response_to(got.body))
        return Reply(body=answers[-1])

    ehr.answer = answered
    await daemon(config(node, {SOUTH: ehr.url}, consume=[into]))
    request = message()
    await put(channel, into, request, reply_to=replies, correlation_id="their own word")
    answer = await get(channel, replies)
    assert (answer.body, answer.correlation_id, answer.content_type) == (answers[0], "their own word", FHIR_JSON)
    (got,) = ehr.got
    assert got.body == request
    assert "async" not in got.query  # it is asked to answer at once


async def test_requester_over_amqp_is_answered_by_a_receiver_over_amqp(
    node: RabbitNode, channel: AbstractChannel, daemon: StartDaemon
) -> None:
    into, out, replies, ours = [await queue(channel) for _ in range(4)]
    await daemon(config(node, {SOUTH: f"amqp:?routing_key={out}"}, consume=[into], reply_queue=ours))
    request = message()
    await put(channel, into, request, reply_to=replies, correlation_id="k-1")
    question = await get(channel, out)
    assert (question.body, question.reply_to) == (request, ours)
    answer = response_to(request)
    await put(channel, question.reply_to, answer, correlation_id=question.correlation_id)
    got = await get(channel, replies)
    assert (got.body, got.correlation_id, got.reply_to) == (answer, "k-1", None)


async def test_redelivered_copy_is_kept_once(
    node: RabbitNode, channel: AbstractChannel, daemon: StartDaemon, http: aiohttp.ClientSession
) -> None:
    into = await queue(channel)
    broker = await daemon(config(node, {SOUTH: "mailbox:"}, consume=[into]))
    one, other = message(), message()
    for body in (one, one, other):
        await put(channel, into, body)

    async def all_there() -> bool:
        got = await ask(http, "GET", f"{broker.admin}/metrics")
        return 'fhir_broker_dedupe_hits_total{channel="amqp"} 1.0' in got.body.decode()

    await eventually(all_there)
    found = await ask(http, "GET", f"{broker.base}/Bundle?message.destination-uri={SOUTH}")
    assert found.status == 200, found
    assert found.body.count(b'"MessageHeader"') == 2


async def test_what_has_no_route_is_laid_aside_and_its_requester_told(
    node: RabbitNode, channel: AbstractChannel, daemon: StartDaemon
) -> None:
    into, replies = await queue(channel), await queue(channel)
    await daemon(config(node, {SOUTH: "mailbox:"}, consume=[into]))
    stray, rubbish = message(to=WEST), b"\xff\xfe rubbish"
    await put(channel, into, stray, reply_to=replies, correlation_id="k-2")
    outcome = await get(channel, replies)
    assert (outcome.correlation_id, outcome.headers["x-error-id"]) == ("k-2", "unknown-destination")
    assert WEST in orjson.loads(outcome.body)["issue"][0]["details"]["text"]
    dead = await get(channel, f"{into}.dead")
    assert (dead.body, dead.headers["x-error-code"], dead.headers["x-error-queue"]) == (stray, "not-found", into)
    await put(channel, into, rubbish)
    assert (await get(channel, f"{into}.dead")).body == rubbish


async def test_what_no_queue_takes_is_dead_and_its_source_told(
    node: RabbitNode, channel: AbstractChannel, daemon: StartDaemon, http: aiohttp.ClientSession
) -> None:
    broker = await daemon(config(node, {SOUTH: "amqp:?routing_key=nowhere", NORTH: "mailbox:"}))
    assert (await send(http, broker.base, message())).status == 202

    async def is_told() -> bool:
        found = await ask(http, "GET", f"{broker.base}/Bundle?message.destination-uri={NORTH}")
        return b"fatal-error" in found.body

    await eventually(is_told)
    dead = await ask(http, "GET", f"{broker.admin}/admin/v1/dead")
    assert b"There is no queue nowhere" in dead.body


async def test_password_is_shown_nowhere(
    node: RabbitNode, channel: AbstractChannel, daemon: StartDaemon, http: aiohttp.ClientSession
) -> None:
    await asyncio.to_thread(node.control, "add_user", "broker", "hunter2")
    into = await queue(channel)
    settings = config(node, {SOUTH: "amqp:?exchange=amq.direct"}, consume=[into])
    settings["channels"]["amqp"]["url"] = node.url.replace("guest:guest", "broker:hunter2")  # who may do nothing yet
    broker = await daemon({**settings, "log": {"level": "debug"}})
    said = await send(http, broker.base, message())
    await eventually(lambda: _in(broker, "not consuming"))
    shown = [said.headers["Content-Location"], f"{broker.admin}/admin/v1/lanes", f"{broker.admin}/metrics"]
    texts = [(await ask(http, "GET", url)).body.decode() for url in shown]
    assert "hunter2" not in broker.output + "".join(texts)
    await broker.stop()
    await asyncio.to_thread(node.control, "delete_user", "broker")


async def _in(broker: Any, text: str) -> bool:
    return text in broker.output


# -- outages


async def test_nothing_acknowledged_is_lost_when_rabbitmq_and_the_broker_go_down_under_load(
    node: RabbitNode, daemon: StartDaemon
) -> None:
    """AMQP in, AMQP out; RabbitMQ stops and starts, the broker is killed and started."""
    async with peer(node) as channel:
        into, out = await queue(channel), await queue(channel)
        settings = config(node, {SOUTH: f"amqp:?routing_key={out}"}, consume=[{"queue": into, "prefetch": 20}])
        settings["defaults"] = {"retry": {"first": "500ms", "factor": 1}, "lane": {"probe": "1s"}}
        broker = await daemon(settings)
        bodies = {body: n for n, body in enumerate(message(text="x" * 3000) for _ in range(1500))}
        for body in bodies:
            await put(channel, into, body)
    await asyncio.to_thread(node.stop)
    await asyncio.sleep(1)
    await asyncio.to_thread(node.start)
    await asyncio.sleep(1)
    await broker.kill()
    await broker.start()
    got: set[int] = set()
    async with peer(node) as channel:
        async with asyncio.timeout(60):
            while len(got) < len(bodies):
                got.add(bodies[(await get(channel, out, within=50)).body])
        left = await channel.declare_queue(into, passive=True)
        assert left.declaration_result.message_count == 0


async def test_daemon_is_ready_while_rabbitmq_is_down(daemon: StartDaemon, http: aiohttp.ClientSession) -> None:
    broker = await daemon(
        {
            "channels": {"amqp": {"url": "amqp://127.0.0.1:1/", "consume": ["x"]}},
            "directory": {"endpoints": {SOUTH: "mailbox:"}},
        }
    )
    assert (await send(http, broker.base, message())).status == 202
    await eventually(lambda: _in(broker, "not consuming"))
    with suppress(ProcessLookupError):
        assert await broker.stop() == 0
