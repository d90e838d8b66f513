"""Email with real daemons and a real mail server in between: there and back, while somebody is down, and bounced."""

from __future__ import annotations

import asyncio
import email
import smtplib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from email.message import Message
from email.mime.application import MIMEApplication
from email.policy import SMTP as SMTP_LINES
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiosmtpd.smtp import SMTP
from e2e_daemon import Daemon, StartDaemon, free_port
from e2e_messages import NORTH, SOUTH, ask, eventually, message, response_to, send
from e2e_receiver import OpenReceiver
from postfix_node import PostfixNode, postfix

pytestmark = pytest.mark.slow
HOSTILE = (
    b'\xef\xbb\xbf{ "resourceType" : "Bundle",\r\n "id":"%s","type":"message","timestamp":"2026-03-01T12:00:00Z",\n\n'
    b'"entry":[{"resource":{"resourceType":"MessageHeader","id":"h","eventCoding":{"code":"x\\ud83d\\ude00\xc3\xa6"},'
    b'\r\n"source":{"endpoint":"urn:oid:2.999.2.1"},"destination":[{"endpoint":"urn:oid:2.999.2.2"}]}}]}\r\n\r\n'
)
StartPostfix = Callable[..., PostfixNode]


@pytest.fixture
def mail_server(tmp_path: Path) -> Iterator[StartPostfix]:
    with ExitStack() as stack:

        def start(routes: dict[str, int], **more: Any) -> PostfixNode:
            places = {domain: f"smtp:[127.0.0.1]:{port}" for domain, port in routes.items()}
            return stack.enter_context(postfix(tmp_path / "postfix", places, **more))

        yield start


def north(port: int, smarthost: str, **directory: Any) -> dict[str, Any]:
    return {
        "broker": {"endpoint": "urn:oid:2.999.1"},
        "channels": {"email": {"listen": f"127.0.0.1:{port}", "from": "fhir@north.example", "smarthost": smarthost}},
        "directory": {"endpoints": {NORTH: "mailbox:", SOUTH: "mailto:lab@south.example", **directory}},
        "defaults": {"retry": {"first": "200ms", "max": "1s"}, "lane": {"probe": "500ms"}},
    }


def south(port: int, smarthost: str, **directory: Any) -> dict[str, Any]:
    return {
        "broker": {"endpoint": "urn:oid:2.999.5"},
        "channels": {
            "email": {
                "listen": f"127.0.0.1:{port}",
                "from": "fhir@south.example",
                "recipients": ["lab@south.example"],
                "smarthost": smarthost,
            }
        },
        "directory": {"endpoints": {SOUTH: "mailbox:", NORTH: "mailto:fhir@north.example", **directory}},
        "defaults": {"retry": {"first": "200ms", "max": "1s"}, "lane": {"probe": "500ms"}},
    }


async def bodies(session: aiohttp.ClientSession, broker: Daemon, endpoint: str) -> list[bytes]:
    """What is in a mailbox, byte for byte."""
    page = (await ask(session, "GET", f"{broker.base}/Bundle?message.destination-uri={endpoint}&_count=1000")).json
    links = [link["url"] for entry in page.get("entry", ()) for link in entry["link"] if link["relation"] == "original"]
    return [(await ask(session, "GET", link)).body for link in links]


async def until_in(session: aiohttp.ClientSession, broker: Daemon, endpoint: str, count: int) -> list[bytes]:
    found: list[bytes] = []

    async def look() -> bool:
        found[:] = await bodies(session, broker, endpoint)
        return len(found) >= count

    await eventually(look, within=100, every=1.0)  # each look reads them all
    return found


