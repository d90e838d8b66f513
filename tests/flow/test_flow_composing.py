"""What subscribers get: on every channel, in every release, and no more than they may be told."""

from __future__ import annotations

import email
import email.policy
from datetime import timedelta
from typing import Any

import msgspec
import orjson
import pytest
from flow_post import SENDER, START, A, policy
from flow_subscribers import ADMIT, HOOK, PATIENT, SubscribedPost, Subscribing, admission, status_of, subscription
from written import validated

from broker.channel import Deferred, Manner, Transmission
from broker.core.cloudevent import read_event
from broker.core.fhir.header import Format, Release
from broker.core.fhir.media import media_type
from broker.core.fhir.read import read
from broker.core.subscription.foreign import read_notification
from broker.core.subscription.notification import Kind
from broker.core.subscription.subscription import (
    OWN_CHANNELS,
    R5_CHANNELS,
    ChannelType,
    Content,
    Header,
    Model,
    Status,
    Subscription,
)
from broker.core.subscription.wrap import unwrap
from broker.store import Cutoffs
from broker.store.telling import Heard

CLOUD = "application/cloudevents+json"
ENCOUNTER = "https://source/fhir/Encounter/e1"


def classic(**changed: Any) -> Subscription:
    return subscription(
        model=Model.CLASSIC, release=Release.R4, topic="", criteria="Encounter?", content=None,
        **{"media_type": "", **changed},
    )  # fmt: skip


async def one_event(
    post: SubscribedPost, new: Subscription, *, address: str = HOOK, **happens: Any
) -> tuple[Transmission, int]:
    """What is sent of one event, and its message's position."""
    row = await post.subscribes(new, active=True)
    position = await post.happens(1, row.key, **happens)
    await post.rest()
    (sent,) = post.script.to(address)
    return sent, position


# --- Bundles ---


@pytest.mark.parametrize("release", [Release.R4, Release.R4B, Release.R5])
@pytest.mark.parametrize("content", list(Content))
async def test_bundles_are_valid_in_their_release_and_say_what_was_agreed(
    subscribing: Subscribing, release: Release, content: Content
) -> None:
    model = Model.NATIVE if release is Release.R5 else Model.BACKPORT
    post = await subscribing()
    body = admission(1, encounter=_encounter(release))
    media = f"application/fhir+json; fhirVersion={release.value}"
    new = subscription(model=model, release=release, content=content, media_type=media)
    sent, _ = await one_event(post, new, body=body, media_type=media)
    assert sent.media_type == media
    bundle = validated(orjson.loads(sent.body), release)
    if release is not Release.R5:  # S-31
        assert bundle["type"] == "history"
        assert all("request" in entry and "response" in entry for entry in bundle["entry"])
    told = read_notification(sent.body, format=Format.JSON, release=release)
    assert told is not None
    assert (told.numbers, told.since_start) == ((1,), 1)
    assert told.focus == (() if content is Content.EMPTY else (ENCOUNTER,))
    resources = [entry["resource"] for entry in bundle["entry"][1:] if "resource" in entry]
    assert resources == ([_encounter(release), PATIENT] if content is Content.FULL else [])
    assert len(bundle["entry"]) == (1 if content is Content.EMPTY else 3)
    if content is Content.FULL:
        assert orjson.dumps(_encounter(release)) in sent.body  # byte for byte
    if content is Content.EMPTY:  # S-57a
        assert b"https://source/Encounter?_lastUpdated=gt2026-11-21T" in sent.body


def _encounter(release: Release) -> dict[str, Any]:
    kind: Any = [{"coding": [{"code": "IMP"}]}] if release is Release.R5 else {"code": "IMP"}
    return {"resourceType": "Encounter", "id": "e1", "status": "in-progress", "class": kind}


