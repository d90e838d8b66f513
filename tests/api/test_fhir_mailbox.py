"""Pages of a mailbox over HTTP, from a real store (contract: GET /Bundle; messaging M-62…M-69)."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import xml.etree.ElementTree as ET
from base64 import b64decode
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from reading import BASE_URL, BODY, ME, SOURCE, XML_BODY, Side, delivery, reading, response, validated

from broker.api.mailbox import BESIDE_THE_LOOP
from broker.core.fhir.header import Event, Format, Identifier, Release
from broker.core.message import Fate
from broker.store import Note, StoreError, shared_reads

CORPUS = Path(__file__).parent.parent / "corpus" / "messages"
MINE = f"/fhir/Bundle?message.destination-uri={ME}"
F = "{http://hl7.org/fhir}"


@pytest.fixture
async def side(tmp_path: Path) -> AsyncIterator[Side]:
    async with reading(tmp_path) as one:
        yield one


async def read_by(side: Side, position: int) -> str | None:
    ((_, at, reader),) = await side.store.mail_of(position)
    assert (at is None) == (reader is None)
    return reader


# --- pages ---


async def test_page_holds_the_messages_as_they_came_oldest_first(side: Side) -> None:
    """M-65, M-66, promise 3."""
    first, second = await side.keep(), await side.keep(b'{"resourceType":"Bundle", "id": "theirs", "type": "message"}')
    await side.keep(deliveries=[delivery("urn:oid:4.5.6")])
    page = await side.get(MINE)
    assert page.status == 200
    assert page.headers["Content-Type"] == "application/fhir+json"
    validated(page.json)
    assert page.positions == [first, second]
    assert [entry["fullUrl"] for entry in page.entries] == [f"urn:uuid:{side.id(p)}" for p in (first, second)]
    assert page.entries[0]["link"] == [{"relation": "original", "url": f"{BASE_URL}/Bundle/{side.id(first)}"}]
    assert b'"resource":' + BODY + b"," in page.body
    assert page.json["total"] == 2
    assert (await side.get(page.entries[0]["link"][0]["url"])).body == BODY


async def test_next_leads_on_and_stands_on_the_last_page_too(side: Side) -> None:
    """M-69: by position, so that nothing is lost or given twice."""
    kept = [await side.keep() for _ in range(3)]
    page = await side.get(f"{MINE}&_count=2")
    assert page.positions == kept[:2]
    assert "total" not in page.json
    assert page.links == {
        "self": f"{BASE_URL}/Bundle?message.destination-uri={ME}&_count=2&_offset=0",
        "next": f"{BASE_URL}/Bundle?message.destination-uri={ME}&_count=2&_offset={kept[1]}",
    }
    page = await side.get(page.links["next"])
    assert page.positions == kept[2:]
    page = await side.get(page.links["next"])
    assert validated(page.json)["type"] == "searchset"
    assert "entry" not in page.json
    assert page.links["self"] == page.links["next"]
    later = await side.keep()
    assert (await side.get(page.links["next"])).positions == [later]


async def test_without_a_destination_all_mailboxes_are_read(side: Side) -> None:
    kept = [await side.keep(deliveries=[delivery(name)]) for name in ("urn:a", "urn:b")]
    await side.keep(deliveries=[])  # in no mailbox
    assert (await side.get("/fhir/Bundle")).positions == kept


async def test_mailbox_that_nothing_was_put_in_is_empty(side: Side) -> None:
    page = await side.get("/fhir/Bundle?message.destination-uri=urn:nobody")
    assert page.json["total"] == 0
    assert page.links["next"].endswith("_offset=0")


async def test_newest_first_ends_where_the_log_began(side: Side) -> None:
    """M-68."""
    kept = [await side.keep() for _ in range(3)]
    page = await side.get(f"{MINE}&_sort=-_lastUpdated&_count=2")
    assert page.positions == kept[:0:-1]
    page = await side.get(page.links["next"])
    assert page.positions == kept[:1]
    assert "next" not in page.links
    assert "next" not in (await side.get("/fhir/Bundle?message.destination-uri=urn:x&_sort=-_lastUpdated")).links


@pytest.mark.parametrize("query", ["_count=0", "_summary=count"])
async def test_count_tells_the_number_and_marks_nothing_read(side: Side, query: str) -> None:
    """M-67."""
    position = await side.keep()
    page = await side.get(f"{MINE}&{query}")
    assert validated(page.json)["total"] == 1
    assert "entry" not in page.json
    assert await read_by(side, position) is None


async def test_total_of_all_pages_is_given_to_who_asks(side: Side) -> None:
    for _ in range(3):
        await side.keep()
    assert (await side.get(f"{MINE}&_count=1&_total=accurate&_offset=1")).json["total"] == 3


async def test_page_ends_before_it_grows_too_large(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 7."""
    monkeypatch.setattr(shared_reads, "LARGEST_BYTES", 100)
    large = b'{"resourceType":"Bundle","x":"' + b"x" * 200 + b'"}'
    kept = [await side.keep(), await side.keep(large), await side.keep()]
    page = await side.get(MINE)
    assert page.positions == kept[:1]
    page = await side.get(page.links["next"])
    assert page.positions == kept[1:2]
    assert (await side.get(page.links["next"])).positions == kept[2:]


