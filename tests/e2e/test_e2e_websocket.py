"""The whole daemon with its WebSocket: between channels, across kill -9, and two daemons with each other."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
from e2e_daemon import Daemon, StartDaemon, free_port
from e2e_messages import NORTH, SOUTH, message, response_to, send
from e2e_receiver import OpenReceiver, Reply
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

SOON = 15.0
FHIR = "application/fhir+json"
HOSTILE = b"\xef\xbb\xbf" + message("hostile", text="X").replace(b'"X"', b'"\\ud800\\u0000 \xc3\xa9"') + b"\r\n"


def with_socket(port: int, **config: Any) -> dict[str, Any]:
    return {"channels": {"websocket": {"listen": f"127.0.0.1:{port}"}}, **config}


@asynccontextmanager
async def connected(port: int, path: str = "/", protocol: str = "fhir-broker.v1") -> AsyncIterator[ClientConnection]:
    protocols: Any = [protocol]
    async with connect(f"ws://127.0.0.1:{port}{path}", subprotocols=protocols, proxy=None, max_size=None) as socket:
        yield socket


async def hear(socket: ClientConnection, type: str = "") -> tuple[dict[str, Any], bytes]:
    async with asyncio.timeout(SOON):
        while True:
            received = await socket.recv(decode=False)
            head, _, body = received.partition(b"\n")
            frame: dict[str, Any] = orjson.loads(head)
            if not type or frame["type"] == type:
                return frame, body


async def say(socket: ClientConnection, type: str, **members: Any) -> None:
    await socket.send(orjson.dumps({"type": type, **members}).decode())


async def hand_in(socket: ClientConnection, body: bytes, **members: Any) -> tuple[dict[str, Any], bytes]:
    await socket.send(orjson.dumps({"type": "send", "ref": 1, "media_type": FHIR, **members}) + b"\n" + body)
    while (said := await hear(socket))[0].get("ref") != 1:
        pass
    return said


async def test_http_in_and_websocket_out_of_the_mailbox_and_back(
    daemon: StartDaemon, http: aiohttp.ClientSession
) -> None:
    port = free_port()
    broker = await daemon(with_socket(port, directory={"endpoints": {SOUTH: "mailbox:", NORTH: "mailbox:"}}))
    async with connected(port) as south, connected(port) as north:
        await say(south, "subscribe", mailbox=SOUTH)
        await say(north, "subscribe", mailbox=NORTH)
        await say(north, "follow", endpoint=NORTH)
        await hear(north, "following")
        assert (await send(http, broker.base, HOSTILE)).status == 202
        event, _ = await hear(north, "event")
        assert event["what"] == "accepted"
        shown, body = await hear(south, "delivery")
        assert body == HOSTILE
        answer = response_to(message("hostile"), id="re")
        answered, _ = await hand_in(south, answer)
        assert answered["type"] == "receipt", answered
        back, body = await hear(north, "delivery")
        assert (back["mailbox"], body) == (NORTH, answer)
        await say(south, "ack", mailbox=SOUTH, position=shown["position"])
        await hear(south, "acknowledged")
        async with http.get(f"{broker.admin}/admin/v1/messages/{shown['id']}") as trace:
            assert "acknowledged" in await trace.text()


async def test_websocket_in_and_http_out_with_the_answer_in_the_same_exchange(
    daemon: StartDaemon, receiver: OpenReceiver
) -> None:
    port, south = free_port(), await receiver()
    south.answer = lambda got: Reply(body=response_to(message("q"), id="re"))
    await daemon(with_socket(port, directory={"endpoints": {SOUTH: south.url}}))
    async with connected(port) as north:
        frame, body = await hand_in(north, message("q"), wait=10)
        assert (frame["type"], orjson.loads(body)["id"]) == ("response", "re")
    assert south.got[0].body.startswith(b'{"resourceType":"Bundle","id":"q"')


async def test_a_synchronous_question_over_two_brokers_and_three_channels(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    """HTTP in, over a WebSocket between the brokers, HTTP out, and the answer all the way back."""
    port, south = free_port(), await receiver()
    south.answer = lambda got: Reply(body=response_to(got.body, id="re"))
    far = {"broker": {"endpoint": "urn:oid:2.999.1.2"}, "directory": {"endpoints": {SOUTH: south.url}}}
    await daemon(with_socket(port, **far))
    near = await daemon(with_socket(free_port(), directory={"endpoints": {SOUTH: f"ws://127.0.0.1:{port}/"}}))
    said = await send(http, near.base, message("q"))
    assert (said.status, said.json["id"]) == (200, "re"), said
    assert south.got[0].body.startswith(b'{"resourceType":"Bundle","id":"q"')
    assert south.got[0].headers["ce-via"].count("%20") == 1, "both brokers"


async def test_what_had_a_receipt_is_there_after_kill_9_and_a_reader_goes_on_where_it_was(daemon: StartDaemon) -> None:
    port = free_port()
    broker = await daemon(with_socket(port, directory={"endpoints": {SOUTH: "mailbox:"}}))
    kept: list[str] = []

    async def load() -> None:
        async with connected(port) as north:
            for number in range(10_000):
                frame, _ = await hand_in(north, message(f"m-{number}"))
                kept.append(f"m-{number}")
                assert frame["type"] == "receipt"

    loading = asyncio.create_task(load())
    seen: list[str] = []
    position = 0
    async with connected(port) as south:
        await say(south, "subscribe", mailbox=SOUTH, window=1000)
        for _ in range(50):
            frame, body = await hear(south, "delivery")
            seen.append(orjson.loads(body)["id"])
            position = frame["position"]
        await broker.kill()
    (end,) = await asyncio.gather(loading, return_exceptions=True)
    assert isinstance(end, ConnectionClosed | OSError)
    await broker.start()
    async with connected(port) as south:
        await say(south, "subscribe", mailbox=SOUTH, after=position, window=1000)
        while len(seen) < len(kept):
            _, body = await hear(south, "delivery")
            seen.append(orjson.loads(body)["id"])
    assert seen[: len(kept)] == kept


async def test_other_broker_is_stopped_and_started_and_nothing_acknowledged_is_lost(daemon: StartDaemon) -> None:
    far_port, near_port = free_port(), free_port()
    far_config = {"broker": {"endpoint": "urn:oid:2.999.1.2"}, "directory": {"endpoints": {SOUTH: "mailbox:"}}}
    far = await daemon(with_socket(far_port, **far_config))
    near_config = {
        "directory": {"endpoints": {SOUTH: f"ws://127.0.0.1:{far_port}/"}},
        "defaults": {"retry": {"first": "200ms", "max": "500ms"}, "lane": {"probe": "300ms"}},
    }
    await daemon(with_socket(near_port, **near_config))
    kept: list[str] = []
    async with connected(near_port) as north:
        for number in range(150):
            if number == 50:
                assert await far.stop() == 0
            if number == 100:
                await far.start()
            frame, _ = await hand_in(north, message(f"m-{number}"))
            assert frame["type"] == "receipt"
            kept.append(f"m-{number}")
    seen: set[str] = set()
    async with connected(far_port) as south:
        await say(south, "subscribe", mailbox=SOUTH, window=1000)
        while len(seen) < len(kept):
            _, body = await hear(south, "delivery")
            seen.add(orjson.loads(body)["id"])
    assert seen == set(kept)


async def test_stop_says_so_and_the_daemon_ends_well(daemon: StartDaemon) -> None:
    port = free_port()
    broker: Daemon = await daemon(with_socket(port, directory={"endpoints": {SOUTH: "mailbox:"}}))
    async with connected(port) as south, connected(port, f"/mailbox/{SOUTH}", "cloudevents.json") as events:
        await say(south, "subscribe", mailbox=SOUTH)
        await hear(south, "subscribed")
        event = {
            "specversion": "1.0", "id": "e", "source": NORTH, "type": "x", "datacontenttype": FHIR,
            "data_base64": base64.b64encode(HOSTILE).decode(),
        }  # fmt: skip
        await events.send(orjson.dumps(event).decode())
        _, body = await hear(south, "delivery")
        assert body == HOSTILE
        async with asyncio.timeout(SOON):
            assert base64.b64decode(orjson.loads(await events.recv())["data_base64"]) == HOSTILE
        assert await broker.stop() == 0
        await south.wait_closed()
        assert (south.close_code, south.close_reason) == (1012, "service restart")
    assert not [line for line in broker.log_lines if line["level"] in ("error", "critical")], broker.output
