"""Every way in and every way out: what goes in by one comes out by the other, byte for byte and with its envelope.

Between a RabbitMQ, a Postfix, plain HTTP and two daemons whose sockets meet.
"""

from __future__ import annotations

import asyncio
import smtplib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from email.mime.application import MIMEApplication
from email.policy import SMTP
from pathlib import Path
from typing import Any

import aio_pika
import aiohttp
import orjson
import pytest
from e2e_daemon import Daemon, StartDaemon, free_port
from e2e_messages import FHIR_JSON, ask, eventually, send
from e2e_receiver import HttpReceiver, OpenReceiver
from postfix_node import postfix
from rabbitmq_node import RabbitNode, rabbitmq
from websockets.asyncio.client import connect

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
SOURCE, NEAR, FAR = "urn:oid:2.999.2.9", "urn:oid:2.999.1", "urn:oid:2.999.5"
WAYS_IN = ("http", "amqp", "websocket", "email")
OUT = {way: f"urn:oid:2.999.2.{number}" for number, way in enumerate((*WAYS_IN, "mailbox"), 11)}
HOSTILE = (
    b'\xef\xbb\xbf{ "resourceType" : "Bundle",\r\n "id":"%s","type":"message","timestamp":"2026-03-01T12:00:00Z",\n\n'
    b'"entry":[{"resource":{"resourceType":"MessageHeader","id":"h-%s","eventCoding":{"code":"x\\ud83d\\ude00\xc3\xa6"},'
    b'\r\n"source":{"endpoint":"urn:oid:2.999.2.9"},"destination":[{"endpoint":"%s"}]}},'
    b'{"resource":{"resourceType":"Basic","id":"half \\ud800","n":1.50}}]}\r\n\r\n'
)
Arrived = tuple[bytes, str, list[str]]  # the bytes, the id and the brokers that the envelope names


def bundle(id: str, to: str) -> bytes:
    return HOSTILE % (id.encode(), id.encode(), to.encode())


@pytest.fixture
def rabbit(tmp_path: Path) -> Iterator[RabbitNode]:
    with rabbitmq(tmp_path / "rabbitmq") as started:
        yield started


class Between:
    """The near broker, which has every channel, and what is at the other end of each."""

    def __init__(
        self, near: Daemon, far: Daemon, *, ports: dict[str, int], receiver: HttpReceiver, queues: Any
    ) -> None:
        self.near, self.far, self.ports, self.receiver, self.queues = near, far, ports, receiver, queues

    # -- in

    async def by_http(self, body: bytes) -> None:
        async with aiohttp.ClientSession() as session:
            assert (await send(session, self.near.base, body, query="?async=true")).status == 202

    async def by_amqp(self, body: bytes) -> None:
        id = body.partition(b'"id":"')[2].partition(b'"')[0].decode()  # aio-pika makes one up where there is none
        carried = aio_pika.Message(body, message_id=id, content_type=FHIR_JSON, delivery_mode=2)
        await self.queues.default_exchange.publish(carried, "fhir.in")

    async def by_websocket(self, body: bytes) -> None:
        address, offered = f"ws://127.0.0.1:{self.ports['websocket']}/", ["fhir-broker.v1"]
        async with connect(address, subprotocols=offered, proxy=None) as socket:  # type: ignore[arg-type]
            await socket.send(orjson.dumps({"type": "send", "ref": 1, "media_type": FHIR_JSON}) + b"\n" + body)
            said = orjson.loads(await socket.recv(decode=False))
            assert (said["type"], said["kind"]) == ("receipt", "accepted")

    async def by_email(self, body: bytes) -> None:
        mail = MIMEApplication(body, "fhir+json")
        mail["From"], mail["To"], mail["Subject"] = "clinic@elsewhere.example", "fhir@north.example", "a message"

        def hand_over() -> None:
            with smtplib.SMTP("127.0.0.1", self.ports["email"], timeout=20) as server:
                server.sendmail("clinic@elsewhere.example", ["fhir@north.example"], mail.as_bytes(policy=SMTP))

        await asyncio.to_thread(hand_over)

    # -- out

    async def at_http(self, id: str) -> Arrived | None:
        for got in self.receiver.got:
            if got.headers.get("ce-id") == id:
                return got.body, got.headers["ce-id"], got.headers["ce-via"].split("%20")
        return None

    async def at_amqp(self, id: str) -> Arrived | None:
        queue = await self.queues.get_queue("fhir.out")
        got = await queue.get(fail=False, no_ack=True)
        if got is None:
            return None
        assert got.message_id == id, "one after the other"
        return got.body, str(got.headers["ce-id"]), str(got.headers["ce-via"]).split()

    async def at_websocket(self, id: str) -> Arrived | None:
        return await self._kept(self.far, id)

    async def at_email(self, id: str) -> Arrived | None:
        return await self._kept(self.far, id)

    async def at_mailbox(self, id: str) -> Arrived | None:
        found = await self._kept(self.near, id)
        return None if found is None else (found[0], found[1], [*found[2], NEAR])  # it has not left

    async def _kept(self, broker: Daemon, id: str) -> Arrived | None:
        async with aiohttp.ClientSession() as session:
            story = await ask(session, "GET", f"{broker.admin}/admin/v1/messages/{id}")
            if story.status != 200:
                return None
            kept = await ask(session, "GET", f"{broker.base}/Bundle/{story.json['id']}")
            return kept.body, id, list(story.json["via"])


