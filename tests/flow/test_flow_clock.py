"""The machine's clock is set while messages wait: nothing expires or is sent early, nobody is told too soon."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from flow_post import START, A, D, Opened, Post, message, policy

from broker.channel import Deferred
from broker.core.delivery import AnswerState, State
from broker.core.envelope import Envelope
from broker.core.outcome import Expired
from broker.flow.clock import SteadyClock
from broker.flow.retention import Ages, Retaining

HOUR = timedelta(hours=1)
EXPIRES = START + timedelta(minutes=30)


class Hands:
    """A wall clock that can be set and a steady one that cannot, and a broker that goes by the clock made of them."""

    def __init__(self, post: Post) -> None:
        self.post = post
        self.passed, self.set_by = 0.0, 0.0
        self.clock = SteadyClock(wall=lambda: START.timestamp() + self.passed + self.set_by, steady=lambda: self.passed)

    def passes(self, seconds: int) -> None:
        """Time passes, and the clock is looked at each second."""
        for _ in range(seconds):
            self.passed += 1
            self.clock.look()
        self.post.now, self.post.wall = self.clock(), self.clock.wall()


POLICY = policy(
    retry={"give_up": timedelta(minutes=50), "first": timedelta(minutes=10), "max": timedelta(minutes=10)},
    answer_within=timedelta(minutes=40),
    unread=timedelta(minutes=40),
)  # an hour is longer than any of these


@pytest.fixture
async def timed(opened: Opened) -> Post:
    return await opened(defaults=POLICY)


@pytest.fixture
def hands(timed: Post) -> Hands:
    return Hands(timed)


@pytest.mark.parametrize("set_by", [3600, -3600])
async def test_setting_the_clock_by_an_hour_brings_nothing_about(timed: Post, hands: Hands, set_by: int) -> None:
    post = timed
    post.script.says("test://a/in", Deferred(note="503", status=503))
    await post.send(message("b1", "m1", to=(A,)), asynchronous=True)
    await post.send(message("b2", "m2", to=(D,), request="never"), asynchronous=True)
    await post.rest()
    sent = len(post.script.sent)
    assert sent == 1
    hands.set_by += set_by
    hands.passes(60)
    await post.later()
    assert len(post.script.sent) == sent, "a retry came early"
    assert [one.state for one in await post.of(1)] == [State.WAITING]
    assert await post.reports() == []
    ages = Ages(body=HOUR / 2, mailbox=HOUR / 2, identity=HOUR / 2, trace=HOUR / 2)
    await Retaining(here=post.here, store=post.store, ages=ages).once()
    assert await post.store.body(2) is not None
    hands.passes(600)  # what is due in ten minutes is due in ten minutes, whatever the wall says
    await post.later()
    assert len(post.script.sent) == sent + 1


async def test_deliveries_expire_when_their_time_has_passed_and_not_by_the_wall(timed: Post, hands: Hands) -> None:
    post = timed
    post.script.says("test://a/in", Deferred(note="503", status=503))
    await post.send(message(to=(A,)), asynchronous=True)
    await post.rest()
    hands.set_by -= 3600
    hands.passes(40 * 60)
    await post.later()
    assert (await post.one()).state is State.WAITING
    hands.passes(12 * 60)
    await post.later()
    assert (await post.one()).state is State.DEAD


async def test_unanswered_request_is_not_reported_before_its_time(timed: Post, hands: Hands) -> None:
    post = timed
    await post.send(message(to=(A,)), asynchronous=True)
    await post.rest()
    assert (await post.one()).answer is AnswerState.OPEN
    hands.set_by += 3600
    hands.passes(30 * 60)
    await post.later()
    assert await post.reports() == []
    hands.passes(12 * 60)
    await post.later()
    assert [one["issue"]["details"]["coding"][0]["code"] for one in await post.reports()] == ["no-answer"]


async def test_expiry_given_by_a_sender_counts_on_arrival_only_if_both_clocks_say_so(post: Post) -> None:
    envelope = Envelope(expirytime=EXPIRES)
    post.wall = START + HOUR  # set forward by mistake
    await post.send(message("b1", "m1"), asynchronous=True, envelope=envelope)
    post.now, post.wall = START + HOUR, START  # ours was wrong from the start, and the machine's has been put right
    await post.send(message("b2", "m2"), asynchronous=True, envelope=envelope)
    post.wall = START + HOUR
    with pytest.raises(Expired):
        await post.send(message("b3", "m3"), asynchronous=True, envelope=envelope)


async def test_expiry_given_by_a_sender_is_kept_until_both_clocks_say_so(post: Post) -> None:
    post.script.holds("test://a/in")
    post.wall = START - HOUR
    await post.send(message(to=(A,)), asynchronous=True, envelope=Envelope(expirytime=EXPIRES))
    assert (await post.one()).expiry == EXPIRES + HOUR


def test_clock_that_is_never_set_shows_the_wall() -> None:
    clock = SteadyClock()
    clock.look()
    assert abs(clock() - datetime.now(UTC)) < timedelta(seconds=1)
    assert abs(clock.off()) < timedelta(seconds=1)
