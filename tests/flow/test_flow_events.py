"""CloudEvents whose data is no FHIR message: routed by their envelope, and carried unread (C-8, C-50, C-63)."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from flow_post import HERE, NOBODY, SENDER, A, D, Opened, Post, message, policy, refusal

from broker.core.answer import Answer, AnswerKind
from broker.core.delivery import State
from broker.core.envelope import Envelope
from broker.core.message import decode
from broker.core.outcome import BadRequest, Conflict, MessageInvalid, NoRoute, Unsupported
from broker.core.policy import DEFAULT, Match, Rule

ADMISSION = Envelope(id="e-1", source=SENDER, type="hospital_admission", destination=(A,), more=(("subject", "x"),))
JSON = "application/json"
PATIENT = b'{"resourceType": "Patient", "id": "1"}'
NOTIFICATION = (
    b'{"resourceType":"Bundle","type":"history","entry":[{"resource":{"resourceType":"MessageHeader"}},'
    b'{"resource":{"resourceType":"Basic","code":{"text":"message"}}}]}'
)


async def send(post: Post, body: bytes, media_type: str = JSON, *, party: str | None = None, **changes: Any) -> Answer:
    envelope = msgspec.structs.replace(ADMISSION, **changes)
    return await post.send(body, media_type=media_type, envelope=envelope, event=True, asynchronous=True, party=party)


@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        (b'{ "url": "https://a.example/Encounter/1" }', JSON),
        (b"", ""),
        (b"", "application/json"),
        (b"null", JSON),
        (b"not json at all", JSON),
        (b"\x00\xff\xd8 a picture", "image/jpeg"),
        (b'{"say": "a \\"MessageHeader\\" in a \\"Bundle\\" of type \\"message\\""}', "text/plain"),
        (PATIENT, "application/fhir+json; fhirVersion=5.0"),
        (NOTIFICATION, "application/fhir+json"),
        (NOTIFICATION, JSON),
        (b"<change><old/><new/></change>", "application/xml"),
        (b'<Encounter xmlns="http://hl7.org/fhir"/>', "application/fhir+xml"),
        (b"x" * (2 << 20), "text/plain"),
    ],
    ids=lambda value: repr(value[:20]),
)
async def test_any_data_is_carried_as_it_came(post: Post, body: bytes, media_type: str) -> None:
    """C-50: thin, thick, delta; promise 3."""
    answer = await send(post, body, media_type)
    assert answer.kind is AnswerKind.ACCEPTED
    await post.rest()
    (sent,) = post.script.sent
    assert (sent.body, sent.media_type, sent.address, sent.event) == (body, media_type, "test://a/in", True)
    envelope = sent.envelope
    assert (envelope.id, envelope.source, envelope.type) == ("e-1", SENDER, "hospital_admission")
    assert (envelope.destination, envelope.via, envelope.more) == ((A,), (HERE,), (("subject", "x"),))
    assert (await post.one()).state is State.DONE


async def test_a_message_in_an_event_is_a_message(post: Post) -> None:
    """Its header says where it goes, and it has the identity of a message (C-62)."""
    await send(post, message(), "application/fhir+json", destination=())
    await send(post, message("b2", "m2"), JSON, destination=())
    await post.rest()
    assert [(one.body, one.event) for one in post.script.sent] == [(message(), False), (message("b2", "m2"), False)]
    stored = await post.store.stored(1)
    assert stored is not None
    assert (stored.message.header.bundle_id, stored.message.header.opaque) == ("b1", False)


@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        (b"{", "application/fhir+json"),
        (message()[:-1], JSON),
        (message().replace(b'"endpoint": "urn', b'"endpoint": 7, "x": "urn'), JSON),
        (message().replace(b'"id": "b1"', b'"id": "b1", "id": "b2"'), "application/fhir+json"),
    ],
)
async def test_a_message_that_cannot_be_read_is_refused_and_not_carried_unread(
    post: Post, body: bytes, media_type: str
) -> None:
    with pytest.raises(MessageInvalid):
        await send(post, body, media_type)
    assert await post.messages() == []


async def test_only_what_came_as_an_event_may_be_anything(post: Post) -> None:
    with pytest.raises(Unsupported):
        await post.send(b"x", media_type="text/plain", envelope=ADMISSION)
    with pytest.raises(MessageInvalid):
        await post.send(PATIENT, envelope=ADMISSION)
    for body, media_type in ((b"x", "text/plain"), (b"{}", JSON)):
        with pytest.raises(BadRequest) as refused:
            await post.send(body, media_type=media_type, envelope=Envelope(destination=(A,)), event=True)
        assert refused.value.problem.id == "not-an-event"
    with pytest.raises(MessageInvalid):  # an id alone makes no event of a Patient
        await post.send(PATIENT, envelope=Envelope(id="1"), event=True)


# -- where it goes


async def test_rules_know_an_event_by_its_type_and_source(opened: Opened) -> None:
    """C-63; rules over the content of messages never fit."""
    rules = (
        Rule(name="messages", match=Match(event=("*",)), policy=DEFAULT, refuse="not for events"),
        Rule(name="r4", match=Match(fhir=("4.0",)), policy=DEFAULT, refuse="not for events"),
        Rule(name="own", match=Match(type=("hospital_*",), source=(SENDER,)), policy=DEFAULT, to=(A, D)),
    )
    post = await opened(rules=rules)
    await send(post, b"{}", destination=())
    assert {one.destination for one in await post.of()} == {A, D}
    (mail,) = await post.mail(D)
    assert mail.body == b"{}"


async def test_an_event_that_names_no_destination_is_refused_in_its_own_words(post: Post) -> None:
    with pytest.raises(NoRoute) as refused:
        await send(post, b"{}", destination=())
    assert refused.value.problem.expression == ("destination",)
    assert refused.value.problem.text.startswith("the event names no destination")
    with pytest.raises(NoRoute) as refused:
        await send(post, b"{}", destination=(NOBODY,))
    assert refused.value.problem.expression == ("destination",)


async def test_who_may_not_steer_messages_may_say_where_its_own_event_goes(opened: Opened) -> None:
    """Promise 6: there is no header that it could overrule; what concerns the hops is not believed."""
    post = await opened(parties=True, brokers=frozenset({"hop"}))
    await send(post, b"{}", party="ward", via=("urn:oid:9.9",), priority=7)
    await post.rest()
    (sent,) = post.script.sent
    assert (sent.envelope.destination, sent.envelope.via, sent.envelope.priority) == ((A,), (HERE,), None)


# -- the same event again


async def test_source_and_id_are_the_identity_of_an_event(post: Post) -> None:
    first, again = await send(post, b"{}"), await send(post, b"{}")
    assert (again.receipt.message_id, again.receipt.duplicate) == (first.receipt.message_id, True)
    other = await send(post, b"{}", source="urn:oid:1.5")
    assert not other.receipt.duplicate
    with pytest.raises(Conflict) as refused:
        await send(post, b'{"other": 1}')
    assert refused.value.problem.expression == ("id",)
    await post.rest()
    assert len(post.script.sent) == 2


async def test_the_id_of_an_event_is_not_the_id_of_a_bundle(post: Post) -> None:
    """C-62."""
    await post.send(message("e-1"), asynchronous=True)
    answer = await send(post, b"{}")
    assert not answer.receipt.duplicate


async def test_events_without_data_are_told_apart_by_their_ids(post: Post) -> None:
    answers = [await send(post, b"", "", id=id) for id in ("t-1", "t-2", "t-1")]
    assert [one.receipt.duplicate for one in answers] == [False, False, True]


# -- what becomes of it


async def test_the_source_of_an_event_that_was_refused_is_told_in_a_message(post: Post) -> None:
    """Promise 5."""
    post.script.says("test://a/in", refusal())
    await send(post, b"\xff", "image/png")
    await post.rest()
    (report,) = await post.reports()
    assert (report["identifier"], report["code"]) == ("e-1", "fatal-error")
    (mail,) = await post.mail()
    head = json.loads(mail.body)["entry"][0]["resource"]
    assert head["eventUri"] == "hospital_admission"
    assert decode(mail.about).header.opaque is False


async def test_nobody_looks_for_a_response_to_an_event(opened: Opened) -> None:
    post = await opened(defaults=policy(answer_within=timedelta(hours=1)))
    await send(post, b"{}")
    await post.later(hours=2)
    assert await post.reports() == []


async def test_an_event_waits_for_its_receiver_and_survives_a_restart(opened: Opened) -> None:
    post = await opened()
    post.script.holds("test://a/in")
    await send(post, b"\x00", "image/png")
    await post.rest()
    await post.crash()
    post = await opened(post.path)
    await post.later(minutes=1)
    (sent,) = post.script.sent
    assert (sent.body, sent.media_type, sent.event, sent.envelope.more) == (b"\x00", "image/png", True, ADMISSION.more)