async def test_a_request_goes_out_by_mail_and_its_response_comes_back_by_mail(
    daemon: StartDaemon, http: aiohttp.ClientSession, mail_server: StartPostfix
) -> None:
    ports = free_port(), free_port()
    server = mail_server({"north.example": ports[0], "south.example": ports[1]})
    one, other = await daemon(north(ports[0], server.url)), await daemon(south(ports[1], server.url))
    request = HOSTILE % b"request-1"
    said = await send(http, one.base, request)
    assert said.status == 202, said  # a mail is never waited for (the third line of the design's six)
    assert await until_in(http, other, SOUTH, 1) == [request]
    response = response_to(orjson.dumps(orjson.loads(request.decode("utf-8-sig"))))
    assert (await send(http, other.base, response, query="?async=true")).status == 202
    assert await until_in(http, one, NORTH, 1) == [response]
    story = await ask(http, "GET", f"{one.admin}/admin/v1/messages/request-1")
    assert story.json["deliveries"][0]["state"] == "done", story
    assert len(story.json["answered_by"]) == 1, "the response was matched to its request"
    there = (await ask(http, "GET", f"{other.admin}/admin/v1/messages/request-1")).json
    assert there["via"] == ["urn:oid:2.999.1"]
    assert (there["channel"], there["way_in"]) == ("email", "lab")


async def test_a_response_quotes_the_mail_that_it_answers(daemon: StartDaemon, http: aiohttp.ClientSession) -> None:
    """A-36, between a plain mail client and another's mail server (aiosmtpd)."""
    came: list[Message] = []

    class Sink:
        async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
            came.append(email.message_from_bytes(envelope.content))
            return "250 2.0.0 OK"

    loop = asyncio.get_running_loop()
    sink = await loop.create_server(lambda: SMTP(Sink(), loop=loop, hostname="sink.example"), "127.0.0.1", 0)
    port = free_port()
    broker = await daemon(south(port, f"smtp://127.0.0.1:{sink.sockets[0].getsockname()[1]}"))
    request = message("asked-1")
    mail = MIMEApplication(request, "fhir+json")
    mail["Message-ID"] = "<asked-1@clinic.example>"

    def hand_over() -> dict[str, Any]:
        with smtplib.SMTP("127.0.0.1", port, timeout=10) as client:
            return client.sendmail("clinic@clinic.example", ["lab@south.example"], mail.as_bytes(policy=SMTP_LINES))

    assert await asyncio.to_thread(hand_over) == {}
    assert await until_in(http, broker, SOUTH, 1) == [request]
    response = response_to(request)
    assert (await send(http, broker.base, response, query="?async=true")).status == 202

    async def has_come() -> bool:
        return bool(came)

    await eventually(has_come)
    assert came[0]["In-Reply-To"] == came[0]["References"] == "<asked-1@clinic.example>"
    assert came[0]["To"] == "fhir@north.example"
    _, attachment = came[0].get_payload()
    assert attachment.get_payload(decode=True) == response
    sink.close()


async def test_what_comes_by_mail_goes_out_over_http(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession, mail_server: StartPostfix
) -> None:
    ports = free_port(), free_port()
    server = mail_server({"north.example": ports[0], "south.example": ports[1]})
    end = await receiver()
    one = await daemon(north(ports[0], server.url))
    await daemon(south(ports[1], server.url, **{SOUTH: end.url}))
    sent = [message(text="x" * 200_000, id=f"m-{number}") for number in range(5)]
    for body in sent:
        assert (await send(http, one.base, body, query="?async=true")).status == 202
    got = await end.until_count(5, within=30)
    assert {one.body for one in got} == set(sent)
    assert {one.headers["ce-via"] for one in got} == {"urn:oid:2.999.1%20urn:oid:2.999.5"}
    assert {one.headers["ce-source"] for one in got} == {NORTH}


@pytest.mark.timeout(300)
async def test_nothing_is_lost_while_a_mail_server_or_the_receiver_is_down(
    daemon: StartDaemon, http: aiohttp.ClientSession, mail_server: StartPostfix
) -> None:
    ports = free_port(), free_port()
    server = mail_server({"north.example": ports[0], "south.example": ports[1]})
    one, other = await daemon(north(ports[0], server.url)), await daemon(south(ports[1], server.url))
    sent: list[bytes] = []

    async def load(seconds: float) -> None:
        until = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < until:
            body = message(f"m-{len(sent)}")
            assert (await send(http, one.base, body, query="?async=true")).status == 202
            sent.append(body)
            await asyncio.sleep(0.02)

    await load(1)
    await asyncio.to_thread(server.stop)
    await load(3)
    await asyncio.to_thread(server.start)
    await other.stop()
    await load(3)
    assert server.queued() > 0, "the mail server keeps what the receiver does not take"
    await other.start()
    await load(1)
    found = await until_in(http, other, SOUTH, len(sent))
    assert sorted(found) == sorted(sent), "each once, and none that was acknowledged is missing"


