"""Subscriptions over sockets: bound, replayed, told live, cut; the real store and a clock in hand (S-42 to S-44)."""

from __future__ import annotations

import asyncio
import json
from asyncio import Future
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from flow_post import Post, message

from broker.channel import Peer
from broker.core.fhir.header import Format, Release
from broker.core.outcome import BadRequest, Gone, NotAllowed, NotFound, Refusal
from broker.core.subscription.foreign import read_notification
from broker.core.subscription.life import Life, Policy
from broker.core.subscription.subscription import R5_CHANNELS, ChannelType, Content, Model, Status, Subscription
from broker.core.subscription.topic import EventTrigger, Interaction, Topic
from broker.flow.subscribing.admitting import Admitting
from broker.flow.subscribing.composing import Composing
from broker.flow.subscribing.feed import Feeds
from broker.flow.subscribing.material import Material
from broker.flow.subscribing.registry import Registry
from broker.flow.subscribing.socket import MOST_BOUND, Socket
from broker.flow.subscribing.starts import Starts
from broker.store import Cutoffs, StoreError
from broker.store.telling import NewEvent, Subscribed

LETTERS = Topic(url="http://here.example/topics/letters", events=(EventTrigger(event="sick-leave"),))
SPREAD = Topic(
    url="http://here.example/topics/spread",
    events=(EventTrigger(event="sick-leave"),),
    spread=timedelta(seconds=100),
)
RATED = Topic(url="http://here.example/topics/rated", events=(EventTrigger(event="sick-leave"),), source_rate=1.0)
PEER = Peer(address="127.0.0.1:5")
WEBSOCKET = ChannelType(R5_CHANNELS, "websocket")
SOON = 5.0  # seconds within which everything happens that happens by itself


class Feeding:
    """A broker of which the feeds are looked at: subscriptions are made, events are told, both as others do it."""

    def __init__(self, post: Post) -> None:
        self.post, self.store = post, post.store
        self.sent = 0
        self.open()

    def open(self) -> None:
        """As at a start of the daemon."""
        here, store = self.post.here, self.store
        registry = self.registry = Registry((LETTERS, SPREAD, RATED))
        self.feeds = Feeds(
            here=here,
            store=store,
            registry=registry,
            composing=Composing(
                here=here,
                material=Material(store=store, ids=here.ids, base_url=here.base_url),
                topic_of=registry.topic_of,
            ),
            starts=Starts(here.now),
            admitting=Admitting(here=here, registry=registry, key=store.key, good_for=timedelta(minutes=30)),
            policy=Policy(),
        )

    async def load(self) -> None:
        self.registry.load(await self.store.subscribed())
        await self.settled()

    async def subscribe(self, id: str = "s1", *, owner: str = "", **more: Any) -> Subscribed:
        """As the service does it."""
        asked = {
            "model": Model.NATIVE, "release": Release.R5, "status": Status.REQUESTED, "channel": WEBSOCKET, "id": id,
            "topic": LETTERS.url, "content": Content.ID_ONLY, "media_type": "application/fhir+json", **more,
        }  # fmt: skip
        row = await self.store.subscribe(Subscription(**asked), Life(), owner=owner, at=self.post.now, most=2000)
        assert row is not None
        self.registry.put(row)
        await self.settled()
        return self.row(id)

    async def classic(self, id: str = "c1") -> Subscribed:
        return await self.subscribe(
            id, model=Model.CLASSIC, release=Release.R4, topic="", criteria="Patient?", content=None, media_type=""
        )

    async def rewrite(self, id: str, life: Life | None = None, **changed: Any) -> None:
        """As its client writes it anew."""
        row = self.row(id)
        new = msgspec.structs.replace(row.subscription, **changed)
        after = await self.store.rewrite(row.key, new, life or row.life, version=row.version, at=self.post.now)
        assert after is not None
        self.registry.put(after)
        await self.settled()

    async def delete(self, id: str) -> None:
        key = self.row(id).key
        assert await self.store.unsubscribe(key)
        self.registry.drop(key)

    def row(self, id: str = "s1") -> Subscribed:
        row = self.registry.find(id)
        assert row is not None
        return row

    async def happens(self, *ids: str, times: int = 1) -> None:
        """A message passes through that these hear of, as the teller writes it."""
        events, upto = [], await self.store.told()
        for _ in range(times):
            self.sent += 1
            body = message(f"b{self.sent}", f"m{self.sent}", to=("urn:oid:2.4",), text=f"t{self.sent}")
            answer = await self.post.send(body, asynchronous=True)
            upto = answer.receipt.position
            hearers = tuple(self.row(id).key for id in ids or ("s1",))
            new = NewEvent(
                position=upto, at=self.post.now, topic=LETTERS.url, places=(1,), interaction=Interaction.CREATE,
                hearers=hearers,
            )  # fmt: skip
            events.append(new)
        for key, counted in (await self.store.tell(upto, events)).items():
            row = self.registry.get(key)
            assert row is not None
            self.registry.put(msgspec.structs.replace(row, counted=counted))

    async def settled(self) -> None:
        """What the feeds have asked of the store is done, and known."""
        async with asyncio.timeout(SOON):
            while self.feeds._moves.under_way:  # noqa: ASYNC110 - no word is given of that
                await asyncio.sleep(0.001)

    def token(self, *ids: str) -> str:
        return self.feeds.token(ids or ("s1",), self.post.now)[0]

    async def bound(self, *ids: str, peer: Peer = PEER) -> Listener:
        """A socket that has said its token, and heard the handshakes."""
        listener = Listener(self.feeds.subscriber(peer))
        await listener.socket.say(f"bind-with-token {self.token(*ids)}")
        for _ in ids or ("s1",):
            assert (await listener.told()).kind == "handshake"
        return listener

    async def later(self, **passed: float) -> None:
        self.post.now += timedelta(**passed)
        self.feeds.tick()
        await self.settled()