async def test_a_bundle_in_xml_says_the_same(subscribing: Subscribing) -> None:
    post = await subscribing()
    sent, _ = await one_event(post, subscription(media_type="application/fhir+xml", release=Release.R4B,
                                                 model=Model.BACKPORT))  # fmt: skip
    told = read_notification(sent.body, format=Format.XML, release=Release.R4B)
    assert told is not None
    assert (told.kind, told.numbers, told.focus) == ("event-notification", (1,), (ENCOUNTER,))


async def test_what_a_party_may_be_told_now_goes_before_what_was_agreed(subscribing: Subscribing) -> None:
    post = await subscribing(cap=Content.ID_ONLY)
    sent, _ = await one_event(post, subscription(content=Content.FULL))
    assert b"in-progress" not in sent.body


async def test_an_event_without_a_place_is_about_the_message_itself(subscribing: Subscribing) -> None:
    post = await subscribing()
    sent, position = await one_event(post, subscription(release=Release.R4, model=Model.BACKPORT,
                                                        content=Content.FULL), places=())  # fmt: skip
    bundle = orjson.loads(sent.body)
    assert bundle["entry"][1]["fullUrl"] == f"http://127.0.0.1/fhir/Bundle/{post.here.ids.of(position)}"
    assert bundle["entry"][1]["resource"] == orjson.loads(admission(1))


async def test_a_message_is_opened_once_for_all_who_hear_of_it(
    subscribing: Subscribing, monkeypatch: pytest.MonkeyPatch
) -> None:
    post = await subscribing()
    rows = [
        await post.subscribes(subscription(id=f"s{n}", endpoint=f"test://hook/{n}", content=Content.FULL), active=True)
        for n in range(40)
    ]
    loaded: list[Any] = []
    load = post.store.load

    async def counted(*arguments: Any) -> Any:
        loaded.append(arguments)
        return await load(*arguments)

    monkeypatch.setattr(post.store, "load", counted)
    position = await post.happens(1, *[row.key for row in rows])
    await post.rest()
    assert len(post.script.sent) == 40
    assert [positions for positions, _ in loaded if position in positions] == [(position,)]


async def test_of_a_message_that_is_kept_no_longer_its_name_is_told(subscribing: Subscribing) -> None:
    post = await subscribing(endpoints={SENDER: "test://a/in"}, defaults=policy(sync={"expects": "nothing"}))
    row = await post.subscribes(subscription(content=Content.FULL), active=True)
    await post.send(admission(1))
    await post.rest()
    later = post.now + timedelta(days=1)
    await post.store.retain(Cutoffs(body=later, mailbox=later, identity=START, trace=START))
    assert await post.store.body(1) is None
    heard = Heard(number=1, position=1, at=START, topic=ADMIT.url, places=(1,), interaction=None, relayed=False)
    (event,) = await post.subscribing.composing.events(row, [heard])
    assert (event.number, event.at) == (1, START)
    assert event.focus is not None
    assert event.focus.reference == f"http://127.0.0.1/fhir/Bundle/{post.here.ids.of(1)}"
    assert not event.focus.body


# --- R4's classic model (S-41) ---


async def test_a_classic_subscription_without_payload_is_pinged_with_nothing_for_each_match(
    subscribing: Subscribing,
) -> None:
    post = await subscribing()
    row = await post.subscribes(classic())
    await post.rest()
    assert (post.row(row).life.status, post.script.sent) == (Status.ACTIVE, [])  # no handshake
    for number in (1, 2):
        await post.happens(number, row.key)
    await post.rest()
    assert [(one.body, one.manner) for one in post.script.sent] == [(b"", Manner())] * 2


async def test_a_classic_subscription_with_payload_has_the_resource_put_to_its_own_url(
    subscribing: Subscribing,
) -> None:
    post = await subscribing()
    sent, _ = await one_event(post, classic(media_type="application/fhir+json", endpoint="test://hook/base"),
                              address="test://hook/base")  # fmt: skip
    assert sent.body == orjson.dumps(orjson.loads(admission(1))["entry"][1]["resource"])
    assert sent.manner == Manner(method="PUT", path="Encounter/e1")


# --- mails (S-45) ---


