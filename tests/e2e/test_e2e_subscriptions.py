"""Subscriptions with real daemons: one subscriber on every channel; subscribers and brokers that are killed at random.

HL7's Infrastructure group recommends: messaging is one channel among others, notifications are wrapped in it, and so
the processing of a notification is the same on all channels. `e2e_subscriber` is that processing.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiosmtpd.smtp import SMTP
from e2e_daemon import Daemon, StartDaemon, free_port
from e2e_messages import SOUTH, ask, eventually, message, send
from e2e_receiver import Got, HttpReceiver, OpenReceiver, Reply
from e2e_subscriber import (
    R4,
    R5,
    NotNow,
    Subscriber,
    binding,
    from_mail,
    from_message,
    is_active,
    status_of,
    subscribe,
    subscription,
)
from postfix_node import postfix
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

pytestmark = pytest.mark.slow
TOPIC = "http://hospital.example/topics/admission"
TOPICS = f"url: {TOPIC}\non: [{{event: admit, focus: Encounter}}]\nfilters: [patient]\n"
RELAYED = f"url: {TOPIC}\nrelayed: true\n"
BRISK = {"retry": {"first": "100ms", "factor": 1.5, "max": "500ms"}, "lane": {"probe": "200ms", "open_after": 20}}
EVENTS = int(os.environ.get("FHIR_BROKER_TEST_EVENTS", "400"))  # 10,000 for the whole proof
WITHIN = 60 + EVENTS / 20  # seconds; two cores may be busy with other tests
Take = Callable[[bytes], object]
SEED = int(os.environ.get("FHIR_BROKER_TEST_SEED", "6"))


@cache
def admission(number: int) -> bytes:
    """An Encounter that began, as a hospital writes it: an R4 message whose focus it is."""
    bundle = orjson.loads(message(f"admission-{number}", event="admit", focus=[{"reference": f"Encounter/e{number}"}]))
    bundle["entry"].append(
        {
            "fullUrl": f"http://hospital.example/fhir/Encounter/e{number}",
            "resource": {
                "resourceType": "Encounter",
                "id": f"e{number}",
                "status": "in-progress",
                "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "IMP"},
                "subject": {"reference": "Patient/p1"},
            },
        }
    )
    return orjson.dumps(bundle)


def foci(count: int) -> list[str]:
    return [f"Encounter/e{number}" for number in range(1, count + 1)]


def serving(folder: Path, topic: str = TOPICS, *, allow: list[str], **more: Any) -> dict[str, Any]:
    """A broker that serves the topic; its own kind of retries, so that a test does not wait."""
    file = folder / f"topic-{len(list(folder.glob('topic-*')))}.yaml"
    file.write_text(topic)
    block = {"topics": [str(file)], "content": "full-resource", **BRISK, **({"allow": allow} if allow else {})}
    return {"directory": {"endpoints": {SOUTH: "mailbox:"}}, "subscriptions": block, **more}


# -- one subscriber


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


async def bound(http: aiohttp.ClientSession, url: str) -> ClientConnection:
    where, token = await binding(http, url)
    socket = await connect(where, proxy=None, max_size=None)
    await socket.send(f"bind-with-token {token}")
    return socket


def answering(take: Take, read: Callable[[bytes], bytes] = lambda body: body) -> Callable[[Got], Reply]:
    def answer(got: Got) -> Reply:
        take(read(got.body))
        return Reply()

    return answer


@pytest.mark.parametrize("version", [R5, R4])
async def test_one_and_the_same_subscriber_reads_the_notifications_of_every_channel(
    version: str, daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """Over rest-hook, websocket, email, a message, and a message to another broker, which unwraps it for its own."""
    ways = {name: Lossy(2) for name in ("rest-hook", "websocket", "email", "message", "relayed")}
    hook, plain, beyond = [await receiver() for _ in range(3)]
    hook.answer = answering(ways["rest-hook"])
    plain.answer = answering(ways["message"], from_message)
    beyond.answer = answering(ways["relayed"])
    socket_port, mail_port = free_port(), free_port()

    far_allow = [f"http://127.0.0.1:{beyond.port}/*"]
    far = await daemon({**serving(tmp_path, RELAYED, allow=far_allow), "broker": {"endpoint": "urn:oid:2.999.5"}})
    far_url = f"{far.base}/$process-message"

    async with mailbox(ways["email"]) as ward:
        with postfix(tmp_path / "postfix", {"ward.example": f"smtp:[127.0.0.1]:{ward}"}) as smarthost:
            allow = [f"http://127.0.0.1:{one.port}/*" for one in (hook, plain, far)] + ["mailto:*@ward.example"]
            channels = {
                "websocket": {"listen": f"127.0.0.1:{socket_port}", "url": f"ws://127.0.0.1:{socket_port}"},
                "email": {"listen": f"127.0.0.1:{mail_port}", "from": "fhir@north.example", "smarthost": smarthost.url},
            }
            near = await daemon(serving(tmp_path, allow=allow, channels=channels))
            asked = {
                "rest-hook": {"endpoint": f"http://127.0.0.1:{hook.port}/hook"},
                "websocket": {},
                "email": {"endpoint": "mailto:nurse@ward.example", "media": "text/plain;attach=application/fhir+json"},
                "message": {"endpoint": plain.url},
                "relayed": {"endpoint": far_url},
            }
            # whoever listens to the far broker has subscribed there, before anything comes through
            there = subscription(version, TOPIC, "rest-hook", endpoint=f"http://127.0.0.1:{beyond.port}/hook", most=1)
            await until_active(http, await subscribe(http, far.base, version, there))
            urls = {}
            for name, how in asked.items():
                code = "message" if name == "relayed" else name
                resource = subscription(version, TOPIC, code, most=1, **how)
                urls[name] = await subscribe(http, near.base, version, resource)
            socket = await bound(http, urls["websocket"])
            reading = asyncio.create_task(read_on(socket, ways["websocket"]))
            try:
                for url in urls.values():
                    await until_active(http, url)
                for number in (1, 2, 3):
                    assert (await send(http, near.base, admission(number))).status == 202
                await eventually(lambda: all_heard(ways, urls, 3), within=40)
            finally:
                reading.cancel()
                await socket.close()

    for name, way in ways.items():
        told = way.subscriber.of(urls[name])
        assert (way.lost, told.missing) == (1, [2]), name
        told = await way.subscriber.catch_up(http, urls[name])
        assert (told.missing, told.foci, told.topics) == ([], foci(3), {TOPIC}), name
        assert way.subscriber.kinds["handshake"] >= 1, name
        assert way.subscriber.kinds["event-notification"] == 2, name


async def until_active(http: aiohttp.ClientSession, url: str) -> None:
    await eventually(lambda: is_active(http, url), within=30)


async def all_heard(ways: dict[str, Lossy], urls: dict[str, str], number: int) -> bool:
    return all(way.heard(urls[name], number) for name, way in ways.items())


async def read_on(socket: ClientConnection, take: Take) -> None:
    with suppress(ConnectionClosed):
        async for text in socket:
            assert isinstance(text, str)
            take(text.encode())


# -- killed at random


class Hook:
    """A rest-hook whose program is killed now and then: before it has kept what came, or before it said so."""

    def __init__(self, server: HttpReceiver, dice: random.Random) -> None:
        self.subscriber = Subscriber()
        self.deaths = 0
        self.server = server
        self._dice = dice
        server.answer = self._answer

    def _answer(self, got: Got) -> Reply:
        lost = self._dice.random() < 0.1
        if not lost or self._dice.random() < 0.5:
            self.subscriber.take(got.body)
        self.deaths += lost
        return Reply(status=500 if lost else 200)

    async def die_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(self._dice.uniform(0.2, 1.0))
            self.deaths += 1
            await self.server.close()
            await asyncio.sleep(self._dice.uniform(0.05, 0.4))
            await self.server.open()


class Listener:
    """A websocket client that is killed now and then, and connects anew with a token of its own each time."""

    def __init__(self, http: aiohttp.ClientSession, url: str, dice: random.Random, *, deadly: bool = True) -> None:
        self.subscriber = Subscriber()
        self.deaths = 0
        self._http, self._url, self._dice, self._deadly = http, url, dice, deadly

    async def run(self) -> None:
        while True:
            with suppress(ConnectionClosed, InvalidHandshake, OSError, aiohttp.ClientError, NotNow):
                await self._once()
            await asyncio.sleep(self._dice.uniform(0.01, 0.2))

    async def _once(self) -> None:
        socket = await bound(self._http, self._url)
        try:
            dies_after = self._dice.randint(1, 60) if self._deadly else EVENTS * 10
            async for text in socket:
                assert isinstance(text, str)
                if dies_after == 0:
                    break
                self.subscriber.take(text.encode())
                dies_after -= 1
        finally:  # as a process that is killed: no close, and what was on its way is lost
            self.deaths += 1
            socket.transport.abort()


async def admitted(http: aiohttp.ClientSession, broker: Daemon, count: int, *, at_once: int = 16) -> None:
    """Each message is sent until somebody says that it is kept; a copy is known by its id, and told of once."""
    numbers = iter(range(1, count + 1))

    async def some() -> None:
        for number in numbers:
            while True:
                with suppress(aiohttp.ClientError, ConnectionError):
                    said = await send(http, broker.base, admission(number), query="?async=true")
                    if said.status in (200, 202):
                        break
                    assert said.status in (429, 503), said
                await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(some())


async def counted(http: aiohttp.ClientSession, url: str) -> int:
    with suppress(aiohttp.ClientError):
        said = await ask(http, "GET", f"{url}/$status")
        if said.status == 200:
            return status_of(said.body).total
    return -1


async def until_counted(http: aiohttp.ClientSession, url: str, count: int) -> None:
    async def is_counted() -> bool:
        return await counted(http, url) >= count

    await eventually(is_counted, within=WITHIN, every=0.2)


async def until_told(subscriber: Subscriber, url: str, count: int) -> None:
    """The channel itself has come to the last number; what it lost on the way is asked for afterwards."""

    async def is_told() -> bool:
        return count in subscriber.of(url).focus

    await eventually(is_told, within=WITHIN, every=0.1)


async def complete(http: aiohttp.ClientSession, subscriber: Subscriber, url: str) -> None:
    """Every number is there once, and stands for another message each."""
    told = await subscriber.catch_up(http, url)
    assert sorted(told.focus) == list(range(1, EVENTS + 1))
    assert sorted(told.foci, key=lambda one: int(one.removeprefix("Encounter/e"))) == foci(EVENTS)


@pytest.mark.timeout(2 * WITHIN + 60)
async def test_a_rest_hook_that_is_killed_at_random_has_every_number_in_the_end(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    hook = Hook(await receiver(), random.Random(SEED))
    port = hook.server.port
    broker = await daemon(serving(tmp_path, allow=[f"http://127.0.0.1:{port}/*"]))
    resource = subscription(R5, TOPIC, "rest-hook", endpoint=f"http://127.0.0.1:{port}/hook", most=10)
    url = await subscribe(http, broker.base, R5, resource)
    await until_greeted(http, url)
    killing = asyncio.create_task(hook.die_now_and_then())
    try:
        await admitted(http, broker, EVENTS)
        await until_counted(http, url, EVENTS)
    finally:
        killing.cancel()
        with suppress(asyncio.CancelledError):
            await killing
    await hook.server.close()
    await hook.server.open()
    await until_told(hook.subscriber, url, EVENTS)
    assert hook.deaths > 3, "it was never killed, so nothing was tried"
    assert await counted(http, url) == EVENTS
    await complete(http, hook.subscriber, url)


async def until_greeted(http: aiohttp.ClientSession, url: str) -> None:
    """A handshake that was killed makes an error (S-15): then its client asks once more."""

    async def is_greeted() -> bool:
        said = await ask(http, "GET", url)
        if said.json["status"] == "error":
            again = orjson.dumps({**said.json, "status": "requested"})
            headers = {"Content-Type": "application/fhir+json; fhirVersion=5.0"}
            assert (await ask(http, "PUT", url, data=again, headers=headers)).status == 200
        return bool(said.json["status"] == "active")

    await eventually(is_greeted, within=30, every=0.3)


@pytest.mark.timeout(2 * WITHIN + 60)
async def test_a_websocket_client_that_is_killed_at_random_has_every_number_in_the_end(
    daemon: StartDaemon, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    port = free_port()
    socket = {"websocket": {"listen": f"127.0.0.1:{port}", "url": f"ws://127.0.0.1:{port}"}}
    broker = await daemon(serving(tmp_path, allow=[], channels=socket))
    url = await subscribe(http, broker.base, R5, subscription(R5, TOPIC, "websocket", most=1))
    listener = Listener(http, url, random.Random(SEED))
    running = asyncio.create_task(listener.run())
    try:
        await until_active(http, url)
        await admitted(http, broker, EVENTS)
        await until_counted(http, url, EVENTS)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    assert listener.deaths > 3, "it was never killed, so nothing was tried"
    assert await counted(http, url) == EVENTS
    await complete(http, listener.subscriber, url)


@pytest.mark.timeout(3 * WITHIN + 60)
async def test_a_broker_that_is_killed_at_random_gives_every_number_once(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """kill -9 while messages come in, are told of and are sent: no number is lost, and none is given twice."""
    dice = random.Random(SEED)
    server, hooked = await receiver(), Subscriber()
    server.answer = answering(hooked.take)
    port = free_port()
    socket = {"websocket": {"listen": f"127.0.0.1:{port}", "url": f"ws://127.0.0.1:{port}"}}
    broker = await daemon(serving(tmp_path, allow=[f"http://127.0.0.1:{server.port}/*"], channels=socket))
    endpoint = f"http://127.0.0.1:{server.port}/hook"
    by_hook = await subscribe(http, broker.base, R5, subscription(R5, TOPIC, "rest-hook", endpoint=endpoint, most=10))
    by_socket = await subscribe(http, broker.base, R4, subscription(R4, TOPIC, "websocket", most=10))
    listener = Listener(http, by_socket, random.Random(SEED), deadly=False)
    running = asyncio.create_task(listener.run())
    kills, sending = 0, None
    try:
        for url in (by_hook, by_socket):
            await until_active(http, url)
        sending = asyncio.create_task(admitted(http, broker, EVENTS, at_once=4))
        while not sending.done() or kills < 3:
            await asyncio.sleep(dice.uniform(0.1, 1.0))
            await broker.kill()
            kills += 1
            await broker.start()
        await sending
        for url, subscriber in ((by_hook, hooked), (by_socket, listener.subscriber)):
            await until_counted(http, url, EVENTS)
            await until_told(subscriber, url, EVENTS)
    finally:
        for task in (running, sending):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
    assert kills >= 3
    for url, subscriber in ((by_hook, hooked), (by_socket, listener.subscriber)):
        assert await counted(http, url) == EVENTS, url
        await complete(http, subscriber, url)
