"""Lanes over the admin interface: held, resumed, listed with who is left alone."""

from __future__ import annotations

from datetime import timedelta

import pytest
from operator_desk import LANE, NOW, Desk, lane

from broker.core.circuit import Health, PeerHealth
from broker.core.hold import Hold

AT = "2026-11-21T10:00:00Z"


async def test_a_lane_is_held_and_resumed(desk: Desk) -> None:
    desk.delivering.lanes[LANE] = lane()
    status, told = await desk.post(
        f"/lanes/{LANE}/hold", {"reason": " moving\n house ", "until": "2026-11-21T13:00:00+01:00"}
    )
    held = {"phase": "held", "reason": "moving house", "from": AT, "until": "2026-11-21T12:00:00Z", "ordered": AT}
    assert (status, told) == (200, {"lane": LANE, "known": True, "hold": held})
    assert await desk.store.holds() == (
        Hold(lane=LANE, reason="moving house", begins=NOW, ends=NOW + timedelta(hours=2), ordered=NOW),
    )
    _, listed = await desk.get("/lanes")
    assert [(one["lane"], one["state"], one["open"], one["hold"]) for one in listed["lanes"]] == [
        (LANE, "held", False, held)
    ]
    assert await desk.post(f"/lanes/{LANE}/resume") == (200, {"lane": LANE})
    status, told = await desk.post(f"/lanes/{LANE}/resume")
    assert (status, told["error"]["id"]) == (404, "not-held")


async def test_a_downtime_is_planned_for_a_peer_that_nothing_went_to_yet(desk: Desk) -> None:
    status, told = await desk.post("/lanes/http:new:443/hold", {"from": "2026-11-22T02:00:00Z"})
    assert (status, told["known"], told["hold"]["phase"], told["hold"]["until"]) == (200, False, "planned", None)
    _, listed = await desk.get("/lanes")
    assert [(one["lane"], one["state"], one["open"]) for one in listed["lanes"]] == [("http:new:443", "open", True)]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"until": "2026-11-21T10:00:00Z"}, "must be later"),
        ({"from": "2026-11-22T02:00:00Z", "until": "2026-11-22T02:00:00Z"}, "must be later"),
        ({"from": "tomorrow"}, "`from` must be a time"),
        ({"until": "2026-11-22T02:00:00"}, "`until` must be a time with Z"),
        ({"until": 5}, "`until` must be a time"),
        ({"until": "0001-01-01T00:00:00+23:00"}, "`until` is out of range"),
        ({"reason": "x" * 501}, "`reason` must be a text"),
        ({"reason": ["x"]}, "`reason` must be a text"),
        ({"till": "2026-11-22T02:00:00Z"}, "not till"),
    ],
)
async def test_what_cannot_be_meant_is_refused(desk: Desk, body: dict[str, object], said: str) -> None:
    status, told = await desk.post(f"/lanes/{LANE}/hold", body)
    assert (status, said in told["error"]["text"]) == (400, True), told
    assert await desk.store.holds() == ()


@pytest.mark.parametrize("name", ["%20", "x" * 501, "a%0Ab"])
async def test_names_that_no_lane_has_are_refused(desk: Desk, name: str) -> None:
    status, told = await desk.post(f"/lanes/{name}/hold")
    assert (status, told["error"]["id"]) == (400, "bad-request")


async def test_destinations_that_are_left_alone_are_listed(desk: Desk) -> None:
    known = desk.delivering.lanes[LANE] = lane()
    queue = known._agenda.queue("urn:oid:1.2")
    queue.health, queue.reason = Health(troubles=5, until=NOW + timedelta(seconds=30)), "503"
    known._ill.add(queue)
    _, told = await desk.get("/lanes")
    assert told["lanes"][0]["left_alone"] == [
        {"destination": "urn:oid:1.2", "until": "2026-11-21T10:00:30Z", "reason": "503"}
    ]
    assert (told["lanes"][0]["state"], told["lanes"][0]["open"]) == ("open", True)


async def test_metrics_show_what_is_held_and_what_is_closed_and_readiness_does_not_mind(desk: Desk) -> None:
    desk.delivering.lanes["http:other:80"] = lane("http:other:80")
    desk.delivering.lanes["http:other:80"].peer = PeerHealth(unreached=5, until=NOW)
    await desk.post(f"/lanes/{LANE}/hold")
    await desk.post("/lanes/http:new:80/hold", {"from": "2026-11-22T02:00:00Z"})
    text = await (await desk.client.get("/metrics")).text()
    assert f'fhir_broker_lane_held{{destination="{LANE}"}} 1.0' in text
    assert 'fhir_broker_lane_closed{destination="http:other:80"} 1.0' in text
    assert text.count("fhir_broker_lane_held{") == text.count("fhir_broker_lane_closed{") == 1
    assert (await desk.client.get("/health/ready")).status == 200
