"""In order where asked (design promise 4): within a stream the next waits until the one before has ended."""

from __future__ import annotations

import random
from collections import defaultdict
from datetime import timedelta
from typing import Any

import pytest
from flow_post import (
    ACCEPTED,
    ENDPOINTS,
    SENDER,
    A,
    B,
    Opened,
    Post,
    Script,
    answered_with,
    message,
    policy,
    refusal,
    response,
)

from broker.channel import Deferred, Transmission
from broker.core.delivery import State, Step
from broker.core.envelope import Envelope
from broker.core.policy import Match, Order, Rule
from broker.store import Change, Place, Settlement

BUSY = Deferred(note="503", status=503)
DOWN = Deferred(note="refused connection", of_peer=True, left=False)
BY_SOURCE = policy(order=Order.SOURCE)
HOLDING = policy(order=Order.SOURCE, on_refused="hold")
OTHER = "urn:oid:1.7"


async def send(post: Post, *names: str, **more: Any) -> None:
    """One after the other, each kept before the next is sent."""
    for name in names:
        await post.send(message(name, f"m{name}", **more), asynchronous=True)


def sent(script: Script, address: str = "test://a/in") -> list[str]:
    return [str(one.envelope.id) for one in script.to(address)]


def refuses(id: str) -> Any:
    """A receiver that takes all but this one."""
    return lambda one: refusal() if one.envelope.id == id else ACCEPTED


async def ends(post: Post, count: int) -> list[State]:
    return [delivery.state for n in range(1, count + 1) for delivery in await post.of(n)]


async def test_one_under_way_at_a_time_and_the_next_leaves_with_no_tick_between(opened: Opened) -> None:
    post = await opened(defaults=BY_SOURCE)
    post.script.holds("test://a/in")
    await send(post, "1", "2", "3")
    for count in (1, 2, 3):
        await post.rest()
        assert sent(post.script) == ["1", "2", "3"][:count]
        post.script.let_go()
    await post.rest()
    assert (post.script.most["test://a/in"], await ends(post, 3)) == (1, [State.DONE] * 3)


async def test_streams_of_other_sources_and_destinations_do_not_wait(opened: Opened) -> None:
    post = await opened(defaults=BY_SOURCE)
    post.script.holds("test://a/in")
    await send(post, "1", "2")
    await send(post, "3", source=OTHER)
    await send(post, "4", to=(B,))
    await post.rest()
    assert (sent(post.script), sent(post.script, "test://b/in")) == (["1", "3"], ["4"])


async def test_what_is_tried_again_keeps_its_turn(opened: Opened) -> None:
    post = await opened(defaults=BY_SOURCE)
    post.script.says("test://a/in", BUSY, BUSY, ACCEPTED)
    await send(post, "1", "2")
    for _ in range(5):
        await post.later(seconds=3)
    assert sent(post.script) == ["1", "1", "1", "2"]


async def test_refused_is_skipped_and_its_source_is_told(opened: Opened) -> None:
    post = await opened(defaults=BY_SOURCE)
    post.script.says("test://a/in", ACCEPTED, refusal(), ACCEPTED)
    await send(post, "1", "2", "3")
    await post.rest()
    assert sent(post.script) == ["1", "2", "3"]
    assert [one["identifier"] for one in await post.reports()] == ["m2"]


async def test_what_is_given_up_is_skipped_and_followers_end_by_their_own_time(opened: Opened) -> None:
    rule = Rule(
        name="soon",
        match=Match(event=("urgent",)),
        policy=policy(order=Order.SOURCE, retry={"give_up": timedelta(seconds=20)}),
    )
    post = await opened(defaults=BY_SOURCE, rules=[rule])
    post.script.says("test://a/in", BUSY)
    await send(post, "1", event="urgent")
    await send(post, "2")
    await send(post, "3", event="urgent")
    for _ in range(4):
        await post.later(seconds=10)
    assert await ends(post, 3) == [State.DEAD, State.WAITING, State.DEAD]
    assert sorted(one["identifier"] for one in await post.reports()) == ["m1", "m3"]
    assert "3" not in sent(post.script)
    post.script.says("test://a/in", ACCEPTED)
    await post.later(minutes=10)
    assert (await ends(post, 3))[1] is State.DONE


