"""fhir-broker.v1: what a client sends, and what it is told of it (docs/websocket.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from websocket_desk import EAST, FHIR, NORTH, SOUTH, Desk, Partner, message, opened, partner_open, reply, response_to

HOSTILE = {
    "byte order mark": b"\xef\xbb\xbf" + message("bom"),
    "line feeds": orjson.dumps(orjson.loads(message("lf")), option=orjson.OPT_INDENT_2) + b"\r\n\n",
    "surrogates": message("lone", text="X").replace(b'"X"', b'"\\ud800 \\u0000 \xc3\xa9"'),
}


async def test_message_is_kept_before_its_receipt_comes(desk: Desk) -> None:
    body = message("m-1")
    async with desk.client() as client, aiohttp.ClientSession() as http:
        said = await client.ask(body)
        assert (said.type, said["kind"], said.get("duplicate")) == ("receipt", "accepted", None)
        async with http.get(f"{desk.http}/Bundle/{said['id']}") as kept:
            assert await kept.read() == body


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
async def test_bytes_come_out_as_they_went_in(desk: Desk, body: bytes) -> None:
    async with desk.client() as client:
        said = await client.ask(body)
        assert said.type == "receipt", said.json
        await client.say("subscribe", mailbox=SOUTH)
        shown = await client.until("delivery")
        assert shown.body == body
        assert shown["id"] == said["id"]


async def test_large_message_passes_byte_for_byte(desk: Desk) -> None:
    body = message("large", text="x" * (20 << 20))
    async with desk.client() as client:
        assert (await client.ask(body)).type == "receipt"
        await client.say("subscribe", mailbox=SOUTH)
        assert (await client.until("delivery")).body == body
    assert desk.broker.intake.in_flight == 0


async def test_copy_is_told_the_first_receipt(desk: Desk) -> None:
    body = message("twice")
    async with desk.client() as client:
        first, second = await client.ask(body), await client.ask(body)
    assert (second["id"], second["position"], second["duplicate"]) == (first["id"], first["position"], True)


async def test_refusal_says_why_and_whether_the_same_may_succeed_later(desk: Desk) -> None:
    async with desk.client() as client:
        said = await client.ask(message(to="urn:oid:2.999.77"))
        assert (said.type, said["kept"], said["again"]) == ("refusal", False, False)
        assert (said["code"], said["problem"], said["who"]) == ("not-found", "unknown-destination", "sender")
        assert said["outcome"]["resourceType"] == "OperationOutcome"
        assert (await client.ask(message())).type == "receipt", "the connection goes on"


@pytest.mark.parametrize(
    ("sent", "problem", "ref"),
    [
        ('{"type":"dance","ref":7}', "bad-frame", 7),
        ('{"type":"send","ref":', "bad-frame", None),
        (b"no head", "bad-frame", None),
        (b'{"type":"send","ref":"r","envelope":{"priority":"high","specversion":"1.0"}}\n{}', "bad-envelope", "r"),
        (b'{"type":"send","ref":3}\nnot FHIR', "invalid-message", 3),
        ('{"type":"ack","mailbox":"urn:x","position":1}', "not-subscribed", None),
        ('{"type":"subscribe","mailbox":"urn:x","after":-1}', "bad-frame", None),
        ('{"type":"subscribe","mailbox":""}', "bad-frame", None),
    ],
)
async def test_frame_that_cannot_be_used_is_refused_by_its_ref(
    desk: Desk, sent: str | bytes, problem: str, ref: Any
) -> None:
    async with desk.client() as client:
        await client.socket.send(sent)
        said = await client.hear()
        assert (said.type, said.get("ref")) == ("refusal", ref)
        if problem != "invalid-message":
            assert said["problem"] == problem
        assert said["text"]


async def test_body_that_is_not_the_one_of_the_digest_is_sent_again(desk: Desk) -> None:
    digest = "sha-256=" + "A" * 43 + "="
    async with desk.client() as client:
        said = await client.ask(message(), envelope={"digest": digest})
    assert (said["problem"], said["again"]) == ("digest-mismatch", True)


async def test_body_above_the_limit_is_refused_and_one_far_above_ends_the_connection(tmp_path: Path) -> None:
    limits = {"limits": {"message": "100KiB", "in_flight": "10MiB"}}
    async with opened(tmp_path / "b", broker=limits) as desk, desk.client() as client:
        said = await client.ask(message(text="x" * 110_000))
        assert said["problem"] == "too-large"
        await client.send(message(text="x" * 400_000))
        code, reason = await client.closed()
        assert code == 1009
        assert reason


async def test_envelope_is_carried_with_the_message(desk: Desk) -> None:
    sent: dict[str, Any] = {
        "specversion": "1.0", "id": "e-1", "source": NORTH, "type": "org.example.letter",
        "time": "2026-03-01T11:00:00Z", "correlationid": "c-1", "priority": 7, "tenant": "blue",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    }  # fmt: skip
    async with desk.client() as client:
        assert (await client.ask(message(), envelope=sent)).type == "receipt"
        await client.say("subscribe", mailbox=SOUTH)
        envelope = (await client.until("delivery"))["envelope"]
    assert {name: envelope.get(name) for name in sent if name != "traceparent"} == {
        name: str(value) for name, value in sent.items() if name != "traceparent"
    }
    assert envelope["traceparent"].split("-")[1] == sent["traceparent"].split("-")[1]
    assert envelope["digest"].startswith("sha-256=")


async def test_who_asks_to_wait_gets_the_response_in_the_same_exchange(tmp_path: Path) -> None:
    partner = Partner()

    async def answer(_: Partner, socket: Any, frame: Any) -> None:
        assert frame["wait"] > 0
        await reply(socket, "response", response_to(frame.body, id="re"), ref=frame["ref"], media_type=FHIR)

    partner.answer = answer
    async with (
        partner_open(partner),
        opened(tmp_path / "b", endpoints={EAST: partner.url}) as desk,
        desk.client() as client,
    ):
        said = await client.ask(message(to=EAST), wait=10)
        assert said.type == "response", said.json
        assert orjson.loads(said.body)["id"] == "re"


async def test_wait_that_ends_leaves_the_message_in_our_custody(tmp_path: Path) -> None:
    partner = Partner()
    partner.answer = _silence
    async with (
        partner_open(partner),
        opened(tmp_path / "b", endpoints={EAST: partner.url}, defaults={"lane": {"answer": "1s"}}) as desk,
        desk.client() as client,
    ):
        said = await client.ask(message(to=EAST), wait=0.2)
        assert (said.type, said["kind"]) == ("receipt", "kept")


async def _silence(*_: Any) -> None:
    """It reads, and says nothing."""


async def test_sends_are_pipelined_and_each_is_answered_by_its_ref(desk: Desk) -> None:
    async with desk.client() as client:
        refs = [await client.send(message(f"p-{n}")) for n in range(200)]
        frames = [await client.hear() for _ in refs]
    assert sorted(frame["ref"] for frame in frames) == refs
    assert {frame.type for frame in frames} == {"receipt"}
