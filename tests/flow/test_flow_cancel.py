"""A message that calls off an earlier one: what has not left is withdrawn, what has is followed (W-12, W-30, W-31)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flow_post import ACCEPTED, SENDER, A, B, Opened, Post, message, policy, response

from broker.channel import Deferred
from broker.core.answer import AnswerKind
from broker.core.delivery import AnswerState, State
from broker.core.message import Fate
from broker.core.policy import Match, Rule

RULES = (Rule(name="cancellations", match=Match(event=("cancel",)), cancels=True),)
DOWN = Deferred(note="down", of_peer=False, left=False)


def about(
    bundle: str, event: str, focus: str = "ServiceRequest/1", *, resource: dict[str, Any] | None = None, **more: Any
) -> bytes:
    value = json.loads(message(bundle, f"m{bundle}", event=event, **more))
    value["entry"][0]["resource"]["focus"] = [{"reference": focus}]
    if resource is not None:
        value["entry"].append({"fullUrl": "urn:uuid:inside", "resource": resource})
    return json.dumps(value).encode()


ORDER, CANCEL = about("b1", "order"), about("b2", "cancel")


async def waiting(opened: Opened, body: bytes = ORDER, **more: Any) -> Post:
    """An order that cannot be delivered yet, and has not left."""
    post = await opened(rules=RULES, **more)
    post.script.says("test://a/in", DOWN, ACCEPTED)
    await post.send(body, asynchronous=True)
    await post.rest()
    return post


async def test_what_has_not_left_is_withdrawn_and_its_source_is_told(opened: Opened) -> None:
    post = await waiting(opened)
    answer = await post.send(CANCEL)
    assert answer.kind is AnswerKind.ACCEPTED
    assert [note.id for note in answer.receipt.notes] == ["cancelled"]
    await post.later(days=2)
    assert len(post.script.sent) == 1, "neither of them ever left"
    assert ((await post.one()).state, (await post.one()).answer) == (State.WITHDRAWN, AnswerState.CLOSED)
    [report] = await post.reports()
    assert (report["identifier"], report["code"]) == ("mb1", "fatal-error")
    assert report["issue"]["details"]["coding"][0]["code"] == "cancelled"


async def test_caller_that_waits_for_it_is_told_at_once(opened: Opened) -> None:
    post = await opened(rules=RULES)
    post.script.says("test://a/in", DOWN)
    caller = post.calls(ORDER, wait=50)
    await post.rest()
    await post.send(CANCEL, asynchronous=True)
    answer = await caller
    assert answer.kind is AnswerKind.REFUSED
    assert answer.problem is not None
    assert answer.problem.id == "cancelled"
    await post.rest()
    assert await post.reports() == []


async def test_what_was_delivered_is_followed_by_the_cancel_message(opened: Opened) -> None:
    post = await opened(rules=RULES)
    await post.send(ORDER, asynchronous=True)
    await post.rest()
    await post.send(CANCEL, asynchronous=True)
    await post.rest()
    assert [one.body for one in post.script.sent] == [ORDER, CANCEL]
    assert (await post.one()).answer is AnswerState.CLOSED, "no answer is looked for any more"
    await post.send(response("mb1"))
    assert [entry.body for entry in await post.mail()] == [response("mb1")], "and one that comes is passed on (W-30)"
    await post.later(days=3)
    assert [report["identifier"] for report in await post.reports()] == ["mb2"], "of the cancel message alone"


async def test_what_may_have_left_is_not_overtaken_by_the_cancel_message(opened: Opened) -> None:
    """Also where no rule asks for order."""
    post = await opened(rules=RULES)
    post.script.says("test://a/in", Deferred(note="500"), ACCEPTED)
    await post.send(ORDER, asynchronous=True)
    await post.rest()
    await post.send(CANCEL, asynchronous=True)
    await post.rest()
    assert [one.body for one in post.script.sent] == [ORDER]
    await post.later(minutes=1)
    assert [one.body for one in post.script.sent] == [ORDER, ORDER, CANCEL]


async def test_what_is_under_way_is_not_overtaken_by_the_cancel_message(opened: Opened) -> None:
    post = await opened(rules=RULES)
    post.script.holds("test://a/in")
    await post.send(ORDER, asynchronous=True)
    await post.rest()
    await post.send(CANCEL, asynchronous=True)
    await post.rest()
    assert [one.body for one in post.script.sent] == [ORDER]
    post.script.says("test://a/in", ACCEPTED)
    post.script.let_go()
    await post.later(seconds=5)
    assert [one.body for one in post.script.sent] == [ORDER, CANCEL]


async def test_order_of_the_two_outlives_a_crash(opened: Opened) -> None:
    post = await opened(rules=RULES)
    post.script.says("test://a/in", Deferred(note="500"))
    await post.send(ORDER, asynchronous=True)
    await post.rest()
    await post.send(CANCEL, asynchronous=True)
    await post.crash()
    again = await opened(rules=RULES)
    await again.later(minutes=30)
    assert [one.body for one in again.script.sent] == [ORDER, CANCEL]


async def test_copy_of_what_was_called_off_does_not_bring_it_back(opened: Opened) -> None:
    post = await waiting(opened)
    await post.send(CANCEL, asynchronous=True)
    await post.send(ORDER, asynchronous=True)
    await post.later(minutes=5)
    assert len(post.script.sent) == 1


async def test_copy_of_the_cancel_message_changes_nothing(opened: Opened) -> None:
    post = await waiting(opened)
    await post.send(CANCEL, asynchronous=True)
    answer = await post.send(CANCEL, asynchronous=True)
    assert answer.receipt.duplicate
    await post.rest()
    assert len(await post.reports()) == 1


@pytest.mark.parametrize(
    "cancel",
    [
        about("b2", "cancel", "urn:uuid:inside", resource={"resourceType": "ServiceRequest", "id": "1"}),
        about("b2", "cancel", "urn:uuid:inside",
              resource={"resourceType": "Task", "id": "t", "focus": {"reference": "ServiceRequest/1"}}),
        about("b2", "cancel", "urn:uuid:inside",
              resource={"resourceType": "Task", "id": "t", "basedOn": [{"reference": "ServiceRequest/1"}]}),
        about("b2", "cancel", "MessageHeader/mb1"),
        about("b2", "cancel", "Bundle/b1"),
        about("b2", "cancel", "urn:uuid:mb1"),
    ],
    ids=["the resource itself", "an abort Task", "based on it", "the message", "the Bundle", "the message by UUID"],
)  # fmt: skip
async def test_cancel_message_names_what_it_means_in_one_of_these_ways(opened: Opened, cancel: bytes) -> None:
    post = await waiting(opened)
    await post.send(cancel, asynchronous=True)
    assert (await post.one()).state is State.WITHDRAWN


@pytest.mark.parametrize(
    "cancel",
    [
        about("b2", "cancel", "ServiceRequest/2"),
        about("b2", "cancel", source=B),
        about("b2", "cancel", to=(B,)),
        about("b2", "update"),
    ],
    ids=["about another", "of another source", "to another receiver", "no cancel message"],
)
async def test_what_is_not_meant_stays(opened: Opened, cancel: bytes) -> None:
    post = await waiting(opened)
    await post.send(cancel, asynchronous=True)
    await post.later(minutes=1)
    assert (await post.one()).state is State.DONE
    assert cancel in [one.body for one in post.script.sent]


async def test_only_the_destinations_of_the_cancel_message_are_meant(opened: Opened) -> None:
    post = await opened(rules=RULES)
    for address in ("test://a/in", "test://b/in"):
        post.script.says(address, DOWN, ACCEPTED)
    await post.send(about("b1", "order", to=(A, B)), asynchronous=True)
    await post.rest()
    await post.send(CANCEL, asynchronous=True)
    await post.later(minutes=1)
    assert [one.state for one in await post.of()] == [State.WITHDRAWN, State.DONE]


async def test_cancel_message_that_finds_nothing_is_a_message_like_any_other(opened: Opened) -> None:
    post = await opened(rules=RULES)
    assert (await post.send(CANCEL)).kind is AnswerKind.TAKEN
    assert [one.body for one in post.script.sent] == [CANCEL]


async def test_second_cancel_message_does_not_call_off_the_first(opened: Opened) -> None:
    post = await opened(rules=RULES)
    post.script.says("test://a/in", DOWN, ACCEPTED)
    await post.send(CANCEL, asynchronous=True)
    await post.rest()
    await post.send(about("b3", "cancel"), asynchronous=True)
    await post.later(minutes=1)
    assert [(await post.one(position)).state for position in (1, 2)] == [State.DONE, State.DONE]


async def test_withdrawal_and_report_are_one_thing_in_a_crash(opened: Opened) -> None:
    """The cancel message was not acknowledged: it comes again, and finds what it wanted done and told."""
    post = await waiting(opened)

    async def dies(*_: Any) -> None:
        raise RuntimeError("crash")

    post.accepting._keep = dies  # type: ignore[assignment,method-assign]
    with pytest.raises(RuntimeError):
        await post.send(CANCEL, asynchronous=True)
    await post.rest()
    await post.crash()
    again = await opened(rules=RULES)
    answer = await again.send(CANCEL, asynchronous=True)
    assert [note.id for note in answer.receipt.notes] == ["cancelled"]
    await again.later(minutes=5)
    assert len(await again.reports()) == 1
    assert again.script.sent == []
    assert [stored.message.fate for stored in await again.messages()] == [Fate.MESSAGE, Fate.REPORT, Fate.MESSAGE]


async def test_source_is_not_told_where_the_rule_says_silence(opened: Opened) -> None:
    post = await waiting(opened, defaults=policy(bounce="never"))
    await post.send(CANCEL, asynchronous=True)
    await post.rest()
    assert (await post.one()).state is State.WITHDRAWN
    assert await post.mail(SENDER) == ()
