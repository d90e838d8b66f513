"""Notifications of other servers: taken like messages, and told as they came (S-24, S-50, S-51)."""

from __future__ import annotations

from datetime import timedelta

import pytest
from flow_post import A, Opened, Post
from flow_telling import ELSEWHERE, ENCOUNTERS, Telling, notification

from broker.channel import Arrival, Peer
from broker.core.answer import AnswerKind
from broker.core.delivery import State
from broker.core.fhir.header import NOTIFICATION_EVENT, Format, Release
from broker.core.outcome import MessageInvalid, NoRoute
from broker.core.policy import DEFAULT, Rule
from broker.core.rules import Match
from broker.core.subscription.foreign import read_notification
from broker.core.subscription.subscription import Content
from broker.core.subscription.wrap import wrap
from broker.flow.aside import ASIDE


@pytest.fixture
async def telling(post: Post) -> Telling:
    return await Telling(post).load()


def told_of(body: bytes) -> bytes:
    foreign = read_notification(body, format=Format.JSON, release=Release.R5)
    assert foreign is not None
    return foreign.body


def wrapped(telling: Telling, inner: bytes, *, to: str, id: str = "w1") -> bytes:
    return wrap(
        inner, notification_id="n", format=Format.JSON, release=Release.R5, endpoint=to, source="urn:oid:7",
        source_name="far", ids=(id, f"m{id}"), at=telling.post.now,
    )  # fmt: skip


async def test_notification_of_another_server_is_kept_and_told_as_it_came(telling: Telling) -> None:
    row = await telling.subscribe("one", ELSEWHERE)
    answer = await telling.post.send(notification())
    assert answer.kind is AnswerKind.ACCEPTED
    await telling.told()
    (heard,) = await telling.heard(row)
    assert (heard.number, heard.topic, heard.relayed, heard.places) == (1, ELSEWHERE, True, ())
    stored = await telling.store.stored(heard.position)
    assert stored is not None
    assert stored.message.source == "https://s.example/fhir"
    assert stored.message.header.event == NOTIFICATION_EVENT
    body = await telling.store.body(heard.position)
    assert body is not None
    assert told_of(body) == notification()
    assert [one.state for one in await telling.post.of(heard.position)] == [State.LOGGED]


async def test_notification_that_comes_again_is_a_copy(telling: Telling) -> None:
    row = await telling.subscribe("one", ELSEWHERE)
    await telling.post.send(notification())
    again = await telling.post.send(notification())
    await telling.told()
    assert again.receipt.duplicate
    assert await telling.numbers(row) == [1]


@pytest.mark.parametrize("kind", ["handshake", "heartbeat", "query-event"])
async def test_what_is_no_event_is_taken_and_told_to_nobody(telling: Telling, kind: str) -> None:
    row = await telling.subscribe("one", ELSEWHERE)
    answer = await telling.post.send(notification(kind=kind))
    await telling.told()
    assert answer.kind is AnswerKind.ACCEPTED
    assert await telling.numbers(row) == []


async def test_notification_of_a_topic_that_nobody_knows_is_refused(telling: Telling) -> None:
    with pytest.raises(NoRoute) as refused:
        await telling.post.send(notification(topic="http://t.example/unknown"))
    assert refused.value.problem.id == "no-destination"


async def test_without_subscriptions_nothing_is_kept_that_goes_nowhere(post: Post) -> None:
    with pytest.raises(NoRoute):
        await post.send(notification())


async def test_bundle_that_is_no_notification_is_refused_as_ever(telling: Telling) -> None:
    with pytest.raises(MessageInvalid):
        await telling.post.send(b'{"resourceType":"Bundle","type":"history","entry":[]}')


async def test_rule_sends_a_notification_on_and_our_subscribers_hear_of_it_too(opened: Opened) -> None:
    rule = Rule(name="on", match=Match(event=("*subscription-notification",)), policy=DEFAULT, to=(A,))
    telling = await Telling(await opened(rules=[rule])).load()
    row = await telling.subscribe("one", ELSEWHERE)
    answer = await telling.post.send(notification())
    await telling.post.rest()
    await telling.told()
    assert answer.kind is AnswerKind.ACCEPTED  # nobody waits for an answer to it
    assert [sent.body for sent in telling.post.script.sent] == [notification()]
    assert await telling.numbers(row) == [1]


