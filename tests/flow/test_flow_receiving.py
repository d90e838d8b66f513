"""What is refused at the door, and what a store in trouble means there."""

from __future__ import annotations

import asyncio
from asyncio import Future
from datetime import timedelta

import pytest
from flow_post import HERE, START, A, B, Opened, Post, message, policy

from broker.core.answer import AnswerKind
from broker.core.envelope import Envelope
from broker.core.outcome import (
    BadRequest,
    Busy,
    Expired,
    LoopDetected,
    MessageInvalid,
    Refusal,
    StoreUnavailable,
    TooLarge,
)
from broker.core.policy import Match, Rule
from broker.store import StoreError


async def refused(post: Post, body: bytes = message(), **more: object) -> Refusal:
    with pytest.raises(Refusal) as caught:
        await post.send(body, **more)  # type: ignore[arg-type]
    assert (await post.store.counts()).messages <= 1
    return caught.value


async def test_message_that_was_here_is_a_loop_even_if_it_is_a_copy(post: Post) -> None:
    await post.send(message())
    found = await refused(post, envelope=Envelope(via=("urn:x", HERE, "urn:y")))
    assert isinstance(found, LoopDetected)
    assert f"urn:x > {HERE} > urn:y" in str(found)


async def test_message_that_passed_too_many_brokers_is_refused(opened: Opened) -> None:
    post = await opened(hops=3)
    found = await refused(post, envelope=Envelope(via=("urn:1", "urn:2", "urn:3")))
    assert found.problem.id == "too-many-hops"


async def test_hops_only_grow(post: Post) -> None:
    await post.send(message(), envelope=Envelope(via=("urn:1",)))
    assert post.script.sent[0].envelope.via == ("urn:1", HERE)


async def test_message_that_is_worth_nothing_any_more_is_refused(post: Post) -> None:
    late = START - timedelta(seconds=5)
    assert isinstance(await refused(post, envelope=Envelope(expirytime=late)), Expired)
    in_time = late + timedelta(microseconds=1)
    await post.send(message(), asynchronous=True, envelope=Envelope(expirytime=in_time))


async def test_bytes_that_are_not_those_of_their_digest_are_refused_as_transient(post: Post) -> None:
    found = await refused(post, envelope=Envelope(digest="sha-256=" + "A" * 43 + "="))
    assert (found.problem.id, found.problem.code) == ("digest-mismatch", "transient")


async def test_destination_that_the_message_does_not_name_is_refused(post: Post) -> None:
    """Promise 6: only a broker may name one."""
    assert isinstance(await refused(post, envelope=Envelope(destination=(B,))), BadRequest)


async def test_broker_may_name_a_destination_that_the_message_does_not(opened: Opened) -> None:
    post = await opened(parties=True, brokers=frozenset({"national"}))
    await post.send(message(), party="national", envelope=Envelope(destination=(B,)))
    assert (await post.one()).destination == B


async def test_attributes_that_steer_are_not_honoured_from_strangers(opened: Opened) -> None:
    post = await opened(parties=True, brokers=frozenset({"national"}))
    steering = Envelope(destination=(B,), via=("urn:x",), priority=9, expirytime=START - timedelta(days=1))
    await post.send(message(), party="north", envelope=steering)
    (sent,) = post.script.sent
    assert (sent.envelope.destination, sent.envelope.via, sent.envelope.priority) == ((A,), (HERE,), None)
    assert sent.envelope.expirytime is None


async def test_what_is_no_message_is_refused(post: Post) -> None:
    assert isinstance(await refused(post, b'{"resourceType": "Bundle", "type": "batch"}'), MessageInvalid)


async def test_rule_may_refuse(opened: Opened) -> None:
    post = await opened(rules=[Rule(name="no", match=Match(), refuse="not here")])
    found = await refused(post)
    assert (str(found), found.problem.id) == ("not here", "refused-by-rule")


async def test_message_over_the_limit_is_too_large(opened: Opened) -> None:
    post = await opened(max_message=100)
    assert isinstance(await refused(post), TooLarge)


async def test_what_is_taken_in_at_once_is_bounded_in_bytes_and_one_always_fits(opened: Opened) -> None:
    post = await opened(in_flight=100)
    results = await asyncio.gather(
        *(post.send(message(f"b{n}", f"m{n}"), asynchronous=True) for n in range(3)), return_exceptions=True
    )
    assert [type(one).__name__ for one in results] == ["Answer", "Busy", "Busy"]
    assert all(one.retry_after for one in results if isinstance(one, Busy))
    assert (await post.send(message("b9", "m9"), asynchronous=True)).kind is AnswerKind.ACCEPTED


async def test_broker_without_room_takes_nothing_and_carries_what_it_has(opened: Opened) -> None:
    """Promise 7."""
    post = await opened(min_free=1 << 50)
    assert isinstance(await refused(post), StoreUnavailable)


def _fails(*_asked: object) -> Future[None]:
    future: Future[None] = asyncio.get_running_loop().create_future()
    future.set_exception(StoreError("the disk is full"))
    return future


@pytest.mark.parametrize("operation", ["accept", "note", "add"])
async def test_store_in_trouble_is_said_to_be_so(post: Post, monkeypatch: pytest.MonkeyPatch, operation: str) -> None:
    if operation != "accept":
        await post.send(message())
    monkeypatch.setattr(post.store, operation, _fails)
    found = await refused(post, asynchronous=True)
    assert isinstance(found, StoreUnavailable)
    assert found.retry_after


async def test_wait_over_with_a_store_in_trouble_means_kept(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    post = await opened(defaults=policy(sync={"on_timeout": "refuse"}))
    post.script.holds("test://a/in")
    monkeypatch.setattr(post.store, "withdraw", _fails)
    assert (await post.send(message(), wait=0.02)).kind is AnswerKind.KEPT
