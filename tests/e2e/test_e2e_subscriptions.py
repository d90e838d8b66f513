"""Subscriptions with real daemons: one and the same subscriber on every channel.

HL7's Infrastructure group recommends: messaging is one channel among others, notifications are wrapped in it, and so
the processing of a notification is the same on all channels. `e2e_subscriber` is that processing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aio_pika
import aiohttp
import pytest
from aio_pika.abc import AbstractIncomingMessage
from aiosmtpd.smtp import SMTP
from e2e_daemon import Daemon, StartDaemon, free_port
from e2e_messages import eventually, send
from e2e_receiver import OpenReceiver
from e2e_subscriber import (
    R4,
    R5,
    Subscriber,
    Take,
    answering,
    bound,
    from_mail,
    from_message,
    status_of,
    subscribe,
    subscription,
    until_active,
)
from e2e_topic import RELAYED, TOPIC, admission, foci, serving
from postfix_node import postfix
from rabbitmq_node import rabbitmq
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

pytestmark = pytest.mark.slow


class Lossy:
    """One way to a subscriber, which loses the notification of one number: then there is a gap."""

    def __init__(self, number: int) -> None:
        self.subscriber = Subscriber()
        self._number = number
        self.lost = 0

    def __call__(self, bundle: bytes) -> None:
        if not self.lost and any(number == self._number for number, _ in status_of(bundle).events):
            self.lost += 1
        else:
            self.subscriber.take(bundle)

    def heard(self, url: str, number: int) -> bool:
        return number in self.subscriber.of(url).focus


@asynccontextmanager
async def mailbox(take: Take) -> AsyncIterator[int]:
    """A mail server, and the program that reads what comes to it."""

    class Sink:
        async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
            take(from_mail(envelope.content))
            return "250 2.0.0 OK"

    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(Sink(), loop=loop, hostname="sink.example"), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def queue(url: str, name: str, take: Take) -> AsyncIterator[None]:
    """A queue, and the program that reads it."""
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        there = await channel.declare_queue(name, durable=True)

        async def read(message: AbstractIncomingMessage) -> None:
            async with message.process():
                take(message.body)

        await there.consume(read)
        yield


@dataclass(kw_only=True)
class Ways:
    """A broker, all the ways in which it tells, and who is at the end of each."""

    near: Daemon
    far: Daemon  # another broker, for whose own subscribers a notification is meant
    beyond: str  # the endpoint of one of these
    asked: dict[str, dict[str, str]]  # what each way's Subscription says of its channel
    ends: dict[str, Lossy]


@pytest.fixture
async def ways(daemon: StartDaemon, receiver: OpenReceiver, tmp_path: Path) -> AsyncIterator[Ways]:
    ends = {name: Lossy(2) for name in ("rest-hook", "websocket", "email", "amqp", "message", "relayed")}
    hook, plain, beyond = [await receiver() for _ in range(3)]
    hook.answer = answering(ends["rest-hook"])
    plain.answer = answering(ends["message"], from_message)
    beyond.answer = answering(ends["relayed"])
    far_config = serving(tmp_path, RELAYED, allow=[f"http://127.0.0.1:{beyond.port}/*"])
    far = await daemon({**far_config, "broker": {"endpoint": "urn:oid:2.999.5"}})
    port = free_port()
    async with AsyncExitStack() as stack:
        ward = await stack.enter_async_context(mailbox(ends["email"]))
        places = {"ward.example": f"smtp:[127.0.0.1]:{ward}"}
        smarthost = stack.enter_context(postfix(tmp_path / "postfix", places))
        node = stack.enter_context(rabbitmq(tmp_path / "rabbitmq"))
        await stack.enter_async_context(queue(node.url, "told", ends["amqp"]))
        channels = {
            "websocket": {"listen": f"127.0.0.1:{port}", "url": f"ws://127.0.0.1:{port}"},
            "email": {"listen": "127.0.0.1:0", "from": "fhir@north.example", "smarthost": smarthost.url},
            "amqp": {"url": node.url},
        }
        allow = [f"http://127.0.0.1:{one.port}/*" for one in (hook, plain, far)]
        allow += ["mailto:*@ward.example", "amqp:?routing_key=*"]
        near = await daemon(serving(tmp_path, allow=allow, channels=channels))
        asked = {
            "rest-hook": {"endpoint": f"http://127.0.0.1:{hook.port}/hook"},
            "websocket": {},
            "email": {"endpoint": "mailto:nurse@ward.example", "media": "text/plain;attach=application/fhir+json"},
            "amqp": {"endpoint": "amqp:?routing_key=told"},
            "message": {"endpoint": plain.url},
            "relayed": {"endpoint": f"{far.base}/$process-message"},
        }
        yield Ways(near=near, far=far, beyond=f"http://127.0.0.1:{beyond.port}/hook", asked=asked, ends=ends)


@pytest.mark.parametrize("version", [R5, R4])
async def test_one_and_the_same_subscriber_reads_the_notifications_of_every_channel(
    version: str, ways: Ways, http: aiohttp.ClientSession
) -> None:
    """On each channel, and by a message to another broker, which unwraps it for its own subscribers."""
    there = subscription(version, TOPIC, "rest-hook", endpoint=ways.beyond, most=1)
    await until_active(http, await subscribe(http, ways.far.base, version, there))
    urls = {}
    for name, how in ways.asked.items():
        resource = subscription(version, TOPIC, "message" if name == "relayed" else name, most=1, **how)
        urls[name] = await subscribe(http, ways.near.base, version, resource)
    socket = await bound(http, urls["websocket"])
    reading = asyncio.create_task(read_on(socket, ways.ends["websocket"]))
    try:
        for url in urls.values():
            await until_active(http, url)
        for number in (1, 2, 3):
            assert (await send(http, ways.near.base, admission(number))).status == 202
        await eventually(lambda: all_heard(ways.ends, urls, 3), within=40)
    finally:
        reading.cancel()
        await socket.close()
    for name, end in ways.ends.items():
        told = end.subscriber.of(urls[name])
        assert (end.lost, told.missing) == (1, [2]), name
        told = await end.subscriber.catch_up(http, urls[name])
        assert (told.missing, told.foci, told.topics) == ([], foci(3), {TOPIC}), name
        assert end.subscriber.kinds["handshake"] >= 1, name
        assert end.subscriber.kinds["event-notification"] == 2, name


async def all_heard(ways: dict[str, Lossy], urls: dict[str, str], number: int) -> bool:
    return all(way.heard(urls[name], number) for name, way in ways.items())


async def read_on(socket: ClientConnection, take: Take) -> None:
    with suppress(ConnectionClosed):
        async for text in socket:
            assert isinstance(text, str)
            take(text.encode())