async def test_answer_that_comes_first_lets_the_next_go(opened: Opened) -> None:
    post = await opened(defaults=BY_SOURCE)
    post.script.holds("test://a/in")
    await send(post, "1", "2")
    await post.rest()
    assert sent(post.script) == ["1"]
    await post.send(response("m1"), asynchronous=True)
    await post.rest()
    assert sent(post.script) == ["1", "2"]


async def test_answer_in_the_exchange_lets_the_next_go(opened: Opened) -> None:
    post = await opened(defaults=BY_SOURCE)
    post.script.says("test://a/in", answered_with(response("m1")), answered_with(response("m2", bundle="rb2")))
    await send(post, "1", "2")
    await post.rest()
    assert sent(post.script) == ["1", "2"]


async def test_withdrawn_lets_the_next_go(opened: Opened) -> None:
    post = await opened(defaults=BY_SOURCE)
    post.script.says("test://a/in", DOWN)
    await send(post, "1", "2")
    await post.rest()
    post.script.says("test://a/in", ACCEPTED)
    assert await post.waits.withdraw(1, "not needed")
    await post.rest()
    assert sent(post.script)[-1] == "2"


async def test_closed_lane_keeps_the_order(opened: Opened) -> None:
    post = await opened(defaults=policy(order=Order.SOURCE, lane={"open_after": 1}))
    post.script.says("test://a/in", DOWN, ACCEPTED)
    await send(post, "1", "2", "3")
    await post.rest()
    assert not post.delivering.is_open("test://a", A)
    await send(post, "4")
    await post.later(seconds=40)
    assert sent(post.script) == ["1", "1", "2", "3", "4"]


async def test_order_outlives_a_crash_and_what_was_under_way_goes_again_first(opened: Opened) -> None:
    post = await opened(defaults=BY_SOURCE)
    post.script.holds("test://a/in")
    await send(post, "1", "2", "3")
    await post.rest()
    await post.crash()
    post = await opened(defaults=BY_SOURCE, now=post.now + timedelta(minutes=1))
    await send(post, "4")
    await post.rest()
    assert sent(post.script) == ["1", "2", "3", "4"]


async def test_end_that_was_written_and_never_heard_of_lets_the_next_go_after_a_crash(opened: Opened) -> None:
    post = await opened(defaults=BY_SOURCE)
    post.script.holds("test://a/in")
    await send(post, "1", "2")
    await post.rest()
    step = Step(at=post.now, what="delivered")
    await post.store.settle(Settlement(change=Change(position=1, numbers=(1,), state=State.DONE, step=step)))
    await post.crash()
    post = await opened(defaults=BY_SOURCE, now=post.now)
    await post.rest()
    assert sent(post.script) == ["2"]


# -- addresses


async def test_changed_address_keeps_the_order(opened: Opened) -> None:
    post = await opened(defaults=BY_SOURCE)
    post.script.says("test://a/in", BUSY)
    await send(post, "1", "2", "3")
    await post.rest()
    await post.moves({**ENDPOINTS, A: "test://new/in"})
    await send(post, "4")
    await post.rest()
    assert sent(post.script, "test://new/in") == ["1", "2", "3", "4"]


async def test_mail_waits_for_what_went_out_before_the_address_changed(opened: Opened) -> None:
    post = await opened(defaults=BY_SOURCE)
    post.script.holds("test://a/in")
    await send(post, "1", "2")
    await post.rest()
    await post.moves({**ENDPOINTS, A: "mailbox:"})
    await send(post, "3")
    await post.rest()
    assert await post.mail(A) == (), "the first is under way to the old address"
    post.script.let_go(BUSY)
    await post.later(seconds=15)
    assert [entry.position for entry in await post.mail(A)] == [1, 2, 3]
    assert await ends(post, 3) == [State.DONE] * 3


