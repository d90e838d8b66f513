"""FHIR's own binding over real sockets: bound, replayed after a break, cut when revoked (S-42 to S-44)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from websocket_desk import SOON, Client, Desk, message, write_config
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from broker.app import Broker
from broker.config import load
from broker.config.settings import Subscriptions
from broker.core.fhir.header import Format, Release
from broker.core.policy import DEFAULT
from broker.core.subscription.foreign import Foreign, read_notification
from broker.core.subscription.life import Life
from broker.core.subscription.subscription import R5_CHANNELS, ChannelType, Content, Model, Status, Subscription
from broker.core.subscription.topic import EventTrigger, Topic
from broker.flow.subscribing.feed import Feeds
from broker.flow.subscribing.registry import Registry

LETTERS = Topic(url="http://here.example/topics/letters", events=(EventTrigger(event="letter"),))
WEBSOCKET = ChannelType(R5_CHANNELS, "websocket")


@dataclass
class Office(Desk):
    """A whole broker where somebody may subscribe."""

    broker: Broker
    _stopped: bool = field(default=False)

    @property
    def registry(self) -> Registry:
        assert self.broker.subscribing is not None
        return self.broker.subscribing.registry

    @property
    def feeds(self) -> Feeds:
        assert self.broker.subscribing is not None
        return self.broker.subscribing.feeds

    async def subscribe(self, id: str = "s1", **more: Any) -> None:
        asked: dict[str, Any] = {
            "model": Model.NATIVE, "release": Release.R5, "status": Status.REQUESTED, "channel": WEBSOCKET, "id": id,
            "topic": LETTERS.url, "content": Content.ID_ONLY, "media_type": "application/fhir+json",
        }  # fmt: skip
        new = Subscription(**(asked | more))
        row = await self.broker.store.subscribe(new, Life(), owner="", at=self.broker.here.now(), most=5000)
        assert row is not None
        self.registry.put(row)
        await self.until(lambda: self.is_active(id))

    def is_active(self, id: str) -> bool:
        row = self.registry.find(id)
        return row is not None and row.life.status is Status.ACTIVE

    async def until(self, holds: Any) -> None:
        async with asyncio.timeout(SOON):
            while not holds():  # noqa: ASYNC110 - nothing tells of what a registry comes to know
                await asyncio.sleep(0.01)

    async def revoke(self, id: str) -> None:
        row = self.registry.find(id)
        assert row is not None
        assert await self.broker.store.unsubscribe(row.key)
        self.registry.drop(row.key)

    async def happens(self, count: int = 1, *, text: str = "") -> None:
        """Messages come in, over this very channel."""
        async with self.client() as sender:
            for _ in range(count):
                assert (await sender.ask(message(text=text))).type == "receipt"

    def told(self, id: str = "s1") -> int:
        """How far it was told, as the feeds know it."""
        row = self.registry.find(id)
        assert row is not None
        line = self.feeds._lines.get(row.key)
        return row.sent if line is None else line.sent

    def token(self, *ids: str) -> str:
        return self.feeds.token(ids or ("s1",), self.broker.here.now())[0]

    @asynccontextmanager
    async def bound(self, *ids: str, **more: Any) -> AsyncIterator[Told]:
        async with connect(self.url + "/subscriptions", proxy=None, **more) as socket:
            told = Told(socket)
            await socket.send(f"bind-with-token {self.token(*ids)}")
            for _ in ids or ("s1",):
                assert (await told.next()).kind == "handshake"
            yield told


class Told:
    """What a subscriber makes of its socket."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def text(self, within: float = SOON) -> str:
        async with asyncio.timeout(within):
            text = await self.socket.recv()
        assert isinstance(text, str), "Bundles come as text frames"
        return text

    async def next(self) -> Foreign:
        found = read_notification((await self.text()).encode(), format=Format.JSON, release=Release.R5)
        assert found is not None
        return found

    async def numbers(self, until: int) -> list[int]:
        numbers: list[int] = []
        while not numbers or numbers[-1] < until:
            numbers += (await self.next()).numbers
        return numbers

    async def closed(self) -> tuple[int, str]:
        return await Client(self.socket).closed()