class Listener:
    """What a channel does with a socket."""

    def __init__(self, socket: Any) -> None:
        self.socket: Socket = socket
        self.asking: asyncio.Task[str] | None = None

    async def hear(self) -> str:
        async with asyncio.timeout(SOON):
            try:
                return await self.ask()
            finally:
                self.asking = None

    def ask(self) -> asyncio.Task[str]:
        """Asks for the next text; once at a time, as the channel does."""
        if self.asking is None:
            self.asking = asyncio.ensure_future(self.socket.next())
        return self.asking

    async def told(self) -> Any:
        found = read_notification((await self.hear()).encode(), format=Format.JSON, release=Release.R5)
        assert found is not None
        return found

    async def numbers(self, until: int) -> list[int]:
        """Event numbers as they come, up to one."""
        numbers: list[int] = []
        while not numbers or numbers[-1] < until:
            numbers += (await self.told()).numbers
        return numbers

    async def is_quiet(self) -> bool:
        """Whether it is told nothing for now: it waits for a word, not for the store."""
        asking = self.ask()
        async with asyncio.timeout(SOON):
            while not self._waits() and not asking.done():  # noqa: ASYNC110 - no word is given of that
                await asyncio.sleep(0)
        return not asking.done()

    def _waits(self) -> bool:
        waiter = self.socket._waiter
        return waiter is not None and not waiter.done()

    async def refused(self) -> Refusal:
        with pytest.raises(Refusal) as refused:
            await self.hear()
        return refused.value

    def close(self) -> None:
        if self.asking is not None:
            self.asking.cancel()
        self.socket.close()


@pytest.fixture
async def feeding(post: Post) -> Feeding:
    return Feeding(post)


# -- what is told


async def test_token_binds_its_subscriptions_with_a_handshake_each_and_then_events_come(feeding: Feeding) -> None:
    """S-43."""
    await feeding.subscribe("s1")
    await feeding.subscribe("s2")
    listener = Listener(feeding.feeds.subscriber(PEER))
    await listener.socket.say(f"bind-with-token: {feeding.token('s1', 's2')}")
    greeted = [await listener.told(), await listener.told()]
    assert [(one.kind, one.since_start, one.subscription.rpartition("/")[2]) for one in greeted] == [
        ("handshake", 0, "s1"), ("handshake", 0, "s2"),
    ]  # fmt: skip
    assert await listener.is_quiet()
    await feeding.happens("s2")
    told = await listener.told()
    assert (told.kind, told.numbers, told.since_start) == ("event-notification", (1,), 1)
    assert (told.subscription.rpartition("/")[2], told.focus) == ("s2", ("urn:uuid:b",))


