"""A host whose `accept` and `report` are scripted, the channel before it, and the mails that come to it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from broker.channel import Answer, AnswerKind, Arrival, Hold, LateReport, Receipt, Transmission
from broker.core.envelope import EMPTY
from broker.core.fhir.header import Release
from broker.core.outcome import Busy, Refusal
from plugins.email.receiver import EmailReceiver
from plugins.email.settings import EmailSettings

MESSAGE_ID = "3f2c8b1e-7a52-8f0e-9f3a-0d6f4f7b7a11"
MESSAGE = (
    b'{"resourceType":"Bundle","type":"message","entry":[{"resource":{"resourceType":"MessageHeader",'
    b'"eventCoding":{"code":"x"},"source":{"endpoint":"urn:oid:1.2.3"}}}]}'
)
OURS = "fhir@north.example"


class ScriptedRoom:
    """A room that knows what it holds, and refuses as it is told."""

    def __init__(self) -> None:
        self.held = 0
        self.peak = 0
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
        self.room.peak = max(self.room.peak, self.room.held)
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
    mailboxes: Any = None
    follow: Any = None
    may_be_here: Callable[[str], bool] = lambda host: True
    answer: Any = None
    knows: Any = True  # what `report` says
    arrivals: list[Arrival] = field(default_factory=list)
    reports: list[LateReport] = field(default_factory=list)

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def accept(self, arrival: Arrival) -> Answer:
        self.arrivals.append(arrival)
        answer = self.answer
        if callable(answer):
            answer = await answer(arrival)
        if isinstance(answer, Exception):
            raise answer
        return answer or Answer(kind=AnswerKind.ACCEPTED, receipt=Receipt(message_id=MESSAGE_ID, position=7))

    async def report(self, report: LateReport) -> bool:
        if isinstance(self.knows, Exception):
            raise self.knows
        self.reports.append(report)
        return bool(self.knows(report)) if callable(self.knows) else bool(self.knows)


@dataclass
class Served:
    host: ScriptedHost
    receiver: EmailReceiver
    port: int
    lmtp: int = 0

    async def dial(self, port: int = 0) -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", port or self.port)
        client = Client(reader, writer)
        await client.answer()
        return client

    async def send(self, mail: bytes, *, sender: str = "a@b.example", to: tuple[str, ...] = (OURS,)) -> str:
        """The answer to a mail by one SMTP session, or to the command that was refused."""
        client = await self.dial()
        try:
            return await client.send(mail, sender=sender, to=to)
        finally:
            client.close()


class Client:
    """An SMTP client that says exactly what it is told."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, within: float = 20) -> str:
        """The next answer, all of its lines; empty where the connection has ended."""
        lines: list[str] = []
        async with asyncio.timeout(within):
            with contextlib.suppress(ConnectionError):  # it was closed with something of ours unread
                await self._read(lines)
        return "\n".join(lines)

    async def _read(self, lines: list[str]) -> None:
        while line := (await self.reader.readline()).decode():
            lines.append(line.rstrip("\r\n"))
            if line[3:4] != "-":
                break

    async def say(self, command: bytes) -> str:
        self.write(command + b"\r\n")
        return await self.answer()

    async def begin(self, *, sender: str = "a@b.example", to: tuple[str, ...] = (OURS,), hello: str = "EHLO") -> str:
        """Up to DATA; the answer to it, or the first that is no yes."""
        commands = [f"{hello} client.example", f"MAIL FROM:<{sender}>", *(f"RCPT TO:<{one}>" for one in to)]
        for command in commands:
            answer = await self.say(command.encode())
            if not answer.startswith("250"):
                return answer
        return await self.say(b"DATA")

    async def send(self, mail: bytes, **more: Any) -> str:
        answer = await self.begin(**more)
        if not answer.startswith("354"):
            return answer
        self.write(stuffed(mail))
        return await self.answer()

    def close(self) -> None:
        self.writer.close()


def stuffed(mail: bytes) -> bytes:
    """A mail with its dots doubled, and the dot that ends it."""
    body = (b"\r\n" + mail).replace(b"\r\n.", b"\r\n..")[2:]
    return body + (b"" if body.endswith(b"\r\n") else b"\r\n") + b".\r\n"


def attachment(
    body: bytes = MESSAGE, *, type: str = "application/fhir+json", name: str = "message.json", fields: str = ""
) -> bytes:
    """A mail as a mail client writes it: a line of text, and the message beside it."""
    return (
        (
            "From: a@b.example\r\nMessage-ID: <m1@b.example>\r\nMIME-Version: 1.0\r\n"
            f'{fields}Content-Type: multipart/mixed; boundary="=b="\r\n\r\n'
            "--=b=\r\nContent-Type: text/plain\r\n\r\nSee the attachment.\r\n"
            f'--=b=\r\nContent-Type: {type}; name="{name}"\r\nContent-Transfer-Encoding: base64\r\n\r\n'
        ).encode()
        + base64.encodebytes(body).replace(b"\n", b"\r\n")
        + b"--=b=--\r\n"
    )


def settings(**changes: Any) -> EmailSettings:
    return EmailSettings(**{"from_": OURS, "listen": "127.0.0.1:0", **changes})


@asynccontextmanager
async def serving(host: ScriptedHost | None = None, **changes: Any) -> AsyncIterator[Served]:
    host = host or ScriptedHost()
    receiver = EmailReceiver(settings(**changes), host)
    await receiver.start()
    ports = [int(one.rpartition(":")[2]) for one in receiver.addresses]
    try:
        yield Served(host, receiver, ports[0], ports[1] if len(ports) > 1 else 0)
    finally:
        await receiver.stop()
        await asyncio.sleep(0)


def transmission(address: str = "mailto:lab@south.example", **changes: Any) -> Transmission:
    values: dict[str, Any] = {
        "message_id": MESSAGE_ID,
        "body": MESSAGE,
        "media_type": "application/fhir+json; fhirVersion=4.0",
        "address": address,
        "envelope": EMPTY,
        "connect": timedelta(seconds=3),
        "answer": timedelta(seconds=5),
        **changes,
    }
    return Transmission(**values)
