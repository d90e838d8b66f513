"""Identity, duplicates and resubmission as spec/messaging.md section 3 says, for R4 and for R5 (M-20 … M-28)."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from flow_post import ACCEPTED, SENDER, A, B, C, D, Opened, Post, answered_with, message, policy, refusal, response
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.channel import Deferred
from broker.core.answer import AnswerKind
from broker.core.delivery import State
from broker.core.envelope import Envelope
from broker.core.outcome import Conflict, NoRoute

R5: dict[str, Any] = {"r5": True, "identifier": ("urn:s", "1")}


# -- R4: the pair of Bundle.id and MessageHeader.id


async def test_both_ids_new_is_a_new_message(post: Post) -> None:
    await post.send(message())
    assert (await post.send(message("b2", "m2"))).receipt.position == 2
    assert len(post.script.sent) == 2


async def test_both_ids_seen_gets_the_first_receipt_and_is_not_carried_again(post: Post) -> None:
    first, second = await post.send(message()), await post.send(message())
    assert (second.receipt.message_id, second.receipt.duplicate) == (first.receipt.message_id, True)
    assert second.kind is AnswerKind.TAKEN
    assert second.receipt.notes == ()
    assert len(post.script.sent) == 1
    assert [note.what for note in await post.store.notes(1)] == ["copy"]


async def test_both_ids_seen_after_the_answer_gets_the_stored_response(post: Post) -> None:
    post.script.says("test://a/in", answered_with(response()))
    await post.send(message())
    again = await post.send(message())
    assert (again.kind, again.body, again.receipt.duplicate) == (AnswerKind.RESPONSE, response(), True)
    assert len(post.script.sent) == 1


async def test_both_ids_seen_after_a_refusal_gets_the_refusal_again(post: Post) -> None:
    post.script.says("test://a/in", refusal())
    first, second = await post.send(message()), await post.send(message())
    assert (second.kind, second.status, second.body, second.problem) == (
        first.kind, first.status, first.body, first.problem,
    )  # fmt: skip
    assert second.receipt.duplicate


async def test_new_bundle_id_with_seen_header_id_is_a_resubmission_and_accepted(post: Post) -> None:
    await post.send(message())
    again = await post.send(message("b2", "m1"))
    assert (again.receipt.position, again.receipt.duplicate) == (2, False)


async def test_resubmission_of_a_consequence_is_refused(opened: Opened) -> None:
    post = await opened(defaults=policy(category="consequence"))
    await post.send(message())
    with pytest.raises(Conflict) as refused:
        await post.send(message("b2", "m1"))
    assert refused.value.problem.id == "resubmitted"
    assert (await post.send(message())).receipt.duplicate, "the same pair is a copy, as ever"
    assert (await post.send(message("b2", "m2"))).receipt.position == 2, "the refused Bundle.id was not used up"


async def test_seen_bundle_id_with_new_header_id_is_a_conflict(post: Post) -> None:
    await post.send(message())
    with pytest.raises(Conflict) as refused:
        await post.send(message("b1", "m2"))
    assert (refused.value.problem.id, refused.value.problem.expression) == ("reused-id", ("Bundle.id",))


async def test_conflict_names_both_digests(post: Post) -> None:
    await post.send(message())
    first = (await post.messages())[0].message.digest
    with pytest.raises(Conflict) as refused:
        await post.send(message(text="other"))
    assert first in str(refused.value)
    assert str(refused.value).count("sha-256=") == 2
    assert (await post.store.counts()).messages == 1


async def test_bundle_built_anew_for_the_resend_is_the_same_message(post: Post) -> None:
    await post.send(message())
    again = await post.send(message(timestamp="2027-01-01T00:00:00Z"))
    assert again.receipt.duplicate
    assert [note.id for note in again.receipt.notes] == ["bytes-differ"]
    assert len(post.script.sent) == 1


async def test_reused_ids_are_a_new_message_where_the_rule_accepts_them(opened: Opened) -> None:
    post = await opened(defaults=policy(reused_id="accept"))
    await post.send(message())
    other = await post.send(message(text="other"))
    assert (other.receipt.position, other.receipt.duplicate) == (2, False)
    copy = await post.send(message(text="other"))
    assert (copy.receipt.position, copy.receipt.duplicate) == (2, True)
    assert (await post.send(message())).receipt.position == 1
    assert len(post.script.sent) == 2


async def test_accepting_reused_ids_does_not_let_a_consequence_come_twice(opened: Opened) -> None:
    post = await opened(defaults=policy(reused_id="accept", category="consequence"))
    await post.send(message())
    with pytest.raises(Conflict):
        await post.send(message("b2", "m1"))


async def test_ids_are_unique_within_one_source_only(post: Post) -> None:
    await post.send(message())
    assert (await post.send(message(source="urn:oid:1.9"))).receipt.position == 2


async def test_every_copy_is_carried_where_the_rule_lets_the_receiver_answer(opened: Opened) -> None:
    post = await opened(defaults=policy(duplicates="forward"))
    kinds = [(await post.send(message())).receipt.position for _ in range(3)]
    assert kinds == [1, 2, 3]
    assert len({one.body for one in post.script.sent}) == 1


# -- R5: Bundle.identifier alone


async def test_seen_identifier_is_the_same_message_whatever_the_bytes(post: Post) -> None:
    await post.send(message(**R5))
    again = await post.send(message("b2", "m2", text="other", **R5))
    assert again.receipt.duplicate
    assert [note.id for note in again.receipt.notes] == ["bytes-differ"]
    assert len(post.script.sent) == 1


async def test_new_identifier_is_a_new_message_whatever_the_other_ids(post: Post) -> None:
    await post.send(message(**R5))
    assert (await post.send(message(r5=True, identifier=("urn:s", "2")))).receipt.position == 2
    assert (await post.send(message(r5=True, identifier=("urn:t", "1")))).receipt.position == 3


async def test_seen_identifier_gets_the_stored_response(post: Post) -> None:
    reply = response({"system": "urn:s", "value": "1"}, r5=True, identifier=("urn:s", "r"))
    post.script.says("test://a/in", answered_with(reply))
    await post.send(message(**R5))
    again = await post.send(message("b2", "m2", **R5))
    assert (again.kind, again.body) == (AnswerKind.RESPONSE, reply)


async def test_r5_message_without_identifier_falls_back_to_the_bundle_id(post: Post) -> None:
    await post.send(message(r5=True))
    assert (await post.send(message(header="m2", r5=True))).receipt.duplicate


# -- copies of what is under way


async def test_copy_while_the_first_is_under_way_joins_it(post: Post) -> None:
    post.script.holds("test://a/in")
    first = post.calls(message())
    await post.rest()
    second = post.calls(message())
    await post.rest()
    post.script.let_go(answered_with(response()))
    one, two = await first, await second
    assert (one.body, two.body) == (response(), response())
    assert (one.receipt.duplicate, two.receipt.duplicate) == (False, True)
    assert len(post.script.sent) == 1


async def test_copies_in_one_group_commit_are_one_message(post: Post) -> None:
    answers = await asyncio.gather(*(post.send(message()) for _ in range(10)))
    assert sorted(answer.receipt.duplicate for answer in answers) == [False] + [True] * 9
    assert {answer.receipt.position for answer in answers} == {1}
    await post.rest()
    assert len(post.script.sent) == 1


async def test_asynchronous_copy_has_its_receipt_at_once(post: Post) -> None:
    post.script.holds("test://a/in")
    await post.send(message(), asynchronous=True)
    again = await post.send(message(), asynchronous=True)
    assert (again.kind, again.receipt.duplicate) == (AnswerKind.ACCEPTED, True)


async def test_asynchronous_copy_of_an_answered_call_gets_the_response_by_the_return_path_once(post: Post) -> None:
    """What was written to the caller's connection may never have arrived there: the next hop asks again."""
    post.script.says("test://a/in", answered_with(response()))
    assert (await post.send(message())).kind is AnswerKind.RESPONSE
    assert await post.mail() == ()
    for _ in range(2):
        assert (await post.send(message(), asynchronous=True)).kind is AnswerKind.ACCEPTED
        await post.rest()
    assert [entry.body for entry in await post.mail()] == [response()]
    assert len(post.script.sent) == 1