async def test_classic_subscription_is_bound_by_its_id_and_pinged_for_each_match(feeding: Feeding) -> None:
    """S-42: no payload ever."""
    await feeding.classic("c1")
    listener = Listener(feeding.feeds.subscriber(PEER))
    await listener.socket.say("bind c1")
    assert await listener.hear() == "bound c1"
    assert await listener.is_quiet()
    for _ in range(2):
        await feeding.happens("c1")
        assert await listener.hear() == "ping c1"
    assert await listener.is_quiet()


async def test_classic_subscriber_that_missed_many_is_pinged_once_for_all_of_them(feeding: Feeding) -> None:
    """A ping says only that there is something to be queried."""
    await feeding.classic("c1")
    await feeding.happens("c1", times=5)
    listener = Listener(feeding.feeds.subscriber(PEER))
    await listener.socket.say("bind c1")
    assert [await listener.hear(), await listener.hear()] == ["bound c1", "ping c1"]
    assert await listener.is_quiet()


async def test_events_come_in_the_media_type_that_was_asked_for(feeding: Feeding) -> None:
    await feeding.subscribe("s1", media_type="application/fhir+xml; fhirVersion=4.3")
    listener = Listener(feeding.feeds.subscriber(PEER))
    await listener.socket.say(f"bind-with-token {feeding.token()}")
    text = await listener.hear()
    assert text.startswith("<Bundle") or "<Bundle " in text[:80]
    assert read_notification(text.encode(), format=Format.XML, release=Release.R4B) is not None
    assert '<type value="history"/>' in text


async def test_what_was_missed_is_told_on_reconnect_in_order_and_in_batches(feeding: Feeding) -> None:
    """S-44: the gap after what was told is replayed from the log."""
    await feeding.subscribe("s1", max_count=4)
    await feeding.happens(times=3)
    listener = await feeding.bound()
    assert (await listener.told()).numbers == (1, 2, 3)
    assert await listener.is_quiet()
    listener.close()
    await feeding.happens(times=10)
    again = await feeding.bound()
    told = [(await again.told()).numbers for _ in range(3)]
    assert told == [(4, 5, 6, 7), (8, 9, 10, 11), (12, 13)]
    assert await again.is_quiet()


async def test_text_that_was_handed_out_counts_as_told_once_the_next_is_asked_for(feeding: Feeding) -> None:
    """A socket that breaks while one is written is told it again."""
    await feeding.subscribe("s1", max_count=1)
    await feeding.happens(times=2)
    listener = await feeding.bound()
    assert (await listener.told()).numbers == (1,)
    listener.close()
    again = await feeding.bound()
    assert await again.numbers(2) == [1, 2]


async def test_two_sockets_of_one_subscription_get_everything_from_where_they_were_bound(feeding: Feeding) -> None:
    await feeding.subscribe("s1")
    first = await feeding.bound()
    await feeding.happens()
    assert await first.numbers(1) == [1]
    assert await first.is_quiet()
    second = await feeding.bound()
    await feeding.happens(times=2)
    texts = await asyncio.gather(first.hear(), second.hear())
    assert texts[0] == texts[1], "it is composed once"
    assert '"eventNumber":"2"' in texts[0]
    assert '"eventNumber":"3"' in texts[0]


async def test_binding_anew_on_the_same_socket_is_answered_and_replays_nothing(feeding: Feeding) -> None:
    """S-43: renewing before the token expires."""
    await feeding.subscribe("s1")
    listener = await feeding.bound()
    await feeding.happens()
    assert await listener.numbers(1) == [1]
    assert await listener.is_quiet()
    await listener.socket.say(f"bind-with-token {feeding.token()}")
    assert (await listener.told()).kind == "handshake"
    assert await listener.is_quiet()


async def test_subscriptions_of_one_socket_take_turns(feeding: Feeding) -> None:
    for id in ("s1", "s2"):
        await feeding.subscribe(id, max_count=1)
    await feeding.happens("s1", times=4)
    await feeding.happens("s2", times=2)
    listener = await feeding.bound("s1", "s2")
    told = [(await listener.told()).subscription.rpartition("/")[2] for _ in range(6)]
    assert told == ["s1", "s2", "s1", "s2", "s1", "s1"]