@asynccontextmanager
async def between(
    daemon: StartDaemon, receiver: HttpReceiver, node: RabbitNode, folder: Path
) -> AsyncIterator[Between]:
    ports = {name: free_port() for name in ("websocket", "email", "far websocket", "far email")}
    far = await daemon(
        {
            "broker": {"endpoint": FAR},
            "channels": {
                "websocket": {"listen": f"127.0.0.1:{ports['far websocket']}"},
                "email": {"listen": f"127.0.0.1:{ports['far email']}", "from": "lab@south.example"},
            },
            "directory": {"endpoints": {OUT["websocket"]: "mailbox:", OUT["email"]: "mailbox:"}},
        }
    )
    with postfix(folder / "postfix", {"south.example": f"smtp:[127.0.0.1]:{ports['far email']}"}) as mail:
        async with await aio_pika.connect(node.url) as connection:
            queues = await connection.channel()
            for name in ("fhir.in", "fhir.out"):
                await queues.declare_queue(name, durable=True)
            near = await daemon(
                {
                    "broker": {"endpoint": NEAR},
                    "channels": {
                        "amqp": {"url": node.url, "consume": [{"queue": "fhir.in", "declare": "check"}]},
                        "websocket": {"listen": f"127.0.0.1:{ports['websocket']}"},
                        "email": {
                            "listen": f"127.0.0.1:{ports['email']}",
                            "from": "fhir@north.example",
                            "smarthost": mail.url,
                        },
                    },
                    "directory": {
                        "endpoints": {
                            SOURCE: "mailbox:",
                            OUT["http"]: receiver.url,
                            OUT["amqp"]: "amqp:?routing_key=fhir.out",
                            OUT["websocket"]: f"ws://127.0.0.1:{ports['far websocket']}/",
                            OUT["email"]: "mailto:lab@south.example",
                            OUT["mailbox"]: "mailbox:",
                        }
                    },
                }
            )  # fmt: skip
            yield Between(near, far, ports=ports, receiver=receiver, queues=queues)


async def test_every_way_in_leads_to_every_way_out(
    daemon: StartDaemon, receiver: OpenReceiver, rabbit: RabbitNode, tmp_path: Path
) -> None:
    """Promise 3: the same bytes, whatever carried them; the envelope says who they are and where they have been."""
    async with between(daemon, await receiver(), rabbit, tmp_path) as middle:
        for way_in in WAYS_IN:
            hand_in: Callable[[bytes], Awaitable[None]] = getattr(middle, f"by_{way_in}")
            for way_out, endpoint in OUT.items():
                look: Callable[[str], Awaitable[Arrived | None]] = getattr(middle, f"at_{way_out}")
                id = f"{way_in}-to-{way_out}"
                body = bundle(id, endpoint)
                await hand_in(body)
                found: list[Arrived] = []

                async def came(id: str = id, look: Any = look, found: list[Arrived] = found) -> bool:
                    found += [one] if (one := await look(id)) is not None else []
                    return bool(found)

                await eventually(came, within=30)
                assert found == [(body, id, [NEAR])], id
