"""`GET /admin/v1/messages/{id}`: the whole story of a message."""

from __future__ import annotations

from datetime import timedelta

import orjson
from operator_desk import BOX, EHR, EHR_URL, NOW, SOURCE, Desk, delivery, lane, mail, message_bytes

from broker.core.delivery import AnswerState, State, Step
from broker.core.message import Fate
from broker.store import Change, Note, Settlement


async def test_a_delivered_message_tells_who_when_and_where(desk: Desk) -> None:
    position = await desk.accept()
    await desk.settle(position, "deferred", State.WAITING, note="503 Service Unavailable", status=503)
    await desk.settle(position, "delivered", State.DONE, note="200 OK", status=200, after=timedelta(seconds=2))
    status, told = await desk.get(f"/messages/{desk.id(position)}")
    assert status == 200
    assert (told["id"], told["event"], told["source"]) == (
        desk.id(position), "http://example.org/events|sick-leave", SOURCE,
    )  # fmt: skip
    assert (told["channel"], told["peer"], told["bytes"]) == ("http", "127.0.0.1:41234", len(message_bytes()))
    (one,) = told["deliveries"]
    assert (one["state"], one["attempts"], one["rule"], one["address"]) == ("done", 2, "sick notes", EHR_URL)
    assert [(step["what"], step["status"]) for step in one["steps"]] == [("deferred", 503), ("delivered", 200)]
    assert [entry["what"] for entry in told["story"]] == ["received", "accepted", "deferred", "delivered"]
    assert told["story"][-1]["at"] == "2026-11-21T10:00:02.012000Z"
    assert told["story"][-1]["text"] == f"to {EHR} at {EHR_URL}: 200 OK; after 12 ms"


async def test_the_receivers_own_words_are_counted_and_not_shown(desk: Desk) -> None:
    position = await desk.dead()
    _, told = await desk.get(f"/messages/{desk.id(position)}")
    assert told["deliveries"][0]["outcome"]["answer_bytes"] == len(b'{"secret":1}')
    assert "secret" not in orjson.dumps(told).decode()


async def test_why_it_died_stands_in_the_story(desk: Desk) -> None:
    position = await desk.dead()
    _, told = await desk.get(f"/messages/{desk.id(position)}")
    assert told["story"][-1]["what"] == "refused"
    assert "refused-by-receiver: The receiver refused it." in told["story"][-1]["text"]
    assert told["deliveries"][0]["outcome"]["problem"]["who"] == "receiver"


async def test_what_waits_tells_what_is_still_to_come(desk: Desk) -> None:
    position = await desk.accept()
    _, told = await desk.get(f"/messages/{desk.id(position)}")
    assert [entry["what"] for entry in told["ahead"]] == ["attempt", "give-up", "answer-time-over"]
    assert told["deliveries"][0]["due"] == "2026-11-21T10:00:01Z"
    assert told["deliveries"][0]["answer"] == {
        "state": "open", "by": "2026-11-22T10:00:00Z", "answered_by": None,
    }  # fmt: skip


async def test_an_attempt_under_way_is_said_to_be(desk: Desk) -> None:
    position = await desk.accept()
    desk.delivering.lanes["http:ehr.example:80"] = lane()
    desk.delivering.lanes["http:ehr.example:80"].under_way[position] = {1}
    _, told = await desk.get(f"/messages/{desk.id(position)}")
    assert told["deliveries"][0]["under_way"] is True


async def test_request_and_response_name_each_other(desk: Desk) -> None:
    request = await desk.accept()
    response = await desk.accept(
        2, source=EHR, to=SOURCE, fate=Fate.ANSWER, answers=(request, 1), responds_to="bundle-1",
        deliveries=(delivery(SOURCE, address="caller:", lane="", state=State.DONE, answer=AnswerState.NONE,
                             answer_by=None),),
    )  # fmt: skip
    _, asked = await desk.get(f"/messages/{desk.id(request)}")
    _, answered = await desk.get(f"/messages/{desk.id(response)}")
    (by,) = asked["answered_by"]
    assert (by["id"], by["fate"], by["code"], by["delivery"]) == (desk.id(response), "answer", "ok", 1)
    assert asked["deliveries"][0]["answer"]["answered_by"] == desk.id(response)
    assert asked["story"][-1]["what"] in ("answered",)
    assert answered["answers"] == {"id": desk.id(request), "position": request, "delivery": 1}
    assert answered["response"] == {"identifier": "bundle-1", "code": "ok"}
    assert "the caller that waits" in answered["story"][-1]["text"]