async def test_name_that_vanishes_and_comes_back_keeps_the_order(opened: Opened) -> None:
    post = await opened(defaults=BY_SOURCE)
    post.script.says("test://a/in", BUSY, ACCEPTED)
    await send(post, "1", "2")
    await post.rest()
    await post.moves({name: address for name, address in ENDPOINTS.items() if name != A})
    await post.later(minutes=1)
    assert sent(post.script) == ["1"]
    await post.moves(ENDPOINTS)
    await send(post, "3")
    await post.rest()
    assert sent(post.script) == ["1", "1", "2", "3"]


async def test_next_of_several_addresses_is_taken_in_order(opened: Opened) -> None:
    endpoints = {**ENDPOINTS, A: {"first": ["test://a/in", "test://b/in"]}}
    post = await opened(endpoints=endpoints, defaults=policy(order=Order.SOURCE, lane={"open_after": 1}))
    post.script.says("test://a/in", DOWN)
    await send(post, "1", "2", "3")
    await post.later(seconds=31)
    await post.later(seconds=2)  # the second may have been the probe of the first address
    assert (sent(post.script)[:1], sent(post.script, "test://b/in")) == (["1"], ["1", "2", "3"])


async def test_destinations_that_share_an_address_leave_together_only_if_it_is_the_turn_of_both(opened: Opened) -> None:
    endpoints = {**ENDPOINTS, A: "test://gate/in", B: "test://gate/in"}
    post = await opened(endpoints=endpoints, defaults=BY_SOURCE)
    post.script.holds("test://gate/in")
    await send(post, "1")
    await send(post, "2", to=(A, B))
    await send(post, "3", to=(A, B), source=OTHER)
    await post.rest()
    left = [(one.envelope.id, one.envelope.destination) for one in post.script.sent]
    assert left == [("1", (A,)), ("2", (B,)), ("3", (A, B))]


async def test_one_destination_s_trouble_keeps_no_other_waiting(opened: Opened) -> None:
    post = await opened(defaults=BY_SOURCE)
    post.script.says("test://a/in", BUSY)
    for name in ("1", "2"):
        await send(post, name, to=(A, B))
    await post.rest()
    assert (sent(post.script), sent(post.script, "test://b/in")) == (["1"], ["1", "2"])


# -- what is ordered by what


@pytest.mark.parametrize(
    ("order", "envelopes"),
    [
        (Order.SUBJECT, [Envelope(more=(("subject", name),)) for name in ("p", "q", "p")]),
        (Order.CORRELATION, [Envelope(correlationid=name) for name in ("p", "q", "p")]),
    ],
)
async def test_order_by_what_the_envelope_says(opened: Opened, order: Order, envelopes: list[Envelope]) -> None:
    post = await opened(defaults=policy(order=order))
    post.script.holds("test://a/in")
    for number, envelope in enumerate(envelopes):
        await post.send(message(str(number), f"m{number}"), asynchronous=True, envelope=envelope)
    await post.rest()
    assert sent(post.script) == ["0", "1"]
    assert (await post.one(3)).is_behind


async def test_responses_are_ordered_as_their_rule_says_and_reports_wait_for_nothing(opened: Opened) -> None:
    rule = Rule(name="answers", match=Match(response=True), policy=BY_SOURCE)
    post = await opened(endpoints={**ENDPOINTS, SENDER: "test://back/in"}, rules=[rule])
    post.script.says("test://a/in", refuses("3"))
    post.script.holds("test://back/in")
    await send(post, "1", "2")
    await post.rest()
    for name in ("1", "2"):
        await post.send(response(f"m{name}", bundle=f"r{name}", header=f"rm{name}"), asynchronous=True)
    await send(post, "3")
    await post.rest()
    first, report = post.script.to("test://back/in")
    assert first.envelope.id == "r1"
    assert report.body.find(b"fatal-error") > 0


async def test_copy_changes_nothing_in_the_order(opened: Opened) -> None:
    post = await opened(defaults=BY_SOURCE)
    post.script.holds("test://a/in")
    await send(post, "1", "2", "1", "2")
    await post.rest()
    post.script.says("test://a/in", ACCEPTED)
    post.script.let_go()
    await post.rest()
    assert sent(post.script) == ["1", "2"]