async def test_socket_that_does_not_read_costs_nothing_and_delays_nobody(
    feeding: Feeding, monkeypatch: pytest.MonkeyPatch
) -> None:
    await feeding.subscribe("s1")
    await feeding.subscribe("s2")
    slow, quick = await feeding.bound("s1"), await feeding.bound("s2")
    read: list[int] = []
    heard = feeding.store.heard

    async def counted(key: int, *more: Any) -> Any:
        read.append(key)
        return await heard(key, *more)

    monkeypatch.setattr(feeding.store, "heard", counted)
    for number in range(1, 31):
        await feeding.happens("s1", "s2")
        assert await quick.numbers(number) == [number]
    assert set(read) == {feeding.row("s2").key}
    assert await slow.numbers(30) == list(range(1, 31)), "it is caught up, not dropped"


async def test_what_is_sent_again_is_told_again_on_the_sockets_that_are_there(feeding: Feeding) -> None:
    """`$resend` sets back how far it was told."""
    await feeding.subscribe("s1")
    listener = await feeding.bound()
    await feeding.happens(times=3)
    assert await listener.numbers(3) == [1, 2, 3]
    assert await listener.is_quiet()
    await feeding.feeds.save()
    row = feeding.row()
    moved = await feeding.store.move(row.key, row.life, sent=1)
    assert moved is not None
    feeding.registry.put(moved)
    assert await listener.numbers(3) == [2, 3]
    assert await listener.is_quiet()
    await feeding.feeds.save()
    assert feeding.row().sent == 3


async def test_notifications_are_spread_over_the_time_that_the_topic_says(feeding: Feeding) -> None:
    """S-57a: not all of them ask the data source at once."""
    await feeding.subscribe("s1", topic=SPREAD.url)
    listener = await feeding.bound()
    await feeding.happens()
    assert await listener.is_quiet()
    passed = 0
    while await listener.is_quiet():
        await feeding.later(seconds=1)
        passed += 1
        assert passed <= 100
    assert 1 < passed <= 100
    assert await listener.numbers(1) == [1]


async def test_no_more_are_told_in_a_second_than_the_data_source_of_the_topic_bears(feeding: Feeding) -> None:
    """S-57a: the second of two, who stand on one socket, waits its second."""
    for id in ("s1", "s2"):
        await feeding.subscribe(id, topic=RATED.url)
    listener = await feeding.bound("s1", "s2")
    await feeding.happens("s1", "s2")
    first = (await listener.told()).subscription.rpartition("/")[2]
    assert await listener.is_quiet()
    await feeding.later(seconds=1)
    second = (await listener.told()).subscription.rpartition("/")[2]
    assert {first, second} == {"s1", "s2"}
    assert await listener.is_quiet()


async def test_events_that_retention_took_are_passed_over(feeding: Feeding) -> None:
    await feeding.subscribe("s1", max_count=2)
    await feeding.happens(times=3)
    listener = await feeding.bound()
    assert await listener.numbers(3) == [1, 2, 3]
    assert await listener.is_quiet()
    listener.close()
    await feeding.feeds.save()
    await feeding.post.later(days=30)  # nobody waits for an answer any more
    after = feeding.post.now + timedelta(days=1)
    row, cutoffs = feeding.row(), Cutoffs(body=after, mailbox=after, identity=after, trace=after)
    async with asyncio.timeout(SOON):
        while await feeding.store.heard(row.key, 1, 3, 9):
            await feeding.store.retain(cutoffs)
    await feeding.happens()
    moved = await feeding.store.move(row.key, None, sent=0)  # `$resend` of what is not there any more
    assert moved is not None
    feeding.registry.put(moved)
    again = await feeding.bound()
    assert await again.numbers(4) == [4]
    assert await again.is_quiet()


async def test_subscriber_that_asks_for_cloudevents_is_told_one_in_each_text(feeding: Feeding) -> None:
    """Structured, since a text frame has no headers; the handshake too is an event, of a type of its own."""
    await feeding.subscribe("s1", media_type="application/cloudevents+json")
    await feeding.happens(times=2)
    listener = Listener(feeding.feeds.subscriber(PEER))
    await listener.socket.say(f"bind-with-token {feeding.token()}")
    events = [json.loads(await listener.hear()) for _ in range(3)]
    assert [event["type"] for event in events] == ["org.example.handshake", *["org.example.letters"] * 2]
    assert [event.get("sequence") for event in events] == [None, "1", "2"]
    assert len({event["id"] for event in events}) == 3
    assert await listener.is_quiet()