# --- filters ---


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("message.event=admit", [0]),
        ("message.event=http://example.org/events%7Cadmit", [0]),
        ("message.event=admit,discharge", [0, 1]),
        ("message.event=adm", []),
        (f"message.source-uri={SOURCE}", [0, 2]),
        ("message:MessageHeader.source-uri=urn:b", [1]),
        ("message.response-id:missing=true", [0, 1]),
        ("message.response-id:missing=false", [2]),
        ("message.response-id=m1", [2]),
        ("message.response-id=urn:uuid:m1", []),
        ("message.code=fatal-error", [2]),
        ("message.code=ok", []),
        ("identifier=urn:s%7Cv", [1]),
        ("identifier=urn:s%7Cw", []),
        ("type=message", [0, 1, 2]),
        ("type=document", []),
        ("_lastUpdated=gt2026-11-21T08:00:30Z", [1, 2]),
        ("_lastUpdated=>2026-11-21T09:01:30+01:00", [2]),
        ("_lastUpdated=ge2026-11-21T08:01:00Z&_lastUpdated=lt2026-11-21T08:02:00Z", [1]),
        ("_lastUpdated=2026-11-20", []),
    ],
)
async def test_filters_choose_among_the_messages(side: Side, query: str, expected: list[int]) -> None:
    """M-62…M-64."""
    kept = [await side.keep()]
    side.clock.pass_(minutes=1)
    kept.append(
        await side.keep(
            event=Event("", "discharge"),
            source="urn:b",
            bundle_identifier=Identifier("urn:s", "v"),
            identity="identifier:urn:s|v",
        )
    )
    side.clock.pass_(minutes=1)
    kept.append(await side.keep(event=Event("", "reply"), **response(code="fatal-error")))
    page = await side.get(f"{MINE}&{query}")
    assert page.positions == [kept[number] for number in expected]
    assert (await side.get(f"{MINE}&{query}&_summary=count")).json["total"] == len(expected)


async def test_response_id_is_found_as_a_urn_and_without(side: Side) -> None:
    """M-31, M-63."""
    id = "9d0f3b0e-6f4a-4c55-8a5f-1f7f5f0e1a01"
    kept = [await side.keep(**response(to=id)), await side.keep(**response(to=f"urn:uuid:{id}"))]
    for asked in (id, f"urn:uuid:{id}", id.upper()):
        assert (await side.get(f"{MINE}&message.response-id={asked}")).positions == kept