async def test_notification_that_does_not_name_its_topic_belongs_to_that_of_its_way_in(telling: Telling) -> None:
    row = await telling.subscribe("one", ELSEWHERE)

    async def send(id: str, way_in: str | None) -> None:
        await telling.post.receiving(
            Arrival(
                channel="test", peer=Peer(address="127.0.0.1:9"), body=notification(id, topic=None),
                media_type="application/fhir+json", at=telling.post.now, way_in=way_in,
            )
        )  # fmt: skip

    await send("n1", "south")
    for other in ("north", None):
        with pytest.raises(NoRoute):
            await send("n2", other)
    await telling.told()
    assert await telling.numbers(row) == [1]


async def test_wrapped_one_that_is_for_this_broker_is_unwrapped_for_its_subscribers(telling: Telling) -> None:
    """S-51: its destination is the endpoint of the Subscription, which is a URL of ours."""
    row = await telling.subscribe("one", ELSEWHERE)
    for number, to in enumerate(
        ("http://127.0.0.1/fhir", "http://127.0.0.1/fhir/$process-message", telling.post.here.endpoint)
    ):
        await telling.post.send(wrapped(telling, notification(), to=to, id=f"w{number}"))
    await telling.told()
    assert await telling.numbers(row) == [1, 2, 3]
    for one in await telling.heard(row):
        stored, body = await telling.store.stored(one.position), await telling.store.body(one.position)
        assert stored is not None
        assert body is not None
        assert told_of(body) == notification()


async def test_wrapped_one_that_goes_on_is_heard_of_as_it_passes(telling: Telling) -> None:
    row = await telling.subscribe("one", ELSEWHERE)
    await telling.post.send(wrapped(telling, notification(), to=A))
    await telling.post.rest()
    await telling.told()
    assert len(telling.post.script.sent) == 1
    assert await telling.numbers(row) == [1]


async def test_wrapped_one_for_a_stranger_is_refused(telling: Telling) -> None:
    for to in ("https://stranger.example/fhir", "http://127.0.0.1/fhirside"):
        with pytest.raises(NoRoute):
            await telling.post.send(wrapped(telling, notification(), to=to))


async def test_whoever_filters_hears_of_what_holds_the_resource(telling: Telling) -> None:
    """It is told whole or not at all."""
    mine = await telling.subscribe("mine", ELSEWHERE, filters={"patient": "Patient/p1"}, content=Content.FULL)
    everything = await telling.subscribe("everything", ELSEWHERE, content=Content.FULL)
    for id, full in (("n1", 1), ("n2", 2), ("n3", None)):
        await telling.post.send(notification(id, full=full))
    await telling.told()
    assert [one.position for one in await telling.heard(mine)] == [1]
    assert [one.position for one in await telling.heard(everything)] == [1, 2, 3]


async def test_nobody_is_told_more_than_is_theirs(telling: Telling, capsys: pytest.CaptureFixture[str]) -> None:
    """S-63: nothing may be left out of it, so that it is not told; the log says so, once."""
    few = await telling.subscribe("few", ELSEWHERE, content=Content.ID_ONLY)
    none = await telling.subscribe("none", ELSEWHERE, content=Content.EMPTY)
    for id in ("n1", "n2"):
        await telling.post.send(notification(id, full=1))
    await telling.post.send(notification("n3"))
    await telling.told()
    assert [one.position for one in await telling.heard(few)] == [3]
    assert await telling.heard(none) == ()
    said = capsys.readouterr()
    assert (said.out + said.err).count("tell more than a subscriber may be told") == 2


async def test_topic_with_triggers_of_its_own_hears_of_a_notification_once(telling: Telling) -> None:
    """What is inside was told by the other server: it does not fire our triggers."""
    row = await telling.subscribe("one", ENCOUNTERS, content=Content.FULL)
    await telling.post.send(notification(topic=ENCOUNTERS, full=1))
    await telling.told()
    (heard,) = await telling.heard(row)
    assert heard.relayed


async def test_large_notification_is_kept_and_told(telling: Telling) -> None:
    row = await telling.subscribe("one", ELSEWHERE, content=Content.FULL)
    body = notification(full=1).replace(
        b'"resourceType": "Encounter"', b'"resourceType": "Encounter", "language": "%b"' % (b"x" * ASIDE)
    )
    answer = await telling.post.send(body)
    assert answer.kind is AnswerKind.ACCEPTED
    await telling.told()
    assert await telling.numbers(row) == [1]


async def test_who_subscribes_later_does_not_hear_of_what_had_come(telling: Telling) -> None:
    await telling.subscribe("first", ELSEWHERE)
    await telling.post.send(notification())
    telling.post.now += timedelta(seconds=1)
    late = await telling.subscribe("late", ELSEWHERE)
    await telling.told()
    assert await telling.heard(late) == ()