# -- heartbeats, ends, and other words of time


async def test_heartbeat_comes_when_nothing_was_told_for_its_period(feeding: Feeding) -> None:
    """S-22."""
    await feeding.subscribe("s1", heartbeat=timedelta(seconds=20))
    listener = await feeding.bound()
    await feeding.later(seconds=19)
    assert await listener.is_quiet()
    await feeding.later(seconds=1)
    assert (await listener.told()).kind == "heartbeat"
    await feeding.later(seconds=10)
    await feeding.happens()
    assert (await listener.told()).kind == "event-notification"
    await feeding.later(seconds=10)
    assert await listener.is_quiet(), "an event resets the need"
    await feeding.later(seconds=10)
    beat = await listener.told()
    assert (beat.kind, beat.since_start, beat.status) == ("heartbeat", 1, "active")


async def test_socket_that_does_not_read_has_one_heartbeat_waiting_at_most(feeding: Feeding) -> None:
    await feeding.subscribe("s1", heartbeat=timedelta(seconds=10))
    listener = await feeding.bound()
    for _ in range(20):
        await feeding.later(seconds=10)
    assert (await listener.told()).kind == "heartbeat"
    assert await listener.is_quiet()
    await feeding.later(seconds=10)
    assert (await listener.told()).kind == "heartbeat"


async def test_new_subscription_is_active_at_once_since_nobody_is_there_to_shake_hands_with(feeding: Feeding) -> None:
    """S-15: other channels may."""
    row = await feeding.subscribe("s1")
    assert (row.life.status, row.life.counts) == (Status.ACTIVE, True)
    stored = await feeding.store.subscribed()
    assert [one.life.status for one in stored] == [Status.ACTIVE]


async def test_subscription_that_was_written_in_a_crash_is_active_after_the_start(feeding: Feeding) -> None:
    asked = Subscription(
        model=Model.NATIVE, release=Release.R5, status=Status.REQUESTED, channel=WEBSOCKET, id="s9", topic=LETTERS.url
    )
    await feeding.store.subscribe(asked, Life(), owner="", at=feeding.post.now, most=9)
    feeding.open()
    await feeding.load()
    assert feeding.row("s9").life.status is Status.ACTIVE


async def test_client_that_writes_its_subscription_anew_hears_a_handshake_on_its_socket(feeding: Feeding) -> None:
    await feeding.subscribe("s1")
    listener = await feeding.bound()
    assert await listener.is_quiet()
    await feeding.rewrite("s1", max_count=3, life=Life(status=Status.REQUESTED, was_active=True))
    assert (await listener.told()).kind == "handshake"
    assert feeding.row().life.status is Status.ACTIVE


async def test_end_switches_it_off_and_cuts_its_sockets(feeding: Feeding) -> None:
    """S-10, S-44."""
    await feeding.subscribe("s1", end=feeding.post.now + timedelta(hours=1))
    listener = await feeding.bound()
    assert await listener.is_quiet()
    await feeding.later(minutes=59)
    assert await listener.is_quiet()
    await feeding.later(minutes=1)
    assert "is off" in str(await listener.refused())
    assert feeding.row().life.status is Status.OFF
    assert [one.life.status for one in await feeding.store.subscribed()] == [Status.OFF]


async def test_end_of_one_that_nobody_listens_to_comes_as_well(feeding: Feeding) -> None:
    await feeding.subscribe("s1", end=feeding.post.now + timedelta(hours=1))
    await feeding.later(hours=1)
    assert feeding.row().life.status is Status.OFF


# -- revocation


