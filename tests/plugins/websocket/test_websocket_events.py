"""cloudevents.json: structured events in Text frames (C-46), the mailbox as the delivery (C-47)."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import orjson
import pytest
from websocket_desk import EVENTS, FHIR, NORTH, SOON, SOUTH, Client, Desk, message

from broker.core.cloudevent import read_event


def event(body: bytes, **more: Any) -> str:
    made = {
        "specversion": "1.0", "id": "e-1", "source": NORTH, "type": "org.example.letter", "datacontenttype": FHIR,
        "data_base64": base64.b64encode(body).decode(), **more,
    }  # fmt: skip
    return orjson.dumps(made).decode()


async def shown(client: Client) -> Any:
    async with asyncio.timeout(SOON):
        received = await client.socket.recv()
    assert isinstance(received, str), "a Text frame (C-46)"
    return received


async def test_event_is_taken_in_and_shown_to_who_reads_the_mailbox(desk: Desk) -> None:
    body = b"\xef\xbb\xbf" + message("ce")
    async with desk.client(protocol=EVENTS) as sender, desk.client(f"/mailbox/{SOUTH}", EVENTS) as reader:
        assert reader.socket.subprotocol == EVENTS
        await sender.socket.send(event(body, correlationid="c-9", tenant="blue"))
        text = await shown(reader)
    got = read_event(text.encode())
    more = dict(got.envelope.more)
    assert (got.body, got.envelope.id, got.envelope.correlationid, more["tenant"]) == (body, "e-1", "c-9", "blue")
    assert int(more["position"]) > 0
    assert desk.broker.here.ids.position(more["messageid"]) == int(more["position"])


async def test_reader_goes_on_after_the_position_in_its_url(desk: Desk) -> None:
    async with desk.client(protocol=EVENTS) as sender:
        for number in range(40):
            await sender.socket.send(event(message(f"m-{number}"), id=f"e-{number}"))
        path = f"/mailbox/{SOUTH.replace(':', '%3A')}"
        async with desk.client(path, EVENTS) as reader:
            first = [orjson.loads(await shown(reader)) for _ in range(40)]
        async with desk.client(f"{path}?after={first[29]['position']}", EVENTS) as reader:
            rest = [orjson.loads(await shown(reader)) for _ in range(10)]
    assert [one["id"] for one in first] == [f"e-{n}" for n in range(40)]
    assert rest == first[30:]


async def test_refusal_comes_back_as_an_event_about_the_one_that_was_refused(desk: Desk) -> None:
    async with desk.client(protocol=EVENTS) as sender:
        await sender.socket.send(event(message(to="urn:oid:2.999.77"), id="e-7"))
        got = read_event((await shown(sender)).encode())
        assert (got.envelope.type, got.envelope.correlationid) == ("fhir-broker.refused", "e-7")
        assert got.envelope.source == "urn:oid:2.999.1"
        outcome = orjson.loads(got.body)
        assert outcome["resourceType"] == "OperationOutcome"
        assert outcome["issue"][0]["code"] == "not-found"


@pytest.mark.parametrize("sent", ["not JSON", "[]", '{"specversion":"1.0","id":"x"}'])
async def test_what_is_no_event_is_refused_and_the_connection_goes_on(desk: Desk, sent: str) -> None:
    async with desk.client(protocol=EVENTS) as sender:
        await sender.socket.send(sent)
        got = read_event((await shown(sender)).encode())
        assert got.envelope.type == "fhir-broker.refused"
        await sender.socket.send(event(message()))
        await sender.socket.send(event(message(to="urn:oid:2.999.77"), id="last"))
        assert orjson.loads(await shown(sender))["correlationid"] == "last"


async def test_position_that_is_none_closes_with_a_reason(desk: Desk) -> None:
    async with desk.client(f"/mailbox/{SOUTH}?after=yesterday", EVENTS) as reader:
        assert await reader.closed() == (1008, "after is a position, a whole number")
