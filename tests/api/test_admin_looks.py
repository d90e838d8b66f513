"""Mailboxes, lanes, directory, route, status: what an operator looks at."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

from operator_desk import BOX, EHR, EHR_URL, JSON, LANE, NOW, SOURCE, Desk, lane, mail, message_bytes

from broker.core.circuit import PeerHealth
from broker.core.policy import LanePolicy


async def test_mailboxes_say_how_much_is_unread(desk: Desk) -> None:
    first = await desk.accept(1, to=BOX, deliveries=(mail(),))
    last = await desk.accept(2, to=BOX, deliveries=(mail(),))
    await desk.store.mark_read(BOX, [first], "north", NOW)
    assert (await desk.get("/mailboxes"))[1] == {
        "mailboxes": [{"endpoint": BOX, "messages": 2, "unread": 1, "last": last}]
    }


async def test_a_mailbox_shows_no_bodies_and_is_not_read_by_looking(desk: Desk) -> None:
    positions = [await desk.accept(number, to=BOX, deliveries=(mail(),)) for number in (1, 2, 3)]
    _, page = await desk.get(f"/mailboxes/{BOX}/messages?limit=2")
    assert [one["position"] for one in page["messages"]] == positions[:2]
    assert (page["more"], page["reached"]) == (True, positions[1])
    assert page["messages"][0]["event"].endswith("sick-leave")
    assert "body" not in page["messages"][0]
    _, rest = await desk.get(f"/mailboxes/{BOX}/messages?after={page['reached']}")
    assert [one["position"] for one in rest["messages"]] == positions[2:]
    assert (await desk.get("/mailboxes"))[1]["mailboxes"][0]["unread"] == 3


async def test_a_mailbox_of_an_endpoint_that_is_a_url_can_be_named(desk: Desk) -> None:
    url = "https://ehr.example/fhir"
    position = await desk.accept(to=url, deliveries=(mail(url),))
    _, page = await desk.get(f"/mailboxes/{quote(url, safe='')}/messages")
    assert (page["endpoint"], page["messages"][0]["position"]) == (url, position)


async def test_a_mailbox_nobody_has_is_empty(desk: Desk) -> None:
    status, page = await desk.get("/mailboxes/urn:oid:9/messages")
    assert (status, page["messages"], page["more"]) == (200, [], False)


async def test_lanes_join_what_memory_and_store_know(desk: Desk) -> None:
    await desk.accept(1)
    await desk.accept(2)
    closed = desk.delivering.lanes["http:other:80"] = lane("http:other:80")
    closed.policy = LanePolicy(concurrent=4)
    closed.peer = PeerHealth(unreached=5, until=NOW + timedelta(seconds=30))
    closed._reason = "cannot connect"
    closed.under_way[9] = {1, 2}
    _, told = await desk.get("/lanes")
    ehr, other = told["lanes"]
    assert (ehr["lane"], ehr["waiting"], ehr["open"], ehr["oldest"]) == (LANE, 2, True, "2026-11-21T10:00:00Z")
    assert (other["open"], other["reason"], other["under_way"]) == (False, "cannot connect", 2)
    assert other["closed_until"] == "2026-11-21T10:00:30Z"
    assert other["policy"]["concurrent"] == 4
    assert other["policy"]["probe"] == "30s"


async def test_the_directory_is_listed_page_by_page(desk: Desk) -> None:
    _, first = await desk.get("/directory?limit=1")
    assert (first["total"], first["next"], first["entries"][0]["name"]) == (2, 1, EHR)
    assert first["entries"][0]["entries"][0]["addresses"] == [EHR_URL]
    _, second = await desk.get("/directory?limit=1&after=1")
    assert (second["next"], second["entries"][0]["name"]) == (None, BOX)


async def test_a_lookup_tells_every_step(desk: Desk) -> None:
    _, found = await desk.get(f"/directory/lookup?name={EHR}&fhir=4.0&format=json")
    assert (found["known"], found["addresses"], found["how"]) == (True, [EHR_URL], "exact")
    assert found["lookups"] == [{"how": "exact", "tried": EHR, "found": EHR}]
    _, unknown = await desk.get("/directory/lookup?name=urn:oid:1.2.2002")
    assert (unknown["known"], unknown["addresses"]) == (False, [])
    assert EHR in unknown["nearest"]
    assert "no entry has this name" in unknown["reason"]


async def test_a_lookup_needs_a_name_and_known_words(desk: Desk) -> None:
    for query in ("", "?name=x&fhir=9.9", "?name=x&format=yaml"):
        status, told = await desk.get(f"/directory/lookup{query}")
        assert (status, told["error"]["id"]) == (400, "bad-request")


async def test_refresh_reads_the_sources_and_tells_the_flow(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "directory" / "more.yaml").write_text('endpoints:\n  urn:oid:1.2.9: "mailbox:"\n')
    status, told = await desk.post("/directory/refresh")
    assert (status, told["names"], told["changed"], told["woken"]) == (200, 3, 1, 3)
    assert len(desk.woken_by_directory) == 1
    _, again = await desk.post("/directory/refresh")
    assert (again["changed"], again["woken"], len(desk.woken_by_directory)) == (0, 0, 1)


async def test_what_is_wrong_in_a_source_is_shown(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "directory" / "bad.yaml").write_text("endpoints: [\n")
    await desk.post("/directory/refresh")
    _, told = await desk.get("/directory/problems")
    assert told["problems"][0]["file"].endswith("bad.yaml")
    status, ready = (await desk.client.get("/health/ready")).status, await (
        await desk.client.get("/health/ready")
    ).json()  # fmt: skip
    assert (status, len(ready["checks"]["directory"]["problems"])) == (200, 1)  # what it said before stays in use


async def test_route_explains_and_keeps_nothing(desk: Desk) -> None:
    answer = await desk.client.post("/admin/v1/route", data=message_bytes(), headers={"Content-Type": JSON})
    told = await answer.json()
    assert (answer.status, told["verdict"]) == (200, "accepted")
    assert told["destinations"][0]["addresses"] == [EHR_URL]
    assert told["message"]["source"] == SOURCE
    assert (await desk.store.counts()).messages == 0


async def test_route_says_why_a_message_would_be_refused(desk: Desk) -> None:
    body = message_bytes(to="urn:oid:7.7")
    told = await (await desk.client.post("/admin/v1/route", data=body, headers={"Content-Type": JSON})).json()
    assert (told["verdict"], told["destinations"][0]["problem"]["id"]) == ("refused", "unknown-destination")


async def test_route_refuses_what_is_no_message(desk: Desk) -> None:
    for body, kind, status in (
        (b"{}", JSON, 422), (b"x", "text/plain", 415), (b"x" * 100_001, JSON, 413), (b"", JSON, 422),
    ):  # fmt: skip
        answer = await desk.client.post("/admin/v1/route", data=body, headers={"Content-Type": kind})
        told = await answer.json()
        assert (answer.status, set(told)) == (status, {"error"}), told
        assert told["error"]["text"]


async def test_status_shows_version_counts_and_listeners(desk: Desk) -> None:
    await desk.accept()
    await desk.dead(2)
    _, told = await desk.get("/status")
    assert told["counts"]["dead"] == 1
    assert told["counts"]["waiting"] == 1
    assert told["listeners"] == {"admin": "127.0.0.1:8079"}
    assert (told["insecure"], told["ready"]) == (False, True)
    assert told["uptime"] >= 0
    assert told["directory"]["names"] == 2