@asynccontextmanager
async def office_at(folder: Path, channel: dict[str, Any] | None = None) -> AsyncIterator[Office]:
    settings = load(write_config(folder, channel=channel or {}))
    told = Subscriptions(topics=(LETTERS,), content=Content.FULL, delivery=DEFAULT)
    broker = Broker(msgspec.structs.replace(settings, subscriptions=told))
    await broker.start()
    office = Office(broker)
    try:
        yield office
    finally:
        await office.stop()


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    async with office_at(tmp_path / "broker") as one:
        yield one


async def test_subscriber_with_a_token_hears_handshakes_and_then_its_events(office: Office) -> None:
    """S-43: what passes through on any channel is told in the media type of the subscription."""
    await office.subscribe("s1")
    await office.subscribe("s2", media_type="application/fhir+xml", release=Release.R4, model=Model.BACKPORT)
    async with connect(office.url + "/subscriptions", proxy=None) as socket:
        told = Told(socket)
        await socket.send(f"bind-with-token {office.token('s1', 's2')}")
        handshakes = {(await told.text())[:1] for _ in range(2)}
        assert handshakes == {"{", "<"}
        await office.happens()
        events = [await told.text() for _ in range(2)]
        assert socket.subprotocol is None
    json = orjson.loads(next(text for text in events if text[0] == "{"))
    status = json["entry"][0]["resource"]
    assert (json["type"], status["resourceType"], status["type"]) == (
        "subscription-notification", "SubscriptionStatus", "event-notification",
    )  # fmt: skip
    assert [one["eventNumber"] for one in status["notificationEvent"]] == ["1"]
    xml = read_notification(
        next(text for text in events if text[0] == "<").encode(), format=Format.XML, release=Release.R4
    )
    assert xml is not None
    assert (xml.numbers, xml.has_parameters) == ((1,), True)


async def test_classic_subscriber_is_bound_and_pinged(office: Office) -> None:
    """S-42."""
    await office.subscribe(
        "c1", model=Model.CLASSIC, release=Release.R4, topic="", criteria="Basic?", content=None, media_type=""
    )
    async with connect(office.url + "/subscriptions", proxy=None) as socket:
        told = Told(socket)
        await socket.send("bind c1")
        assert await told.text() == "bound c1"
        for _ in range(2):
            await office.happens(text="a resource of that type")
            assert await told.text() == "ping c1"


async def test_several_tokens_on_one_socket(office: Office) -> None:
    for id in ("s1", "s2"):
        await office.subscribe(id)
    async with office.bound("s1") as told:
        await told.socket.send(f"bind-with-token: {office.token('s2')}")
        assert (await told.next()).kind == "handshake"
        await office.happens()
        both = {(await told.next()).subscription.rpartition("/")[2] for _ in range(2)}
        assert both == {"s1", "s2"}


async def test_reconnect_after_a_break_replays_the_gap_with_every_number_once(office: Office) -> None:
    """S-44."""
    await office.subscribe("s1")
    async with office.bound() as told:
        await office.happens(3)
        numbers = await told.numbers(3)
        await office.until(
            lambda: not office.feeds._lines or all(one.sent == 3 for one in office.feeds._lines.values())
        )
        told.socket.transport.abort()
    await office.happens(30)
    async with office.bound() as told:
        numbers += await told.numbers(33)
        await office.happens()
        numbers += await told.numbers(34)
    assert numbers == list(range(1, 35))


async def test_token_and_numbers_go_on_after_a_restart_of_the_daemon(tmp_path: Path) -> None:
    async with office_at(tmp_path / "broker") as office:
        await office.subscribe("s1")
        token = office.token()
        async with office.bound() as told:
            await office.happens(2)
            assert await told.numbers(2) == [1, 2]
            stopping = asyncio.ensure_future(office.stop())
            code, reason = await told.closed()
            assert (code, reason) == (1012, "service restart")
            await stopping
    async with office_at(tmp_path / "broker") as office:
        await office.happens()
        async with connect(office.url + "/subscriptions", proxy=None) as socket:
            await socket.send(f"bind-with-token {token}")
            told = Told(socket)
            assert (await told.next()).kind == "handshake"
            assert await told.numbers(3) == [3]


