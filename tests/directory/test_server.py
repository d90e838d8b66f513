"""A FHIR server as a source: what is asked, what is believed, and what stays in use (A-24 … A-27)."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from fhir_directory import (
    FhirDirectory,
    Misbehaving,
    OpenDirectory,
    always,
    at_page,
    endpoint,
    hangs,
    organization,
    said,
)

from broker.directory import Directory, Freshness, ServerSource
from broker.directory.last_good import LastGood
from broker.directory.server import FULL_AGAIN, FhirServer
from broker.directory.source import Limits

HER = "urn:oid:2.16.578.1.12.4.1.2"
NOW = datetime(2026, 11, 21, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
Reader = Callable[..., Awaitable[FhirServer]]


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def reads(clock: Clock) -> AsyncIterator[Reader]:
    """A server as a source, read once."""
    made: list[FhirServer] = []

    async def one(there: FhirDirectory, copy: LastGood | None = None, **options: Any) -> FhirServer:
        limits = options.pop("limits", None)
        source = ServerSource(url=there.base, **options)
        server = FhirServer(source, copy, limits=limits, now=clock, dice=lambda: 0.5)
        made.append(server)
        server.load_copy()
        await server.read()
        return server

    yield one
    for server in made:
        await server.close()


def three(there: FhirDirectory) -> None:
    for number in (1, 2, 3):
        there.put(endpoint(f"e{number}", f"https://{number}.example/fhir"))
        there.put(organization(f"o{number}", f"{HER}.{number}", endpoint=f"e{number}"))


def keys(server: FhirServer) -> list[str]:
    return sorted(resource.reference for resource in server.resources)


def address(directory: Directory, name: str) -> str | None:
    return next(iter(directory.current.resolve(name, now=NOW).addresses), None)


THREE = [*(f"Endpoint/e{n}" for n in (1, 2, 3)), *(f"Organization/o{n}" for n in (1, 2, 3))]


# --- what is asked


async def test_every_page_of_endpoints_and_organizations_is_read(register: OpenDirectory, reads: Reader) -> None:
    """A-24."""
    there = await register(page=2)
    three(there)
    server = await reads(there)
    assert (keys(server), server.problem, server.freshness) == (THREE, None, Freshness.FRESH)
    assert [one for one in there.requests if one.startswith("Endpoint")] == [
        "Endpoint?_count=500",
        "Endpoint?_count=500&page=2",
    ]


@pytest.mark.parametrize("r5", [False, True], ids=["R4", "R5"])
async def test_names_of_organizations_lead_to_their_endpoints(register: OpenDirectory, r5: bool) -> None:
    there = await register(page=1)
    there.put(endpoint("e1", "https://1.example/fhir", r5=r5), organization("o1", f"{HER}.1", endpoint="e1"))
    directory = Directory({}, [there.base])
    await directory.start()
    assert address(directory, f"{HER}.1") == "https://1.example/fhir/$process-message"
    assert address(directory, f"{there.base}/Endpoint/e1") == "https://1.example/fhir/$process-message"
    assert directory.problems == ()
    await directory.close()


async def test_an_affiliation_lends_its_endpoint_to_who_has_none(register: OpenDirectory) -> None:
    """A-25: an OrganizationAffiliation, which is read since the server says that it has it."""
    there = await register()
    there.put(
        endpoint("hie", "https://hie.example/fhir"),
        organization("o1", f"{HER}.1"),
        {
            "resourceType": "OrganizationAffiliation", "id": "a", "active": True,
            "participatingOrganization": {"reference": "Organization/o1"},
            "endpoint": [{"reference": "Endpoint/hie"}],
        },
    )  # fmt: skip
    directory = Directory({}, [there.base])
    await directory.start()
    assert address(directory, f"{HER}.1") == "https://hie.example/fhir/$process-message"
    await directory.close()


async def test_a_server_without_endpoints_of_their_own_is_asked_to_include_them(
    register: OpenDirectory, reads: Reader
) -> None:
    there = await register()
    three(there)

    async def no_search(request: web.Request) -> web.StreamResponse | None:
        found = request.match_info["path"] == "Endpoint"
        return said(web.Response, {"resourceType": "OperationOutcome"}, status=400) if found else None

    there.misbehaves = no_search
    server = await reads(there)
    assert keys(server) == THREE
    assert "Organization?_count=500&_include=Organization:endpoint" in there.requests


async def test_headers_of_the_configuration_are_sent(register: OpenDirectory, reads: Reader) -> None:
    there = await register()
    await reads(there, headers=(("Authorization", "Bearer abc"),))
    assert {one["authorization"] for one in there.headers} == {"Bearer abc"}


async def test_only_the_types_that_are_named_are_read(register: OpenDirectory, reads: Reader) -> None:
    there = await register()
    three(there)
    server = await reads(there, types=("Endpoint", "Organization"))
    assert not [one for one in there.requests if one.startswith("OrganizationAffiliation")]
    assert keys(server) == THREE


async def test_what_is_about_persons_is_neither_asked_for_nor_kept(register: OpenDirectory, reads: Reader) -> None:
    there = await register()
    there.put(organization("o", f"{HER}.1", telecom=[{"value": "+47 1"}], contact=[{"name": {"text": "Kari"}}]))
    server = await reads(there)
    assert not [one for one in there.requests if one.startswith("Practitioner")]
    assert "Kari" not in str(server.resources)


# --- what changed


async def test_only_what_changed_is_read_where_the_server_keeps_histories(
    register: OpenDirectory, reads: Reader
) -> None:
    """ITI-91, A-26: deletions come as entries of the history."""
    there = await register(page=1, history=True)
    three(there)
    server = await reads(there)
    there.put(endpoint("e1", "https://new.example/fhir"), endpoint("e4", "https://4.example/fhir"))
    there.put(endpoint("e1", "https://newer.example/fhir"))
    there.delete("Organization/o3")
    there.requests.clear()
    assert await server.read()
    assert all("/_history?_since=" in one for one in there.requests), there.requests
    assert keys(server) == [*THREE[:3], "Endpoint/e4", *THREE[3:5]]
    (first,) = [one for one in server.resources if one.reference == "Endpoint/e1"]
    assert first.body["address"] == "https://newer.example/fhir"
    assert not await server.read()


async def test_a_history_that_was_promised_and_is_refused_is_replaced_by_all(
    register: OpenDirectory, reads: Reader
) -> None:
    there = await register(history=True)
    three(there)
    server = await reads(there)

    async def no_history(request: web.Request) -> web.StreamResponse | None:
        return web.Response(status=501) if "_history" in request.path else None

    there.misbehaves = no_history
    there.delete("Organization/o3")
    assert await server.read()
    assert (keys(server), server.problem) == (THREE[:5], None)


async def test_after_a_day_all_is_read_again(register: OpenDirectory, reads: Reader, clock: Clock) -> None:
    there = await register(history=True)
    server = await reads(there)
    clock.now += FULL_AGAIN
    there.requests.clear()
    await server.read()
    assert not [one for one in there.requests if "_history" in one]


async def test_a_clock_that_is_set_back_means_that_all_is_read(
    register: OpenDirectory, reads: Reader, clock: Clock
) -> None:
    there = await register(history=True)
    server = await reads(there)
    clock.now -= timedelta(hours=1)
    there.requests.clear()
    await server.read()
    assert not [one for one in there.requests if "_history" in one]


async def test_a_page_that_did_not_change_is_not_sent_again(register: OpenDirectory, reads: Reader) -> None:
    there = await register(page=2, etags=True)
    three(there)
    server = await reads(there)
    there.answered.clear()
    assert not await server.read()
    assert there.answered.count(304) == 5, "two pages of each, and one of affiliations"
    there.put(endpoint("e3", "https://new.example/fhir"))
    there.answered.clear()
    assert await server.read()
    assert there.answered.count(304) == 4
    assert keys(server) == THREE


async def test_what_did_not_change_stays_the_same_object(register: OpenDirectory, reads: Reader) -> None:
    there = await register()
    three(there)
    server = await reads(there)
    before = {one.reference: one for one in server.resources}
    there.put(endpoint("e3", "https://new.example/fhir"))
    await server.read()
    after = {one.reference: one for one in server.resources}
    assert [key for key in before if before[key] is not after[key]] == ["Endpoint/e3"]


# --- what is believed

SMALL = Limits(page=2000, answer=timedelta(milliseconds=200))
NEXT_ELSEWHERE = b"""{"resourceType": "Bundle", "type": "searchset", "link": [{"relation": "next", "url": "%s"}]}"""


def with_next(link: str) -> Misbehaving:
    return at_page(2, always(body=NEXT_ELSEWHERE % link.encode()))


@pytest.mark.parametrize(
    ("misbehaves", "limits", "says"),
    [
        (always(302, Location="/fhir2/"), None, "redirects are not followed"),
        (always(307, Location="https://other.example/x?token=1"), None, "https://other.example/x'"),
        (always(401), None, "does not let us read"),
        (always(500), None, "answers 500"),
        (always(body=b"<html>", kind="text/html"), None, "answers with text/html where FHIR in JSON belongs"),
        (always(body=b"<Bundle/>", kind="application/fhir+xml"), None, "answers with application/fhir+xml"),
        (always(body=b'{"resourceType": "Patient"}'), None, "a Bundle was asked for, and Patient came"),
        (always(body=b'{"resourceType": "Bundle", "entry": {}}'), None, "whose entries or links are no lists"),
        (always(body=b"[1]"), None, "something else came"),
        (always(body=b'{"resourceType": "Bundle", '), None, "this is no JSON"),
        (at_page(2, always(503)), None, "answers 503"),
        (at_page(2, always(304)), None, "answers 304"),
        (with_next("http://directory.example/fhir/Endpoint?page=4"), None, "another server"),
        (with_next("http://u:p@{here}/fhir/Endpoint?page=4"), None, "another server"),
        (with_next("file:///etc/passwd"), None, "is no URL"),
        (with_next("Endpoint?_count=500&page=2"), None, "go round in a circle"),
        (hangs, SMALL, "no answer in time"),
        (always(body=b" " * 2001), SMALL, "a page is larger than 2000 bytes"),
        (None, Limits(whole=1000), "all pages together are larger than 1000 bytes"),
        (None, Limits(resources=4), "more than 4 resources"),
        (None, Limits(pages=1), "more than 1 pages"),
    ],
)
async def test_an_answer_that_is_none_is_told_and_changes_nothing(
    register: OpenDirectory, reads: Reader, misbehaves: Misbehaving | None, limits: Limits | None, says: str
) -> None:
    there = await register(page=2)
    three(there)
    there.misbehaves = misbehaves
    server = await reads(there, limits=limits)
    assert says in (server.problem or "")
    assert (server.resources, server.freshness) == ((), Freshness.UNKNOWN)
    assert not [one for one in there.requests if one.startswith("elsewhere")]
    there.misbehaves = None
    if limits is None:
        assert await server.read(), "and once it behaves, it is believed"
        assert (server.problem, keys(server)) == (None, THREE)


async def test_a_link_to_another_port_of_the_same_host_is_not_followed(register: OpenDirectory, reads: Reader) -> None:
    """A-27."""
    there, other = await register(), await register()
    three(there)
    there.misbehaves = with_next(f"{other.base}/Endpoint?page=4")
    server = await reads(there)
    assert "another server" in (server.problem or "")
    assert other.requests == []


async def test_a_server_that_listens_nowhere_is_told(register: OpenDirectory, reads: Reader) -> None:
    there = await register()
    await there.close()
    server = await reads(there)
    assert "refused" in (server.problem or "").lower()


async def test_remarks_of_the_server_on_the_search_are_no_resources(register: OpenDirectory, reads: Reader) -> None:
    there = await register()
    body = (
        b'{"resourceType": "Bundle", "entry": [{"resource": {"resourceType": "OperationOutcome", "id": "x"},'
        b' "search": {"mode": "outcome"}}]}'
    )
    there.misbehaves = always(body=body)
    server = await reads(there)
    assert (server.resources, server.freshness) == ((), Freshness.FRESH)


async def test_an_endpoint_of_a_server_may_not_be_a_place_of_ours(register: OpenDirectory) -> None:
    there = await register()
    there.put(endpoint("e1", "mailbox:"), endpoint("e2", "file:///etc/passwd", identifier=[{"value": f"{HER}.2"}]))
    directory = Directory({}, [there.base])
    await directory.start()
    assert address(directory, f"{HER}.2") is None
    assert sum("is none that an Endpoint may have" in one.text for one in directory.problems) == 2
    await directory.close()


def test_only_a_server_on_this_machine_may_point_to_this_machine() -> None:
    here = ["http://127.0.0.1:8090/fhir", "http://localhost/fhir", "http://[::1]:80/fhir"]
    there = ["https://directory.example/fhir", "https://10.0.0.1/fhir", "https://localhost.example/fhir"]
    assert [ServerSource(url=url).foreign for url in (*here, *there)] == [False] * 3 + [True] * 3


# --- what stays in use


async def test_the_last_good_answer_stays_in_use_and_is_called_old(
    register: OpenDirectory, reads: Reader, clock: Clock
) -> None:
    """A-27."""
    there = await register()
    three(there)
    server = await reads(there)
    there.misbehaves = at_page(2, always(500))
    clock.now += MINUTE
    assert not await server.read()
    assert (keys(server), server.freshness) == (THREE, Freshness.STALE)
    assert (server.state.age, server.state.read_at) == (60.0, NOW)
    there.misbehaves = None
    await server.read()
    assert (server.freshness, server.state.age, server.state.problem) == (Freshness.FRESH, 0.0, None)


async def test_a_copy_survives_a_restart(register: OpenDirectory, reads: Reader, clock: Clock, tmp_path: Path) -> None:
    there = await register()
    three(there)
    copy = LastGood(tmp_path / "copies", there.base)
    first = await reads(there, copy)
    await there.close()
    clock.now += MINUTE
    second = await reads(there, copy)
    assert (second.freshness, second.state.age, second.read_at) == (Freshness.STALE, 60.0, NOW)
    assert {one.reference: one.body for one in second.resources} == {one.reference: one.body for one in first.resources}
    assert {one.url for one in second.resources} == {one.url for one in first.resources}


async def test_a_copy_that_is_confirmed_is_as_young_as_the_reading(
    register: OpenDirectory, reads: Reader, clock: Clock, tmp_path: Path
) -> None:
    there = await register()
    copy = LastGood(tmp_path, there.base)
    server = await reads(there, copy)
    clock.now += MINUTE
    assert not await server.read()
    await there.close()
    assert (await reads(there, copy)).read_at == NOW + MINUTE


@pytest.mark.parametrize("damage", ["cut", "other", "garbage", "fewer"])
async def test_a_damaged_copy_is_told_and_not_used(
    register: OpenDirectory, reads: Reader, tmp_path: Path, damage: str
) -> None:
    there = await register()
    three(there)
    copy = LastGood(tmp_path, there.base)
    await reads(there, copy)
    (path,) = tmp_path.iterdir()  # noqa: ASYNC240 - one file of a test
    data = path.read_bytes()
    lines = gzip.decompress(data).splitlines(keepends=True)
    path.write_bytes({
        "cut": data[:-20],
        "other": gzip.compress(b'"form"\n'),
        "garbage": b"garbage",
        "fewer": gzip.compress(b"".join(lines[:-1])),
    }[damage])  # fmt: skip
    await there.close()
    server = FhirServer(ServerSource(url=there.base), copy)
    server.load_copy()
    assert server.freshness is Freshness.UNKNOWN
    assert "last good copy" in (server.problem or "")


async def test_a_copy_that_cannot_be_written_is_told_and_costs_nothing_else(
    register: OpenDirectory, reads: Reader, tmp_path: Path
) -> None:
    there = await register()
    three(there)
    (tmp_path / "file").write_text("")
    server = await reads(there, LastGood(tmp_path / "file" / "copies", there.base))
    assert (keys(server), server.freshness) == (THREE, Freshness.FRESH)
    assert "cannot be written" in (server.problem or "")


# --- when


async def test_pauses_grow_while_the_server_is_down(register: OpenDirectory, reads: Reader) -> None:
    there = await register()
    there.misbehaves = always(500)
    server = await reads(there)
    pauses = []
    for _ in range(7):
        pauses.append(server.pause(15 * MINUTE))
        await server.read()
    assert pauses == [1, 2, 4, 8, 15, 15, 15], "while nothing is known, senders are refused: it is asked often"
    there.misbehaves = None
    await server.read()
    assert server.pause(15 * MINUTE) == 900
    there.misbehaves = always(500)
    for _ in range(12):
        await server.read()
    assert server.pause(15 * MINUTE) == 900, "and later as often as ever"


async def test_a_retry_after_is_honoured(register: OpenDirectory, reads: Reader) -> None:
    there = await register()
    there.misbehaves = always(503, Retry_After="77")
    server = await reads(there)
    assert server.pause(15 * MINUTE) == 77


def test_brokers_do_not_all_ask_at_once() -> None:
    source = ServerSource(url="https://directory.example")
    pauses = [FhirServer(source, dice=lambda dice=dice: dice).pause(15 * MINUTE) for dice in (0.0, 0.5, 1.0)]  # type: ignore[misc]
    assert pauses == pytest.approx([810, 900, 990])


# --- as part of the directory


async def test_what_is_written_here_goes_before_what_a_server_says(register: OpenDirectory) -> None:
    there = await register()
    three(there)
    directory = Directory({f"{HER}.1": "https://own.example"}, [there.base])
    await directory.start()
    assert address(directory, f"{HER}.1") == "https://own.example"
    assert address(directory, f"{HER}.2") == "https://2.example/fhir/$process-message"
    await directory.close()


async def test_names_are_pending_until_the_server_is_known(register: OpenDirectory) -> None:
    there = await register()
    three(there)
    there.misbehaves = always(500)
    own = {f"{HER}.9": "https://own.example", "urn:x:*": "https://next.example", "*": "https://gateway.example"}
    directory = Directory(own, [there.base])
    await directory.start()
    now = directory.current
    assert not now.resolve(f"{HER}.9", now=NOW).pending
    assert now.resolve("urn:x:1", now=NOW).addresses == ("https://next.example",)
    pending = now.resolve(f"{HER}.1", now=NOW)
    assert (pending.pending, pending.addresses, pending.known) == (True, (), False)
    assert "nothing is known of it yet" in str(directory.problems[0])
    there.misbehaves = None
    await directory.servers[0].read()
    await directory.renew()
    assert address(directory, f"{HER}.1") == "https://1.example/fhir/$process-message"
    assert address(directory, f"{HER}.5") == "https://gateway.example"
    assert directory.problems == ()
    await directory.close()


async def test_a_change_on_the_server_is_told_after_a_refresh(register: OpenDirectory) -> None:
    there = await register()
    three(there)
    directory = Directory({}, [there.base])
    await directory.start()
    told: asyncio.Queue[int] = asyncio.Queue()

    async def on_change(old: object, new: object) -> int:
        told.put_nowait(len(directory.current))
        return 7

    task = asyncio.create_task(directory.watch(MINUTE, on_change, refresh=timedelta(hours=1)))
    there.delete("Organization/o3")
    before, woken = await asyncio.wait_for(directory.refresh(on_change), 10)
    assert (len(before), len(directory.current), woken) == (6, 5, 7)
    assert told.qsize() == 1, "once"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await directory.close()
