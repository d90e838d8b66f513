"""Out over somebody's WebSocket: one kept connection, pipelined; how each end of an attempt is told apart."""

from __future__ import annotations

import asyncio
import http
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from websocket_desk import EAST, FHIR, SOON, SOUTH, V1, Client, Desk, Partner, message, opened, partner_open, reply
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

from broker.channel import Deferred, Delivered, Refused, Taken, Transmission
from broker.core.envelope import Envelope
from plugins.websocket import CHANNEL
from plugins.websocket.address import is_own, peer_of
from plugins.websocket.sender import WebSocketSender
from plugins.websocket.settings import WebSocketSettings

BODY = b"\xef\xbb\xbf" + message("out", to=EAST)
Attempt = Callable[..., Awaitable[Delivered | Deferred | Refused]]


def transmission(address: str, **changes: Any) -> Transmission:
    values: dict[str, Any] = {
        "message_id": "3f2c8b1e-7a52-4f0e-9f3a-0d6f4f7b7a11",
        "body": BODY,
        "media_type": FHIR,
        "address": address,
        "envelope": Envelope(id="e-1", source="urn:x", type="org.example.letter", timeleft=5000),
        "connect": timedelta(seconds=3),
        "answer": timedelta(seconds=3),
        **changes,
    }
    return Transmission(**values)


@pytest.fixture
async def sender(desk: Desk) -> AsyncIterator[WebSocketSender]:
    """With the host of a real broker."""
    host: Any = desk.broker.channels.receivers[-1]._host  # type: ignore[attr-defined]
    host.may_be_here = lambda _: True
    one = WebSocketSender(WebSocketSettings(listen="127.0.0.1:8081", url="wss://own.example/ws"), host)
    yield one
    await one.stop()


@pytest.fixture
async def partner() -> AsyncIterator[Partner]:
    async with partner_open(Partner()) as one:
        yield one


def says(type: str, body: bytes | None = None, **members: Any) -> Any:
    async def answer(_: Partner, socket: Any, frame: Any) -> None:
        await reply(socket, type, body, ref=frame["ref"], **members)

    return answer


async def test_delivered_is_the_receipt_and_the_bytes_are_the_same(sender: WebSocketSender, partner: Partner) -> None:
    end = await sender.attempt(transmission(partner.url))
    assert isinstance(end, Delivered)
    assert end.taken is Taken.CUSTODY
    (got,) = partner.got
    assert (got.body, got["media_type"], got["envelope"]["id"], got.get("wait")) == (BODY, FHIR, "e-1", None)
    assert got["envelope"]["digest"].startswith("sha-256=")
    assert "timeleft" not in got["envelope"], "absent = nobody waits"


async def test_who_waits_is_told_and_the_response_comes_back(sender: WebSocketSender, partner: Partner) -> None:
    partner.answer = says("response", b"\r\n{} ", media_type=FHIR)
    end = await sender.attempt(transmission(partner.url, caller_waits=True))
    assert isinstance(end, Delivered)
    assert (end.body, end.media_type) == (b"\r\n{} ", FHIR)
    assert (partner.got[0]["wait"], partner.got[0]["envelope"]["timeleft"]) == (5.0, "5000")


async def test_nothing_to_say_is_delivered(sender: WebSocketSender, partner: Partner) -> None:
    partner.answer = says("receipt", kind="done")
    end = await sender.attempt(transmission(partner.url))
    assert isinstance(end, Delivered)
    assert end.taken is Taken.NOTHING_TO_SAY


async def test_refusal_is_final_and_brings_the_outcome(sender: WebSocketSender, partner: Partner) -> None:
    outcome = {"resourceType": "OperationOutcome", "issue": []}
    partner.answer = says("refusal", code="business-rule", problem="no-beds", outcome=outcome)
    end = await sender.attempt(transmission(partner.url))
    assert isinstance(end, Refused)
    assert (end.problem.code, end.note) == ("business-rule", "refusal: no-beds")
    assert orjson.loads(end.body or b"") == outcome


@pytest.mark.parametrize(("about", "of_peer"), [("", True), ("destination", False)])
async def test_refusal_for_now_is_deferred(
    sender: WebSocketSender, partner: Partner, about: str, of_peer: bool
) -> None:
    partner.answer = says("refusal", code="throttled", problem="busy", again=True, retry_after=7, about=about)
    end = await sender.attempt(transmission(partner.url))
    assert isinstance(end, Deferred)
    assert (end.of_peer, end.retry_after, end.left) == (of_peer, timedelta(seconds=7), True)


