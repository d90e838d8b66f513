"""A host whose `accept` is scripted, the channel before it, and peers that misbehave byte by byte."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from broker.channel import Answer, AnswerKind, Arrival, Hold, Receipt, Transmission
from broker.core.envelope import EMPTY, Envelope
from broker.core.fhir.header import Release
from broker.core.outcome import Busy, Refusal
from broker.express import EXPRESS
from broker.serving import Runner, listen
from broker.web import application
from plugins.http import CHANNEL
from plugins.http.receiver import HttpReceiver
from plugins.http.sender import HttpSender
from plugins.http.settings import HttpSettings

MESSAGE_ID = "3f2c8b1e-7a52-4f0e-9f3a-0d6f4f7b7a11"
MESSAGE = (
    b'{"resourceType":"Bundle","type":"message","entry":[{"resource":{"resourceType":"MessageHeader",'
    b'"eventCoding":{"code":"x"},"source":{"endpoint":"urn:oid:1.2.3"}}}]}'
)
OUTCOME = b'{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"processing"}]}'


class ScriptedRoom:
    """A room that knows what it holds, and refuses as it is told."""

    def __init__(self) -> None:
        self.held = 0
        self.refuses: Refusal | None = None
        self.most = 1 << 60

    def check(self, size: int) -> None:
        if self.refuses is not None:
            raise self.refuses

    def hold(self) -> Hold:
        return Held(self)


class Held:
    def __init__(self, room: ScriptedRoom) -> None:
        self.room, self.bytes = room, 0

    def grow(self, more: int) -> None:
        if self.room.held + more > self.room.most:
            raise Busy("no room", retry_after=3)
        self.room.held += more
        self.bytes += more

    def let_go(self) -> None:
        self.room.held -= self.bytes
        self.bytes = 0


@dataclass
class ScriptedHost:
    """Answers every arrival with `answer`: an Answer, an exception, or a function."""

    base_url: str = "http://broker.example/fhir"
    default_release: Release = Release.R4
    endpoint: str = "urn:oid:9.9.9"
    max_message: int = 1_000_000
    room: ScriptedRoom = field(default_factory=ScriptedRoom)
    web: Any = None
    may_be_here: Callable[[str], bool] = lambda host: True
    answer: Any = None
    arrivals: list[Arrival] = field(default_factory=list)

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def accept(self, arrival: Arrival) -> Answer:
        self.arrivals.append(arrival)
        answer = self.answer
        if callable(answer):
            answer = await answer(arrival)
        if isinstance(answer, Exception):
            raise answer
        return answer or Answer(kind=AnswerKind.ACCEPTED, receipt=RECEIPT)


RECEIPT = Receipt(message_id=MESSAGE_ID, position=7)


@dataclass
class Served:
    host: ScriptedHost
    url: str
    port: int
    client: aiohttp.ClientSession
    receiver: HttpReceiver
    receiver_runner: Runner

    async def post(self, path: str = "/fhir/$process-message", data: Any = MESSAGE, **more: Any) -> Reply:
        headers = {"Content-Type": "application/fhir+json", **more.pop("headers", {})}
        headers = {name: value for name, value in headers.items() if value is not None}
        async with self.client.request(
            more.pop("method", "POST"), self.url + path, data=data, headers=headers, allow_redirects=False, **more
        ) as response:
            return Reply(response.status, response.headers, await response.read())

    async def raw(self, data: bytes, *, half_close: bool = False) -> bytes:
        """Sends bytes as they are and reads until the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        if half_close:
            writer.write_eof()
        try:
            return await asyncio.wait_for(reader.read(), 20)
        finally:
            writer.close()


@dataclass
class Reply:
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        import json

        return json.loads(self.body)

    @property
    def issue(self) -> dict[str, Any]:
        assert self.json["resourceType"] == "OperationOutcome"
        found: dict[str, Any] = self.json["issue"][0]
        return found

    @property
    def ids(self) -> set[str]:
        return {coding["code"] for coding in self.issue["details"]["coding"]}


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving(ScriptedHost()) as one:
        yield one