async def test_revoked_subscription_closes_its_sockets_with_the_reason_and_no_others(office: Office) -> None:
    """S-44."""
    await office.subscribe("s1")
    await office.subscribe("s2")
    async with office.bound("s1") as cut, office.bound("s2") as other:
        await office.revoke("s1")
        code, reason = await cut.closed()
        assert (code, reason) == (4410, "The subscription was deleted.")
        await office.happens()
        assert await other.numbers(1) == [1]


@pytest.mark.parametrize(
    ("said", "code", "reason"),
    [
        ("hello", 1008, "bind-with-token"),
        ("bind s1", 1008, "to a topic"),
        ("bind nobody", 4404, "is not here"),
        ("bind-with-token AAAA", 4401, "no token of this broker"),
        (b"bind s1", 1008, "as a text"),
        ("bind " + "x" * 5000, 1009, ""),
    ],
)
async def test_words_that_bind_nothing_end_the_connection_and_say_why(
    office: Office, said: str | bytes, code: int, reason: str
) -> None:
    await office.subscribe("s1")
    async with connect(office.url + "/subscriptions", proxy=None) as socket:
        await socket.send(said)
        assert (await Told(socket).closed())[0] == code
        assert reason in (socket.close_reason or "")


async def test_expired_token_is_refused_with_what_to_do(office: Office) -> None:
    await office.subscribe("s1")
    past = office.broker.here.now() - timedelta(hours=1)
    token, _ = office.feeds.token(["s1"], past)
    async with connect(office.url + "/subscriptions", proxy=None) as socket:
        await socket.send(f"bind-with-token {token}")
        code, reason = await Told(socket).closed()
    assert code == 4401
    assert "expired" in reason
    assert token not in reason


async def test_subprotocol_of_ours_is_not_spoken_there_and_no_event_is_lost_by_offering_it(office: Office) -> None:
    """FHIR names no subprotocol; a client may offer what it likes."""
    await office.subscribe("s1")
    async with office.bound(subprotocols=["fhir-broker.v1", "cloudevents.json"]) as told:
        assert told.socket.subprotocol is None
        await office.happens()
        assert await told.numbers(1) == [1]


async def test_path_is_there_only_where_somebody_may_subscribe(desk: Desk) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with connect(desk.url + "/subscriptions", proxy=None):
            pass
    assert refused.value.response.status_code == 404


async def test_reader_that_does_not_read_is_caught_up_later_and_delays_nobody(tmp_path: Path) -> None:
    """Its queue and one text are all that it costs."""
    async with office_at(tmp_path / "broker", {"send_queue": "4KiB", "ping": "60s"}) as office:
        await office.subscribe("s1", content=Content.FULL, max_count=1, release=Release.R4, model=Model.BACKPORT)
        await office.subscribe("s2", max_count=1)
        slow = socket.create_connection(office.url.removeprefix("ws://").split(":"))
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)
        slow.setblocking(False)
        async with (
            connect(office.url + "/subscriptions", proxy=None, sock=slow, max_queue=1, max_size=None) as reader,
            office.bound("s2") as quick,
        ):
            await reader.send(f"bind-with-token {office.token('s1')}")
            count = 40
            await office.happens(count, text="x" * 400_000)  # the kernel holds some megabytes
            assert await quick.numbers(count) == list(range(1, count + 1))
            assert office.told("s1") < count
            told = Told(reader)
            assert (await told.next()).kind == "handshake"
            assert await told.numbers(count) == list(range(1, count + 1))


async def test_heartbeats_come_over_the_socket(office: Office) -> None:
    """S-22: by the clock of the machine, so the shortest there is."""
    await office.subscribe("s1", heartbeat=timedelta(seconds=1))
    async with office.bound() as told:
        assert (await told.next()).kind == "heartbeat"
        assert (await told.next()).kind == "heartbeat"


async def test_all_is_given_back_when_sockets_go(office: Office) -> None:
    await office.subscribe("s1")
    for _ in range(20):
        async with office.bound():
            pass
    await office.until(lambda: not office.feeds._lines)