async def test_messages_are_chosen_by_our_ids(side: Side) -> None:
    kept = [await side.keep() for _ in range(3)]
    elsewhere = await side.keep(deliveries=[delivery("urn:x")])
    asked = ",".join([side.id(kept[2]), side.id(kept[0]), side.id(elsewhere), "stranger"])
    page = await side.get(f"{MINE}&_id={asked}")
    assert page.positions == [kept[0], kept[2]]
    assert page.json["total"] == 2
    assert (await side.get(f"{MINE}&_id={asked}&_summary=count")).json["total"] == 2
    assert (await side.get(f"{MINE}&_id={asked}&message.event=none")).positions == []
    page = await side.get(f"{MINE}&_id={asked}&_count=1")
    assert page.positions == [kept[0]]
    assert (await side.get(page.links["next"])).positions == [kept[2]]
    page = await side.get(f"{MINE}&_id={asked}&_count=1&_sort=-_lastUpdated")
    assert page.positions == [kept[2]]
    assert (await side.get(page.links["next"])).positions == [kept[0]]


async def test_filtered_poll_goes_on_from_the_last_match(side: Side) -> None:
    kept = [await side.keep(event=Event("", code)) for code in ("a", "b", "a", "b")]
    page = await side.get(f"{MINE}&message.event=a&_count=1")
    assert page.links["next"].endswith(f"_offset={kept[0]}")
    page = await side.get(page.links["next"])
    assert page.positions == [kept[2]]
    assert (await side.get(page.links["next"])).positions == []


# --- how it is asked and answered ---


async def test_unknown_parameter_is_told_on_the_page(side: Side) -> None:
    position = await side.keep()
    page = await side.get(f"{MINE}&message.events=x")
    assert page.positions == [position]
    validated(page.json)
    assert "did you mean message.event?" in page.warnings[0]["details"]["text"]
    assert page.warnings[0]["severity"] == "warning"


async def test_strict_caller_is_refused_for_an_unknown_parameter(side: Side) -> None:
    page = await side.get(f"{MINE}&foo=x", Prefer="handling=strict")
    assert page.status == 400
    assert "unknown-parameter" in page.ids
    assert page.issue["expression"] == ["http.foo"]
    assert (await side.get(MINE, Prefer="handling=strict")).headers["Preference-Applied"] == "handling=strict"


async def test_malformed_value_is_a_400_that_names_the_parameter(side: Side) -> None:
    """Promise 8."""
    page = await side.get(f"{MINE}&_offset=first")
    assert page.status == 400
    assert (page.issue["code"], page.issue["expression"]) == ("value", ["http._offset"])


async def test_search_may_be_posted(side: Side) -> None:
    position = await side.keep()
    form = {"message.destination-uri": ME, "_lastUpdated": "gt2026-11-21T08:00:00+01:00"}
    page = await side.ask("POST", "/fhir/Bundle/_search?_count=5", data=form)
    assert page.positions == [position]
    assert page.links["next"].startswith(f"{BASE_URL}/Bundle?_count=5&message.destination-uri={ME}")
    raw = f"message.destination-uri={ME}&_lastUpdated=gt2026-11-21T08:00:00+01:00&_format=application/fhir+xml"
    page = await side.ask(
        "POST", "/fhir/Bundle/_search", data=raw, headers={"Content-Type": "application/x-www-form-urlencoded"}
    )
    assert page.headers["Content-Type"] == "application/fhir+xml"
    assert len(ET.fromstring(page.body).findall(f"{F}entry")) == 1


async def test_posted_search_without_a_body_asks_for_everything(side: Side) -> None:
    position = await side.keep()
    assert (await side.ask("POST", "/fhir/Bundle/_search")).positions == [position]


