"""Subscriptions over the admin interface: who is told of what, and the word that one is told no more."""

from __future__ import annotations

from pathlib import Path

import pytest
from operator_desk import Desk, operator_desk
from subscription_desk import ENCOUNTERS, SOCKET, classic

from broker.core.subscription.life import Happening
from broker.core.subscription.notification import Kind

SECRET = {"name": "Authorization", "value": "Bearer do-not-show"}


async def test_subscriptions_are_listed_with_how_far_behind_they_are(desk: Desk) -> None:
    subscribed = desk.subscribed
    hook = await subscribed.active(
        endpoint="https://example.org/hook?key=do-not-show", parameter=[SECRET], heartbeatPeriod=60,
        filterBy=[{"filterParameter": "patient", "value": "Patient/1"}],
    )  # fmt: skip
    await subscribed.hear(hook, times=5)
    await subscribed.sent(hook, 2)
    await subscribed.subscribe(classic())
    status, told = await desk.get("/subscriptions")
    assert (status, told["total"], told["next"]) == (200, 2, None)
    assert "do-not-show" not in str(told)
    first, second = told["subscriptions"]
    assert (first["topic"], first["channel"], first["status"]) == (ENCOUNTERS, "rest-hook", "active")
    assert (first["counted"], first["sent"], first["behind"], first["next"]) == (5, 2, 3, "2026-11-21T12:01:00Z")
    assert (first["endpoint"], first["filters"]) == ("https://example.org/hook?…", ["patient=Patient/1"])
    assert (second["criteria"], second["topic"], second["model"]) == ("Encounter?status=finished", None, "classic")


async def test_list_is_paged_and_narrowed_by_status(desk: Desk) -> None:
    rows = [await desk.subscribed.subscribe() for _ in "123"]
    _, page = await desk.get("/subscriptions?limit=2")
    assert [one["id"] for one in page["subscriptions"]] == [row.subscription.id for row in rows[:2]]
    _, rest = await desk.get(f"/subscriptions?limit=2&after={page['next']}")
    assert ([one["id"] for one in rest["subscriptions"]], rest["next"]) == ([rows[2].subscription.id], None)
    await desk.subscribed.subscribe(**SOCKET)
    assert len((await desk.get("/subscriptions?status=active"))[1]["subscriptions"]) == 1
    assert (await desk.get("/subscriptions?status=asleep"))[0] == 400


async def test_one_is_shown_with_what_is_on_its_way_to_it(desk: Desk) -> None:
    row = await desk.subscribed.active()
    assert (await desk.get(f"/subscriptions/{row.subscription.id}"))[1]["notice"] is None
    await desk.subscribed.hear(row, times=2)
    position = await desk.subscribed.sets_out(row, Kind.EVENT, first=1, last=2)
    await desk.subscribed.happens(row, Happening.FAILED, "503 Service Unavailable")
    _, told = await desk.get(f"/subscriptions/{row.subscription.id}")
    notice = told["notice"]
    assert (notice["id"], notice["kind"], notice["first"], notice["last"]) == (
        desk.id(position),
        "event-notification",
        1,
        2,
    )
    assert (told["status"], told["error"]) == ("error", "503 Service Unavailable")


async def test_operator_switches_one_off_and_on(desk: Desk) -> None:
    row = await desk.subscribed.active()
    path = f"/subscriptions/{row.subscription.id}"
    status, told = await desk.post(f"{path}/off", {"reason": "asked to by phone"})
    assert (status, told["status"], told["error"]) == (200, "off", "asked to by phone")
    assert (await desk.subscribed.reopened()).find(row.subscription.id) == desk.subscribed.now(row)
    status, told = await desk.post(f"{path}/on")
    assert (status, told["status"], told["error"], told["version"]) == (200, "requested", None, 3)


@pytest.mark.parametrize("body", [{"why": "x"}, {"reason": 5}, {"reason": "x" * 501}])
async def test_reason_is_a_short_text(desk: Desk, body: dict[str, object]) -> None:
    row = await desk.subscribed.active()
    assert (await desk.post(f"/subscriptions/{row.subscription.id}/off", body))[0] == 400
    assert desk.subscribed.now(row).life.status == "active"


async def test_stranger_is_not_known(desk: Desk) -> None:
    for status, told in (
        await desk.get("/subscriptions/stranger"),
        await desk.post("/subscriptions/stranger/off"),
        await desk.post("/subscriptions/stranger/on"),
    ):
        assert (status, told["error"]["id"]) == (404, "unknown-subscription")


async def test_where_none_are_served_that_is_said(tmp_path: Path) -> None:
    async with operator_desk(tmp_path, subscriptions=False) as desk:
        status, told = await desk.get("/subscriptions")
        assert (status, told["error"]["id"]) == (404, "no-subscriptions")
        scraped = await (await desk.client.get("/metrics")).text()
        assert "fhir_broker_subscriptions{" not in scraped


async def test_metrics_count_subscriptions_and_how_far_behind_they_are(desk: Desk) -> None:
    row = await desk.subscribed.active()
    other = await desk.subscribed.subscribe(status="off")
    await desk.subscribed.hear(row, times=4)
    await desk.subscribed.sent(row, 1)
    scraped = await (await desk.client.get("/metrics")).text()
    assert 'fhir_broker_subscriptions{status="active"} 1.0' in scraped
    assert 'fhir_broker_subscriptions{status="off"} 1.0' in scraped
    assert "fhir_broker_subscription_events_behind 3.0" in scraped
    assert other.subscription.id not in scraped