async def test_a_mail_that_bounces_makes_its_delivery_dead_and_its_source_is_told(
    daemon: StartDaemon, http: aiohttp.ClientSession, mail_server: StartPostfix
) -> None:
    """A-40: the smarthost took it, the next server did not."""
    ports = free_port(), free_port()
    server = mail_server({"north.example": ports[0], "south.example": ports[1]})
    one = await daemon(north(ports[0], server.url, **{"urn:oid:2.999.2.9": "mailto:nobody@south.example"}))
    await daemon(south(ports[1], server.url))
    assert (await send(http, one.base, message("gone-1", to="urn:oid:2.999.2.9"), query="?async=true")).status == 202
    [bounce] = await until_in(http, one, NORTH, 1)
    header = orjson.loads(bounce)["entry"][0]["resource"]
    assert header["response"]["code"] == "fatal-error"
    assert header["source"]["endpoint"] == "urn:oid:2.999.1"
    assert b"not-found" in bounce
    story = (await ask(http, "GET", f"{one.admin}/admin/v1/messages/gone-1")).json
    [delivery] = story["deliveries"]
    assert delivery["state"] == "dead"
    assert [step["what"] for step in delivery["steps"]] == ["delivered", "failed-later"], delivery
    assert "5.1.1" in delivery["steps"][-1]["note"]


async def test_a_mail_server_that_has_waited_too_long_reports_it_too(
    daemon: StartDaemon, http: aiohttp.ClientSession, mail_server: StartPostfix
) -> None:
    ports = free_port(), free_port()  # nobody listens for south
    server = mail_server({"north.example": ports[0], "south.example": ports[1]}, lifetime="1s")
    one = await daemon(north(ports[0], server.url))
    assert (await send(http, one.base, message("gone-2"), query="?async=true")).status == 202
    [bounce] = await until_in(http, one, NORTH, 1)
    assert orjson.loads(bounce)["entry"][0]["resource"]["response"]["code"] == "transient-error"


async def test_two_brokers_that_are_each_others_mail_server_make_no_loop(
    daemon: StartDaemon, http: aiohttp.ClientSession
) -> None:
    """A-41: what is refused at the door is told to the source by a message, and no mail answers a mail."""
    ports = free_port(), free_port()
    lost = {"urn:oid:2.999.2.8": "mailto:fhir@south.example", "urn:oid:2.999.2.9": "mailto:nobody@south.example"}
    back = {"urn:oid:2.999.2.8": "mailto:fhir@north.example"}
    one = await daemon(north(ports[0], f"smtp://127.0.0.1:{ports[1]}", **lost))
    other = await daemon(south(ports[1], f"smtp://127.0.0.1:{ports[0]}", **back))
    # 2.8: each says that the other has it. 2.9: nobody has it.
    for id, to in (("circle", "urn:oid:2.999.2.8"), ("nobody", "urn:oid:2.999.2.9")):
        assert (await send(http, one.base, message(id, to=to), query="?async=true")).status == 202
    found = await until_in(http, one, NORTH, 2)
    codes = {orjson.loads(body)["entry"][0]["resource"]["response"]["identifier"] for body in found}
    assert len(codes) == 2
    await asyncio.sleep(2)  # whatever runs in a circle would go on running
    assert len(await bodies(http, one, NORTH)) == 2

    async def received(broker: Daemon) -> int:
        text = (await ask(http, "GET", f"{broker.admin}/metrics")).body.decode()
        lines = [line for line in text.splitlines() if line.startswith("fhir_broker_messages_received_total{")]
        return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines if 'channel="email"' in line)

    assert await received(other) == 1  # the request of the circle, once
    assert await received(one) <= 2  # it came back and was refused, and the report of that