@pytest.mark.parametrize("how", ["delete", "off", "entered-in-error", "other channel"])
async def test_revoked_subscription_cuts_its_live_sockets(feeding: Feeding, how: str) -> None:
    """S-44."""
    await feeding.subscribe("s1")
    await feeding.subscribe("s2")
    cut, other = await feeding.bound("s1"), await feeding.bound("s2")
    assert await cut.is_quiet()
    if how == "delete":
        await feeding.delete("s1")
    elif how == "other channel":
        await feeding.rewrite("s1", channel=ChannelType(R5_CHANNELS, "rest-hook"))
    else:
        await feeding.rewrite("s1", life=Life(status=Status(how), was_active=True))
    assert isinstance(await cut.refused(), Gone)
    await feeding.happens("s2")
    assert await other.numbers(1) == [1]
    cut.close()


async def test_socket_that_was_cut_while_its_text_was_made_is_not_told_it(
    feeding: Feeding, monkeypatch: pytest.MonkeyPatch
) -> None:
    await feeding.subscribe("s1")
    listener = await feeding.bound()
    reading: Future[None] = asyncio.get_running_loop().create_future()
    heard = feeding.store.heard

    async def held(*asked: Any) -> Any:
        await reading
        return await heard(*asked)

    monkeypatch.setattr(feeding.store, "heard", held)
    await feeding.happens()
    asking = listener.ask()
    await asyncio.sleep(0)
    await feeding.rewrite("s1", life=Life(status=Status.OFF, was_active=True))
    reading.set_result(None)
    with pytest.raises(Gone):
        await asking


# -- what is refused


async def test_token_is_good_until_it_expires_and_what_is_bound_stays_bound(feeding: Feeding) -> None:
    """It opens; it is not asked for again."""
    await feeding.subscribe("s1")
    token, until = feeding.feeds.token(["s1"], feeding.post.now)
    assert until == feeding.post.now + timedelta(minutes=30)
    listener = await feeding.bound()
    feeding.post.now = until
    with pytest.raises(NotAllowed, match="expired"):
        await feeding.feeds.subscriber(PEER).say(f"bind-with-token {token}")
    await feeding.happens()
    assert await listener.numbers(1) == [1]


async def test_token_stays_good_after_a_restart(feeding: Feeding) -> None:
    await feeding.subscribe("s1")
    token = feeding.token()
    await feeding.happens()
    feeding.open()
    await feeding.load()
    listener = Listener(feeding.feeds.subscriber(PEER))
    await listener.socket.say(f"bind-with-token {token}")
    assert (await listener.told()).kind == "handshake"
    assert await listener.numbers(1) == [1]


async def test_subscriptions_that_ended_since_are_left_out_of_a_token(feeding: Feeding) -> None:
    await feeding.subscribe("s1")
    await feeding.subscribe("s2")
    both = feeding.token("s1", "s2")
    await feeding.delete("s1")
    listener = Listener(feeding.feeds.subscriber(PEER))
    await listener.socket.say(f"bind-with-token {both}")
    assert (await listener.told()).subscription.endswith("s2")
    await feeding.delete("s2")
    with pytest.raises(Gone):
        await feeding.feeds.subscriber(PEER).say(f"bind-with-token {both}")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("hello", BadRequest),
        ("bind", BadRequest),
        ("bind nobody", NotFound),
        ("bind s1", BadRequest),  # to a topic: it needs a token
        ("bind hook", BadRequest),  # told elsewhere
        ("bind-with-token AAAA", NotAllowed),
        ("bind-with-token " + "A" * 5000, BadRequest),
    ],
)
async def test_words_that_bind_nothing_are_refused(feeding: Feeding, text: str, kind: type[Refusal]) -> None:
    await feeding.subscribe("s1")
    await feeding.subscribe("hook", channel=ChannelType(R5_CHANNELS, "rest-hook"), endpoint="https://a.example/")
    with pytest.raises(kind):
        await feeding.feeds.subscriber(PEER).say(text)


async def test_parties_bind_what_is_theirs(feeding: Feeding) -> None:
    await feeding.subscribe("s1", owner="north")
    await feeding.classic("c1")
    other = feeding.feeds.subscriber(Peer(address="127.0.0.1:7", party="south"))
    with pytest.raises(NotAllowed, match="another party"):
        await other.say(f"bind-with-token {feeding.token('s1')}")
    await feeding.bound("s1", peer=Peer(address="127.0.0.1:7", party="north"))


@pytest.mark.parametrize(("ids", "kind"), [((), BadRequest), (("nobody",), NotFound), (("c1",), BadRequest),
                                           (("s1",) * (MOST_BOUND + 1), BadRequest)])  # fmt: skip
