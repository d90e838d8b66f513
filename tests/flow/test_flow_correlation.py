"""Which request a response answers, and where it goes (design: respond; M-30 … M-36)."""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import timedelta
from typing import Any

import pytest
from flow_post import ACCEPTED, NOBODY, SENDER, A, B, Opened, Post, answered_with, message, policy, response

from broker.channel import Deferred, Delivered, Transmission
from broker.core.answer import AnswerKind
from broker.core.delivery import AnswerState, State
from broker.core.envelope import Envelope
from broker.core.message import Fate
from broker.core.outcome import NoRoute, NotAllowed
from broker.store import Settled, Settlement


async def asked(post: Post, body: bytes = message(), **more: Any) -> None:
    """A request that was carried and acknowledged, whose caller has gone."""
    await post.send(body, asynchronous=True, **more)
    await post.rest()


async def fate_of(post: Post, position: int = 2) -> Fate:
    stored = await post.store.stored(position)
    assert stored is not None
    return stored.message.fate


# -- which request


@pytest.mark.parametrize("quoted", ["m1", "b1", "urn:uuid:m1", "urn:uuid:b1", "V1", {"system": "urn:s", "value": "V1"}])
async def test_response_may_quote_any_of_three_ids(post: Post, quoted: Any) -> None:
    """M-31."""
    await asked(post, message(identifier=("urn:s", "V1")))
    await post.send(response(quoted, r5=isinstance(quoted, dict), identifier=("urn:s", "R1")))
    assert await fate_of(post) is Fate.ANSWER
    assert (await post.one()).answered_by == 2


