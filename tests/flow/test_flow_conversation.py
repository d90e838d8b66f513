"""One request, several responses: open until the final one, the answer time, a failure (W-9 … W-11, W-40 … W-43)."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from flow_post import ACCEPTED, SENDER, A, B, Opened, Post, answered_with, message, policy, response

from broker.channel import Deferred
from broker.core.answer import AnswerKind
from broker.core.delivery import AnswerState, State
from broker.core.envelope import Envelope
from broker.core.message import Fate
from broker.core.policy import Match, Order, Responses, Rule

SEVERAL = policy(responses=Responses.SEVERAL, answer_within=timedelta(hours=2))
ENDPOINTS = {SENDER: "test://s/in", A: "test://a/in", B: "test://b/in"}


def talk(number: int, **more: Any) -> bytes:
    return response(bundle=f"rb{number}", header=f"rm{number}", **more)


def with_task(number: int, status: str, **more: Any) -> bytes:
    """A response whose focus is a Task in it."""
    bundle = json.loads(talk(number, **more))
    bundle["entry"][0]["resource"]["focus"] = [{"reference": "Task/t1"}]
    bundle["entry"].append(
        {"fullUrl": "urn:uuid:t", "resource": {"resourceType": "Task", "id": "t1", "status": status}}
    )
    return json.dumps(bundle).encode()


async def asked(opened: Opened, defaults: Any = SEVERAL, **more: Any) -> Post:
    post = await opened(endpoints=ENDPOINTS, defaults=defaults, **more)
    await post.send(message(), asynchronous=True)
    await post.rest()
    return post


async def fates(post: Post) -> list[Fate]:
    return [stored.message.fate for stored in await post.messages()][1:]


# -- until when


async def test_several_responses_reach_the_source_in_order_with_one_correlation_id(opened: Opened) -> None:
    """W-40: acknowledgement, progress, progress, final; the first of them cannot be delivered at once."""
    post = await opened(endpoints=ENDPOINTS, defaults=policy(responses=Responses.SEVERAL, final=("report",)))
    await post.send(message(), asynchronous=True, envelope=Envelope(correlationid="case-7"))
    await post.rest()
    post.script.says("test://s/in", Deferred(note="500"), ACCEPTED)
    events = ("received", "specimen", "preliminary", "report")
    for number, event in enumerate(events):
        assert (await post.one()).answer is AnswerState.OPEN
        await post.send(talk(number, event=event))
    await post.later(minutes=1)
    heard = post.script.to("test://s/in")[1:]
    assert [one.body for one in heard] == [talk(number, event=event) for number, event in enumerate(events)]
    assert {one.envelope.correlationid for one in heard} == {"case-7"}
    assert await fates(post) == [Fate.ANSWER] * 4
    assert (await post.one()).answer is AnswerState.ANSWERED


async def test_one_response_closes_the_request_where_the_rule_says_nothing_else(opened: Opened) -> None:
    """M-33."""
    post = await asked(opened, policy())
    await post.send(talk(1))
    await post.send(talk(2))
    assert await fates(post) == [Fate.ANSWER, Fate.DOUBLE]


@pytest.mark.parametrize("code", ["fatal-error", "transient-error"])
async def test_failure_ends_the_conversation(opened: Opened, code: str) -> None:
    post = await asked(opened)
    await post.send(talk(1))
    await post.send(talk(2, code=code))
    assert (await post.one()).answer is AnswerState.ANSWERED
    await post.send(talk(3))
    assert await fates(post) == [Fate.ANSWER, Fate.ANSWER, Fate.DOUBLE]


async def test_task_that_has_come_to_its_end_ends_the_conversation(opened: Opened) -> None:
    """J, W-19, W-25."""
    post = await asked(opened)
    for number, status in enumerate(("received", "in-progress", "on-hold")):
        await post.send(with_task(number, status))
        assert (await post.one()).answer is AnswerState.OPEN
    await post.send(with_task(9, "completed"))
    assert (await post.one()).answer is AnswerState.ANSWERED


async def test_conversation_without_a_final_response_ends_with_its_time_in_silence(opened: Opened) -> None:
    post = await asked(opened)
    await post.send(talk(1))
    await post.later(hours=3)
    assert (await post.one()).answer is AnswerState.ANSWERED
    assert await fates(post) == [Fate.ANSWER]


async def test_source_is_told_when_the_final_response_that_the_rule_names_does_not_come(opened: Opened) -> None:
    post = await asked(opened, policy(responses=Responses.SEVERAL, final=("report",), answer_within=timedelta(hours=2)))
    await post.send(talk(1, event="received"))
    await post.later(hours=3)
    assert (await post.one()).answer is AnswerState.MISSING
    assert await fates(post) == [Fate.ANSWER, Fate.REPORT]
    assert b'"code":"no-final-answer"' in post.script.to("test://s/in")[-1].body


async def test_source_is_told_when_nothing_has_come(opened: Opened) -> None:
    post = await asked(opened)
    await post.later(hours=3)
    assert (await post.one()).answer is AnswerState.MISSING
    assert b'"code":"no-answer"' in post.script.to("test://s/in")[-1].body


async def test_conversation_goes_on_after_a_crash(opened: Opened) -> None:
    post = await asked(opened)
    await post.send(talk(1))
    await post.crash()
    again = await opened(endpoints=ENDPOINTS, defaults=SEVERAL)
    await again.send(talk(2))
    await again.send(with_task(3, "completed"))
    assert (await again.one()).answer is AnswerState.ANSWERED
    assert await fates(again) == [Fate.ANSWER] * 3


# -- who waits


async def test_caller_has_the_first_response_and_the_source_the_others(opened: Opened) -> None:
    post = await opened(endpoints=ENDPOINTS, defaults=SEVERAL)
    post.script.says("test://a/in", answered_with(talk(1)))
    answer = await post.send(message())
    assert (answer.kind, answer.body) == (AnswerKind.RESPONSE, talk(1))
    assert (await post.one()).answer is AnswerState.OPEN
    await post.send(talk(2))
    await post.rest()
    assert [one.body for one in post.script.to("test://s/in")] == [talk(2)]


async def test_final_response_in_the_exchange_closes_the_request(opened: Opened) -> None:
    post = await opened(endpoints=ENDPOINTS, defaults=SEVERAL)
    post.script.says("test://a/in", answered_with(with_task(1, "rejected")))
    await post.send(message())
    assert (await post.one()).answer is AnswerState.ANSWERED


# -- what the broker does not do


@pytest.mark.parametrize(("code", "what"), [("ok", "a refusal in content"), ("transient-error", "later, please")])
async def test_negative_response_is_the_sources_and_nothing_is_sent_again(opened: Opened, code: str, what: str) -> None:
    """W-11, W-41."""
    post = await asked(opened)
    await post.send(talk(1, code=code, text=what.replace(" ", "-").replace(",", "")))
    await post.later(days=2)
    assert len(post.script.to("test://a/in")) == 1
    assert len([one for one in post.script.to("test://s/in") if b"rm1" in one.body]) == 1
    assert (await post.one()).state is State.DONE
    assert (await post.store.counts()).dead == 0


async def test_progress_as_a_message_of_its_own_is_routed_by_its_destination(opened: Opened) -> None:
    """W-10: only what quotes the request is its response."""
    post = await asked(opened)
    await post.send(message("p1", "p1", source=A, to=(SENDER,)), asynchronous=True)
    await post.rest()
    assert len(post.script.to("test://s/in")) == 1
    assert (await post.one()).answered_by is None


async def test_newer_version_of_a_task_waits_behind_the_older_one_where_the_rule_asks(opened: Opened) -> None:
    """W-43, both ways: the placer's versions go by `order: focus`."""
    rule = Rule(
        name="tasks", match=Match(event=("task",)), policy=policy(order=Order.FOCUS, responses=Responses.SEVERAL)
    )
    post = await opened(endpoints=ENDPOINTS, rules=[rule])
    post.script.says("test://a/in", Deferred(note="500"), ACCEPTED)

    def version(number: int, status: str) -> bytes:
        bundle = json.loads(message(f"b{number}", f"m{number}", event="task"))
        bundle["entry"][0]["resource"]["focus"] = [{"reference": "Task/t1"}]
        bundle["entry"].append({"resource": {"resourceType": "Task", "id": "t1", "status": status}})
        return json.dumps(bundle).encode()

    versions = [version(2, "accepted"), version(3, "cancelled")]
    for body in versions:
        await post.send(body, asynchronous=True)
    await post.rest()
    assert [one.body for one in post.script.to("test://a/in")] == versions[:1]
    await post.later(minutes=1)
    assert [one.body for one in post.script.to("test://a/in")] == [versions[0], *versions]