async def test_a_mail_says_it_in_words_and_carries_the_bundle_for_machines(subscribing: Subscribing) -> None:
    post = await subscribing()
    new = subscription(channel=ChannelType(R5_CHANNELS, "email"), media_type="text/plain;attach=application/fhir+json")
    sent, _ = await one_event(post, new)
    mail = email.message_from_bytes(
        b"Content-Type: " + sent.media_type.encode() + b"\r\n\r\n" + sent.body, policy=email.policy.default
    )
    words, attached = mail.iter_parts()
    assert f"Event 1 at 2026-11-21T12:00:00.000Z: {ENCOUNTER} created, https://source/fhir/Patient/p1" in (
        words.get_content()
    )
    bundle = validated(orjson.loads(attached.get_content()), Release.R5)
    assert bundle["entry"][0]["resource"]["notificationEvent"][0]["eventNumber"] == "1"
    assert attached.get_content_type() == "application/fhir+json"
    assert sent.manner == Manner(subject="Subscription sub1: event-notification 1")


async def test_a_mail_without_attachment_is_text_alone_in_the_form_that_was_asked_for(subscribing: Subscribing) -> None:
    post = await subscribing()
    new = subscription(channel=ChannelType(R5_CHANNELS, "email"), media_type="text/html", content=Content.EMPTY)
    sent, _ = await one_event(post, new)
    assert sent.media_type == "text/html; charset=utf-8"
    assert b"Something happened" in sent.body
    assert b"Encounter/e1" not in sent.body


# --- CloudEvents ---


@pytest.mark.parametrize(("content", "data"), [
    (Content.FULL, orjson.dumps(_encounter(Release.R4))),
    (Content.ID_ONLY, orjson.dumps({"resourceType": "Encounter", "id": "e1", "url": ENCOUNTER})),
])  # fmt: skip
async def test_an_event_as_cloudevent_is_a_new_one_thick_or_thin_as_was_agreed(
    subscribing: Subscribing, content: Content, data: bytes
) -> None:
    post = await subscribing()
    sent, position = await one_event(post, subscription(media_type=CLOUD, content=content))
    event = read_event(sent.body)
    stored = await post.store.stored(position)
    assert stored is not None
    assert event.body == data
    assert event.envelope.id == "R5/Subscription/sub1#1"
    assert event.envelope.type == "org.example.admission"
    assert dict(event.envelope.more)["causationid"] == stored.message.envelope.id
    assert dict(event.envelope.more)["sequence"] == "1"
    assert sent.media_type == CLOUD
    assert sent.manner == Manner(origin="127.0.0.1")


async def test_several_events_leave_as_one_cloudevent_each(subscribing: Subscribing) -> None:
    post = await subscribing()
    row = await post.subscribes(subscription(media_type=CLOUD, max_count=10), active=True)
    post.script.holds(HOOK)
    for number in range(1, 4):
        await post.happens(number, row.key)
    await post.rest()
    post.script.accepts_all()
    await post.rest()
    assert [dict(read_event(one.body).envelope.more)["sequence"] for one in post.script.sent] == ["1", "2", "3"]


async def test_a_webhook_is_asked_whether_it_may_be_told_at_all(subscribing: Subscribing) -> None:
    post = await subscribing()
    row = await post.subscribes(subscription(media_type=CLOUD, headers=(Header("Authorization", "Bearer x"),)))
    await post.rest()
    (sent,) = post.script.sent
    assert sent.manner == Manner(method="OPTIONS", headers=(("Authorization", "Bearer x"),), origin="127.0.0.1")
    assert sent.body == b""
    assert post.row(row).life.status is Status.ACTIVE


