"""Subscriptions under kill -9: subscribers and brokers are killed at random, and every number is there in the end."""

from __future__ import annotations

import asyncio
import os
import random
from contextlib import suppress
from pathlib import Path

import aiohttp
import orjson
import pytest
from e2e_daemon import Daemon, StartDaemon, free_port
from e2e_messages import ask, eventually, send
from e2e_receiver import Got, HttpReceiver, OpenReceiver, Reply
from e2e_subscriber import (
    R4,
    R5,
    NotNow,
    Subscriber,
    answering,
    bound,
    status_of,
    subscribe,
    subscription,
    until_active,
)
from e2e_topic import TOPIC, admission, foci, serving
from websockets.exceptions import ConnectionClosed, InvalidHandshake

pytestmark = pytest.mark.slow
EVENTS = int(os.environ.get("FHIR_BROKER_TEST_EVENTS", "400"))  # 10,000 for the whole proof
WITHIN = 60 + EVENTS / 20  # seconds; two cores may be busy with other tests
KILLS = 4 + EVENTS // 500  # each costs a start of a second or two
SEED = int(os.environ.get("FHIR_BROKER_TEST_SEED", "6"))


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

    async def has_died_often(self) -> bool:
        return self.deaths > 3

    async def run(self) -> None:
        while True:
            with suppress(ConnectionClosed, InvalidHandshake, OSError, aiohttp.ClientError, NotNow):
                await self._once()
            await asyncio.sleep(self._dice.uniform(0.01, 0.2))

    async def _once(self) -> None:
        socket = await bound(self._http, self._url)
        try:
            dies_after = self._dice.randint(1, 40) if self._deadly else EVENTS * 10
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
            body = admission(number)
            while True:
                with suppress(aiohttp.ClientError, ConnectionError):
                    said = await send(http, broker.base, body, query="?async=true")
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
        await eventually(listener.has_died_often, within=WITHIN)  # what was counted is not yet told
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
        while kills < 3 or (not sending.done() and kills < KILLS):
            await asyncio.sleep(dice.uniform(0.1, 2.0))
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
