"""`/admin/v1/report`: sums by source, the messages without a good receipt, and what was wrongly addressed."""

from __future__ import annotations

from datetime import timedelta

import pytest
from operator_desk import EHR, LANE, NOW, SOURCE, Desk

from broker.api import admin_report
from broker.core.delivery import State
from broker.core.hold import Hold
from broker.core.message import Fate
from broker.store.ledger import RefusedAs

OTHER = "urn:oid:1.3.5"  # owned by the party north too
STRANGER = "urn:oid:9.1"


async def test_sums_are_by_source_and_name_its_party(desk: Desk) -> None:
    await desk.accept(1)
    await desk.dead(2)
    await desk.accept(3, source=OTHER)
    await desk.accept(4, source=STRANGER)
    status, told = await desk.get("/report?to=2026-11-21")
    assert status == 200
    assert [(one["source"], one["party"], one["expected"]) for one in told["sources"]] == [
        (SOURCE, "north", 2), (OTHER, "north", 1), (STRANGER, None, 1),
    ]  # fmt: skip
    assert told["total"]["expected"] == 4
    assert told["total"]["open"] == 3
    assert told["total"]["undelivered"] == {"refused-by-receiver": 1}


async def test_messages_are_those_of_a_party_or_a_source(desk: Desk) -> None:
    await desk.accept(1)
    await desk.accept(2, source=OTHER)
    await desk.accept(3, source=STRANGER)
    for query, sources in {
        "party=north": [SOURCE, OTHER], f"source={STRANGER}": [STRANGER], "from=2026-11-01": [SOURCE, OTHER, STRANGER],
    }.items():  # fmt: skip
        _, told = await desk.get(f"/report/messages?{query}&to=2026-11-21")
        assert [one["source"] for one in told["messages"]] == sources


async def test_line_says_what_is_missing_and_until_when(desk: Desk) -> None:
    position = await desk.accept(1)
    desk.here.clock = NOW + timedelta(hours=25)
    _, told = await desk.get("/report/messages")
    (line,) = told["messages"]
    assert (line["id"], line["what"], line["destination"]) == (desk.id(position), "missing", EHR)
    assert line["event"].endswith("sick-leave")
    assert line["answer_by"] == "2026-11-22T10:00:00Z"
    _, none = await desk.get("/report/messages?what=open,negative")
    assert none["messages"] == []


async def test_negative_receipt_is_listed_with_the_codes_of_its_outcome(desk: Desk) -> None:
    position = await desk.accept(1)
    await desk.settle(position, "delivered", State.DONE)
    outcome = {"resourceType": "OperationOutcome", "issue": [{"code": "business-rule", "details": {"text": "secret"}}]}
    response = await desk.accept(
        2, source=EHR, to=SOURCE, fate=Fate.ANSWER, answers=(position, 1), deliveries=(), responds_to="x",
        code="fatal-error", more=[{"resource": outcome}],
    )  # fmt: skip
    _, told = await desk.get("/report/messages?to=2026-11-21")
    (line,) = told["messages"]
    assert (line["what"], line["kind"], line["issues"]) == ("negative", "fatal-error", ["business-rule"])
    assert line["answered_by"] == desk.id(response)
    assert "secret" not in str(told)


async def test_answered_messages_are_counted_and_not_listed(desk: Desk) -> None:
    position = await desk.accept(1)
    await desk.settle(position, "delivered", State.DONE)
    await desk.accept(2, source=EHR, to=SOURCE, fate=Fate.ANSWER, answers=(position, 1), deliveries=(), responds_to="x")
    desk.here.clock = NOW + timedelta(seconds=5)
    _, told = await desk.get("/report")
    assert (told["total"]["answered"], told["total"]["open"]) == (1, 0)
    assert (await desk.get("/report/messages"))[1]["messages"] == []


async def test_pages_follow_each_other_over_many_steps(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_report, "STEP", 2)
    positions = [await desk.accept(number) for number in range(1, 8)]
    found, after = [], 0
    while after is not None:
        _, told = await desk.get(f"/report/messages?limit=3&after={after}&to=2026-11-21")
        assert len(told["messages"]) <= 3
        found += [one["id"] for one in told["messages"]]
        after = told["next"]
    assert found == [desk.id(position) for position in positions]
    assert (await desk.get("/report?to=2026-11-21"))[1]["total"]["expected"] == 7


async def test_refusals_are_counted_and_the_wrongly_addressed_named(desk: Desk) -> None:
    def refused(error: str, code: str, destination: str = "") -> RefusedAs:
        return RefusedAs(
            day=NOW.date(), source=SOURCE, party="", error=error, code=code, destination=destination
        )  # fmt: skip

    await desk.store.refused(
        {refused("unknown-destination", "not-found", "urn:x"): 4, refused("reused-id", "duplicate"): 1}
    )
    _, told = await desk.get("/report?party=north&to=2026-11-21")
    (one,) = told["sources"]
    assert one["refused"] == {"reused-id": 1, "unknown-destination": 4}
    assert one["misaddressed"] == 4
    assert [(one["destination"], one["count"], one["day"]) for one in told["misaddressed"]] == [
        ("urn:x", 4, "2026-11-21")
    ]
    assert (await desk.get(f"/report?source={STRANGER}&to=2026-11-21"))[1]["sources"] == []
    assert (await desk.get("/report?from=2026-11-22&to=2026-11-23"))[1]["sources"] == []


async def test_planned_outages_are_told(desk: Desk) -> None:
    await desk.delivering.hold(Hold(lane=LANE, begins=NOW, ordered=NOW, reason="moving house"))
    _, told = await desk.get("/report")
    assert [(one["lane"], one["planned"], one["reason"]) for one in told["outages"]] == [(LANE, True, "moving house")]


async def test_period_of_days_ends_with_its_last_hour(desk: Desk) -> None:
    await desk.accept(1)
    for query, count in {
        "from=2026-11-21&to=2026-11-21": 1, "from=2026-11-20&to=2026-11-20": 0, "from=2026-11-22&to=2026-11-22": 0,
        "from=2026-11-21T09:00:00Z&to=2026-11-21T10:00:00Z": 0, "from=2026-11-21T11:00:00+01:00&to=2026-11-22": 1,
    }.items():  # fmt: skip
        _, told = await desk.get(f"/report?{query}")
        assert told["total"]["expected"] == count, query


@pytest.mark.parametrize(
    ("query", "status", "id"),
    [
        ("from=yesterday", 400, "bad-request"),
        ("from=2026-11-22&to=2026-11-20", 400, "bad-request"),
        ("party=nobody", 404, "unknown-party"),
        ("party=silent", 404, "unknown-party"),
        ("party=north&source=urn:x", 400, "bad-request"),
    ],
)
async def test_what_cannot_be_meant_is_refused(desk: Desk, query: str, status: int, id: str) -> None:
    said, told = await desk.get(f"/report?{query}")
    assert (said, told["error"]["id"]) == (status, id)


async def test_unknown_kind_of_message_is_refused(desk: Desk) -> None:
    said, told = await desk.get("/report/messages?what=lost")
    assert (said, "open, missing" in told["error"]["text"]) == (400, True)