async def test_response_that_comes_while_the_end_of_the_attempt_is_written_is_its_answer(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a channel of its own it may well overtake the commit; it was taken for unmatched, and no answer reported."""
    other = sqlite3.connect(post.path, isolation_level=None)
    accept, asks = post.store.accept, asyncio.Event()

    def takes(_: Transmission) -> Delivered:
        other.execute("BEGIN IMMEDIATE")  # from here on nothing is committed
        return ACCEPTED

    def accepts(*arguments: Any, **named: Any) -> Any:
        asks.set()
        return accept(*arguments, **named)

    post.script.says("test://a/in", takes, ACCEPTED)
    await post.send(message(), asynchronous=True)
    while not post.delivering.settling.unwritten:  # noqa: ASYNC110
        await asyncio.sleep(0)
    monkeypatch.setattr(post.store, "accept", accepts)
    comes = asyncio.create_task(post.send(response(), asynchronous=True))
    await asks.wait()  # it knows now what it is
    other.close()
    await comes
    await post.rest()
    assert await fate_of(post) is Fate.ANSWER
    assert (await post.one()).answer is AnswerState.ANSWERED


async def test_stranger_who_quotes_the_right_id_is_unmatched(post: Post) -> None:
    await asked(post)
    await post.send(response(source=B))
    assert await fate_of(post) is Fate.MESSAGE or await fate_of(post) is Fate.UNMATCHED
    assert (await post.one()).answer is AnswerState.OPEN


async def test_stranger_who_quotes_the_right_id_does_not_answer_who_waits(post: Post) -> None:
    post.script.holds("test://a/in")
    caller = post.calls(message())
    await post.rest()
    await post.send(response(source=B))
    assert not caller.done()
    post.script.let_go()
    assert (await caller).kind is AnswerKind.TAKEN


async def test_gateway_that_answers_for_another_destination_does_not_answer_for_its_own(opened: Opened) -> None:
    """Two destinations behind one gateway, reached one by one: it tells both who wait the first response it has."""
    post = await opened(endpoints={SENDER: "mailbox:", A: "test://gate/a", B: "test://gate/b"})
    of_b = answered_with(response(source=B))
    post.script.says("test://gate/a", of_b)
    post.script.says("test://gate/b", of_b)
    answer = await post.send(message(to=(A, B)), wait=5)
    assert answer.body == of_b.body
    await post.rest()
    assert [(one.destination, one.answer) for one in await post.of()] == [
        (A, AnswerState.OPEN),
        (B, AnswerState.ANSWERED),
    ]
    assert len(await post.messages()) == 2, "the response is kept once"


async def test_response_that_names_no_destination_is_matched_by_its_source(post: Post) -> None:
    await asked(post)
    await post.send(response(to=()))
    assert await fate_of(post) is Fate.ANSWER


async def test_response_for_somebody_else_is_not_ours(post: Post) -> None:
    await asked(post)
    await post.send(response(to=(B,)))
    assert (await post.one()).answer is AnswerState.OPEN


async def test_response_to_what_was_never_carried_is_unmatched(post: Post) -> None:
    post.script.says("test://a/in", Deferred(note="down", of_peer=True, left=False))
    await asked(post)
    await post.send(response())
    assert (await post.one()).answer is AnswerState.OPEN


async def test_response_before_the_deliverys_own_answer_ends_it(post: Post) -> None:
    post.script.holds("test://a/in")
    await asked(post)
    await post.send(response())
    assert ((await post.one()).state, (await post.one()).answer) == (State.DONE, AnswerState.ANSWERED)
    post.script.let_go(Deferred(note="500"))
    await post.later(days=1)
    assert len(post.script.sent) == 1
    assert [entry.body for entry in await post.mail()] == [response()]


async def test_response_while_the_end_of_the_attempt_is_being_written_is_the_answer(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receiver that takes custody and answers at once: nothing is under way any more, and nothing is on disk yet."""
    settle, came = post.store.settle, asyncio.Event()

    def slow(settlement: Settlement, *, soon: bool = True) -> asyncio.Future[Settled]:
        async def written() -> Settled:
            await came.wait()
            return await settle(settlement, soon=soon)

        return asyncio.ensure_future(written())

    with monkeypatch.context() as slowed:
        slowed.setattr(post.store, "settle", slow)
        await asked(post)
        assert (await post.one()).state is State.WAITING
        await post.send(response())
    came.set()
    await post.rest()
    assert await fate_of(post) is Fate.ANSWER
    assert (await post.one()).answer is AnswerState.ANSWERED


async def test_response_to_what_waits_for_its_turn_is_unmatched(opened: Opened) -> None:
    """An id alone proves nothing: what is in memory and was never sent cannot have been answered."""
    post = await opened(defaults=policy(lane={"concurrent": 1}))
    post.script.holds("test://a/in")
    await asked(post)
    await asked(post, message("b2", "m2"))
    await post.send(response("m2"))
    assert (await post.one(2)).answer is AnswerState.OPEN


async def test_response_in_the_moment_in_which_the_attempt_is_noted_finds_its_request(post: Post) -> None:
    """The store is read before the attempt's end is written, and lanes are asked after it."""
    post.script.holds("test://a/in")
    caller = post.calls(message(), wait=50)
    await post.rest()
    post.script.let_go()
    await post.send(response())
    assert await fate_of(post) is Fate.ANSWER
    assert (await caller).kind is AnswerKind.RESPONSE


async def test_newest_of_several_open_requests_with_one_id_is_answered(post: Post) -> None:
    await asked(post)
    await asked(post, message("b2", "m1"))
    await post.send(response())
    assert [(await post.one(n)).answer for n in (1, 2)] == [AnswerState.OPEN, AnswerState.ANSWERED]


async def test_answered_request_gives_way_to_an_older_open_one(post: Post) -> None:
    await asked(post)
    await asked(post, message("b2", "m1"))
    await post.send(response())
    await post.send(response(bundle="rb2", header="rm2"))
    assert [(await post.one(n)).answer for n in (1, 2)] == [AnswerState.ANSWERED] * 2


async def test_second_response_is_marked_double_and_passed_on(post: Post) -> None:
    """M-33: several responses are legal for queries."""
    await asked(post)
    await post.send(response())
    await post.send(response(bundle="rb2", header="rm2"))
    assert [await fate_of(post, n) for n in (2, 3)] == [Fate.ANSWER, Fate.DOUBLE]
    assert len(await post.mail()) == 2


async def test_response_after_the_answer_time_is_late_and_passed_on(opened: Opened) -> None:
    post = await opened(defaults=policy(answer_within=timedelta(minutes=1)))
    await asked(post)
    await post.later(minutes=2)
    await post.send(response())
    assert await fate_of(post, 3) is Fate.LATE
    assert [entry.position for entry in await post.mail()] == [2, 3]


async def test_late_response_is_kept_and_goes_nowhere_where_the_rule_drops_it(opened: Opened) -> None:
    post = await opened(defaults=policy(answer_within=timedelta(minutes=1), sync={"late": "drop"}, bounce="never"))
    await asked(post)
    await post.later(minutes=2)
    await post.send(response())
    assert await post.mail() == ()
    assert (await post.one(2)).state is State.LOGGED


async def test_unmatched_response_is_routed_like_any_message(post: Post) -> None:
    await post.send(response("unheard-of", to=(B,)))
    await post.rest()
    assert [one.address for one in post.script.sent] == ["test://b/in"]
    assert (await post.one()).answer is AnswerState.NONE


async def test_unmatched_response_for_nobody_is_refused_and_never_bounces(post: Post) -> None:
    with pytest.raises(NoRoute):
        await post.send(response("unheard-of", to=(NOBODY,)))
    assert (await post.store.counts()).messages == 0


async def test_nobody_answers_a_response(post: Post) -> None:
    """M-36."""
    await asked(post, response("unheard-of", to=(A,), source=SENDER))
    await post.send(response("rm1", bundle="x", header="y"))
    assert (await post.one()).answer is AnswerState.NONE
    assert await fate_of(post) is not Fate.ANSWER


async def test_each_of_several_destinations_answers_for_itself(post: Post) -> None:
    """M-57."""
    await asked(post, message(to=(A, B)))
    await post.send(response(source=B))
    assert [d.answer for d in await post.of()] == [AnswerState.OPEN, AnswerState.ANSWERED]
    await post.send(response(source=A, bundle="rb2", header="rm2"))
    assert [d.answer for d in await post.of()] == [AnswerState.ANSWERED] * 2


async def test_answer_of_a_shared_address_is_that_of_who_says_so(opened: Opened) -> None:
    """M-57, A-3: by the response's source, however it is written."""
    post = await opened(endpoints={A: "test://gate/in", B: "test://gate/in", SENDER: "mailbox:"})
    post.script.says("test://gate/in", answered_with(response(source=B.replace("urn:oid", "URN:OID"))))
    await asked(post, message(to=(A, B)))
    assert [d.answer for d in await post.of()] == [AnswerState.OPEN, AnswerState.ANSWERED]


async def test_receiver_may_call_itself_by_its_address(opened: Opened) -> None:
    post = await opened(endpoints={A: "test://a/in/$process-message", SENDER: "mailbox:"})
    await asked(post)
    await post.send(response(source="test://a/in"))
    assert await fate_of(post) is Fate.ANSWER


# -- where it goes


async def test_response_goes_to_the_response_url(post: Post) -> None:
    await asked(post, response_url="test://back/here?x=1")
    await post.send(response())
    await post.rest()
    assert post.script.sent[-1].address == "test://back/here?x=1"
    assert post.script.sent[-1].body == response()
    assert not post.script.sent[-1].caller_waits
    assert await post.mail() == ()


async def test_response_url_that_is_not_allowed_is_refused(post: Post) -> None:
    """M-48."""
    with pytest.raises(NotAllowed):
        await post.send(message(), response_url="test://evil/here")
    assert (await post.store.counts()).messages == 0


async def test_response_goes_to_the_directorys_address_of_the_source(opened: Opened) -> None:
    post = await opened(endpoints={A: "test://a/in", SENDER: "test://s/in"})
    await asked(post)
    await post.send(response())
    await post.rest()
    assert [one.address for one in post.script.sent] == ["test://a/in", "test://s/in"]


async def test_response_goes_back_by_the_hop_it_came_from(opened: Opened) -> None:
    post = await opened(endpoints={A: "test://a/in", "urn:hop": "test://hop/in"})
    await asked(post, envelope=Envelope(via=("urn:first", "urn:hop")))
    await post.send(response())
    await post.rest()
    assert post.script.sent[-1].address == "test://hop/in"


async def test_response_of_a_source_without_an_address_is_put_into_its_mailbox(opened: Opened) -> None:
    post = await opened(endpoints={A: "test://a/in", "*": "test://gateway/in"})
    await asked(post)
    await post.send(response())
    await post.rest()
    assert [entry.body for entry in await post.mail()] == [response()], "the default gateway is for strangers"


@pytest.mark.parametrize("in_exchange", [True, False])
async def test_response_whose_way_back_no_channel_carries_is_put_into_the_mailbox(
    opened: Opened, in_exchange: bool
) -> None:
    post = await opened(endpoints={A: "test://a/in", SENDER: "gopher://s/in"})
    post.script.says("test://a/in", answered_with(response()) if in_exchange else ACCEPTED)
    await asked(post)
    if not in_exchange:
        await post.send(response())
    await post.later(minutes=5)
    assert [entry.body for entry in await post.mail()] == [response()]
    assert len(post.script.sent) == 1


async def test_response_in_the_exchange_of_a_caller_who_has_gone_takes_the_return_path(post: Post) -> None:
    post.script.says("test://a/in", answered_with(response()))
    await asked(post)
    assert [entry.body for entry in await post.mail()] == [response()]
    assert (await post.one()).answered_by == 2


async def test_way_back_stays_as_decided_when_the_source_vanishes(opened: Opened) -> None:
    post = await opened(endpoints={A: "test://a/in", SENDER: "test://s/in"})
    post.script.says("test://s/in", Deferred(note="500"), ACCEPTED)
    await asked(post)
    await post.send(response())
    await post.rest()
    await post.moves({A: "test://a/in"})
    await post.later(seconds=5)
    assert (await post.one(2)).state is State.DONE


# -- a message in a receiver's own answer


async def test_answer_that_holds_the_response_to_another_request_goes_to_who_asked_that(opened: Opened) -> None:
    """The exchange proves who speaks, not to whom: an id of another request makes it that one's answer."""
    post = await opened(endpoints={A: "test://a/in", SENDER: "mailbox:", B: "mailbox:"})
    post.script.says("test://a/in", ACCEPTED)
    await post.send(message("b1", "m1"), asynchronous=True)
    post.script.says("test://a/in", answered_with(response("m1")))
    answer = await post.send(message("b2", "m2", source=B))
    assert answer.kind is AnswerKind.TAKEN
    await post.rest()
    assert [delivery.answer for delivery in await post.store.deliveries(1)] == [AnswerState.ANSWERED]
    assert [delivery.answer for delivery in await post.store.deliveries(2)] == [AnswerState.OPEN]


async def test_echo_of_a_request_is_no_response(opened: Opened) -> None:
    """M-7: what makes a response is `response`; a server that stores a Bundle answers with the Bundle."""
    post = await opened(endpoints={A: "test://a/in", SENDER: "mailbox:"})
    post.script.says("test://a/in", answered_with(message("b1", "m1")))
    answer = await post.send(message("b1", "m1"))
    assert answer.kind is AnswerKind.TAKEN
    await post.rest()
    assert len(post.script.sent) == 1


async def test_resend_after_a_transient_error_is_carried_again(opened: Opened) -> None:
    """M-32, W-41: we do not resend by ourselves; the sender's own resend is more than a copy."""
    post = await opened(endpoints={A: "test://a/in", SENDER: "mailbox:"})
    post.script.says(
        "test://a/in",
        answered_with(response(code="transient-error")),
        answered_with(response(bundle="rb2", header="rm2")),
    )
    first, second = await post.send(message()), await post.send(message())
    third = await post.send(message())
    assert [b"transient-error" in (one.body or b"") for one in (first, second, third)] == [True, False, False]
    assert len(post.script.sent) == 2