async def test_our_report_is_told_as_ours(desk: Desk) -> None:
    request = await desk.dead()
    report = await desk.accept(
        3, source="urn:oid:2.999", to=SOURCE, fate=Fate.REPORT, reports_on=request, responds_to="bundle-1",
        deliveries=(mail(SOURCE),),
    )  # fmt: skip
    _, told = await desk.get(f"/messages/{desk.id(request)}")
    assert told["story"][-1]["what"] == "refused"  # ended a second later, by the clock of its attempt
    assert ("reported", desk.id(report)) in [(e["what"], e["text"].rpartition(" ")[2]) for e in told["story"]]
    _, ours = await desk.get(f"/messages/{desk.id(report)}")
    assert (ours["fate"], ours["answers"]["id"], ours["answers"]["delivery"]) == ("report", desk.id(request), None)
    assert "our own report on" in ours["story"][0]["text"]


async def test_who_read_it_and_when(desk: Desk) -> None:
    position = await desk.accept(to=BOX, deliveries=(mail(),))
    _, told = await desk.get(f"/messages/{desk.id(position)}")
    assert told["mailboxes"] == [{"endpoint": BOX, "read": None, "reader": None}]
    await desk.store.mark_read(BOX, [position], "north", NOW + timedelta(minutes=1))
    await desk.store.acknowledge(position, "north", NOW + timedelta(minutes=2))
    _, told = await desk.get(f"/messages/{desk.id(position)}")
    assert told["mailboxes"][0]["reader"] == "north"
    assert [(e["what"], e["text"]) for e in told["story"][2:]] == [
        ("delivered", f"put into the mailbox of {BOX}"),
        ("read", f"in the mailbox of {BOX} by north"),
        ("acknowledged", "by north"),
    ]


async def test_copies_are_part_of_the_story(desk: Desk) -> None:
    position = await desk.accept()
    note = Note(at=NOW + timedelta(minutes=1), what="copy", text="the same bytes", who="127.0.0.1:5")
    await desk.store.note(position, note)
    _, told = await desk.get(f"/messages/{desk.id(position)}")
    assert told["story"][-1]["text"] == "the same bytes by 127.0.0.1:5"
    assert told["notes"][0]["who"] == "127.0.0.1:5"


async def test_what_goes_nowhere_says_so(desk: Desk) -> None:
    position = await desk.accept(deliveries=(delivery(address="", lane="", state=State.LOGGED),))
    _, told = await desk.get(f"/messages/{desk.id(position)}")
    assert told["story"][-1]["what"] == "logged"


async def test_several_deliveries_are_told_apart(desk: Desk) -> None:
    position = await desk.accept(deliveries=(delivery(), mail()))
    _, told = await desk.get(f"/messages/{desk.id(position)}")
    assert [one["number"] for one in told["deliveries"]] == [1, 2]
    assert [entry["delivery"] for entry in told["story"]] == [None, None, 2]


async def test_steps_that_are_no_attempts_are_told_too(desk: Desk) -> None:
    position = await desk.accept()
    step = Step(at=NOW + timedelta(seconds=3), what="held", note="its entry is suspended", left=False)
    held = Change(position=position, numbers=(1,), state=State.WAITING, step=step, attempted=False)
    await desk.store.settle(Settlement(change=held))
    _, told = await desk.get(f"/messages/{desk.id(position)}")
    assert (told["story"][-1]["what"], told["deliveries"][0]["attempts"]) == ("held", 0)
    assert "its entry is suspended" in told["story"][-1]["text"]


# -- by which id


async def test_any_id_of_the_senders_finds_it(desk: Desk) -> None:
    position = await desk.accept()
    for id in ("bundle-1", "header-1", "urn:uuid:bundle-1", f"urn:uuid:{desk.id(position)}"):
        status, told = await desk.get(f"/messages/{id}")
        assert (status, told.get("position")) == (200, position), id


async def test_an_id_of_several_messages_gives_the_list_newest_first(desk: Desk) -> None:
    first = await desk.accept()
    second = await desk.accept(source="urn:oid:1.2.1002")
    status, told = await desk.get("/messages/bundle-1")
    assert status == 300
    assert [one["id"] for one in told["several"]] == [desk.id(second), desk.id(first)]
    assert told["several"][0]["source"] == "urn:oid:1.2.1002"


async def test_an_unknown_id_is_404_in_json(desk: Desk) -> None:
    for id in ("nothing", desk.id(4711)):
        status, told = await desk.get(f"/messages/{id}")
        assert (status, told["error"]["id"]) == (404, "unknown-message")


# -- the bytes


async def test_the_body_is_the_bytes_as_they_came(desk: Desk) -> None:
    position = await desk.accept()
    answer = await desk.client.get(f"/admin/v1/messages/{desk.id(position)}/body")
    assert (answer.status, answer.content_type) == (200, "application/fhir+json")
    assert await answer.read() == message_bytes()
    assert answer.headers["Content-Disposition"] == "attachment"  # no page of ours: a browser saves it


async def test_the_body_of_several_messages_is_not_guessed(desk: Desk) -> None:
    await desk.accept()
    await desk.accept(source="urn:oid:1.2.1002")
    status, told = await desk.get("/messages/bundle-1/body")
    assert (status, told["error"]["id"]) == (409, "several-messages")