@pytest.mark.parametrize(
    ("data", "headers", "status"),
    [
        (b"{}", {"Content-Type": "application/fhir+json"}, 415),
        (b"a=%ff", {}, 400),
        (b"a=\xff", {}, 400),
        (b"a=1&" * 300, {}, 400),
        (b"a=1", {"Content-Encoding": "gzip"}, 415),
        (b"a" * 100_000, {}, 413),
    ],
)
async def test_posted_search_that_cannot_be_read_is_refused(
    side: Side, data: bytes, headers: dict[str, str], status: int
) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded", **headers}
    page = await side.ask("POST", "/fhir/Bundle/_search", data=data, headers=headers)
    assert page.status == status
    assert page.issue["severity"] == "error"


async def test_posted_search_that_does_not_arrive_is_not_waited_for(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.api.asking.BODY_DEADLINE", 0.05)
    host, port = side.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /fhir/Bundle/_search HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\n\r\n"
    )
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert (await reader.readline()).startswith(b"HTTP/1.1 408")
    writer.close()


async def test_pinned_base_gives_its_release_and_links_to_itself(side: Side) -> None:
    r4, r5 = await side.keep(), await side.keep(release=Release.R5)
    page = await side.get(f"/fhir/R5/Bundle?message.destination-uri={ME}")
    assert page.headers["Content-Type"] == "application/fhir+json; fhirVersion=5.0"
    validated(page.json, Release.R5)
    assert [entry["resource"]["resourceType"] for entry in page.entries] == ["Binary", "Bundle"]
    assert page.links["next"].startswith(f"{BASE_URL}/R5/Bundle?")
    assert page.entries[0]["link"][0]["url"] == f"{BASE_URL}/R5/Bundle/{side.id(r4)}"
    page = await side.get(MINE, Accept="application/fhir+json; fhirVersion=5.0")
    assert page.entries[1]["resource"] == {"resourceType": "Bundle", "type": "message"}
    assert page.positions == [r4, r5]


async def test_impossible_accept_is_refused(side: Side) -> None:
    assert (await side.get(MINE, Accept="text/html")).status == 406
    assert (await side.get(f"{MINE}&_format=html")).status == 406


async def test_odd_bytes_other_formats_and_releases_never_spoil_a_page(side: Side) -> None:
    """The contract: a Binary where the bytes may not stand."""
    bodies: list[tuple[bytes, dict[str, Any]]] = [
        (BODY, {}),
        (XML_BODY, {}),
        (b"\xef\xbb\xbf" + BODY, {}),
        (BODY, {"release": Release.R5}),
        (b'{"resourceType":"Bundle","x":"\xff\x00"}', {}),
        (b'{"resourceType":"Bundle"}]}', {"media_type": ""}),
        (b'<Bundle xmlns="http://hl7.org/fhir"><!DOCTYPE x></Bundle>', {}),
        (b"", {}),
    ]
    for body, more in bodies:
        await side.keep(body, **more)
    page = await side.get(MINE)
    validated(page.json)
    for (body, _), entry in zip(bodies, page.entries, strict=True):
        if entry["resource"]["resourceType"] == "Binary":
            assert b64decode(entry["resource"].get("data", "")) == body
    kinds = [entry["resource"]["resourceType"] for entry in page.entries]
    assert kinds == ["Bundle", "Binary", "Bundle", "Binary", "Binary", "Binary", "Binary", "Binary"]
    page = await side.get(MINE, Accept="application/fhir+xml")
    resources = [entry[0].tag for entry in ET.fromstring(page.body).iter(f"{F}resource")]
    assert len(resources) == len(bodies)
    assert resources[1] == f"{F}Bundle"
    assert XML_BODY[XML_BODY.index(b"<Bundle") :] in page.body


async def test_real_messages_come_out_of_a_large_page_in_both_formats(side: Side) -> None:
    originals = [path.read_bytes() for path in sorted(CORPUS.rglob("*.*")) if path.is_file()]
    for body in originals:
        await side.keep(body)
    await side.keep(b'{"resourceType":"Bundle","x":"' + b"x" * BESIDE_THE_LOOP + b'"}')
    page = await side.get(MINE)
    assert len(page.entries) == len(originals) + 1
    for body in originals:
        if body.lstrip(b"\xef\xbb\xbf").startswith(b"{"):
            assert body.removeprefix(b"\xef\xbb\xbf") in page.body
    page = await side.get(MINE, Accept="application/fhir+xml")
    assert len(ET.fromstring(page.body).findall(f"{F}entry")) == len(originals) + 1