async def test_asynchronous_copy_of_what_was_answered_by_the_return_path_brings_nothing_new(post: Post) -> None:
    post.script.says("test://a/in", answered_with(response()))
    for _ in range(2):
        await post.send(message(), asynchronous=True)
        await post.rest()
    assert [entry.body for entry in await post.mail()] == [response()]


async def test_copy_that_does_not_wait_hears_the_refusal_that_its_first_may_have_missed(post: Post) -> None:
    """A hop whose connection breaks while it waits asks again and does not; the refusal was nobody else's to report."""
    post.script.says("test://a/in", refusal())
    first = await post.send(message())
    again = await post.send(message(), asynchronous=True)
    assert [(one.kind, one.status, one.body) for one in (first, again)] == [(AnswerKind.REFUSED, 422, b"{}")] * 2
    assert await post.reports() == []
    assert len(post.script.sent) == 1


async def test_copy_of_a_hop_does_not_hear_the_refusal_that_the_source_was_told_of(post: Post) -> None:
    """It would report it once more; the source itself may ask as often as it likes."""
    post.script.says("test://a/in", refusal())
    before = Envelope(via=("urn:oid:2.999.7",))
    assert (await post.send(message(), asynchronous=True, envelope=before)).kind is AnswerKind.ACCEPTED
    await post.rest()
    assert len(await post.reports()) == 1
    assert (await post.send(message(), asynchronous=True, envelope=before)).kind is AnswerKind.ACCEPTED
    assert (await post.send(message(), asynchronous=True)).kind is AnswerKind.REFUSED
    await post.rest()
    assert len(await post.reports()) == 1
    assert len(post.script.sent) == 1


