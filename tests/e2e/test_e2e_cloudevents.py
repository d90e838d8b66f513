"""CloudEvents with the SDKs of their own project, Python and JavaScript, in all modes, both ways (C-4, C-15…C-20)."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings import http
from cloudevents.core.v1.event import CloudEvent
from e2e_daemon import ROOT, Daemon, StartDaemon
from e2e_messages import NORTH, SOUTH, message
from e2e_receiver import Got, HttpReceiver, OpenReceiver

EVENTS = Path(__file__).parent / "clients" / "events.js"
MODULES = ROOT / ".build" / "node" / "node_modules"  # `make test` puts it there
STRUCTURED, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"
AT = datetime(2026, 11, 21, 12, 30, 15, 250000, tzinfo=UTC)

# By the media type of the data; of each, what an SDK is given.
DATA: dict[str, Any] = {
    "application/json": {"url": "https://his.example/Encounter/1", "ward": "blåbær", "n": [1, None]},
    "text/plain": "Hello, 🌎!",
    "image/png": b"\x89PNG\r\n\x1a\n\x00\xff",
    "": None,
}
NAMES = {"application/json": "json", "text/plain": "text", "image/png": "bytes", "": "nothing"}


def attributes(id: str, media_type: str) -> dict[str, Any]:
    """The SDK for JavaScript neither encodes nor decodes the values of headers (C-17): it is given plain ones."""
    plain = id.startswith("javascript")
    found = {
        "specversion": "1.0", "id": id, "source": "urn:oid:2.999.2.1", "type": "org.example.hospital_admission",
        "subject": "ward/7" if plain else 'ward 7 "north" 100%', "dataschema": "https://example.org/schema",
        "comexample": "a,b=c" if plain else "søn", "time": AT,
    }  # fmt: skip
    return {**found, "datacontenttype": media_type} if media_type else found


@pytest.fixture
async def south(receiver: OpenReceiver) -> HttpReceiver:
    return await receiver()


@pytest.fixture
async def broker(daemon: StartDaemon, south: HttpReceiver) -> Daemon:
    place = f"http://127.0.0.1:{south.port}"
    return await daemon(
        {
            "directory": {"endpoints": {SOUTH: f"{place}/hook", NORTH: f"{place}/structured"}},
            "channels": {"http": {"structured_to": [f"{place}/structured"]}},
            "routes": [
                {"match": {"type": "org.example.*"}, "to": [SOUTH, NORTH]},
            ],
        }
    )


def events_url(broker: Daemon) -> str:
    return broker.base.removesuffix("/fhir") + "/events"


async def node(*arguments: str, given: Any) -> Any:
    program = shutil.which("node")
    assert program, "node is missing; `make test` installs it"
    assert (MODULES / "cloudevents").is_dir(), "cloudevents is missing; `make test` installs it"
    process = await asyncio.create_subprocess_exec(
        program, str(EVENTS), *arguments, env={"NODE_PATH": str(MODULES)}, stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate(json.dumps(given).encode())
    assert process.returncode == 0, err.decode()
    return json.loads(out)


async def until_got(south: HttpReceiver, count: int) -> list[Got]:
    return sorted(await south.until_count(count), key=lambda got: got.path)


# -- read by both


def read_by_python(got: Got) -> BaseCloudEvent:
    sent = http.HTTPMessage(headers=got.headers, body=got.body)
    binary = any(name.startswith("ce-") for name in got.headers)
    assert binary is (got.path == "/hook" and bool(got.body) and STRUCTURED not in got.headers["content-type"])
    return http.from_http_event(sent)


def bytes_of(data: Any) -> bytes:
    if data is None:
        return b""
    if isinstance(data, bytes | bytearray):
        return bytes(data)
    return data.encode() if isinstance(data, str) else json.dumps(data).encode()


def same(data: Any, media_type: str) -> bool:
    """Whatever an SDK makes of it: text of JSON, or the value."""
    body = bytes_of(data)
    if media_type == "application/json":
        return bool(json.loads(body) == DATA[media_type])
    return body == bytes_of(DATA[media_type])


async def check(got: Sequence[Got], ids: dict[str, str]) -> None:
    """Each event came to both receivers, and both SDKs read the same out of it."""
    requests = [{"headers": one.headers, "body": base64.b64encode(one.body).decode()} for one in got]
    by_javascript = await node("read", given=requests)
    seen: list[str] = []
    for one, (theirs,) in zip(got, by_javascript, strict=True):
        ours = read_by_python(one)
        found = dict(ours.get_attributes())
        media_type = ids[found["id"]]
        seen.append(found["id"])
        for name, value in attributes(found["id"], media_type).items():
            assert found[name] == value, (name, one)
            if name == "time":
                assert datetime.fromisoformat(theirs["time"].replace("Z", "+00:00")) == AT
            else:
                assert unquote(theirs[name]) == unquote(value), (name, one)
        assert same(ours.get_data(), media_type), (ours.get_data(), one)
        data = theirs.get("data")
        if isinstance(data, dict) and data.keys() == {"base64"}:
            data = base64.b64decode(data["base64"])
        assert same(data, media_type), (theirs, one)
    assert sorted(seen) == sorted([*ids, *ids])


# -- sent by Python


@pytest.mark.parametrize("mode", ["binary", "structured", "batch"])
async def test_the_python_sdk_sends_what_both_sdks_read(broker: Daemon, south: HttpReceiver, mode: str) -> None:
    ids = {f"python-{mode}-{NAMES[media_type]}": media_type for media_type in DATA}
    events = [CloudEvent(attributes(id, media_type), DATA[media_type]) for id, media_type in ids.items()]
    async with broker.session() as session:
        if mode == "batch":
            bodies = [http.to_structured_event(event).body for event in events]
            sent = [http.HTTPMessage({"content-type": BATCH}, b"[" + b",".join(bodies) + b"]")]
        else:
            write = http.to_binary_event if mode == "binary" else http.to_structured_event
            sent = [write(event) for event in events]
        for one in sent:
            url = events_url(broker)
            async with session.post(url, data=one.body, headers=one.headers, skip_auto_headers=["Content-Type"]) as got:
                assert got.status == 202, await got.text()
    await check(await until_got(south, 2 * len(ids)), ids)


# -- sent by JavaScript


@pytest.mark.parametrize("mode", ["binary", "structured", "batch"])
async def test_the_javascript_sdk_sends_what_both_sdks_read(broker: Daemon, south: HttpReceiver, mode: str) -> None:
    ids = {f"javascript-{mode}-{NAMES[media_type]}": media_type for media_type in DATA}
    given = []
    for id, media_type in ids.items():
        event = {**attributes(id, media_type), "time": AT.isoformat()}
        data = DATA[media_type]
        if isinstance(data, bytes):
            event["bytes"] = base64.b64encode(data).decode()
        elif data is not None:
            event["data"] = data
        given.append(event)
    said = await node("send", events_url(broker), given=[[mode, given]])
    assert {one["status"] for one in said} == {202}, said
    await check(await until_got(south, 2 * len(ids)), ids)


# -- FHIR messages


async def test_a_message_is_an_event_that_both_sdks_read_in_either_mode(broker: Daemon, south: HttpReceiver) -> None:
    """C-60: whoever sends it; its bytes are the data."""
    body = message("m-1", to=(SOUTH, NORTH))
    async with broker.session() as session:
        headers = {"Content-Type": "application/fhir+json"}
        async with session.post(f"{broker.base}/$process-message?async=true", data=body, headers=headers) as answer:
            assert answer.status == 202
    got = await until_got(south, 2)
    requests = [{"headers": one.headers, "body": base64.b64encode(one.body).decode()} for one in got]
    for one, (theirs,) in zip(got, await node("read", given=requests), strict=True):
        ours = http.from_http_event(http.HTTPMessage(headers=one.headers, body=one.body))
        assert (ours.get_id(), ours.get_source(), ours.get_type()) == ("m-1", NORTH, "org.example.discharge-letter")
        assert (theirs["id"], theirs["source"], theirs["type"]) == ("m-1", NORTH, "org.example.discharge-letter")
        data = ours.get_data()
        assert json.loads(bytes_of(data)) == json.loads(body)
    assert got[0].body == body
    assert base64.b64decode(json.loads(got[1].body)["data_base64"]) == body


# -- data that is no message, where messages are read


async def test_what_is_large_leaves_as_a_reference_to_the_same_bytes(daemon: StartDaemon, south: HttpReceiver) -> None:
    """C-6: the SDK finds the reference, and what it names is what was sent."""
    place = f"http://127.0.0.1:{south.port}/fetching"
    settings = {"dataref_above": "64KiB", "dataref_to": [place]}
    broker = await daemon({"directory": {"endpoints": {SOUTH: place}}, "channels": {"http": settings}})
    picture = bytes(range(256)) * 257
    headers = {"ce-specversion": "1.0", "ce-id": "large", "ce-source": "/x", "ce-type": "scan", "ce-destination": SOUTH}
    async with broker.session() as session:
        async with session.post(
            events_url(broker), data=picture, headers={**headers, "Content-Type": "image/png"}
        ) as answer:
            assert answer.status == 202
        (got,) = await south.until_count(1)
        event = http.from_http_event(http.HTTPMessage(headers={"content-type": STRUCTURED}, body=got.body))
        assert (event.get_id(), event.get_data(), event.get_datacontenttype()) == ("large", None, "image/png")
        async with session.get(event.get_extension("dataref")) as answer:
            assert (answer.status, answer.headers["Content-Type"]) == (200, "image/png")
            assert await answer.read() == picture


async def test_an_event_in_a_mailbox_is_read_as_a_binary_or_as_the_resource_that_it_is(daemon: StartDaemon) -> None:
    """M-66: the bytes as they came, whatever the page is written in."""
    broker = await daemon({"directory": {"endpoints": {SOUTH: "mailbox:"}}})
    patient = b'{ "resourceType" : "Patient" }'
    given = [
        (b"\x89PNG", "image/png"),
        (patient, "application/fhir+json"),
        (b'{"a": 1}', "application/json"),
        (b"", ""),
    ]
    async with broker.session() as session:
        for number, (body, media_type) in enumerate(given):
            event = {
                "specversion": "1.0", "id": str(number), "source": "/x", "type": "t", "destination": SOUTH,
                **({"datacontenttype": media_type, "data_base64": base64.b64encode(body).decode()} if body else {}),
            }  # fmt: skip
            async with session.post(
                events_url(broker), data=json.dumps(event), headers={"Content-Type": STRUCTURED}
            ) as answer:
                assert answer.status == 202
        async with session.get(f"{broker.base}/Bundle?message.destination-uri={SOUTH}&_offset=0") as answer:
            page = await answer.json(content_type=None)
        resources = [entry["resource"] for entry in page["entry"]]
        assert [one["resourceType"] for one in resources] == ["Binary", "Patient", "Binary", "Binary"]
        assert base64.b64decode(resources[0]["data"]) == b"\x89PNG"
        assert [one.get("contentType") for one in resources] == [
            "image/png", None, "application/json", "application/octet-stream"
        ]  # fmt: skip
        for entry, (body, media_type) in zip(page["entry"], given, strict=True):
            original = next(link["url"] for link in entry["link"] if link["relation"] == "original")
            async with session.get(original) as answer:
                assert await answer.read() == body
                assert answer.headers["Content-Type"] == (media_type or "application/octet-stream")