async def test_head_answers_like_get_and_reads_nothing(side: Side) -> None:
    position = await side.keep()
    page = await side.ask("HEAD", MINE)
    assert (page.status, page.body) == (200, b"")
    assert await read_by(side, position) is None


# --- who read what ---


async def test_who_reads_a_named_mailbox_is_noted(side: Side) -> None:
    position = await side.keep(deliveries=[delivery(), delivery("urn:x")])
    assert (await side.get(MINE)).positions == [position]
    await side.store.note(position, _note(side))  # behind it in the writer's queue
    mail = {name: reader for name, _, reader in await side.store.mail_of(position)}
    assert mail == {ME: "127.0.0.1", "urn:x": None}


async def test_who_reads_all_mailboxes_marks_none(side: Side) -> None:
    position = await side.keep()
    assert (await side.get("/fhir/Bundle")).positions == [position]
    await side.store.note(position, _note(side))
    assert await read_by(side, position) is None


def _note(side: Side) -> Note:
    return Note(at=side.clock(), what="test")


async def test_page_is_given_even_if_its_reader_cannot_be_noted(
    side: Side, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    position = await side.keep()
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    failed.set_exception(StoreError("disk full"))
    monkeypatch.setattr(side.store, "mark_read", lambda *_: failed)
    with caplog.at_level(logging.WARNING):
        assert (await side.get(MINE)).positions == [position]
        await asyncio.sleep(0)
    assert "not noted: StoreError" in caplog.text


# --- waiting ---


async def so(condition: Callable[[], bool]) -> None:
    """Lets the others run until something is so."""
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came to be so")


async def waiting(side: Side, readers: int = 1) -> None:
    """Until as many follow, and have read the end."""
    await so(lambda: side.followers._count >= readers and side.store._readers._work_queue.empty())
    await asyncio.sleep(0.02)


async def test_reader_who_waits_gets_the_message_as_it_comes(side: Side) -> None:
    asked = asyncio.create_task(side.get(MINE, Prefer="wait=30"))
    await waiting(side)
    position = await side.keep()
    page = await asked
    assert page.positions == [position]
    assert page.headers["Preference-Applied"] == "wait=30"
    await so(lambda: not side.followers._count)


async def test_nobody_waits_where_something_is_there(side: Side) -> None:
    position = await side.keep()
    async with asyncio.timeout(5):
        assert (await side.get(MINE, Prefer="wait=60")).positions == [position]


async def test_wait_ends_with_an_empty_page(side: Side) -> None:
    page = await side.get(MINE, Prefer="wait=1")
    assert (page.status, page.positions) == (200, [])
    assert page.links["next"].endswith("_offset=0")


async def test_wait_is_cut_down_to_what_the_broker_allows(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    await side.keep()
    page = await side.get(MINE, Prefer="wait=3600")
    assert page.headers["Preference-Applied"] == "wait=60"
    for text in ("wait=soon", "wait=-1", "wait"):
        assert "Preference-Applied" not in (await side.get(MINE, Prefer=text)).headers


async def test_who_waits_for_one_event_is_not_answered_by_another(side: Side) -> None:
    asked = asyncio.create_task(side.get(f"{MINE}&message.event=b", Prefer="wait=30"))
    await waiting(side)
    await side.keep(event=Event("", "a"))
    await waiting(side)
    assert not asked.done()
    position = await side.keep(event=Event("", "b"))
    assert (await asked).positions == [position]


async def test_message_that_was_announced_too_early_is_found_when_the_wait_ends(side: Side) -> None:
    asked = asyncio.create_task(side.get(MINE, Prefer="wait=1"))
    await waiting(side)
    side.followers.wake(ME, 1)
    await waiting(side)
    wake, side.followers.wake = side.followers.wake, lambda *_: None  # type: ignore[method-assign]
    position = await side.keep()
    side.followers.wake = wake  # type: ignore[method-assign]
    assert (await asked).positions == [position]


async def test_readers_of_all_mailboxes_are_woken_by_any(side: Side) -> None:
    asked = asyncio.create_task(side.get("/fhir/Bundle", Prefer="wait=30"))
    await waiting(side)
    position = await side.keep(deliveries=[delivery("urn:x")])
    assert (await asked).positions == [position]


async def test_nobody_is_kept_waiting_when_the_broker_stops(side: Side) -> None:
    asked = [asyncio.create_task(side.get(f"{MINE}&message.event={code}", Prefer="wait=60")) for code in "ab"]
    await waiting(side)
    side.followers.wake_all()
    async with asyncio.timeout(5):
        assert [(await one).positions for one in asked] == [[], []]
        assert (await side.get(MINE, Prefer="wait=60")).positions == []


async def test_readers_at_one_place_share_one_read(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [asyncio.create_task(side.get(MINE, Prefer="wait=30")) for _ in range(20)]
    await waiting(side, 20)
    reads = 0
    read = side.store.read

    async def counted(*more: Any) -> Any:
        nonlocal reads
        reads += 1
        return await read(*more)

    monkeypatch.setattr(side.store, "read", counted)
    position = await side.keep()
    assert [(await one).positions for one in asked] == [[position]] * 20
    assert reads == 1


async def test_reader_who_goes_away_is_forgotten_and_has_read_nothing(side: Side) -> None:
    asked = asyncio.create_task(side.get(MINE, Prefer="wait=30"))
    await waiting(side)
    asked.cancel()
    await so(lambda: not side.followers._count)
    assert await read_by(side, await side.keep()) is None


async def test_too_many_waiting_readers_are_told_to_come_later(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 7."""
    monkeypatch.setattr("broker.flow.notify.FOLLOWERS", 0)
    page = await side.get(MINE, Prefer="wait=5")
    assert page.status == 503
    assert page.headers["Retry-After"] == "10"
    assert (await side.get(MINE)).status == 200


# --- trouble ---


async def test_position_whose_followers_are_gone_is_a_410_with_the_first_left(side: Side, tmp_path: Path) -> None:
    kept = [await side.keep() for _ in range(4)]
    with sqlite3.connect(tmp_path / "broker.db") as db:
        db.execute("UPDATE mailbox SET removed = ?", (kept[2],))
        db.execute("DELETE FROM mail WHERE position <= ?", (kept[2],))
    db.close()
    page = await side.get(f"{MINE}&_offset={kept[0]}", Prefer="wait=60")
    assert page.status == 410
    assert page.issue["expression"] == ["http._offset"]
    assert f"the first position left is {kept[3]}" in page.text
    assert f"_offset={kept[3] - 1}" in page.text
    assert (await side.get(f"{MINE}&_offset={kept[3] - 1}")).positions == kept[3:]
    assert (await side.get(MINE)).positions == kept[3:]


async def test_trouble_of_the_store_is_ours_and_passes(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    async def read(*_: Any) -> Any:
        raise StoreError("locked")

    monkeypatch.setattr(side.store, "read", read)
    page = await side.get(MINE)
    assert page.status == 503
    assert page.issue["code"] == "no-store"
    assert "Retry-After" in page.headers


async def test_formats_and_fates_of_what_we_write_ourselves_are_readable_too(side: Side) -> None:
    position = await side.keep(XML_BODY, fate=Fate.REPORT, format=Format.XML)
    assert (await side.get(MINE, Accept="application/fhir+xml")).status == 200
    assert (await side.get(f"/fhir/Bundle/{side.id(position)}")).body == XML_BODY
