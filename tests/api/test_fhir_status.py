"""The status URL: under way, done by release, withdrawn (M-50)."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading import BASE_URL, BODY, START, XML_BODY, Reply, Side, carried, delivery, reading, response, validated

from broker.api.progress import progress
from broker.api.status import POLLS, REMEMBERED, Pace
from broker.core.delivery import AnswerState, Outcome, State, Step
from broker.core.fhir.header import Format, Release
from broker.core.message import Fate
from broker.core.outcome import Problem, Who
from broker.core.policy import DEFAULT
from broker.store import Change, Delivery, Settlement

DEAD = Problem(code="forbidden", id="refused-by-receiver", text="the receiver says no", who=Who.RECEIVER)


@pytest.fixture
async def side(tmp_path: Path) -> AsyncIterator[Side]:
    async with reading(tmp_path) as one:
        yield one


async def status(side: Side, position: int, base: str = "/fhir", **headers: str) -> Reply:
    side.clock.pass_(seconds=1)
    return await side.get(f"{base}/status/{side.id(position)}", **headers)


async def settle(side: Side, position: int, number: int = 1, state: State = State.DONE, **more: Any) -> None:
    left = more.pop("left", True)
    step = Step(at=side.clock(), what="delivered", left=left)
    change = Change(position=position, numbers=(number,), state=state, step=step, **more)
    assert (await side.store.settle(Settlement(change=change))).changed == 1


async def answer(side: Side, position: int, body: bytes = BODY, number: int = 1, **more: Any) -> int:
    known: dict[str, Any] = {"answers": (position, number), "fate": Fate.ANSWER, **response()}
    return await side.keep(body, deliveries=[], **(known | more))


# --- under way ---


async def test_message_under_way_is_polled_with_a_hint_when_to_come_again(side: Side) -> None:
    position = await side.keep(deliveries=[carried("urn:a"), carried("urn:b")])
    reply = await status(side, position)
    assert reply.status == 202
    assert reply.headers["Retry-After"] == "1"
    assert reply.headers["X-Progress"] == "0 of 2 delivered"
    assert reply.text == "0 of 2 delivered"
    assert (reply.issue["severity"], reply.issue["code"]) == ("information", "informational")
    await settle(side, position)
    reply = await status(side, position)
    assert reply.headers["X-Progress"] == "1 of 2 delivered"
    await settle(side, position, 2, State.WAITING, due=START)
    side.clock.pass_(minutes=2)
    reply = await status(side, position)
    assert reply.headers["X-Progress"] == "1 of 2 delivered, 1 attempt so far"
    assert reply.headers["Retry-After"] == "30"
    await settle(side, position, 2)
    side.clock.pass_(hours=2)
    reply = await status(side, position)
    assert reply.headers["X-Progress"] == "2 of 2 delivered, waiting for the response"
    assert reply.headers["Retry-After"] == "60"


async def test_status_is_told_in_the_callers_format_and_release(side: Side) -> None:
    position = await side.keep(deliveries=[carried()])
    reply = await status(side, position, "/fhir/R5", Accept="application/fhir+xml")
    assert reply.headers["Content-Type"] == "application/fhir+xml; fhirVersion=5.0"
    assert ET.fromstring(reply.body).tag == "{http://hl7.org/fhir}OperationOutcome"


@given(st.lists(st.tuples(st.sampled_from(State), st.sampled_from(AnswerState), st.integers(0, 10**6)), min_size=1))
def test_progress_is_short_enough_for_its_header(rows: list[tuple[State, AnswerState, int]]) -> None:
    """M-50: less than 100 characters."""
    deliveries = [
        Delivery(
            position=1, number=number, destination="urn:x", key="urn:x", address="", lane="", state=state, due=START,
            expiry=START, accepted=START, policy=DEFAULT, rule="", fixed=False, attempts=attempts, left=False,
            answer=answer, answer_by=None, answered_by=None, ended=None, steps=(),
        )
        for number, (state, answer, attempts) in enumerate(rows)
    ]  # fmt: skip
    assert len(progress(deliveries)) < 100
    assert progress(deliveries).isascii()


# --- done ---


async def test_answered_request_has_a_manifest_in_r4(side: Side) -> None:
    position = await side.keep(deliveries=[carried()])
    came = await answer(side, position)
    reply = await status(side, position)
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.json == {
        "transactionTime": "2026-11-21T08:00:00.000Z",
        "request": f"{BASE_URL}/$process-message",
        "requiresAccessToken": False,
        "output": [{"type": "Bundle", "url": f"{BASE_URL}/Bundle/{side.id(came)}"}],
        "error": [],
    }
    assert (await side.get(reply.json["output"][0]["url"])).body == BODY


async def test_answered_request_has_a_batch_response_in_r5(side: Side) -> None:
    position = await side.keep(deliveries=[carried()], release=Release.R5)
    came = await answer(side, position, release=Release.R5)
    for reply in (await status(side, position), await status(side, position, "/fhir/R5")):
        assert reply.status == 200
        (entry,) = validated(reply.json, Release.R5)["entry"]
        assert reply.json["type"] == "batch-response"
        assert entry["response"]["status"] == "200 OK"
        assert entry["response"]["location"].endswith(f"/Bundle/{side.id(came)}")
        assert entry["fullUrl"] == f"urn:uuid:{side.id(came)}"
        assert BODY in reply.body


async def test_release_of_the_base_goes_before_that_of_the_message(side: Side) -> None:
    position = await side.keep(deliveries=[carried()], release=Release.R5)
    await answer(side, position, release=Release.R5)
    assert "output" in (await status(side, position, "/fhir/R4")).json
    reply = await status(side, position, Accept="application/fhir+json; fhirVersion=4.0")
    assert "output" in reply.json


async def test_large_or_foreign_response_is_to_be_fetched_or_stands_there(side: Side) -> None:
    position = await side.keep(deliveries=[carried()], release=Release.R5)
    body = b'{"resourceType":"Bundle","type":"message","x":"' + b"x" * 300_000 + b'"}'
    await answer(side, position, body, release=Release.R5)
    assert body in (await status(side, position)).body
    position = await side.keep(deliveries=[carried()], release=Release.R5)
    await answer(side, position, XML_BODY, release=Release.R5, format=Format.XML)
    (entry,) = (await status(side, position)).json["entry"]
    assert "resource" not in entry
    assert "location" in entry["response"]


async def test_delivery_that_looks_for_no_answer_is_done_once_delivered(side: Side) -> None:
    position = await side.keep(deliveries=[delivery(), delivery("urn:b", state=State.LOGGED, mailbox=None)])
    reply = await status(side, position)
    assert (reply.status, reply.json["output"], reply.json["error"]) == (200, [], [])
    reply = await status(side, position, "/fhir/R5")
    outcome = validated(reply.json, Release.R5)["entry"][0]["response"]["outcome"]
    assert [issue["details"]["text"] for issue in outcome["issue"]] == [
        "urn:oid:1.2.3: delivered",
        "urn:b: kept, and carried nowhere",
    ]


async def test_failure_is_still_a_200_that_tells_it(side: Side) -> None:
    position = await side.keep(deliveries=[carried(), carried("urn:b"), carried("")])
    await settle(side, position, 1, State.DEAD, answer=AnswerState.CLOSED, outcome=Outcome(problem=DEAD))
    await settle(side, position, 2, State.DEAD, answer=AnswerState.CLOSED)
    await settle(side, position, 3)
    await side.store.missing(position, 3, side.clock(), None)
    reply = await status(side, position)
    assert reply.status == 200
    url = f"{BASE_URL}/status/{side.id(position)}/outcome"
    assert (reply.json["output"], reply.json["error"]) == ([], [{"type": "OperationOutcome", "url": url}])
    outcome = validated((await side.get(url)).json)
    assert [issue["details"]["text"] for issue in outcome["issue"]] == [
        "urn:oid:1.2.3: the receiver says no",
        "urn:b: the delivery was given up",
        "the receiver: delivered, but no response came in the time given for it",
    ]
    assert [issue["code"] for issue in outcome["issue"]] == ["forbidden", "processing", "timeout"]
    (entry,) = validated((await status(side, position, "/fhir/R5")).json, Release.R5)["entry"]
    assert entry["response"]["status"] == "403 Forbidden"


async def test_a_late_response_is_given_beside_the_failure(side: Side) -> None:
    position = await side.keep(deliveries=[carried()])
    await settle(side, position)
    await side.store.missing(position, 1, side.clock(), None)
    report = await side.keep(deliveries=[], reports_on=position, fate=Fate.REPORT, identity=None)
    reply = await status(side, position)
    assert (reply.json["output"], len(reply.json["error"])) == ([], 1)
    late = await answer(side, position, fate=Fate.LATE)
    reply = await status(side, position)
    assert [one["url"] for one in reply.json["output"]] == [f"{BASE_URL}/Bundle/{side.id(late)}"]
    assert report not in (late, position)
    (entry,) = (await status(side, position, "/fhir/R5")).json["entry"]
    assert entry["response"]["status"] == "200 OK"


async def test_conversation_is_under_way_until_its_final_response(side: Side) -> None:
    """W-9."""
    position = await side.keep(deliveries=[carried()])
    await settle(side, position)
    first = await answer(side, position, final=False)
    reply = await status(side, position)
    assert (reply.status, reply.text) == (202, "1 of 1 delivered, answered, waiting for the final response")
    outcome = (await side.get(f"{BASE_URL}/status/{side.id(position)}/outcome")).json
    assert outcome["issue"][0]["details"]["text"].endswith("delivered and answered, further responses are looked for")
    last = await answer(side, position, identity="last")
    reply = await status(side, position)
    urls = [f"{BASE_URL}/Bundle/{side.id(one)}" for one in (first, last)]
    assert [one["url"] for one in reply.json["output"]] == urls


async def test_final_response_that_did_not_come_is_told(side: Side) -> None:
    position = await side.keep(deliveries=[carried()])
    await settle(side, position)
    await answer(side, position, final=False)
    await side.store.missing(position, 1, side.clock(), None)
    outcome = (await side.get(f"{BASE_URL}/status/{side.id(position)}/outcome")).json
    assert "the final response did not come" in outcome["issue"][0]["details"]["text"]


async def test_first_response_of_several_is_enough_and_the_rest_is_told(side: Side) -> None:
    """M-57."""
    position = await side.keep(deliveries=[carried("urn:a"), carried("urn:b")])
    first = await answer(side, position)
    second = await answer(side, position, fate=Fate.ANSWER)  # the store knows that it is one too many
    reply = await status(side, position)
    assert [one["url"].rpartition("/")[2] for one in reply.json["output"]] == [side.id(first), side.id(second)]
    outcome = await side.get(f"/fhir/status/{side.id(position)}/outcome")
    assert [issue["details"]["text"] for issue in outcome.json["issue"]] == [
        "urn:a: delivered and answered",
        "urn:b: on its way, 0 attempts so far",
    ]


# --- unknown, too fast ---


async def test_status_of_what_is_not_here_is_unknown(side: Side) -> None:
    for id in ("stranger", side.id(9)):
        for path in (f"/fhir/status/{id}", f"/fhir/status/{id}/outcome"):
            assert (await side.get(path)).status == 404
        assert (await side.ask("DELETE", f"/fhir/status/{id}")).status == 404


async def test_status_that_is_polled_too_fast_is_slowed_down(side: Side) -> None:
    """M-50: 429."""
    position, other = await side.keep(deliveries=[carried()]), await side.keep(deliveries=[carried()])
    path = f"/fhir/status/{side.id(position)}"
    assert [(await side.get(path)).status for _ in range(POLLS + 1)] == [202] * POLLS + [429]
    reply = await side.get(path)
    assert (reply.issue["code"], reply.headers["Retry-After"]) == ("throttled", "1")
    assert (await side.get(f"/fhir/status/{side.id(other)}")).status == 202
    assert (await status(side, position)).status == 202


def test_pace_forgets_the_oldest_rather_than_grow() -> None:
    """Promise 7."""
    pace = Pace()
    for position in range(REMEMBERED + 10):
        assert not pace.is_too_fast(position, 0.0)
    assert len(pace._polls) == REMEMBERED


@given(st.lists(st.floats(0, 5), max_size=60))
def test_pace_lets_five_through_in_any_second(times: list[float]) -> None:
    pace = Pace()
    let = [at for at in sorted(times) if not pace.is_too_fast(1, at)]
    for at in let:
        assert sum(at - 1.0 < one <= at for one in let) <= POLLS


# --- withdrawn ---


async def test_delete_withdraws_what_has_not_left_and_the_url_is_gone(side: Side) -> None:
    position = await side.keep(deliveries=[carried("urn:a"), carried("urn:b"), carried("urn:c"), carried("urn:d")])
    await settle(side, position, 2)
    await settle(side, position, 3, State.WAITING, due=START)
    await settle(side, position, 4, State.DEAD, answer=AnswerState.CLOSED, outcome=Outcome(problem=DEAD))
    path = f"/fhir/status/{side.id(position)}"
    reply = await side.ask("DELETE", path)
    assert reply.status == 202
    assert "cancelled" in reply.ids
    assert [issue["details"]["text"] for issue in validated(reply.json)["issue"]][1:] == [
        "urn:a: withdrawn, nothing had left",
        "urn:b: it had been delivered",
        "urn:c: an attempt is under way or has left and may have been processed; it is carried on",
        "urn:d: it had ended before, undelivered",
    ]
    states = [one.state for one in await side.store.deliveries(position)]
    assert states == [State.WITHDRAWN, State.DONE, State.WAITING, State.DEAD]
    assert [position for position, _ in side.withdrawn] == [position]
    for method, gone in (("GET", path), ("GET", f"{path}/outcome"), ("DELETE", path)):
        assert (await side.ask(method, gone)).status == 404


async def test_what_is_under_way_is_not_withdrawn(side: Side) -> None:
    position = await side.keep(deliveries=[carried()])
    side.under_way = {1}
    reply = await side.ask("DELETE", f"/fhir/status/{side.id(position)}")
    assert reply.status == 202
    assert "not-withdrawn" in reply.ids


async def test_delete_of_a_finished_status_only_forgets_it(side: Side) -> None:
    position = await side.keep()
    reply = await side.ask("DELETE", f"/fhir/R5/status/{side.id(position)}")
    assert (reply.status, side.withdrawn) == (202, [])
    assert (await side.get(f"/fhir/Bundle/{side.id(position)}")).status == 200


async def test_withdrawn_delivery_is_told_as_such(side: Side) -> None:
    position = await side.keep(deliveries=[carried()])
    await side.withdraw(position, "by the operator")
    reply = await status(side, position)
    assert (reply.status, len(reply.json["error"])) == (200, 1)
    outcome = await side.get(reply.json["error"][0]["url"])
    assert outcome.text == "urn:oid:1.2.3: withdrawn, it is not delivered any more"


async def test_delivered_and_still_looking_for_its_answer_is_told_so(side: Side) -> None:
    position = await side.keep(deliveries=[carried(state=State.DONE)])
    outcome = await side.get(f"/fhir/status/{side.id(position)}/outcome")
    assert outcome.text == "urn:oid:1.2.3: delivered, its response is looked for"