async def test_attempts_share_one_connection_and_do_not_wait_for_each_other(
    sender: WebSocketSender, partner: Partner
) -> None:
    async def last_first(partner: Partner, socket: Any, _: Any) -> None:
        if len(partner.got) == 10:
            for frame in reversed(partner.got):
                await reply(socket, "receipt", ref=frame["ref"], kind="accepted")

    partner.answer = last_first
    ends = await asyncio.gather(*(sender.attempt(transmission(partner.url)) for _ in range(10)))
    assert all(isinstance(end, Delivered) for end in ends)
    assert len(partner.connections) == 1


async def test_connection_that_breaks_defers_what_was_under_way_and_the_next_attempt_makes_a_new_one(
    sender: WebSocketSender, partner: Partner
) -> None:
    async def breaks(_: Partner, socket: Any, __: Any) -> None:
        socket.transport.abort()

    usual, partner.answer = partner.answer, breaks
    end = await sender.attempt(transmission(partner.url))
    assert isinstance(end, Deferred)
    assert (end.of_peer, end.left) == (True, True)
    partner.answer = usual
    assert isinstance(await sender.attempt(transmission(partner.url)), Delivered)
    assert len(partner.connections) == 2


async def test_connection_that_is_idle_is_closed_properly_and_made_anew_for_the_next(
    desk: Desk, partner: Partner
) -> None:
    host: Any = desk.broker.channels.receivers[-1]._host  # type: ignore[attr-defined]
    host.may_be_here = lambda _: True
    sender = WebSocketSender(WebSocketSettings(idle=timedelta(seconds=1)), host)
    assert isinstance(await sender.attempt(transmission(partner.url)), Delivered)
    async with asyncio.timeout(SOON):
        await partner.connections[0].wait_closed()
    assert partner.connections[0].close_code == 1001
    assert isinstance(await sender.attempt(transmission(partner.url)), Delivered)
    assert len(partner.connections) == 2
    await sender.stop()


async def test_silence_ends_with_the_limit_of_the_answer(sender: WebSocketSender, partner: Partner) -> None:
    async def silent(*_: Any) -> None:
        """It reads, and says nothing."""

    partner.answer = silent
    end = await sender.attempt(transmission(partner.url, answer=timedelta(milliseconds=100)))
    assert isinstance(end, Deferred)
    assert (end.note, end.left) == ("no answer in time", True)


async def test_nobody_there_is_the_peers_trouble_and_nothing_has_left(sender: WebSocketSender) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        end = await sender.attempt(transmission(f"ws://127.0.0.1:{taken.getsockname()[1]}/"))
    assert isinstance(end, Deferred)
    assert (end.of_peer, end.left) == (True, False)