async def test_a_webhook_that_says_nothing_may_consent_later_where_that_is_offered(subscribing: Subscribing) -> None:
    post = await subscribing(callback="https://us/consent/x")
    post.script.says(HOOK, Deferred(note="200 OK without consent", status=200))
    row = await post.subscribes(subscription(media_type=CLOUD))
    await post.rest()
    assert post.script.sent[0].manner == Manner(method="OPTIONS", origin="127.0.0.1", callback="https://us/consent/x")
    assert post.row(row).life.status is Status.REQUESTED
    life = msgspec.structs.replace(post.row(row).life, status=Status.ACTIVE, was_active=True)
    moved = await post.store.move(row.key, life)
    assert moved is not None
    post.registry.put(moved)  # it has consented
    await post.rest()
    assert post.row(row).notice is None
    post.script.accepts_all()
    await post.happens(1, row.key)
    await post.rest()
    assert read_event(post.script.sent[-1].body).envelope.id == "R5/Subscription/sub1#1"


async def test_a_heartbeat_as_cloudevent_says_that_it_is_one_and_has_no_data(subscribing: Subscribing) -> None:
    post = await subscribing()
    await post.subscribes(subscription(media_type=CLOUD, heartbeat=timedelta(minutes=1)), active=True)
    await post.later(minutes=1)
    event = orjson.loads(post.script.sent[0].body)
    assert event["type"] == "org.example.heartbeat"
    assert "data" not in event
    assert "data_base64" not in event


# --- messages (S-47 to S-51), and our own channel ---


MESSAGE = ChannelType(R5_CHANNELS, "message")


async def test_as_a_message_it_is_wrapped_and_goes_by_the_directory_as_any_message(subscribing: Subscribing) -> None:
    post = await subscribing()
    row = await post.subscribes(subscription(channel=MESSAGE, endpoint=A))
    await post.rest()
    assert post.row(row).life.status is Status.ACTIVE
    await post.happens(1, row.key)
    await post.rest()
    sent = post.script.to("test://a/in")[-1]
    header = read(sent.body, media_type(sent.media_type))
    assert [one.endpoint for one in header.destinations] == [A]
    assert (header.source, header.event.code) == (post.here.endpoint, "subscription-notification")
    inner = unwrap(sent.body, format=Format.JSON, release=Release.R5)
    assert inner is not None
    assert status_of(msgspec.structs.replace(sent, body=inner))["notificationEvent"][0]["eventNumber"] == "1"
    assert (sent.envelope.destination, sent.envelope.via, sent.manner) == ((A,), (post.here.endpoint,), None)
    validated(orjson.loads(sent.body), Release.R5)


async def test_an_endpoint_that_the_directory_does_not_know_is_an_error_that_names_it(subscribing: Subscribing) -> None:
    post = await subscribing()
    row = await post.subscribes(subscription(channel=MESSAGE, endpoint="urn:oid:9.9"))
    await post.rest()
    assert post.row(row).life.status is Status.ERROR
    assert "urn:oid:9.9" in post.row(row).life.error


async def test_a_message_into_a_mailbox_is_delivered_when_it_is_kept(subscribing: Subscribing) -> None:
    post = await subscribing()
    row = await post.subscribes(subscription(channel=MESSAGE, endpoint=SENDER))
    await post.rest()
    assert (post.row(row).life.status, post.row(row).notice) == (Status.ACTIVE, None)
    assert len(await post.mail()) == 1


async def test_into_a_queue_goes_the_bundle_with_the_headers_that_were_asked_for(subscribing: Subscribing) -> None:
    post = await subscribing()
    new = subscription(channel=ChannelType(OWN_CHANNELS, "amqp"), headers=(Header("x", "y"),))
    sent, _ = await one_event(post, new)
    assert sent.manner == Manner(headers=(("x", "y"),))
    assert status_of(sent)["type"] == "event-notification"


# --- notifications of other servers (S-24) ---


def foreign(*, resource: bool) -> bytes:
    status = {
        "resourceType": "SubscriptionStatus", "status": "active", "type": "event-notification",
        "eventsSinceSubscriptionStart": "77",
        "notificationEvent": [{"eventNumber": "77", "focus": {"reference": ENCOUNTER}}],
        "subscription": {"reference": "https://source/fhir/Subscription/9"}, "topic": ADMIT.url,
    }  # fmt: skip
    entries: list[dict[str, Any]] = [{"fullUrl": "urn:uuid:1", "resource": status}, {"fullUrl": ENCOUNTER}]
    if resource:
        entries[1]["resource"] = _encounter(Release.R5)
    bundle = {"resourceType": "Bundle", "id": "n1", "type": "subscription-notification", "entry": entries}
    return orjson.dumps(bundle).replace(b'"77"', b'  "77"')  # as nobody else writes it


