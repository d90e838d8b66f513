"""The frame: an OperationOutcome for everything that goes wrong, and where it listens (promise 8, X-2, X-61, M-53)."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl

import aiohttp
import pytest
from aiohttp import web

from broker.core.fhir.header import Release
from broker.core.tls import ClientCertificate, Tls
from broker.serving import host_and_port, listen
from broker.web import application, fhir_paths, pinned_release


async def test_unknown_path_is_404(served):
    reply = await served.post("/elsewhere?patient=1")
    assert reply.status == 404
    assert reply.issue["code"] == "not-found"
    assert "elsewhere" not in reply.issue["details"]["text"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
async def test_wrong_method_is_405_with_allow(served, method):
    """M-40."""
    reply = await served.post(method=method)
    assert reply.status == 405
    assert reply.headers["Allow"] == "POST"
    assert reply.issue["code"] == "not-supported"


async def test_bug_is_500_without_inner_detail_and_without_payload_in_the_log(served, caplog):
    served.host.answer = ValueError("Anna Hansen")
    with caplog.at_level(logging.ERROR):
        reply = await served.post()
    assert reply.status == 500
    assert reply.issue["code"] == "exception"
    assert b"Anna" not in reply.body
    assert b"ValueError" not in reply.body
    assert "ValueError" in caplog.text
    assert "http_desk.py" in caplog.text
    assert "Anna" not in caplog.text


async def test_ids_of_the_caller_are_mirrored(served):
    ids = {"X-Request-Id": "r-1", "X-Correlation-Id": "c-1", "Correlation-Id": "c-2"}
    for path in ("/fhir/$process-message", "/nowhere"):
        reply = await served.post(path, headers=ids)
        assert {name: reply.headers[name] for name in ids} == ids


async def test_ids_that_are_none_are_not_mirrored(served):
    reply = await served.post(headers={"X-Request-Id": "x" * 300, "Correlation-Id": "blå"})
    assert "X-Request-Id" not in reply.headers
    assert "Correlation-Id" not in reply.headers


async def test_nothing_tells_what_serves(served):
    for path in ("/fhir/$process-message", "/nowhere"):
        assert "Server" not in (await served.post(path)).headers


@pytest.mark.parametrize(
    "junk",
    [
        b"junk\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /fhir/$process-message HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n",
        b"POST /fhir/$process-message HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /fhir/$process-message HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
    ],
    ids=range(6),
)
async def test_what_is_not_http_gets_an_outcome_too(served, junk, caplog):
    with caplog.at_level(logging.INFO):
        answer = await served.raw(junk)
    assert answer.startswith(b"HTTP/1."), answer[:200]
    assert b" 400 " in answer.splitlines()[0]
    assert b"OperationOutcome" in answer
    assert b"ython" not in answer
    assert "Traceback" not in caplog.text


async def test_outcome_is_in_the_format_asked_for_and_names_the_release(served):
    reply = await served.post("/fhir/R4B/nothing", headers={"Accept": "application/fhir+xml"})
    assert reply.status == 404
    assert reply.headers["Content-Type"] == "application/fhir+xml; fhirVersion=4.3"
    assert b"<OperationOutcome" in reply.body
    reply = await served.post("/nothing", headers={"Accept": "application/fhir+json; fhirVersion=5.0"})
    assert reply.headers["Content-Type"] == "application/fhir+json; fhirVersion=5.0"


def test_paths_of_the_base():
    assert fhir_paths("/fhir") == ("/fhir", "/fhir/R4", "/fhir/R4B", "/fhir/R5")
    assert fhir_paths("") == ("", "/R4", "/R4B", "/R5")


async def show(request: web.Request) -> web.Response:
    return web.Response(text=str(pinned_release(request)))


@pytest.mark.parametrize(
    ("base_url", "path", "release"),
    [
        ("http://x", "/R5/Bundle", Release.R5),
        ("http://x/", "/Bundle", None),
        ("http://x/a/b/", "/a/b/R4/Bundle", Release.R4),
        ("http://x/a/b", "/a/b/Bundle", None),
    ],
)
async def test_base_may_be_anywhere(base_url, path, release):
    from broker.web import add_fhir_route

    app = application(base_url=base_url, default_release=Release.R4)
    add_fhir_route(app, "GET", "/Bundle", show)
    runner = await listen(app, "127.0.0.1:0")
    async with aiohttp.ClientSession() as client, client.get(f"http://{runner.listening[0]}{path}") as response:
        assert await response.text() == str(release)
    await runner.cleanup()


async def test_connection_that_was_taken_as_the_listener_closed_is_closed_too():
    """The loop tells of it a turn later, when the others have been told that it is over."""
    app = application(base_url="http://x/fhir", default_release=Release.R4)
    runner = await listen(app, "127.0.0.1:0")
    taken = runner.server()
    await runner.cleanup()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        await asyncio.get_running_loop().create_connection(lambda: taken, sock=ours)
        theirs.setblocking(False)
        assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(theirs, 100), 5) == b""


async def test_connection_that_was_taken_just_before_the_end_does_not_hold_it_up():
    """Its task has not begun to wait for a request when it is told to close."""
    app = application(base_url="http://x/fhir", default_release=Release.R4)
    runner = await listen(app, "127.0.0.1:0")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        loop, server = asyncio.get_running_loop(), runner.server
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
        taken = server()
        transport.set_protocol(taken)
        taken.connection_made(transport)
        server.pre_shutdown()
        await asyncio.wait_for(server.shutdown(30), 10)
        theirs.setblocking(False)
        assert await asyncio.wait_for(loop.sock_recv(theirs, 100), 5) == b""
    await runner.cleanup()


async def test_listens_on_a_unix_socket(tmp_path):
    app = application(base_url="http://x/fhir", default_release=Release.R4)
    app.router.add_get("/here", show)
    runner = await listen(app, f"unix:{tmp_path}/s")
    connector = aiohttp.UnixConnector(f"{tmp_path}/s")
    async with aiohttp.ClientSession(connector=connector) as client, client.get("http://x/here") as response:
        assert response.status == 200
    await runner.cleanup()


@pytest.mark.parametrize("client_certificate", list(ClientCertificate))
async def test_listens_with_tls(certificate, client_certificate):
    cert, key = certificate
    app = application(base_url="https://x/fhir", default_release=Release.R4)
    app.router.add_get("/here", show)
    runner = await listen(app, "127.0.0.1:0", Tls(cert=cert, key=key, client_ca=cert, client=client_certificate))
    url = f"https://{runner.listening[0]}/here"
    trusting = ssl.create_default_context(cafile=cert)
    known = ssl.create_default_context(cafile=cert)
    known.load_cert_chain(cert, key)
    async with aiohttp.ClientSession() as client:
        async with client.get(url, ssl=known) as response:
            assert response.status == 200
        if client_certificate is ClientCertificate.REQUIRED:
            with pytest.raises((aiohttp.ClientError, OSError)):
                await client.get(url, ssl=trusting)
        else:
            async with client.get(url, ssl=trusting) as response:
                assert response.status == 200
    await runner.cleanup()


async def test_occupied_port_is_an_error():
    app = application(base_url="http://x/fhir", default_release=Release.R4)
    runner = await listen(app, "127.0.0.1:0")
    with pytest.raises(OSError):
        await listen(application(base_url="http://x/fhir", default_release=Release.R4), runner.listening[0])
    await runner.cleanup()


@pytest.mark.parametrize(
    ("text", "meant"),
    [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:0", ("::1", 0)), (":8080", ("", 8080)), ("h:65535", ("h", 65535))],
)
def test_host_and_port(text, meant):
    assert host_and_port(text) == meant


@pytest.mark.parametrize("text", ["", "localhost", "h:", "h:65536", "h:-1", "h:8o", "h:８"])
def test_what_is_no_host_and_port(text):
    with pytest.raises(ValueError, match="host:port"):
        host_and_port(text)