@pytest.mark.parametrize("protocols", [[], ["cloudevents.json"]])
async def test_server_without_acknowledgements_is_refused_and_told_why(
    sender: WebSocketSender, protocols: list[str]
) -> None:
    async def none(*_: Any) -> None:
        return None

    async with serve(none, "127.0.0.1", 0, select_subprotocol=lambda *_: next(iter(protocols), None)) as server:  # type: ignore[arg-type]
        end = await sender.attempt(transmission(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"))
    assert isinstance(end, Refused)
    assert end.problem.id == "no-acknowledgement"
    assert "mailbox:" in end.problem.text


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (302, Refused),
        (403, Refused),
        (404, Refused),
        (401, Deferred),
        (429, Deferred),
        (503, Deferred),
        (200, Deferred),
    ],
)
async def test_handshake_that_is_answered_otherwise(
    sender: WebSocketSender, status: int, kind: type[Deferred | Refused]
) -> None:
    def answer(connection: Any, _: Any) -> Any:
        response = connection.respond(http.HTTPStatus(status), "no")
        response.headers["Location"] = "ws://127.0.0.1:1/"
        response.headers["Retry-After"] = "9"
        return response

    async def none(*_: Any) -> None: ...

    async with serve(none, "127.0.0.1", 0, process_request=answer) as server:
        end = await sender.attempt(transmission(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/?secret=1"))
    assert isinstance(end, kind)
    assert end.status == status
    assert "secret" not in str(end)
    if isinstance(end, Deferred):
        assert (end.left, end.of_peer, end.retry_after) == (False, True, timedelta(seconds=9))


@pytest.mark.parametrize(
    ("address", "id"),
    [
        ("ws://user:pass@127.0.0.1:1/", "unusable-address"),
        ("ws://127.0.0.1:1/#x", "unusable-address"),
        ("wss:///path", "unusable-address"),
        ("ws://localhost:8081/in/x", "own-address"),
        ("wss://OWN.example/other", "own-address"),
    ],
)
async def test_address_that_cannot_be_used_is_refused(sender: WebSocketSender, address: str, id: str) -> None:
    end = await sender.attempt(transmission(address))
    assert isinstance(end, Refused)
    assert end.problem.id == id
    assert "user:" not in str(end)


async def test_host_that_may_not_be_here_is_not_connected_to(sender: WebSocketSender, partner: Partner) -> None:
    """A-27."""
    host: Any = sender._host
    host.may_be_here = lambda _: False
    end = await sender.attempt(transmission(partner.url))
    assert isinstance(end, Deferred)
    assert "this machine" in end.note
    assert partner.connections == []


def test_lane_is_the_server_and_not_the_path() -> None:
    assert peer_of("ws://A.example/x") == peer_of("ws://a.example:80/y?z") == "ws://a.example:80"
    assert peer_of("wss://[::1]/") == "wss://[::1]:443"
    assert is_own("ws://127.0.0.1:8081/", "ws://localhost:8081")
    assert CHANNEL.peer_of is peer_of


async def test_partner_that_speaks_on_its_own_is_an_arrival(tmp_path: Path) -> None:
    """A response that comes later, over the connection that the broker keeps."""
    partner = Partner()
    async with (
        partner_open(partner),
        opened(tmp_path / "b", endpoints={EAST: partner.url}) as desk,
        desk.client() as client,
    ):
        await client.ask(message(to=EAST))
        await partner.until(lambda: bool(partner.got))
        own = message("theirs", source=EAST)
        await reply(partner.connections[0], "send", own, ref="p-1", media_type=FHIR)
        await partner.until(lambda: any(frame.get("ref") == "p-1" for frame in partner.got))
        told = next(frame for frame in partner.got if frame.get("ref") == "p-1")
        assert (told.type, told["kind"]) == ("receipt", "accepted")
        await client.say("subscribe", mailbox=SOUTH)
        assert (await client.until("delivery")).body == own


async def test_partner_that_goes_and_comes_back_gets_everything_that_was_accepted(tmp_path: Path) -> None:
    partner = Partner()
    async with partner_open(partner):
        pass  # it has a port now, and is gone
    bodies = [message(f"m-{n}", to=EAST) for n in range(50)]
    async with opened(tmp_path / "b", endpoints={EAST: partner.url}) as desk, desk.client() as client:
        for body in bodies[:25]:
            assert (await client.ask(body)).type == "receipt"
        async with partner_open(partner):
            await partner.until(lambda: len({frame.body for frame in partner.got}) >= 20)
        for body in bodies[25:]:
            assert (await client.ask(body)).type == "receipt"
        async with partner_open(partner):
            await partner.until(lambda: {frame.body for frame in partner.got} >= set(bodies))


async def test_broker_speaks_with_another_broker(tmp_path: Path) -> None:
    async with opened(tmp_path / "far", broker={"endpoint": "urn:oid:2.999.1.2"}) as far:
        near_one = opened(tmp_path / "near", endpoints={SOUTH: f"{far.url}/"})
        async with near_one as near, near.client() as client, far.client() as reader:
            body = b"\xef\xbb\xbf" + message("hop")
            assert (await client.ask(body)).type == "receipt"
            await reader.say("subscribe", mailbox=SOUTH)
            shown = await reader.until("delivery")
            assert shown.body == body
            assert shown["envelope"]["via"] == "urn:oid:2.999.1"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
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


async def test_tls_both_ways(tmp_path: Path, certificate: tuple[str, str]) -> None:
    cert, key = certificate
    tls = {"tls": {"cert": cert, "key": key}}
    far_one = opened(tmp_path / "far", tls, broker={"endpoint": "urn:oid:2.999.1.2"})
    async with far_one as far:
        url = far.url.replace("ws://", "wss://")
        near_one = opened(tmp_path / "near", {"client_ca": cert}, endpoints={SOUTH: f"{url}/"})
        trusting = ssl.create_default_context(cafile=cert)
        async with near_one as near, near.client() as client:
            assert (await client.ask(message("tls"))).type == "receipt"
            protocols: Any = [V1]
            async with connect(url, subprotocols=protocols, ssl=trusting, proxy=None) as socket:
                reader = Client(socket)
                await reader.say("subscribe", mailbox=SOUTH)
                assert orjson.loads((await reader.until("delivery")).body)["id"] == "tls"


async def test_certificate_that_nobody_vouches_for_is_not_spoken_to(
    sender: WebSocketSender, certificate: tuple[str, str]
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    async with partner_open(Partner(), ssl=context) as partner:
        end = await sender.attempt(transmission(partner.url.replace("ws:", "wss:")))
    assert isinstance(end, Deferred)
    assert "certificate" in end.note