async def test_caller_that_waits_behind_others_has_its_answer_when_its_turn_has_come(opened: Opened) -> None:
    post = await opened(defaults=BY_SOURCE)
    post.script.holds("test://a/in")
    await send(post, "1")
    call = post.calls(message("2", "m2"))
    await post.rest()
    assert sent(post.script) == ["1"]
    post.script.says("test://a/in", answered_with(response("m2")))
    post.script.let_go()
    assert (await call).body == response("m2")


# -- what holds


async def test_refused_holds_the_stream_and_no_other(opened: Opened) -> None:
    post = await opened(defaults=HOLDING)
    post.script.says("test://a/in", refuses("2"))
    await send(post, "1", "2", "3")
    await send(post, "4", source=OTHER)
    await post.later(hours=1)
    assert sorted(sent(post.script)) == ["1", "2", "4"]
    assert await post.store.places(3) == (Place(number=1, held_by=(2,)),)
    assert [one["identifier"] for one in await post.reports()] == ["m2"]


async def test_hold_outlives_a_restart(opened: Opened) -> None:
    post = await opened(defaults=HOLDING)
    post.script.says("test://a/in", refusal(), ACCEPTED)
    await send(post, "1", "2")
    await post.rest()
    await post.stop()
    post = await opened(defaults=HOLDING, now=post.now)
    await send(post, "3")
    await post.later(hours=1)
    assert sent(post.script) == []
    released = await post.store.resume(1, 1, post.now)
    assert released is not None
    post.delivering.released(released.queues)
    await post.rest()
    assert sent(post.script) == ["2", "3"]


async def test_what_waits_in_a_held_stream_is_given_up_in_its_time_and_reported(opened: Opened) -> None:
    post = await opened(defaults=HOLDING)
    post.script.says("test://a/in", refusal())
    await send(post, "1", "2")
    await post.later(hours=25)
    assert await ends(post, 2) == [State.DEAD, State.DEAD]
    assert [one["code"] for one in await post.reports()] == ["fatal-error", "transient-error"]
    assert (await post.store.counts()).held_streams == 1


# -- the law


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens_first_copies_arrive_as_they_were_accepted(opened: Opened, seed: int) -> None:
    """Refusals, troubles, crashes and changed addresses at random, over several sources (promise 4)."""
    dice = random.Random(seed)
    settings = policy(
        order=Order.SOURCE, lane={"concurrent": 4, "open_after": 3}, retry={"first": timedelta(seconds=1)}
    )
    post = await opened(defaults=settings)
    arrived: dict[str, list[int]] = defaultdict(list)

    def answers(one: Transmission) -> Any:
        source, _, number = str(one.envelope.id).partition("-")
        arrived[source].append(int(number))
        throw = dice.random()
        if throw < 0.1:
            return refusal()
        return ACCEPTED if throw < 0.7 else BUSY if throw < 0.9 else DOWN

    def listens(post: Post) -> None:
        for host in ("a", "b", "c"):
            post.script.says(f"test://{host}/in", answers)

    listens(post)
    counts: dict[str, int] = defaultdict(int)
    for _ in range(30):
        what = dice.choice(["send", "send", "send", "later", "moves", "crash"])
        if what == "send":
            for _ in range(dice.randint(1, 6)):
                source = dice.choice("xyz")
                counts[source] += 1
                name = f"{source}-{counts[source]}"
                await post.send(message(name, f"m{name}", source=f"urn:{source}"), asynchronous=True)
        elif what == "later":
            await post.later(seconds=dice.randint(1, 40))
        elif what == "moves":
            await post.moves({**ENDPOINTS, A: f"test://{dice.choice('abc')}/in"})
        else:
            await post.crash()
            post = await opened(defaults=settings, now=post.now + timedelta(seconds=11))
            listens(post)
    for _ in range(200):
        if not (await post.store.counts()).waiting:
            break
        await post.later(minutes=2)
    for source, count in counts.items():
        firsts = list(dict.fromkeys(arrived[source]))
        assert firsts == list(range(1, count + 1)), "each first copy after the one before"
        again = [n for k, n in enumerate(arrived[source]) if k and n < max(arrived[source][:k])]
        assert again == [], "nothing comes once a later one has come"