async def test_copy_that_does_not_wait_hears_of_the_destination_that_refused(opened: Opened) -> None:
    post = await opened(endpoints={A: "test://gate/a", B: "test://gate/b", SENDER: "mailbox:"})
    post.script.says("test://gate/a", refusal())
    both = message(to=(A, B))
    assert (await post.send(both, envelope=Envelope(destination=(A,)))).kind is AnswerKind.REFUSED
    assert (await post.send(both, asynchronous=True)).kind is AnswerKind.ACCEPTED
    await post.rest()
    assert [one["code"] for one in await post.reports()] == ["fatal-error"]
    assert [one.state for one in await post.of()] == [State.DEAD, State.DONE]


async def test_refusal_of_one_destination_is_reported_with_its_end_while_a_caller_waits_for_the_other(
    opened: Opened,
) -> None:
    """A crash right behind it would leave nobody who knows that it is still to be told."""
    post = await opened(endpoints={A: "test://a/in", B: "test://b/in", SENDER: "mailbox:"})
    post.script.says("test://a/in", refusal())
    post.script.holds("test://b/in")
    settled = []
    settle = post.store.settle
    post.store.settle = lambda what, **more: settled.append(what) or settle(what, **more)  # type: ignore[method-assign]
    caller = post.calls(message(to=(A, B)), wait=5)
    await post.rest()
    assert [one.comes is not None for one in settled] == [True]
    post.script.let_go(answered_with(response(source=B)))
    assert (await caller).kind is AnswerKind.RESPONSE
    assert len(await post.reports()) == 1


@pytest.mark.parametrize("end", [answered_with(response()), refusal()])
async def test_end_of_what_a_caller_waits_for_goes_to_the_sender_of_a_copy_too(post: Post, end: Any) -> None:
    """Who was killed asks again without waiting, and the connection that it died on may look alive for long."""
    post.script.holds("test://a/in")
    caller = post.calls(message())
    await post.rest()
    await post.send(message(), asynchronous=True)
    post.script.let_go(end)
    assert (await caller).kind in (AnswerKind.RESPONSE, AnswerKind.REFUSED)
    await post.rest()
    (entry,) = await post.mail()
    assert entry.message.header.response is not None


async def test_copy_for_a_further_destination_adds_that_delivery_alone(post: Post) -> None:
    both = message(to=(A, B))
    await post.send(both, envelope=Envelope(destination=(A,)))
    again = await post.send(both, envelope=Envelope(destination=(B,)))
    await post.rest()
    assert (again.receipt.position, again.receipt.duplicate) == (1, True)
    assert [(d.number, d.destination, d.state) for d in await post.of()] == [(1, A, State.DONE), (2, B, State.DONE)]
    assert [one.envelope.destination for one in post.script.sent] == [(A,), (B,)]


async def test_copy_for_a_further_mailbox_puts_it_there(post: Post) -> None:
    both = message(to=(A, D))
    await post.send(both, envelope=Envelope(destination=(A,)))
    await post.send(both)
    assert [entry.body for entry in await post.mail(D)] == [both]
    assert len(post.script.sent) == 1


