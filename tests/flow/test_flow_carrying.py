"""Attempts, their ends, and what the source is told: retries, expiry, dead letters, bounces (A-41, A-43)."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from flow_post import (
    ACCEPTED,
    ENDPOINTS,
    NOBODY,
    SENDER,
    START,
    A,
    B,
    Opened,
    Post,
    message,
    policy,
    refusal,
    response,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.channel import Deferred
from broker.core.answer import AnswerKind
from broker.core.delivery import AnswerState, State
from broker.core.envelope import Envelope
from broker.core.outcome import NoRoute
from broker.core.policy import Match, Rule

LATER = Deferred(note="500", status=500)


# -- retries


async def test_waits_grow_by_the_factor_up_to_the_longest(opened: Opened) -> None:
    post = await opened(defaults=policy(retry={"max": timedelta(seconds=3)}))
    post.script.says("test://a/in", LATER)
    await post.send(message(), asynchronous=True)
    await post.rest()
    waits = []
    for _ in range(4):
        due = (await post.one()).due
        waits.append((due - post.now).total_seconds())
        await post.later(seconds=waits[-1])
    assert waits == [1, 2, 3, 3]
    assert [one.attempt for one in post.script.sent] == [1, 2, 3, 4, 5]
    assert len({one.body for one in post.script.sent}) == 1, "M-24: all bytes and ids stay"


@pytest.mark.parametrize(("dice", "wait"), [(0.0, 0.8), (1.0, 1.2)])
async def test_jitter_moves_a_wait_by_its_share_at_most(post: Post, dice: float, wait: float) -> None:
    post.dice = dice
    post.script.says("test://a/in", LATER)
    await post.send(message(), asynchronous=True)
    await post.rest()
    assert (await post.one()).due == START + timedelta(seconds=wait)


async def test_retry_after_is_waited_for(post: Post) -> None:
    post.script.says("test://a/in", Deferred(note="503", status=503, retry_after=timedelta(seconds=90)), ACCEPTED)
    await post.send(message(), asynchronous=True)
    await post.later(seconds=89)
    assert len(post.script.sent) == 1
    await post.later(seconds=1)
    assert (await post.one()).state is State.DONE


async def test_story_of_a_delivery_tells_every_attempt(post: Post) -> None:
    post.script.says("test://a/in", LATER, ACCEPTED)
    await post.send(message(), asynchronous=True)
    await post.later(seconds=1)
    delivery = await post.one()
    assert [(step.what, step.note, step.at) for step in delivery.steps] == [
        ("deferred", "500", START), ("delivered", "202 Accepted", START + timedelta(seconds=1)),
    ]  # fmt: skip
    assert (delivery.attempts, delivery.left, delivery.ended) == (2, True, post.now)


async def test_channel_that_breaks_defers(post: Post, caplog: pytest.LogCaptureFixture) -> None:
    def broken(_sent: object) -> Deferred:
        raise KeyError("a bug in a plugin")

    post.script.says("test://a/in", broken, ACCEPTED)
    await post.send(message(), asynchronous=True)
    await post.later(seconds=1)
    assert (await post.one()).state is State.DONE


# -- the end


async def test_giving_up_is_a_dead_letter_and_a_transient_bounce(opened: Opened) -> None:
    post = await opened(defaults=policy(retry={"give_up": timedelta(seconds=10)}))
    post.script.says("test://a/in", LATER)
    await post.send(message(), asynchronous=True)
    for _ in range(12):
        await post.later(seconds=1)
    assert len(post.script.sent) == 4, "at 0, 1, 3 and 7 seconds; the next would be past the expiry"
    (dead,) = await post.store.dead(10, 0)
    assert dead.delivery.outcome is not None
    assert dead.delivery.outcome.problem is not None
    assert dead.delivery.outcome.problem.id == "given-up"
    (report,) = await post.reports()
    assert (report["code"], report["identifier"]) == ("transient-error", "m1")
    assert "4 attempts" in report["issue"]["details"]["text"]
    assert "500" in report["issue"]["details"]["text"]


async def test_refusal_is_a_dead_letter_and_a_fatal_bounce(post: Post) -> None:
    post.script.says("test://a/in", refusal())
    await post.send(message(), asynchronous=True)
    await post.rest()
    assert (await post.one()).state is State.DEAD
    (report,) = await post.reports()
    assert (report["code"], report["identifier"]) == ("fatal-error", "m1")
    await post.later(days=2)
    assert len(post.script.sent) == 1
    assert len(await post.reports()) == 1


async def test_bounce_quotes_the_bundle_identifier_from_r5_on(post: Post) -> None:
    post.script.says("test://a/in", refusal())
    await post.send(message(r5=True, identifier=("urn:s", "1")), asynchronous=True)
    await post.rest()
    (report,) = await post.reports()
    assert report["identifier"] == {"system": "urn:s", "value": "1"}


async def test_rule_may_say_that_nothing_bounces(opened: Opened) -> None:
    post = await opened(defaults=policy(bounce="never"))
    post.script.says("test://a/in", refusal())
    await post.send(message(), asynchronous=True)
    await post.later(days=2)
    assert await post.mail() == ()


async def test_responses_never_bounce(post: Post) -> None:
    post.script.says("test://a/in", refusal())
    await post.send(response("unheard-of", to=(A,), source=SENDER), asynchronous=True)
    await post.rest()
    assert (await post.one()).state is State.DEAD
    assert await post.mail() == ()


async def test_bounces_never_bounce(opened: Opened) -> None:
    post = await opened(endpoints={A: "test://a/in", SENDER: "test://s/in"})
    post.script.says("test://a/in", refusal())
    post.script.says("test://s/in", refusal())
    await post.send(message(), asynchronous=True)
    await post.later(days=2)
    assert [one.address for one in post.script.sent] == ["test://a/in", "test://s/in"]
    assert (await post.store.counts()).messages == 2


async def test_caller_who_is_told_of_the_refusal_gets_no_bounce_and_a_gone_one_does(post: Post) -> None:
    post.script.holds("test://a/in")
    told, gone = post.calls(message()), post.calls(message("b2", "m2"))
    await post.rest()
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    post.script.let_go(refusal())
    assert (await told).kind is AnswerKind.REFUSED
    await post.rest()
    assert [report["identifier"] for report in await post.reports()] == ["m2"]


# -- expiry


async def test_senders_expirytime_ends_a_delivery_before_the_rule_does(post: Post) -> None:
    post.script.says("test://a/in", LATER)
    until = START + timedelta(seconds=2)
    await post.send(message(), asynchronous=True, envelope=Envelope(expirytime=until))
    await post.later(seconds=1)
    assert (await post.one()).state is State.DEAD, "the third attempt would come too late"
    assert [report["code"] for report in await post.reports()] == ["transient-error"]
    assert len(post.script.sent) == 2


async def test_what_waits_behind_a_slow_peer_expires_unsent(opened: Opened) -> None:
    post = await opened(defaults=policy(lane={"concurrent": 1}, retry={"give_up": timedelta(seconds=5)}))
    post.script.holds("test://a/in")
    for number in range(3):
        await post.send(message(f"b{number}", f"m{number}"), asynchronous=True)
    await post.rest()
    await post.later(seconds=6)
    assert [(await post.one(n)).state for n in (1, 2, 3)] == [State.WAITING, State.DEAD, State.DEAD]
    post.script.let_go()
    await post.rest()
    assert (await post.one(1)).state is State.DONE, "its attempt was made in time; its end decides"
    assert len(post.script.sent) == 1
    assert {report["identifier"] for report in await post.reports()} == {"m1", "m2"}


@settings(max_examples=15, deadline=None)
@given(
    give_up=st.integers(1, 40),
    given_time=st.none() | st.integers(1, 40),
    first=st.integers(1, 10),
    factor=st.sampled_from([1.0, 1.5, 3.0]),
    dice=st.floats(0, 1),
    asked=st.none() | st.integers(0, 60),
)
def test_no_attempt_is_made_past_its_expiry(
    give_up: int, given_time: int | None, first: int, factor: float, dice: float, asked: int | None
) -> None:
    async def run(path: Path) -> None:
        retry = {"give_up": timedelta(seconds=give_up), "first": timedelta(seconds=first), "factor": factor}
        post = await Post(path, defaults=policy(retry=retry)).start()
        post.dice = dice
        times = []

        def later(_sent: object) -> Deferred:
            times.append(post.now)
            return Deferred(note="500", retry_after=None if asked is None else timedelta(seconds=asked))

        post.script.says("test://a/in", later)
        until = None if given_time is None else START + timedelta(seconds=given_time)
        await post.send(message(), asynchronous=True, envelope=Envelope(expirytime=until))
        await post.rest()
        expiry = (await post.one()).expiry
        for _ in range(9):
            await post.later(seconds=5)
        assert times[0] == START
        assert max(times) < expiry
        assert (await post.one()).state is State.DEAD
        assert len(await post.reports()) == 1
        await post.stop()

    with TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder) / "broker.db"))


# -- several destinations


async def test_destinations_that_share_an_address_leave_in_one_transmission(opened: Opened) -> None:
    """M-55: a second copy would be a duplicate to the next broker; also when it is tried again."""
    throws = cycle((0.0, 1.0))
    ends = {A: "test://gate/in", B: "test://gate/in", SENDER: "mailbox:"}
    post = await opened(endpoints=ends, dice=lambda: next(throws))
    post.script.says("test://gate/in", LATER, LATER, ACCEPTED)
    await post.send(message(to=(A, B)))
    for _ in range(5):
        await post.later(seconds=1)
    assert [one.envelope.destination for one in post.script.sent] == [(A, B)] * 3
    assert [d.state for d in await post.of()] == [State.DONE] * 2


async def test_destinations_that_share_an_address_also_probe_together(opened: Opened) -> None:
    ends = {A: "test://gate/in", B: "test://gate/in", SENDER: "mailbox:"}
    post = await opened(endpoints=ends, defaults=policy(lane={"open_after": 1}))
    post.script.says("test://gate/in", Deferred(note="down", of_peer=True), ACCEPTED)
    await post.send(message(to=(A, B)))
    await post.rest()
    await post.later(seconds=30)
    assert [one.envelope.destination for one in post.script.sent] == [(A, B)] * 2


async def test_receipt_names_the_destination_that_cannot_be_reached_and_it_bounces(post: Post) -> None:
    answer = await post.send(message(to=(NOBODY, A)))
    assert [(note.id, note.expression) for note in answer.receipt.notes] == [
        ("unknown-destination", ("Bundle.entry[0].resource.destination[0].endpoint",))
    ]
    await post.rest()
    (report,) = await post.reports()
    assert report["code"] == "fatal-error"
    assert (await post.one()).destination == A


async def test_message_that_can_reach_nobody_is_refused_and_not_stored(post: Post) -> None:
    with pytest.raises(NoRoute) as refused:
        await post.send(message(to=(NOBODY, "urn:oid:8.8")))
    assert len(refused.value.problems) == 2
    assert (await post.store.counts()).messages == 0
    await post.send(message(to=(A,)))


async def test_address_that_no_channel_carries_refuses_its_own_destination_only(opened: Opened) -> None:
    post = await opened(endpoints={**ENDPOINTS, B: "gopher://b/in"})
    answer = await post.send(message(to=(A, B)))
    assert [note.id for note in answer.receipt.notes] == ["no-usable-address"]
    await post.rest()
    assert (await post.one()).state is State.DONE
    with pytest.raises(NoRoute):
        await post.send(message("b2", "m2", to=(B,)))


async def test_first_of_several_addresses_is_one_that_a_channel_carries(opened: Opened) -> None:
    post = await opened(endpoints={A: {"first": ["gopher://a/in", "test://a/in"]}})
    assert (await post.send(message())).kind is AnswerKind.TAKEN


async def test_next_of_several_addresses_is_tried_when_one_is_down(opened: Opened) -> None:
    post = await opened(endpoints={A: {"first": ["test://a/in", "test://b/in"]}})
    post.script.says("test://a/in", Deferred(note="down", of_peer=True))
    await post.send(message(), asynchronous=True)
    await post.later(seconds=1)
    assert [one.address for one in post.script.sent] == ["test://a/in", "test://b/in"]


async def test_all_addresses_of_one_destination_are_served(opened: Opened) -> None:
    post = await opened(endpoints={A: ["mailbox:", "test://a/in", "test://b/in"]})
    await post.send(message(), asynchronous=True)
    await post.rest()
    assert [one.address for one in post.script.sent] == ["test://a/in", "test://b/in"]
    assert len(await post.mail(A)) == 1


async def test_message_that_a_rule_logs_goes_nowhere(opened: Opened) -> None:
    post = await opened(rules=[Rule(name="log", match=Match(), log=True)])
    assert (await post.send(message(to=(NOBODY,)))).kind is AnswerKind.ACCEPTED
    assert (await post.one()).state is State.LOGGED


# -- what time alone brings


async def test_missing_answer_is_reported_once(opened: Opened) -> None:
    post = await opened(defaults=policy(answer_within=timedelta(minutes=5)))
    await post.send(message())
    await post.later(minutes=4)
    assert await post.reports() == []
    await post.later(minutes=1)
    await post.later(days=1)
    (report,) = await post.reports()
    assert (report["code"], report["issue"]["code"]) == ("transient-error", "timeout")
    assert (await post.one()).answer is AnswerState.MISSING


@pytest.mark.parametrize("wanted", ["on-error", "never"])
async def test_silence_is_an_answer_to_who_wants_errors_only(opened: Opened, wanted: str) -> None:
    post = await opened(defaults=policy(answer_within=timedelta(minutes=5)))
    await post.send(message(request=wanted))
    await post.later(minutes=6)
    assert await post.reports() == []


async def test_unread_mail_is_reported_once_and_stays(opened: Opened) -> None:
    post = await opened(defaults=policy(unread=timedelta(days=1), sync={"expects": "nothing"}))
    await post.send(message(to=(SENDER,), source=B), asynchronous=True)
    await post.moves({SENDER: "mailbox:", B: "mailbox:"})
    for _ in range(3):
        await post.later(days=1)
    assert [report["issue"]["severity"] for report in await post.reports(B)] == ["warning"]
    assert len(await post.mail()) == 1


async def test_mail_that_was_read_is_not_reported(opened: Opened) -> None:
    post = await opened(defaults=policy(unread=timedelta(days=1), sync={"expects": "nothing"}))
    await post.send(message(to=(SENDER,), source=B), asynchronous=True)
    await post.store.mark_read(SENDER, (1,), "reader", post.now)
    await post.later(days=2)
    assert await post.reports(B) == []


# -- dead letters


async def test_redriven_dead_letter_is_carried_and_its_response_is_an_answer(post: Post) -> None:
    post.script.says("test://a/in", refusal(), ACCEPTED)
    await post.send(message(), asynchronous=True)
    await post.rest()
    await post.later(days=3)
    assert await post.store.redrive(1, 1, post.now, post.now + timedelta(days=1))
    post.delivering.woken("test://a", A)
    await post.later(seconds=1)
    assert ((await post.one()).state, (await post.one()).answer) == (State.DONE, AnswerState.OPEN)
    await post.send(response())
    assert (await post.one()).answer is AnswerState.ANSWERED


async def test_dropped_dead_letter_leaves_the_list_and_a_copy_does_not_revive_it(post: Post) -> None:
    post.script.says("test://a/in", refusal())
    await post.send(message(), asynchronous=True)
    await post.rest()
    assert await post.store.drop(1, 1, post.now, "by the operator")
    assert not await post.store.drop(1, 1, post.now, "again")
    assert await post.store.dead(10, 0) == ()
    await post.send(message(), asynchronous=True)
    await post.rest()
    assert (await post.one()).state is State.WITHDRAWN
    assert len(post.script.sent) == 1
