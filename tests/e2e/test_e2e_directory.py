"""The directory under a daemon that runs: servers, files that change, several addresses."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import aiohttp
import orjson
from e2e_daemon import Daemon, StartDaemon
from e2e_messages import FHIR_JSON, NORTH, SOUTH, ask, eventually, message, problem_ids, response_to, send
from e2e_receiver import HttpReceiver, OpenReceiver, Reply
from fhir_directory import FhirDirectory, always, endpoint, organization

QUICK = {"retry": {"first": "200ms", "max": "500ms"}, "lane": {"probe": "300ms", "connect": "1s"}}
SECONDS = 6.0  # that a change of a file may take: it is looked at every second


def south_at(receiver: HttpReceiver, **more: Any) -> list[dict[str, Any]]:
    base = receiver.url.removesuffix("/$process-message")
    return [endpoint("south", base, **more), organization("south", SOUTH, endpoint="south")]


async def sources(http: aiohttp.ClientSession, broker: Daemon) -> list[dict[str, Any]]:
    said = await ask(http, "GET", f"{broker.admin}/admin/v1/directory")
    found: list[dict[str, Any]] = said.json["sources"]
    return found


async def waiting(http: aiohttp.ClientSession, broker: Daemon) -> int:
    said = await ask(http, "GET", f"{broker.admin}/admin/v1/status")
    return int(said.json["counts"]["waiting"])


# --- a server


async def test_a_server_that_is_down_at_start_means_later_and_not_never(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    there, south = FhirDirectory(), await receiver()
    await (await there.open()).close()
    there.put(*south_at(south))
    broker = await daemon({"directory": {"sources": [there.base], "endpoints": {NORTH: "mailbox:"}}})
    said = await send(http, broker.base, message())
    assert (said.status, problem_ids(said.body)) == (503, ["directory-not-known-yet"])
    assert int(said.headers["Retry-After"]) > 0
    known = await send(http, broker.base, message(to=NORTH, source=SOUTH))
    assert known.status == 202, "names that are known from elsewhere work"
    explained = await ask(
        http, "POST", f"{broker.admin}/admin/v1/route", data=message(), headers={"Content-Type": FHIR_JSON}
    )
    assert explained.json["destinations"][0]["problem"]["id"] == "directory-not-known-yet"
    assert [one["state"] for one in await sources(http, broker)] == ["unknown"]

    await there.open()
    try:

        async def taken() -> bool:
            return (await send(http, broker.base, message(), query="?async=true")).status == 202

        await eventually(taken, within=30)
        assert (await south.until_count(1))[0].path == "/fhir/$process-message"
        unknown = await send(http, broker.base, message(to="urn:oid:2.999.2.99"))
        assert (unknown.status, problem_ids(unknown.body)) == (404, ["unknown-destination"])
    finally:
        await there.close()


async def test_what_waits_partly_for_an_unknown_server_goes_when_it_is_known(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    there, south = FhirDirectory(), await receiver()
    await (await there.open()).close()
    there.put(*south_at(south))
    broker = await daemon({"directory": {"sources": [there.base], "endpoints": {NORTH: "mailbox:"}}})
    said = await send(http, broker.base, message(to=(NORTH, SOUTH), source="urn:oid:2.999.2.7"))
    assert said.status == 202
    assert await waiting(http, broker) == 1
    await there.open()
    try:
        await south.until_count(1, within=25)
    finally:
        await there.close()


async def test_the_last_good_copy_serves_a_start_without_the_server(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    there, south = await FhirDirectory().open(), await receiver()
    there.put(*south_at(south))
    broker = await daemon({"directory": {"sources": [there.base], "refresh": "1h"}})
    assert [one["state"] for one in await sources(http, broker)] == ["fresh"]
    await broker.kill()
    await there.close()
    await broker.start()
    assert (await send(http, broker.base, message(), query="?async=true")).status == 202
    await south.until_count(1)
    (state,) = await sources(http, broker)
    assert (state["state"], state["resources"]) == ("stale", 2)
    assert state["age"] >= 0
    assert state["problem"] is not None
    metrics = (await ask(http, "GET", f"{broker.admin}/metrics")).body.decode()
    assert f'fhir_broker_directory_source_fresh{{source="{there.base}"}} 0.0' in metrics
    assert f'fhir_broker_directory_source_age_seconds{{source="{there.base}"}}' in metrics
    ready = await ask(http, "GET", f"{broker.admin}/health/ready")
    assert ready.json["checks"]["directory"]["sources"][0]["state"] == "stale"


async def test_a_change_on_the_server_moves_what_waits_after_a_refresh(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    there, old, new = await FhirDirectory(history=True).open(), await receiver(), await receiver()
    there.put(*south_at(old))
    await old.close()
    broker = await daemon({"directory": {"sources": [there.base], "refresh": "1h"}, "defaults": QUICK})
    assert (await send(http, broker.base, message(), query="?async=true")).status == 202
    there.put(*south_at(new))
    said = await ask(http, "POST", f"{broker.admin}/admin/v1/directory/refresh")
    assert (said.status, said.json["problems"]) == (200, [])
    await new.until_count(1, within=SECONDS)
    await there.close()


async def test_one_broker_can_be_the_directory_of_another(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    south = await receiver()
    first = await daemon({"directory": {"endpoints": {SOUTH: south.url}}})
    second = await daemon({"directory": {"sources": [first.base]}})
    assert (await send(http, second.base, message(), query="?async=true")).status == 202
    await south.until_count(1)


async def test_a_broken_server_costs_what_is_known_nothing(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    there, south = await FhirDirectory().open(), await receiver()
    there.put(*south_at(south))
    broker = await daemon({"directory": {"sources": [there.base], "refresh": "1h"}})
    there.misbehaves = always(body=b"<html>", kind="text/html")
    said = await ask(http, "POST", f"{broker.admin}/admin/v1/directory/refresh")
    assert "where FHIR in JSON belongs" in said.json["problems"][0]
    assert (await send(http, broker.base, message(), query="?async=true")).status == 202
    await south.until_count(1)
    await there.close()


# --- files


async def test_files_that_change_come_vanish_or_break_are_followed_within_seconds(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    south = await receiver()
    broker = await daemon({"directory": {"sources": ["places/*.yaml", "places/*.json"]}, "defaults": QUICK})
    places = broker.folder / "places"
    places.mkdir()

    async def answers(status: int) -> None:
        async def so() -> bool:
            return (await send(http, broker.base, message(), query="?async=true")).status == status

        await eventually(so, within=SECONDS)

    await answers(404)
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": r} for r in south_at(south)]}
    (places / "new.json").write_bytes(orjson.dumps(bundle))
    await answers(202)
    (places / "new.json").write_text("{")

    async def reported() -> bool:
        said = await ask(http, "GET", f"{broker.admin}/admin/v1/directory/problems")
        return any("what it said before stays in use" in one["text"] for one in said.json["problems"])

    await eventually(reported, within=SECONDS)
    await answers(202)
    (places / "new.json").unlink()
    await answers(404)
    (places / "new.yaml").write_text(f"endpoints: {{'{SOUTH}': '{south.url}'}}\n")
    await answers(202)


async def test_a_name_that_vanishes_or_is_suspended_waits_and_goes_when_it_is_back(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    """A-22."""
    south = await receiver()
    broker = await daemon({"directory": {"sources": ["*.json"]}, "defaults": QUICK})

    def write(resources: list[dict[str, Any]]) -> None:
        new = broker.folder / "register.new"
        new.write_bytes(orjson.dumps({"resourceType": "Bundle", "entry": [{"resource": r} for r in resources]}))
        new.rename(broker.folder / "register.json")

    async def known(state: str) -> None:
        async def so() -> bool:
            said = await ask(http, "GET", f"{broker.admin}/admin/v1/directory/lookup?name={SOUTH}")
            return bool(said.json["state"] == state)

        await eventually(so, within=SECONDS)

    write(south_at(south, status="suspended"))
    await known("hold")
    assert (await send(http, broker.base, message("first"), query="?async=true")).status == 202
    await asyncio.sleep(0.5)
    assert south.got == []
    write(south_at(south))
    await south.until_count(1, within=SECONDS)

    south.answer = lambda got: Reply(status=503)
    assert (await send(http, broker.base, message("second"), query="?async=true")).status == 202
    await south.until_count(2)
    write([])
    await known("none")
    await asyncio.sleep(0.3)  # what was on its way has come
    south.answer = lambda got: Reply()
    before = len(south.got)
    await asyncio.sleep(1.0)  # twice the longest wait between attempts
    assert (len(south.got), await waiting(http, broker)) == (before, 1)
    write(south_at(south))
    await south.until_count(before + 1, within=SECONDS)
    assert south.got[-1].bundle_id == "second"


# --- several addresses


async def test_the_second_serves_while_the_first_is_down_and_the_first_again_when_it_is_back(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    first, second = await receiver(), await receiver()
    await first.close()
    broker = await daemon({"directory": {"endpoints": {SOUTH: {"first": [first.url, second.url]}}}, "defaults": QUICK})
    started = time.monotonic()
    for number in range(8):  # more than close a lane
        assert (await send(http, broker.base, message(f"m{number}"), query="?async=true")).status == 202
    await second.until_count(8)
    assert time.monotonic() - started < 1.0 + 0.5 + 2.0, "the connect limit, the backoff, and a slow machine"
    assert sorted(got.bundle_id for got in second.got) == [f"m{number}" for number in range(8)]
    await first.open()

    async def first_again() -> bool:
        await send(http, broker.base, message(), query="?async=true")
        return bool(first.got)

    await eventually(first_again, within=SECONDS, every=0.2)
    await asyncio.sleep(1.0)  # what had turned to the second is through
    count = len(second.got)
    for number in range(5):
        await send(http, broker.base, message(f"again{number}"), query="?async=true")
    await first.until(lambda: sum(got.bundle_id.startswith("again") for got in first.got) == 5)
    assert len(second.got) == count


async def test_a_caller_that_waits_is_answered_by_the_second(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    first, second = await receiver(), await receiver()
    await first.close()
    second.answer = lambda got: Reply(body=response_to(got.body))
    broker = await daemon({"directory": {"endpoints": {SOUTH: {"first": [first.url, second.url]}}}, "defaults": QUICK})
    said = await send(http, broker.base, message("asked"))
    assert said.status == 200, said
    assert said.json["entry"][0]["resource"]["response"]["identifier"] == "asked-h"


async def test_a_mailbox_and_an_address_both_get_it(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    south = await receiver()
    broker = await daemon({"directory": {"endpoints": {SOUTH: ["mailbox:", south.url]}}})
    assert (await send(http, broker.base, message("both"), query="?async=true")).status == 202
    assert [got.bundle_id for got in await south.until_count(1)] == ["both"]
    said = await ask(http, "GET", f"{broker.base}/Bundle?message.destination-uri={SOUTH}&_offset=0")
    assert [entry["resource"]["id"] for entry in said.json["entry"]] == ["both"]


async def test_all_of_several_addresses_get_it_though_one_is_down(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    first, second = await receiver(), await receiver()
    await first.close()
    broker = await daemon({"directory": {"endpoints": {SOUTH: [first.url, second.url]}}, "defaults": QUICK})
    assert (await send(http, broker.base, message("all"), query="?async=true")).status == 202
    await second.until_count(1)
    await first.open()
    await first.until_count(1)
    await asyncio.sleep(0.5)
    assert ([got.bundle_id for got in first.got], [got.bundle_id for got in second.got]) == (["all"], ["all"])


async def test_what_waits_turns_to_the_second_though_the_lane_of_the_first_is_closed(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    """A lane that is left alone for long keeps nothing that has another way."""
    first, second = await receiver(), await receiver()
    await first.close()
    defaults = {"retry": {"first": "200ms", "max": "500ms"}, "lane": {"probe": "1h", "connect": "1s", "open_after": 1}}
    endpoints = {SOUTH: {"first": [first.url, second.url]}}
    broker = await daemon({"directory": {"endpoints": endpoints}, "defaults": defaults})
    await asyncio.gather(*(send(http, broker.base, message(f"m{n}"), query="?async=true") for n in range(12)))
    await second.until(lambda: len({got.bundle_id for got in second.got}) == 12, within=SECONDS)


# --- where a sender's word may lead


async def test_a_direct_endpoint_leads_to_this_machine_where_its_pattern_names_the_host(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    """A-27."""
    south = await receiver()
    broker = await daemon({"directory": {"endpoints": {f"http://127.0.0.1:{south.port}/*": "direct"}}})
    to = f"http://127.0.0.1:{south.port}/in"
    assert (await send(http, broker.base, message(to=to), query="?async=true")).status == 202
    assert (await south.until_count(1))[0].path == "/in"
