"""What the door offers channels beside accept: reply addresses, references, late reports, mailboxes, live word."""

from __future__ import annotations

from hashlib import sha256

import pytest
from flow_post import A, B, D, Opened, Post, answered_with, message, policy, refusal, response

from broker.channel import Happening, Late, LateReport
from broker.core.answer import AnswerKind
from broker.core.delivery import AnswerState, State
from broker.core.message import digest_text
from broker.core.outcome import Gone, Problem, StoreUnavailable, Who
from broker.core.policy import DEFAULT
from broker.store import Cutoffs, StoreError

REPLIES = "test://replies/queue"


@pytest.fixture
async def post(opened: Opened) -> Post:
    return await opened()


# -- reply addresses


async def test_response_goes_where_the_callers_channel_listens(post: Post) -> None:
    """Of who answers for itself no allow-list is asked, and the reference of the request comes back with it."""
    post.script.says("test://a/in", answered_with(response()))
    await post.send(message(), asynchronous=True, reply_to=f"{REPLIES}-evil", reference="corr-7")
    await post.rest()
    (request,), (reply,) = post.script.to("test://a/in"), post.script.to(f"{REPLIES}-evil")
    assert (request.caller_waits, request.in_reply_to) == (True, None)
    assert (reply.body, reply.in_reply_to, reply.caller_waits) == (response(), "corr-7", False)


async def test_response_that_comes_by_itself_quotes_the_reference_too(post: Post) -> None:
    await post.send(message(), asynchronous=True, reply_to=REPLIES, reference="corr-8")
    await post.rest()
    await post.send(response(), asynchronous=True)
    await post.rest()
    assert [one.in_reply_to for one in post.script.to(REPLIES)] == ["corr-8"]


async def test_report_quotes_the_reference(post: Post) -> None:
    post.script.says("test://a/in", refusal())
    await post.send(message(), asynchronous=True, reply_to=REPLIES, reference="corr-9")
    await post.rest()
    assert [one.in_reply_to for one in post.script.to(REPLIES)] == ["corr-9"]


async def test_copy_of_an_answered_request_gets_the_response_for_its_own_reply_address(post: Post) -> None:
    """Its sender may listen elsewhere by now: the first reply address may have gone with its connection."""
    post.script.says("test://a/in", answered_with(response()))
    first = await post.send(message(), asynchronous=True, reply_to=REPLIES)
    await post.rest()
    again = await post.send(message(), asynchronous=True, reply_to=f"{REPLIES}2")
    assert (first.kind, again.kind, again.body) == (AnswerKind.ACCEPTED, AnswerKind.RESPONSE, response())
    assert (await post.send(message(), asynchronous=True)).kind is AnswerKind.ACCEPTED


async def test_receivers_of_who_does_not_listen_are_asked_to_answer_later(post: Post) -> None:
    await post.send(message(), asynchronous=True, reference="corr-1")
    await post.rest()
    assert not post.script.sent[0].caller_waits


# -- late reports


async def carried(post: Post) -> str:
    answer = await post.send(message(), asynchronous=True)
    await post.rest()
    assert (await post.one()).state is State.DONE
    return answer.receipt.message_id


async def test_delivery_that_failed_after_all_is_dead_and_its_source_told_once(post: Post) -> None:
    """A-40, A-41: a failure report makes it dead; its copy changes nothing."""
    failed = LateReport(
        message_id=await carried(post), address="test://a/in", what=Late.FAILED, note="5.1.1; no such user"
    )
    assert await post.late(failed)
    await post.rest()
    delivery = await post.one()
    assert (delivery.state, delivery.answer) == (State.DEAD, AnswerState.CLOSED)
    assert delivery.steps[-1].note == "5.1.1; no such user"
    assert await post.late(failed)
    await post.rest()
    (report,) = await post.reports()
    assert (report["code"], report["identifier"]) == ("fatal-error", "m1")
    assert "no such user" in report["issue"]["details"]["text"]
    assert [letter.delivery.position for letter in await post.store.dead(10, 0)] == [1]


async def test_failure_for_want_of_time_is_told_as_one_that_may_be_tried_again(post: Post) -> None:
    """A-43."""
    problem = Problem(code="timeout", id="refused-by-receiver", text="a server on the way gave up", who=Who.RECEIVER)
    id = await carried(post)
    assert await post.late(LateReport(message_id=id, address="", what=Late.FAILED, note="4.4.1", problem=problem))
    await post.rest()
    assert [report["code"] for report in await post.reports()] == ["transient-error"]


async def test_word_that_it_is_delayed_or_delivered_is_noted_and_changes_nothing(post: Post) -> None:
    id = await carried(post)
    for what in (Late.DELAYED, Late.DELIVERED):
        assert await post.late(LateReport(message_id=id, address="", what=what, note="4.4.1"))
    assert (await post.one()).state is State.DONE
    assert [note.what for note in await post.store.notes(1)] == ["delayed", "delivered"]


