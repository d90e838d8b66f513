"""When the caller is answered, and with what: the six lines of the design's section 2."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from flow_post import ACCEPTED, SENDER, A, B, Opened, Post, answered_with, message, policy, refusal, response

from broker.channel import Answer, Deferred, Delivered, Taken
from broker.core.answer import AnswerKind
from broker.core.delivery import AnswerState, State
from broker.core.envelope import Envelope
from broker.core.policy import Match, Rule
from broker.store import Copy, Kept, NewMessage

DONE = Delivered(status=204, note="204 No Content", taken=Taken.NOTHING_TO_SAY)
DOWN = Deferred(note="503", status=503, of_peer=True, left=False)


async def answer_in_exchange(post: Post) -> Answer:
    post.script.says("test://a/in", answered_with(response()))
    return await post.send(message())


# -- line 1


async def test_async_caller_is_told_at_once_that_we_have_custody(post: Post) -> None:
    post.script.holds("test://a/in")
    answer = await post.send(message(), asynchronous=True)
    assert (answer.kind, answer.receipt.duplicate) == (AnswerKind.ACCEPTED, False)
    await post.rest()
    assert not post.script.sent[0].caller_waits


async def test_async_goes_before_prefer_wait(post: Post) -> None:
    post.script.holds("test://a/in")
    assert (await post.send(message(), asynchronous=True, wait=5)).kind is AnswerKind.ACCEPTED


# -- line 2


async def test_caller_of_a_rule_that_expects_nothing_does_not_wait(opened: Opened) -> None:
    post = await opened(defaults=policy(sync={"expects": "nothing"}))
    post.script.holds("test://a/in")
    assert (await post.send(message())).kind is AnswerKind.ACCEPTED
    assert (await post.one()).answer is AnswerState.NONE


async def test_caller_who_wants_no_response_does_not_wait(post: Post) -> None:
    post.script.holds("test://a/in")
    assert (await post.send(message(request="never"), wait=5)).kind is AnswerKind.ACCEPTED
    assert (await post.one()).answer is AnswerState.NONE


async def test_sender_of_a_response_does_not_wait(post: Post) -> None:
    post.script.holds("test://a/in")
    answer = await post.send(message("r", "rm", source=B, to=(A,), responds="unheard-of"))
    assert answer.kind is AnswerKind.ACCEPTED


# -- line 3


async def test_caller_of_a_mailbox_does_not_wait(post: Post) -> None:
    assert (await post.send(message(to=(SENDER,)))).kind is AnswerKind.ACCEPTED


async def test_caller_of_a_store_and_forward_channel_does_not_wait(opened: Opened) -> None:
    post = await opened(endpoints={A: "slow://a/in"})
    post.script.holds("slow://a/in")
    assert (await post.send(message())).kind is AnswerKind.ACCEPTED


async def test_caller_of_several_destinations_does_not_wait(post: Post) -> None:
    post.script.holds("test://a/in")
    assert (await post.send(message(to=(A, B)))).kind is AnswerKind.ACCEPTED


async def test_caller_of_one_destination_with_two_addresses_waits(opened: Opened) -> None:
    post = await opened(endpoints={A: ["mailbox:", "test://a/in"]})
    assert (await post.send(message())).kind is AnswerKind.TAKEN


async def test_caller_of_a_store_and_forward_channel_may_ask_to_wait(opened: Opened) -> None:
    post = await opened(endpoints={A: "slow://a/in", SENDER: "mailbox:"})
    caller = post.calls(message(), wait=5)
    await post.rest()
    await post.send(response())
    assert (await caller).kind is AnswerKind.RESPONSE


async def test_caller_of_a_mailbox_may_ask_to_wait(post: Post) -> None:
    caller = post.calls(message(to=("urn:oid:2.4",)), wait=5)
    await post.rest()
    await post.send(response(source="urn:oid:2.4"))
    assert (await caller).kind is AnswerKind.RESPONSE


async def test_rule_may_ask_to_wait_for_a_store_and_forward_channel(opened: Opened) -> None:
    post = await opened(endpoints={A: "slow://a/in", SENDER: "mailbox:"}, defaults=policy(sync={"expects": "response"}))
    caller = post.calls(message())
    await post.rest()
    await post.send(response())
    assert (await caller).kind is AnswerKind.RESPONSE


async def test_caller_of_several_destinations_who_waits_gets_the_first_response(post: Post) -> None:
    post.script.says("test://b/in", answered_with(response(source=B)))
    answer = await post.send(message(to=(A, B)), wait=5)
    assert (answer.kind, answer.body) == (AnswerKind.RESPONSE, response(source=B))


# -- line 4


async def test_receivers_204_is_the_end_of_it(post: Post) -> None:
    post.script.says("test://a/in", DONE)
    assert (await post.send(message(), wait=5)).kind is AnswerKind.DONE
    await post.rest()
    assert (await post.one()).answer is AnswerState.CLOSED


@pytest.mark.parametrize("result", [ACCEPTED, Delivered(status=200, note="200 OK")])
async def test_receivers_acknowledgement_is_the_answer(post: Post, result: Delivered) -> None:
    post.script.says("test://a/in", result)
    answer = await post.send(message())
    assert (answer.kind, answer.status) == (AnswerKind.TAKEN, result.status)
    assert (await post.one()).answer is AnswerState.OPEN  # the response may still come


@pytest.mark.parametrize("result", [ACCEPTED, Delivered(status=200, note="200 OK")])
async def test_with_prefer_wait_the_call_goes_on_listening(post: Post, result: Delivered) -> None:
    post.script.says("test://a/in", result)
    caller = post.calls(message(), wait=5)
    await post.rest()
    assert not caller.done()
    await post.send(response())
    answer = await caller
    assert (answer.kind, answer.body) == (AnswerKind.RESPONSE, response())


async def test_receiver_is_asked_as_we_were_asked(post: Post) -> None:
    await post.send(message())
    await post.send(message("b2", "m2"), asynchronous=True)
    await post.rest()
    waits, leaves = post.script.sent
    assert (waits.caller_waits, waits.envelope.timeleft) == (True, 9950)
    assert (leaves.caller_waits, leaves.envelope.timeleft) == (False, None)


# -- line 5


async def test_response_in_the_exchange_is_the_answer_byte_for_byte(post: Post) -> None:
    answer = await answer_in_exchange(post)
    assert (answer.kind, answer.body, answer.media_type) == (
        AnswerKind.RESPONSE, response(), "application/fhir+json",
    )  # fmt: skip
    request, reply = await post.of(1), await post.of(2)
    assert (request[0].state, request[0].answer, request[0].answered_by) == (State.DONE, AnswerState.ANSWERED, 2)
    assert [(one.address, one.state) for one in reply] == [("caller:", State.DONE)]
    assert await post.mail() == ()


async def test_response_as_a_later_message_is_the_answer(post: Post) -> None:
    post.script.holds("test://a/in")
    caller = post.calls(message())
    await post.rest()
    taken = await post.send(response())  # before its own delivery has ended
    answer = await caller
    assert (taken.kind, answer.kind, answer.body) == (AnswerKind.ACCEPTED, AnswerKind.RESPONSE, response())
    assert (await post.one()).state is State.DONE
    post.script.let_go(DOWN)
    await post.later(minutes=5)
    assert len(post.script.sent) == 1, "an answered request needs no further attempt"


async def test_refusal_of_the_receiver_is_the_answer(post: Post) -> None:
    post.script.says("test://a/in", refusal())
    answer = await post.send(message())
    assert (answer.kind, answer.status, answer.body) == (AnswerKind.REFUSED, 422, b"{}")
    assert answer.problem is not None
    assert answer.problem.who.value == "receiver"
    await post.rest()
    assert await post.mail() == (), "the caller has heard it: there is no bounce beside"


async def test_refusal_by_one_of_several_is_reported_though_a_caller_waits_for_the_other(post: Post) -> None:
    """Promise 5: the caller hears the response of one; that the other refused would be lost."""
    post.script.says("test://a/in", refusal())
    caller = post.calls(message(to=(A, B)), wait=5)
    await post.rest()
    await post.send(response(source=B))
    assert (await caller).kind is AnswerKind.RESPONSE
    await post.rest()
    assert [report["code"] for report in await post.reports()] == ["fatal-error"]


async def test_unreadable_answer_of_the_receiver_is_custody_and_no_response(post: Post) -> None:
    post.script.says("test://a/in", answered_with(b'{"resourceType": "OperationOutcome"}'))
    assert (await post.send(message())).kind is AnswerKind.TAKEN
    assert "no message that we can read" in (await post.one()).steps[-1].note


# -- line 6


async def test_wait_over_means_kept_and_the_late_response_takes_the_return_path(post: Post) -> None:
    post.script.says("test://a/in", DOWN)
    answer = await post.send(message(), wait=0.02)
    assert answer.kind is AnswerKind.KEPT
    post.script.says("test://a/in", answered_with(response()))
    await post.later(seconds=2)
    assert [entry.body for entry in await post.mail()] == [response()]


async def test_rule_says_how_long_a_caller_is_kept_at_most(opened: Opened) -> None:
    post = await opened(defaults=policy(sync={"longest": timedelta(milliseconds=20)}))
    post.script.holds("test://a/in")
    assert (await post.send(message(), wait=3600)).kind is AnswerKind.KEPT


async def test_envelope_of_a_broker_says_how_long_it_still_waits(post: Post) -> None:
    post.script.holds("test://a/in")
    assert (await post.send(message(), envelope=Envelope(timeleft=60))).kind is AnswerKind.KEPT


async def test_envelope_of_a_stranger_does_not_steer_the_wait(opened: Opened) -> None:
    post = await opened(parties=True, brokers=frozenset({"national"}))
    answer = await post.send(message(), envelope=Envelope(timeleft=0), party="north")
    assert answer.kind is AnswerKind.TAKEN


async def test_wait_over_withdraws_what_has_not_left_where_the_rule_says_so(opened: Opened) -> None:
    post = await opened(defaults=policy(sync={"on_timeout": "refuse"}))
    post.script.says("test://a/in", DOWN)
    answer = await post.send(message(), wait=0.02)
    assert (answer.kind, answer.left) == (AnswerKind.WITHDRAWN, False)
    assert (await post.one()).state is State.WITHDRAWN
    post.script.says("test://a/in", ACCEPTED)
    await post.later(hours=1)
    assert len(post.script.sent) == 1


@pytest.mark.parametrize("under_way", [True, False])
async def test_wait_over_says_that_it_had_left(opened: Opened, under_way: bool) -> None:
    post = await opened(defaults=policy(sync={"on_timeout": "refuse"}))
    if under_way:
        post.script.holds("test://a/in")
    else:
        post.script.says("test://a/in", Deferred(note="500", status=500))
    answer = await post.send(message(), wait=0.02)
    assert (answer.kind, answer.left) == (AnswerKind.WITHDRAWN, True)
    assert (await post.one()).state is State.WAITING


async def test_two_callers_of_a_withdrawn_message_hear_the_same(opened: Opened) -> None:
    post = await opened(defaults=policy(sync={"on_timeout": "refuse"}))
    post.script.says("test://a/in", DOWN)
    first, second = post.calls(message(), wait=0.02), post.calls(message(), wait=0.05)
    assert [((await one).kind, (await one).left) for one in (first, second)] == [(AnswerKind.WITHDRAWN, False)] * 2


async def test_copy_of_a_withdrawn_message_sets_it_out_again(opened: Opened) -> None:
    """Promise 1: who was told 504 and sends the same again is not told "accepted" for what goes nowhere."""
    post = await opened(defaults=policy(sync={"on_timeout": "refuse"}))
    post.script.says("test://a/in", DOWN)
    await post.send(message(), wait=0.02)
    post.script.says("test://a/in", ACCEPTED)
    answer = await post.send(message())
    assert (answer.kind, answer.receipt.duplicate) == (AnswerKind.TAKEN, True)
    assert (await post.one()).state is State.DONE


async def test_caller_who_goes_leaves_the_message_on_its_way(post: Post) -> None:
    post.script.holds("test://a/in")
    caller = post.calls(message())
    await post.rest()
    caller.cancel()
    post.script.let_go(answered_with(response()))
    await post.rest()
    assert [entry.body for entry in await post.mail()] == [response()]


async def test_caller_who_goes_while_the_message_is_synced_leaves_it_on_its_way(post: Post) -> None:
    caller = post.calls(message())
    await asyncio.sleep(0)  # it runs up to the commit that it waits for
    caller.cancel()
    await post.rest()
    assert len(post.script.sent) == 1


async def test_caller_who_goes_before_its_answer_is_written_gets_the_response_by_the_return_path(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    post.script.holds("test://a/in")
    caller = post.calls(message())
    await post.rest()
    respond = post.callers.respond

    def gone_then(position: int, body: bytes, media_type: str) -> bool:
        told = respond(position, body, media_type)
        caller.cancel()
        return told

    monkeypatch.setattr(post.callers, "respond", gone_then)
    post.script.let_go(answered_with(response()))
    with pytest.raises(asyncio.CancelledError):
        await caller
    await post.rest()
    assert [entry.body for entry in await post.mail()] == [response()]


async def test_caller_who_goes_while_its_response_is_synced_gets_it_by_the_return_path(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    post.script.holds("test://a/in")
    caller = post.calls(message())
    await post.rest()
    accept = post.store.accept

    def gone_meanwhile(new: NewMessage) -> asyncio.Future[Kept | Copy]:
        caller.cancel()
        return accept(new)

    monkeypatch.setattr(post.store, "accept", gone_meanwhile)
    await post.send(response())
    await post.rest()
    assert [entry.body for entry in await post.mail()] == [response()]
    assert [one.address for one in await post.of(2)] == ["caller:", "mailbox:"]


async def test_rule_decides_for_its_destination_only(opened: Opened) -> None:
    quiet = Rule(name="quiet", match=Match(destination=(A,)), policy=policy(sync={"expects": "nothing"}))
    post = await opened(rules=[quiet])
    post.script.holds("test://a/in")
    assert (await post.send(message())).kind is AnswerKind.ACCEPTED
    assert (await post.send(message("b2", "m2", to=(B,)))).kind is AnswerKind.TAKEN