async def test_copy_to_mailbox_and_address_is_answered_as_the_first(opened: Opened) -> None:
    post = await opened(endpoints={A: ["mailbox:", "test://a/in"]})
    first, second = await post.send(message()), await post.send(message())
    assert (first.kind, second.kind) == (AnswerKind.TAKEN, AnswerKind.TAKEN)


async def test_copy_who_waits_for_what_was_only_acknowledged_goes_on_listening(post: Post) -> None:
    await post.send(message())
    copy = post.calls(message(), wait=5)
    await post.rest()
    await post.send(response())
    assert (await copy).kind is AnswerKind.RESPONSE


async def test_copy_of_a_response_is_a_copy_and_goes_nowhere(post: Post) -> None:
    await post.send(message(), asynchronous=True)
    await post.rest()
    await post.send(response())
    assert (await post.send(response())).receipt.duplicate
    assert len(await post.mail()) == 1


async def test_receiver_that_answers_everybody_with_the_same_ids_has_answered_each(post: Post) -> None:
    post.script.says("test://a/in", answered_with(response("whatever")))
    for number in range(3):
        await post.send(message(f"b{number}", f"m{number}"), asynchronous=True)
        await post.rest()
    assert len(await post.mail()) == 3
    await post.later(days=2)
    assert await post.reports() == []


MESSAGES = (
    message(), message("b1", "m1", to=(A, B)), message("b2", "m1"), message("b2", "m2", to=(C, D)),
    message(**R5), message("b3", "m3", text="x", **R5), message("b4", "m4", to=(SENDER,)),
    response("m1"), response("m2", bundle="rb2"),
)  # fmt: skip


@settings(max_examples=12, deadline=None)
@given(bodies=st.lists(st.sampled_from(MESSAGES), min_size=1, max_size=6))
def test_accepting_twice_equals_accepting_once(bodies: list[bytes]) -> None:
    """A law: whatever comes, the second copy changes nothing of what is kept and carried."""
    with TemporaryDirectory() as folder:
        once, twice = (asyncio.run(_kept(Path(folder) / f"{times}.db", bodies, times)) for times in (1, 2))
    assert once == twice


async def _kept(path: Path, bodies: list[bytes], times: int) -> list[Any]:
    post = await Post(path).start()
    for body in bodies:
        for _ in range(times):
            with suppress(Conflict):
                await post.send(body, asynchronous=True)
        await post.rest()
    messages = await post.messages()
    kept: list[Any] = [one.message.digest for one in messages]
    kept += [(d.destination, d.state, d.answer) for one in messages for d in await post.of(one.position)]
    kept += [(one.address, one.body) for one in post.script.sent]
    kept += [entry.body for entry in await post.mail()]
    await post.stop()
    return kept


async def test_copy_of_a_message_that_is_tried_again_waits_for_its_end(post: Post) -> None:
    post.script.says("test://a/in", Deferred(note="500", status=500), ACCEPTED)
    first = post.calls(message())
    await post.rest()
    second = post.calls(message())
    await post.rest()
    await post.later(seconds=2)
    assert [(await one).kind for one in (first, second)] == [AnswerKind.TAKEN] * 2
    assert len(post.script.sent) == 2


async def test_copy_is_answered_although_its_destination_has_left_the_directory(opened: Opened) -> None:
    """The first was carried and answered; that the name is gone since changes nothing for its copy."""
    post = await opened(endpoints={A: "test://a", SENDER: "mailbox:"})
    post.script.says("test://a", answered_with(response()))
    first = await post.send(message())
    assert first.kind is AnswerKind.RESPONSE
    await post.moves({SENDER: "mailbox:"})
    again = await post.send(message())
    assert again.kind is AnswerKind.RESPONSE
    assert again.body == first.body
    with pytest.raises(NoRoute):
        await post.send(message("b9", "m9"))


async def test_copy_of_what_was_given_up_is_carried_again(opened: Opened) -> None:
    """M-32: `transient-error` says that resending is sensible; so a resend is no mere copy."""
    post = await opened(defaults=policy(retry={"give_up": timedelta(seconds=5)}))
    post.script.says("test://a/in", Deferred(note="500", status=500))
    await post.send(message(), asynchronous=True)
    for _ in range(8):
        await post.later(seconds=1)
    assert (await post.store.deliveries(1))[0].state is State.DEAD
    post.script.says("test://a/in", ACCEPTED)
    await post.send(message(), asynchronous=True)
    await post.rest()
    assert (await post.store.deliveries(1))[0].state is State.DONE
