"""A message that asks how far another one is: answered by the broker, carried nowhere (W-35 … W-37, M-37)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flow_post import HERE, SENDER, A, B, Opened, Post, message, refusal, response

from broker.channel import Deferred
from broker.core.answer import AnswerKind
from broker.core.fhir.header import STATUS_EVENT, Event
from broker.core.outcome import MessageInvalid, NotFound


def check(
    focus: str | None = "Bundle/b1", *, source: str = SENDER, event: Event = STATUS_EVENT, r5: bool = False
) -> bytes:
    bundle = json.loads(message("c1", "c1", source=source, event=event.code, r5=r5))
    head = bundle["entry"][0]["resource"]
    head["eventCoding"]["system"] = event.system
    if focus is not None:
        head["focus"] = [{"reference": focus}]
    return json.dumps(bundle).encode()


async def asked(post: Post, body: bytes | None = None, **more: Any) -> dict[str, Any]:
    """The answer's resources by their types; of Tasks, what matters of each by its owner."""
    answer = await post.send(body or check(), **more)
    assert answer.kind is AnswerKind.RESPONSE
    assert answer.body is not None
    resources = [entry["resource"] for entry in json.loads(answer.body)["entry"]]
    tasks = [one for one in resources if one["resourceType"] == "Task"]
    return {
        "header": resources[0],
        "issues": [issue["details"]["text"] for issue in resources[1]["issue"]],
        "tasks": {one["owner"]["identifier"]["value"]: one for one in tasks},
    }


async def test_check_is_answered_at_once_and_goes_nowhere(post: Post) -> None:
    await post.send(message(), asynchronous=True)
    await post.rest()
    said = await asked(post)
    assert said["header"]["source"]["endpoint"] == HERE
    assert said["header"]["response"]["identifier"] == "c1"
    assert said["header"]["response"]["code"] == "ok"
    assert said["issues"] == [f"{A}: taken over, its response is looked for"]
    assert len(post.script.sent) == 1
    assert (await post.store.counts()).messages == 1


@pytest.mark.parametrize(
    "focus", ["Bundle/b1", "MessageHeader/m1", "urn:uuid:m1", "b1", "https://s.example/fhir/Bundle/b1"]
)
async def test_message_is_named_by_any_of_its_ids(post: Post, focus: str) -> None:
    await post.send(message(), asynchronous=True)
    await post.rest()
    assert (await asked(post, check(focus)))["tasks"][A]["status"] == "received"


async def test_message_is_named_by_the_id_of_its_receipt(post: Post) -> None:
    kept = await post.send(message(), asynchronous=True)
    await post.rest()
    assert (await asked(post, check(f"urn:uuid:{kept.receipt.message_id}")))["tasks"]


async def test_task_follows_the_delivery(post: Post) -> None:
    """W-37."""
    post.script.says("test://a/in", Deferred(note="500"))
    post.script.says("test://b/in", refusal())
    await post.send(message(to=(A, B)), asynchronous=True)
    await post.rest()
    tasks = (await asked(post))["tasks"]
    assert [tasks[one]["status"] for one in (A, B)] == ["requested", "failed"]
    assert tasks[B]["statusReason"]["text"] == "we do not take these"
    assert tasks[A]["businessStatus"]["coding"][0]["code"] == "waiting"
    assert tasks[A]["focus"]["identifier"]["value"] == "m1"


async def test_answered_message_is_completed(post: Post) -> None:
    await post.send(message(), asynchronous=True)
    await post.rest()
    await post.send(response())
    said = await asked(post)
    assert said["tasks"][A]["status"] == "completed"
    assert said["issues"] == [f"{A}: delivered and answered"]


async def test_what_never_left_and_was_withdrawn_is_cancelled(post: Post) -> None:
    post.script.says("test://a/in", Deferred(note="down", left=False))
    await post.send(message(), asynchronous=True)
    await post.rest()
    await post.waits.withdraw(1, "enough")
    assert (await asked(post))["tasks"][A]["status"] == "cancelled"


async def test_reason_has_the_shape_of_the_release(post: Post) -> None:
    post.script.says("test://a/in", refusal())
    await post.send(message(), asynchronous=True)
    await post.rest()
    task = (await asked(post, check(r5=True)))["tasks"][A]
    assert task["statusReason"] == {"concept": {"text": "we do not take these"}}


@pytest.mark.parametrize("body", [check("Bundle/unheard-of"), check(source=B)])
async def test_message_that_is_unknown_or_anothers_is_not_found(post: Post, body: bytes) -> None:
    await post.send(message(), asynchronous=True)
    with pytest.raises(NotFound):
        await post.send(body)


async def test_check_that_names_nothing_is_refused(post: Post) -> None:
    with pytest.raises(MessageInvalid):
        await post.send(check(None))


async def test_event_is_the_operators_choice(opened: Opened) -> None:
    post = await opened(status_event=Event(code="how-far"))
    await post.send(message(), asynchronous=True)
    await post.rest()
    assert (await asked(post, check(event=Event(code="how-far"))))["tasks"]
    await post.send(check(), asynchronous=True)
    await post.rest()
    assert len(post.script.sent) == 2, "the default is an ordinary event then"
