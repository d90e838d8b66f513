"""One message by our id: read byte for byte, and acknowledged."""

from __future__ import annotations

import base64
import hashlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from reading import BODY, ME, XML_BODY, Side, carried, delivery, reading, validated

from broker.core.fhir.header import Release


@pytest.fixture
async def side(tmp_path: Path) -> AsyncIterator[Side]:
    async with reading(tmp_path) as one:
        yield one


@pytest.mark.parametrize("body", [BODY, XML_BODY, b"\xff\x00odd", b"x" * 600_000], ids=["json", "xml", "odd", "large"])
@pytest.mark.parametrize("base", ["/fhir", "/fhir/R5"])
async def test_message_is_read_byte_for_byte_with_its_digest(side: Side, body: bytes, base: str) -> None:
    """Promise 3; whatever `Accept` would rather see."""
    position = await side.keep(body, media_type="application/fhir+json;  x=1", release=Release.R4)
    answer = await side.get(f"{base}/Bundle/{side.id(position)}", Accept="application/fhir+xml; fhirVersion=6.0")
    assert (answer.status, answer.body) == (200, body)
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    assert answer.headers["Content-Digest"] == f"sha-256=:{digest}:"
    assert answer.headers["Content-Type"] == "application/fhir+json; x=1"
    assert answer.headers["ETag"] == 'W/"1"'
    assert answer.headers["Last-Modified"] == "Sat, 21 Nov 2026 08:00:00 GMT"


async def test_head_tells_the_same_without_the_bytes(side: Side) -> None:
    position = await side.keep()
    answer = await side.ask("HEAD", f"/fhir/Bundle/{side.id(position)}")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["Content-Length"] == str(len(BODY))
    assert "Content-Digest" in answer.headers


@pytest.mark.parametrize("written", ["", "text/\x00\udcff\r\nX: y"])
async def test_media_type_that_no_header_can_hold_is_not_written(side: Side, written: str) -> None:
    position = await side.keep(media_type=written.encode("utf-8", "replace").decode())
    answer = await side.get(f"/fhir/Bundle/{side.id(position)}")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/octet-stream")


@pytest.mark.parametrize("id", ["b1", "9d0f3b0e-6f4a-4c55-8a5f-1f7f5f0e1a01", "_history", "%00", "1" * 3000])
async def test_id_that_is_not_ours_is_unknown(side: Side, id: str) -> None:
    answer = await side.get(f"/fhir/Bundle/{id}")
    assert answer.status == 404
    assert answer.issue["code"] == "not-found"


async def test_id_of_a_message_that_is_not_here_is_unknown(side: Side) -> None:
    assert (await side.get(f"/fhir/Bundle/{side.id(77)}")).status == 404


async def test_content_that_retention_took_is_gone(side: Side, tmp_path: Path) -> None:
    position = await side.keep()
    with sqlite3.connect(tmp_path / "broker.db") as db:
        db.execute("UPDATE message SET body = NULL")
    db.close()
    answer = await side.get(f"/fhir/Bundle/{side.id(position)}")
    assert answer.status == 410
    assert answer.issue["code"] == "deleted"


@pytest.mark.parametrize("operation", ["$acknowledge", "%24acknowledge"])
async def test_reader_says_that_it_has_the_message(side: Side, operation: str) -> None:
    position = await side.keep()
    for _ in range(2):  # twice is the same as once
        answer = await side.ask("POST", f"/fhir/Bundle/{side.id(position)}/{operation}")
        assert answer.status == 200
        assert validated(answer.json)["issue"][0]["severity"] == "information"
        assert "acknowledged" in answer.ids
    assert [(note.what, note.who) for note in await side.store.notes(position)] == [("acknowledged", "127.0.0.1")]
    assert [reader for _, _, reader in await side.store.mail_of(position)] == ["127.0.0.1"]


async def test_acknowledgement_may_bring_parameters_and_is_answered_in_its_format(side: Side) -> None:
    position = await side.keep()
    answer = await side.ask(
        "POST",
        f"/fhir/R5/Bundle/{side.id(position)}/$acknowledge",
        data=b'<Parameters xmlns="http://hl7.org/fhir"/>',
        headers={"Content-Type": "application/fhir+xml"},
    )
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/fhir+xml; fhirVersion=5.0"


async def test_what_is_in_no_mailbox_cannot_be_acknowledged(side: Side) -> None:
    position = await side.keep(deliveries=[carried()])
    for id in (side.id(position), side.id(77), "stranger"):
        assert (await side.ask("POST", f"/fhir/Bundle/{id}/$acknowledge")).status == 404
    assert (await side.get(f"/fhir/Bundle/{side.id(position)}/$acknowledge")).status == 405


async def test_acknowledgement_is_of_all_mailboxes_that_hold_the_message(side: Side) -> None:
    position = await side.keep(deliveries=[delivery(ME), delivery("urn:x")])
    await side.ask("POST", f"/fhir/Bundle/{side.id(position)}/$acknowledge")
    assert all(at is not None for _, at, _ in await side.store.mail_of(position))