@asynccontextmanager
async def serving(
    host: ScriptedHost, settings: HttpSettings | None = None, *, express: bool = True
) -> AsyncIterator[Served]:
    """`express`: whether plain POSTs may take the short way."""
    host.web = application(base_url=host.base_url, default_release=host.default_release)
    assert CHANNEL.receiver is not None
    receiver = HttpReceiver(settings or HttpSettings(), host)
    await receiver.start()
    if not express:
        host.web[EXPRESS].clear()
    runner = await listen(host.web, "127.0.0.1:0")
    port = int(runner.listening[0].rpartition(":")[2])
    async with aiohttp.ClientSession(auto_decompress=False, skip_auto_headers=["Accept"]) as client:
        yield Served(host, f"http://127.0.0.1:{port}", port, client, receiver, runner)
    await receiver.stop()
    await runner.cleanup()


@pytest.fixture
def serve() -> Callable[..., Any]:
    return serving


# --- the other side of the sender ---


@pytest.fixture
async def sender() -> AsyncIterator[HttpSender]:
    one = HttpSender(HttpSettings(), ScriptedHost())
    yield one
    await one.stop()
    await asyncio.sleep(0)


def transmission(address: str, **changes: Any) -> Transmission:
    values: dict[str, Any] = {
        "message_id": MESSAGE_ID,
        "body": MESSAGE,
        "media_type": "application/fhir+json; fhirVersion=4.0",
        "address": address,
        "envelope": EMPTY,
        "connect": timedelta(seconds=2),
        "answer": timedelta(seconds=5),
        **changes,
    }
    return Transmission(**values)


@pytest.fixture
def send(sender: HttpSender) -> Callable[..., Awaitable[Any]]:
    async def attempt(address: str, **changes: Any) -> Any:
        return await sender.attempt(transmission(address, **changes))

    return attempt


@dataclass
class Seen:
    target: str  # the request line's, as it was on the wire
    headers: Any
    body: bytes


@dataclass
class Partner:
    """An aiohttp server that keeps what it got and answers as told."""

    url: str = ""
    seen: list[Seen] = field(default_factory=list)
    reply: Any = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.seen.append(Seen(request.raw_path, request.headers, body))
        if callable(self.reply):
            answered: web.StreamResponse = await self.reply(request)
            return answered
        status, headers, content = self.reply or (202, {}, b"")
        return web.Response(status=status, headers=headers, body=content)


@pytest.fixture
async def partner() -> AsyncIterator[Partner]:
    one = Partner()
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", "/{tail:.*}", one.handle)
    runner = web.AppRunner(app, access_log=None, max_line_size=64_000, max_field_size=64_000)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    one.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield one
    await runner.cleanup()


@dataclass
class Raw:
    """A socket that reads a whole request and then does as told; `connections` counts who came."""

    url: str = ""
    connections: int = 0
    requests: int = 0
    stop_listening: Callable[[], None] = lambda: None  # who comes after that is refused


Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter, Raw], Awaitable[None]]


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
    return head + await reader.readexactly(length)


@asynccontextmanager
async def hostile(behave: Behaviour, **more: Any) -> AsyncIterator[Raw]:
    raw = Raw()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw.connections += 1
        try:
            await behave(reader, writer, raw)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, **more)
    raw.stop_listening = server.close
    scheme = "https" if "ssl" in more else "http"
    raw.url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/fhir/$process-message"
    try:
        yield raw
    finally:
        server.close()
        await server.wait_closed()


@pytest.fixture
def peer() -> Callable[..., Any]:
    """A peer that reads the request and then writes these bytes and closes, or behaves as the function says."""

    def make(what: bytes | Behaviour, **more: Any) -> Any:
        if not isinstance(what, bytes):
            return hostile(what, **more)

        async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, raw: Raw) -> None:
            await read_request(reader)
            raw.requests += 1
            writer.write(what)
            await writer.drain()

        return hostile(behave, **more)

    return make


def full_envelope(**changes: Any) -> Envelope:
    return Envelope(**{"id": "b-1", "source": "urn:oid:1.2.3", "type": "org.example.x", **changes})


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = str(folder / "cert.pem"), str(folder / "key.pem")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key
