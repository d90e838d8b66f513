"""A whole broker in this process, on free ports and a store of its own, and clients of its WebSocket."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from broker.app import Broker
from broker.config import load

V1 = "fhir-broker.v1"
EVENTS = "cloudevents.json"
FHIR = "application/fhir+json"
NORTH = "urn:oid:2.999.2.1"  # who sends
SOUTH = "urn:oid:2.999.2.2"  # a mailbox
EAST = "urn:oid:2.999.2.3"  # somebody's WebSocket server
SOON = 10.0  # seconds within which everything here happens


def message(
    id: str | None = None, *, to: str | None = SOUTH, source: str = NORTH, text: str = "", **more: Any
) -> bytes:
    id = id or str(uuid4())
    header: dict[str, Any] = {
        "resourceType": "MessageHeader",
        "id": f"{id}-h",
        "eventCoding": {"system": "urn:oid:2.999.9", "code": "letter"},
        "source": {"endpoint": source},
        **more,
    }
    if to is not None:
        header["destination"] = [{"endpoint": to}]
    entries: list[dict[str, Any]] = [{"fullUrl": f"urn:uuid:{uuid4()}", "resource": header}]
    if text:
        entries.append({"resource": {"resourceType": "Basic", "id": "b", "code": {"text": text}}})
    return orjson.dumps({"resourceType": "Bundle", "id": id, "type": "message", "entry": entries})


def response_to(request: bytes, *, id: str | None = None) -> bytes:
    header = orjson.loads(request)["entry"][0]["resource"]
    answered = {"identifier": header["id"], "code": "ok"}
    return message(id, source=header["destination"][0]["endpoint"], to=header["source"]["endpoint"], response=answered)


class Frame:
    """One message of the WebSocket: the JSON of its head, and the body after it."""

    def __init__(self, received: str | bytes) -> None:
        self.is_text = isinstance(received, str)
        head, _, self.body = (received.encode(), b"", b"") if isinstance(received, str) else received.partition(b"\n")
        self.json: dict[str, Any] = orjson.loads(head)

    def __getitem__(self, name: str) -> Any:
        return self.json[name]

    def get(self, name: str) -> Any:
        return self.json.get(name)

    @property
    def type(self) -> str:
        return str(self.json["type"])


class Client:
    """One connection of somebody who speaks fhir-broker.v1."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self._refs = 0

    async def say(self, type: str, **members: Any) -> None:
        await self.socket.send(orjson.dumps({"type": type, **members}).decode())

    async def send(self, body: bytes, **members: Any) -> int:
        self._refs += 1
        head = {"type": "send", "ref": self._refs, "media_type": FHIR, **members}
        await self.socket.send(orjson.dumps(head) + b"\n" + body)
        return self._refs

    async def hear(self, within: float = SOON) -> Frame:
        async with asyncio.timeout(within):
            return Frame(await self.socket.recv())

    async def until(self, type: str) -> Frame:
        while (frame := await self.hear()).type != type:
            pass
        return frame

    async def ask(self, body: bytes, **members: Any) -> Frame:
        ref = await self.send(body, **members)
        while (frame := await self.hear()).get("ref") != ref:
            pass
        return frame

    async def closed(self) -> tuple[int, str]:
        """The close code and its reason."""
        try:
            async with asyncio.timeout(SOON):
                while True:
                    await self.socket.recv()
        except ConnectionClosed:
            return self.socket.close_code or 0, self.socket.close_reason or ""


class Desk:
    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self._stopped = False

    async def stop(self) -> None:
        if not self._stopped:
            self._stopped = True
            await self.broker.stop()

    @property
    def url(self) -> str:
        return f"ws://{self.broker.listening['websocket']}"

    @property
    def http(self) -> str:
        return f"http://{self.broker.listening['http']}/fhir"

    @asynccontextmanager
    async def client(self, path: str = "/", protocol: str | None = V1, **more: Any) -> AsyncIterator[Client]:
        offered: Any = None if protocol is None else [protocol]
        options = {"compression": None, "proxy": None, "max_size": None, **more}
        async with connect(self.url + path, subprotocols=offered, **options) as socket:
            yield Client(socket)


def write_config(folder: Path, *, channel: dict[str, Any], **config: Any) -> Path:
    whole = {
        "broker": {
            "endpoint": "urn:oid:2.999.1",
            "base_url": "http://broker.example/fhir",
            **config.pop("broker", {}),
        },
        "store": {"url": "sqlite:broker.db", "min_free": "1MiB"},
        "admin": {"listen": "127.0.0.1:0"},
        "channels": {"http": {"listen": "127.0.0.1:0"}, "websocket": {"listen": "127.0.0.1:0", **channel}},
        "directory": {"endpoints": {SOUTH: "mailbox:", NORTH: "mailbox:", **config.pop("endpoints", {})}},
        "defaults": {
            "retry": {"first": "100ms", "max": "200ms", "jitter": 0},
            "lane": {"probe": "200ms"},
            **config.pop("defaults", {}),
        },
        **config,
    }
    folder.mkdir(exist_ok=True)
    file = folder / "broker.yaml"
    file.write_bytes(orjson.dumps(whole))  # JSON is YAML 1.2
    return file


@asynccontextmanager
async def opened(folder: Path, channel: dict[str, Any] | None = None, **config: Any) -> AsyncIterator[Desk]:
    broker = Broker(load(write_config(folder, channel=channel or {}, **config)))
    await broker.start()
    desk = Desk(broker)
    try:
        yield desk
    finally:
        await desk.stop()


Answering = Callable[["Partner", ServerConnection, Frame], Awaitable[None]]


class Partner:
    """Somebody's WebSocket server: keeps what it was sent, and answers as told."""

    def __init__(self) -> None:
        self.got: list[Frame] = []
        self.connections: list[ServerConnection] = []
        self.answer: Answering = receipt
        self._came = asyncio.Event()
        self.port = 0
        self.path = ""

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/in"

    async def handle(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        self.path = socket.request.path
        self.connections.append(socket)
        self._came.set()
        try:
            async for received in socket:
                frame = Frame(received)
                self.got.append(frame)
                self._came.set()
                await self.answer(self, socket, frame)
        except ConnectionClosed:
            pass

    async def until(self, enough: Callable[[], bool]) -> None:
        async with asyncio.timeout(SOON):
            while not enough():
                self._came.clear()
                await self._came.wait()


async def receipt(partner: Partner, socket: ServerConnection, frame: Frame) -> None:
    if frame.type == "send":
        await reply(socket, "receipt", ref=frame["ref"], kind="accepted", id="x", position=1)


async def reply(socket: ServerConnection, type: str, body: bytes | None = None, **members: Any) -> None:
    head = orjson.dumps({"type": type, **members})
    await socket.send(head.decode() if body is None else head + b"\n" + body)


@asynccontextmanager
async def partner_open(partner: Partner, protocols: list[str] | None = None, **more: Any) -> AsyncIterator[Partner]:
    offered: Any = [V1] if protocols is None else protocols or None
    async with serve(
        partner.handle, "127.0.0.1", partner.port, subprotocols=offered, compression=None, max_size=None, **more
    ) as server:
        partner.port = next(iter(server.sockets)).getsockname()[1]
        yield partner


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    """Asks again and again, for as long as everything here may take."""
    async with asyncio.timeout(SOON):
        while not await holds():  # noqa: ASYNC110 - it asks a store, a receiver, a room: nothing that could tell us
            await asyncio.sleep(0.02)
