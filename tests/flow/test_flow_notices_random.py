"""Whatever a subscriber answers and whenever the broker dies: every number comes, in order, and none is left out."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from flow_post import ACCEPTED, policy
from flow_subscribers import HOOK, SubscribedPost, Subscribing, status_of, subscription

from broker.channel import Deferred, Transmission
from broker.core.subscription.life import Policy
from broker.core.subscription.subscription import Status

EVENTS = 25
RETRY = {"first": timedelta(seconds=1), "max": timedelta(seconds=5), "give_up": timedelta(hours=9)}
LATER = Deferred(note="503 Service Unavailable", status=503)
LOST = Deferred(note="the connection broke", of_peer=True)


class Subscriber:
    """Answers at random, and remembers what it has seen."""

    def __init__(self, dice: Random) -> None:
        self.dice = dice
        self.seen: list[list[int]] = []
        self.taken: list[int] = []

    def answer(self, sent: Transmission) -> Any:
        status = status_of(sent)
        numbers = [int(one["eventNumber"]) for one in status.get("notificationEvent", ())]
        answer = self.dice.choice([ACCEPTED, ACCEPTED, LATER, LOST])
        self.seen.append(numbers)
        if answer is ACCEPTED:
            self.taken += numbers
        return answer


@pytest.mark.parametrize("seed", range(8))
async def test_every_number_comes_in_order_whatever_is_answered_and_whenever_the_broker_dies(
    subscribing: Subscribing, seed: int
) -> None:
    dice = Random(seed)
    subscriber, patient = Subscriber(dice), {"life": Policy(error_after=1000), "delivery": policy(retry=RETRY)}
    post: SubscribedPost = await subscribing(**patient)
    post.script.says(HOOK, subscriber.answer)
    row = await post.subscribes(subscription(max_count=dice.choice([1, 3, 10])), active=True)
    told = 0
    while told < EVENTS:
        what = dice.random()
        if what < 0.6:
            told += 1
            await post.happens(told, row.key)
        elif what < 0.85:
            await post.later(seconds=dice.choice([1, 2, 15]))
        else:
            await post.crash()
            post = await subscribing(**patient, now=post.now)
            post.script.says(HOOK, subscriber.answer)
    post.script.says(HOOK, lambda sent: (subscriber.answer(sent), ACCEPTED)[1])
    for _ in range(6):
        await post.later(seconds=30)
    first_seen = list(dict.fromkeys(number for numbers in subscriber.seen for number in numbers))
    assert first_seen == list(range(1, EVENTS + 1))
    for before, after in pairwise(subscriber.seen):  # again the same, or on: never back
        assert after == before or after[0] == before[-1] + 1
    (kept,) = await post.store.subscribed()
    assert (kept.sent, kept.counted, kept.notice, kept.life.status) == (EVENTS, EVENTS, None, Status.ACTIVE)