async def relayed(post: SubscribedPost, new: Subscription, *, resource: bool) -> Transmission:
    """The notification of another server, kept as a message, is told to a subscriber."""
    body = foreign(resource=resource)
    row = await post.subscribes(new, active=True)
    wrapped = orjson.loads(admission(5))
    message = {**wrapped, "entry": [wrapped["entry"][0]]}
    message["entry"].append({"fullUrl": "urn:uuid:n1", "resource": "HERE"})
    whole = orjson.dumps(message).replace(b'"HERE"', body)
    await post.happens(5, row.key, body=whole, places=(), relayed=True, interaction=None,
                       media_type="application/fhir+json; fhirVersion=5.0")  # fmt: skip
    await post.rest()
    return post.script.sent[-1]


async def test_what_another_server_notified_goes_on_byte_for_byte_with_its_own_numbers(
    subscribing: Subscribing,
) -> None:
    post = await subscribing()
    sent = await relayed(post, subscription(content=Content.FULL), resource=True)
    assert sent.body == foreign(resource=True)
    assert (await post.store.subscribed())[0].sent == 1


async def test_what_another_server_notified_is_told_in_our_words_where_it_says_more_than_was_agreed(
    subscribing: Subscribing,
) -> None:
    post = await subscribing()
    sent = await relayed(post, subscription(content=Content.ID_ONLY), resource=True)
    assert b"in-progress" not in sent.body
    assert status_of(sent)["notificationEvent"][0]["eventNumber"] == "1"


@pytest.mark.parametrize(("content", "as_it_came"), [(Content.ID_ONLY, True), (Content.EMPTY, False)])
async def test_a_notification_that_only_names_is_told_as_it_came_to_whoever_may_hear_names(
    subscribing: Subscribing, content: Content, as_it_came: bool
) -> None:
    post = await subscribing()
    sent = await relayed(post, subscription(content=content), resource=False)
    assert (sent.body == foreign(resource=False)) is as_it_came
    assert as_it_came or ENCOUNTER.encode() not in sent.body


@pytest.mark.parametrize("media", [CLOUD, "text/plain;attach=application/fhir+json"])
async def test_what_another_server_notified_is_carried_whole_by_mails_and_cloudevents(
    subscribing: Subscribing, media: str
) -> None:
    post = await subscribing()
    channel = ChannelType(R5_CHANNELS, "rest-hook" if media == CLOUD else "email")
    sent = await relayed(post, subscription(content=Content.FULL, media_type=media, channel=channel), resource=True)
    if media == CLOUD:
        assert read_event(sent.body).body == foreign(resource=True)
        return
    head = b"Content-Type: " + sent.media_type.encode() + b"\r\n\r\n"
    _, attached = email.message_from_bytes(head + sent.body, policy=email.policy.default).iter_parts()
    assert attached.get_content() == foreign(resource=True)


async def test_a_relayed_event_goes_alone_and_what_is_our_own_before_and_after_it(subscribing: Subscribing) -> None:
    post = await subscribing()
    composing = post.subscribing.composing
    row = await post.subscribes(subscription(content=Content.FULL), active=True)
    position = await post.happens(1, row.key)
    heard = [
        Heard(number=n, position=position, at=post.now, topic=ADMIT.url, places=(1,), interaction=None, relayed=n == 3)
        for n in range(1, 5)
    ]
    first = await composing.compose(row, Kind.EVENT, heard)
    assert (first.first, first.last) == (1, 2)
    second = await composing.compose(row, Kind.EVENT, heard[2:])
    assert (second.first, second.last) == (3, 3)