async def test_token_is_refused_for_what_it_would_not_open(
    feeding: Feeding, ids: tuple[str, ...], kind: type[Refusal]
) -> None:
    await feeding.subscribe("s1")
    await feeding.classic("c1")
    with pytest.raises(kind):
        feeding.feeds.token(ids, feeding.post.now)


async def test_one_socket_is_bound_to_a_bounded_number_of_subscriptions(
    feeding: Feeding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.flow.subscribing.socket.MOST_BOUND", 2)
    for id in ("s1", "s2", "s3"):
        await feeding.subscribe(id)
    listener = await feeding.bound("s1", "s2")
    with pytest.raises(BadRequest, match="at most"):
        await listener.socket.say(f"bind-with-token {feeding.token('s3')}")


# -- how far it was told, and trouble with the store


async def test_how_far_it_was_told_is_written_now_and_then_and_what_was_not_is_told_again(feeding: Feeding) -> None:
    await feeding.subscribe("s1", max_count=1)
    listener = await feeding.bound()
    await feeding.happens(times=2)
    assert await listener.numbers(2) == [1, 2]
    assert await listener.is_quiet()
    await feeding.feeds.save()
    assert [row.sent for row in await feeding.store.subscribed()] == [2]
    await feeding.happens()
    assert await listener.numbers(3) == [3]
    assert await listener.is_quiet()
    feeding.open()  # as after kill -9
    await feeding.load()
    again = await feeding.bound()
    assert await again.numbers(3) == [3]


async def test_all_that_was_told_is_known_after_a_stop(feeding: Feeding) -> None:
    await feeding.subscribe("s1")
    await feeding.subscribe("s2")
    listener, other = await feeding.bound("s1"), await feeding.bound("s2")
    await feeding.happens("s1", "s2")
    for one in (listener, other):
        assert await one.numbers(1) == [1]
        assert await one.is_quiet()
        one.close()
    await feeding.feeds.stop()
    assert [row.sent for row in await feeding.store.subscribed()] == [1, 1]
    feeding.open()
    await feeding.load()
    assert await (await feeding.bound("s1", "s2")).is_quiet()


async def test_progress_leaves_the_status_alone_that_somebody_else_writes(feeding: Feeding) -> None:
    await feeding.subscribe("s1")
    listener = await feeding.bound()
    await feeding.happens()
    assert await listener.numbers(1) == [1]
    assert await listener.is_quiet()
    row = feeding.row()
    switched_off = feeding.store.move(row.key, Life(status=Status.OFF, was_active=True))
    await feeding.feeds.save()
    await switched_off
    (stored,) = await feeding.store.subscribed()
    assert (stored.life.status, stored.sent) == (Status.OFF, 1)


async def test_events_that_cannot_be_read_now_are_read_later(feeding: Feeding, monkeypatch: pytest.MonkeyPatch) -> None:
    await feeding.subscribe("s1")
    listener = await feeding.bound()

    async def fails(*asked: Any) -> Any:
        raise StoreError("the disk does not answer")

    with monkeypatch.context() as broken:
        broken.setattr(feeding.store, "heard", fails)
        await feeding.happens()
        assert await listener.is_quiet()
    await feeding.later(seconds=1)
    assert await listener.numbers(1) == [1]


async def test_progress_and_status_that_cannot_be_kept_now_are_kept_later(
    feeding: Feeding, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*asked: Any, **more: Any) -> Future[Any]:
        future: Future[Any] = asyncio.get_running_loop().create_future()
        future.set_exception(StoreError("the disk is full"))
        return future

    with monkeypatch.context() as broken:
        broken.setattr(feeding.store, "move", fails)
        assert (await feeding.subscribe("s1")).life.status is Status.REQUESTED
    await feeding.later(seconds=5)
    assert feeding.row().life.status is Status.ACTIVE
    listener = await feeding.bound()
    await feeding.happens()
    assert await listener.numbers(1) == [1]
    assert await listener.is_quiet()
    with monkeypatch.context() as broken:
        broken.setattr(feeding.store, "move", fails)
        with pytest.raises(StoreError):
            await feeding.feeds.save()
    await feeding.feeds.save()
    assert [row.sent for row in await feeding.store.subscribed()] == [1]
