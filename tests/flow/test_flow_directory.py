"""What waits follows the directory (A-22): a new address, another lane, a mailbox, a name that vanishes."""

from __future__ import annotations

import pytest
from flow_post import (
    ACCEPTED,
    ENDPOINTS,
    SENDER,
    A,
    B,
    Opened,
    Post,
    answered_with,
    message,
    policy,
    response,
)  # fmt: skip

from broker.channel import Deferred
from broker.core.answer import AnswerKind
from broker.core.delivery import State
from broker.core.policy import Match, Rule
from broker.core.resolution import How, Resolution
from broker.core.resolution import State as Standing
from broker.directory import Snapshot
from broker.directory.written import read_endpoints

LATER = Deferred(note="500", status=500)


async def waiting(post: Post) -> None:
    """A delivery that was tried once and waits."""
    post.script.says("test://a/in", LATER)
    await post.send(message(), asynchronous=True)
    await post.rest()


async def test_waiting_delivery_goes_to_the_new_address_at_once(post: Post) -> None:
    await waiting(post)
    await post.moves({**ENDPOINTS, A: "test://a/new"})
    assert [one.address for one in post.script.sent] == ["test://a/in", "test://a/new"]
    assert ((await post.one()).state, (await post.one()).address) == (State.DONE, "test://a/new")


async def test_waiting_delivery_goes_over_to_another_lane(post: Post) -> None:
    await waiting(post)
    await post.moves({**ENDPOINTS, A: "test://b/new"})
    delivery = await post.one()
    assert (delivery.state, delivery.address, delivery.lane) == (State.DONE, "test://b/new", "test://b")
    assert [step.what for step in delivery.steps] == ["deferred", "address", "delivered"]
    assert delivery.attempts == 2


async def test_waiting_delivery_is_put_into_a_mailbox(post: Post) -> None:
    await waiting(post)
    await post.moves({**ENDPOINTS, A: "mailbox:"})
    assert (await post.one()).state is State.DONE
    assert [entry.body for entry in await post.mail(A)] == [message()]
    assert [box.endpoint for box in await post.store.mailboxes()] == [A]


async def test_mail_that_was_put_there_later_is_reported_unread_too(opened: Opened) -> None:
    post = await opened(defaults=policy(sync={"expects": "nothing"}))
    await waiting(post)
    await post.moves({**ENDPOINTS, A: "mailbox:"})
    await post.later(days=6)
    assert [report["issue"]["severity"] for report in await post.reports()] == ["warning"]


async def test_name_that_vanishes_defers_until_it_is_back(post: Post) -> None:
    await waiting(post)
    await post.moves({name: place for name, place in ENDPOINTS.items() if name != A})
    await post.later(hours=1)
    delivery = await post.one()
    assert (delivery.state, delivery.attempts) == (State.WAITING, 1)
    assert delivery.steps[-1].what == "held"
    post.script.says("test://a/in", ACCEPTED)
    await post.moves(ENDPOINTS)
    assert (await post.one()).state is State.DONE


async def test_name_that_stays_away_dies_of_its_expiry_only(post: Post) -> None:
    await waiting(post)
    await post.moves({name: place for name, place in ENDPOINTS.items() if name != A})
    for _ in range(25):
        await post.later(hours=1)
    assert (await post.one()).state is State.DEAD
    assert len(post.script.sent) == 1
    assert [report["code"] for report in await post.reports()] == ["transient-error"]


async def test_address_that_no_channel_carries_any_more_defers(post: Post) -> None:
    await waiting(post)
    await post.moves({**ENDPOINTS, A: "gopher://a/in"})
    await post.later(hours=1)
    delivery = await post.one()
    assert (delivery.state, delivery.attempts, delivery.steps[-1].what) == (State.WAITING, 1, "held")
    post.script.says("test://a/in", ACCEPTED)
    await post.moves(ENDPOINTS)
    assert (await post.one()).state is State.DONE


async def test_suspended_destination_is_accepted_and_waits(post: Post) -> None:
    """A-22: suspended, error."""
    open_ = post.directory.current

    class Suspended:
        version = "suspended"
        nearest = open_.nearest

        def resolve(self, name: str, **more: object) -> Resolution:
            return Resolution(how=How.EXACT, matched=name, state=Standing.HOLD, reason="suspended")

    held: Snapshot = Suspended()  # type: ignore[assignment]
    post.directory.current = held
    assert (await post.send(message(), asynchronous=True)).kind is AnswerKind.ACCEPTED
    await post.later(minutes=5)
    assert (await post.one()).state is State.WAITING
    assert post.script.sent == []
    post.directory.current = open_
    await post.delivering.follow(lambda name: name == A)
    await post.rest()
    await post.later(seconds=1)
    assert (await post.one()).state is State.DONE


async def test_address_of_a_rule_is_not_looked_up_anew(opened: Opened) -> None:
    rule = Rule(name="fixed", match=Match(), address="test://a/in")
    post = await opened(rules=[rule])
    await waiting(post)
    await post.moves({A: "test://b/in"})
    post.script.says("test://a/in", ACCEPTED)
    await post.later(seconds=1)
    assert [one.address for one in post.script.sent] == ["test://a/in"] * 2


async def test_change_of_another_name_wakes_nobody(post: Post) -> None:
    await waiting(post)
    await post.moves({**ENDPOINTS, B: "test://b/new"})
    assert len(post.script.sent) == 1


async def test_second_of_several_addresses_moves_and_the_mailbox_has_it_once(opened: Opened) -> None:
    """`["mailbox:", X]` becomes `["mailbox:", Y]`: what waited for X goes to Y, not into the mailbox again."""
    post = await opened(endpoints={**ENDPOINTS, A: ["mailbox:", "test://a/in"]})
    await waiting(post)
    await post.moves({**ENDPOINTS, A: ["mailbox:", "test://b/new"]})
    assert [one.address for one in post.script.sent] == ["test://a/in", "test://b/new"]
    assert [entry.body for entry in await post.mail(A)] == [message()]


@pytest.mark.parametrize("known", [True, False], ids=["with an address", "in no source"])
async def test_response_waits_until_its_way_back_is_known(opened: Opened, known: bool) -> None:
    """A source that was never read may know where the request came from: a mailbox may be one that nobody reads."""
    post = await opened(endpoints={A: "test://a/in"})
    listed = read_endpoints({A: "test://a/in"}, file="x").listed
    post.directory.current = Snapshot(listed, not_known=("https://directory.example",))
    post.script.says("test://a/in", answered_with(response()))
    await post.send(message(), asynchronous=True)
    await post.rest()
    assert ((await post.one(2)).state, await post.mail()) == (State.WAITING, ())
    await post.moves({A: "test://a/in", **({SENDER: "test://b/back"} if known else {})})
    await post.later(seconds=31)
    assert (await post.one(2)).state is State.DONE
    assert [one.address for one in post.script.sent[1:]] == (["test://b/back"] if known else [])
    assert [entry.body for entry in await post.mail()] == ([] if known else [response()])