async def test_report_on_what_we_did_not_carry_is_nobodys(post: Post) -> None:
    id = await carried(post)
    for message_id, address in ((id, "test://other/in"), ("7b1a3c1e-0000-4000-8000-000000000000", ""), ("", "")):
        assert not await post.late(LateReport(message_id=message_id, address=address, what=Late.FAILED, note=""))
    assert (await post.one()).state is State.DONE


async def test_failure_of_a_response_is_never_reported(post: Post) -> None:
    """A-41."""
    await post.send(response("nothing", source=A, to=(B,)), asynchronous=True)
    await post.rest()
    id = post.script.sent[0].message_id
    assert await post.late(LateReport(message_id=id, address="", what=Late.FAILED, note="5.0.0"))
    await post.rest()
    assert (await post.one()).state is State.DEAD
    assert await post.messages() == (await post.messages())[:1]


# -- mailboxes


async def test_channel_reads_a_mailbox_with_the_envelope_of_each_message(post: Post) -> None:
    for number in (1, 2, 3):
        await post.send(message(f"b{number}", f"m{number}", to=(D,)), asynchronous=True)
    page = await post.mailboxes.read(D, 0, 2)
    assert [(mail.body, mail.envelope.id) for mail in page.mail] == [
        (message(f"b{n}", f"m{n}", to=(D,)), f"b{n}") for n in (1, 2)
    ]
    assert all(mail.envelope.digest == digest_text(sha256(mail.body).digest()) for mail in page.mail)
    assert page.more
    assert len((await post.mailboxes.read(D, page.reached, 2)).mail) == 1


async def test_acknowledgement_is_noted_once_for_each_reader(post: Post) -> None:
    await post.send(message(to=(D,)), asynchronous=True)
    (mail,) = (await post.mailboxes.read(D, 0, 10)).mail
    for reader in ("one", "one", "two"):
        assert await post.mailboxes.acknowledge(D, [mail.message_id, "no id"], reader) == 1
    assert [(note.what, note.who) for note in await post.store.notes(1)] == [
        ("acknowledged", "one"), ("acknowledged", "two"),
    ]  # fmt: skip
    assert await post.mailboxes.acknowledge(A, [mail.message_id], "one") == 0


async def test_position_whose_followers_are_gone_is_said_to_be(post: Post) -> None:
    for number in (1, 2):
        await post.send(message(f"b{number}", f"m{number}", to=(D,)), asynchronous=True)
    await post.mailboxes.acknowledge(D, [(await post.mailboxes.read(D, 0, 1)).mail[0].message_id], "r")
    await post.later(days=100)
    await post.store.retain(Cutoffs(body=post.now, mailbox=post.now, identity=post.now, trace=post.now))
    with pytest.raises(Gone, match="gone by retention"):
        await post.mailboxes.read(D, 1, 10)


async def test_mailbox_that_cannot_be_read_is_a_clear_later(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_: object) -> None:
        raise StoreError("disk gone")

    monkeypatch.setattr(post.store, "read", fails)
    with pytest.raises(StoreUnavailable):
        await post.mailboxes.read(D, 0, 10)


# -- live


async def test_who_follows_an_endpoint_hears_what_happens_to_its_messages(post: Post) -> None:
    heard: list[Happening] = []
    leave = post.live.follow("urn:oid:1.1", heard.append)
    post.script.says("test://a/in", answered_with(response()))
    sent = await post.send(message(to=(A, D)), asynchronous=True)
    await post.rest()
    id = sent.receipt.message_id
    assert [(one.what, one.message_id, one.destination) for one in heard if one.message_id == id] == [
        ("accepted", id, ""), ("delivered", id, A), ("answered", id, ""),
    ]  # fmt: skip
    assert [one.what for one in heard if one.message_id != id] == ["arrived"]  # the response, in its mailbox
    leave()
    leave()
    await post.send(message("b2", "m2"), asynchronous=True)
    await post.rest()
    assert len(heard) == 4
    assert not post.live


async def test_failures_are_told_with_their_reason(opened: Opened) -> None:
    post = await opened(defaults=policy(retry={"first": DEFAULT.retry.first}))
    heard: list[Happening] = []
    post.live.follow("urn:oid:1.1", heard.append)
    post.script.says("test://a/in", refusal())
    await post.send(message(), asynchronous=True)
    await post.rest()
    assert [(one.what, one.note) for one in heard if one.destination == A] == [("refused", "refused-by-receiver")]


async def test_listener_that_fails_costs_the_others_nothing(post: Post) -> None:
    def fails(_: Happening) -> None:
        raise RuntimeError("a bug")

    heard: list[Happening] = []
    post.live.follow("urn:oid:1.1", fails)
    post.live.follow("urn:oid:1.1", heard.append)
    await post.send(message(), asynchronous=True)
    await post.rest()
    assert [one.what for one in heard] == ["accepted", "delivered"]
