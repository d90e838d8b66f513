"""The daemon as its operator sees it: TLS, what it refuses to open, and how it goes."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import warnings
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from e2e_daemon import Daemon, StartDaemon
from e2e_messages import NORTH, SOUTH, ask, eventually, message, problem_ids, response_to, send
from e2e_receiver import HttpReceiver, OpenReceiver, Reply


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


# -- TLS, and what it takes to listen to the world


async def test_the_partner_listener_speaks_tls_and_nothing_else(
    daemon: StartDaemon, http: aiohttp.ClientSession, certificate: tuple[Path, Path]
) -> None:
    cert, key = certificate
    tls = {"cert": str(cert), "key": str(key)}
    broker = await daemon({"channels": {"http": {"tls": tls}}, "directory": {"endpoints": {SOUTH: "mailbox:"}}})
    trusting = ssl.create_default_context(cafile=str(cert))
    base = broker.base.replace("http://", "https://")
    url = f"{base}/$process-message"
    headers = {"Content-Type": "application/fhir+json"}
    said = await ask(http, "POST", url, data=message(), headers=headers, ssl=trusting)
    assert said.status == 202, said
    with pytest.raises(aiohttp.ClientError):  # without TLS
        await ask(http, "GET", f"{broker.base}/metadata")
    with pytest.raises(aiohttp.ClientConnectorCertificateError):  # whom nobody vouches for
        await ask(http, "GET", f"{base}/metadata")
    old = ssl.create_default_context(cafile=str(cert))
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(aiohttp.ClientError):  # X-1
        await ask(http, "GET", f"{base}/metadata", ssl=old)
    assert (await ask(http, "GET", f"{base}/metadata", ssl=trusting)).status == 200


def beyond_loopback(tmp_path: Path, *, tls: dict[str, str] | None = None, arguments: tuple[str, ...] = ()) -> Daemon:
    made = Daemon(tmp_path, {"channels": {"http": {"tls": tls}} if tls else {}}, arguments=arguments)
    made.config["channels"]["http"]["listen"] = f"0.0.0.0:{made.port}"
    made.write()
    return made


async def test_nothing_listens_to_the_world_without_tls_and_parties(
    tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    cert, key = certificate
    bare = beyond_loopback(tmp_path / "bare")
    await bare.launch()
    assert await bare.ended() == 2
    assert "without tls or behind_proxy and without parties" in bare.output
    half = beyond_loopback(tmp_path / "half", tls={"cert": str(cert), "key": str(key)})
    await half.launch()
    assert await half.ended() == 2
    assert "without parties" in half.output


async def test_insecure_is_the_one_way_round_and_shows(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    broker = beyond_loopback(tmp_path, arguments=("--insecure",))
    try:
        await broker.start()
        said = await ask(http, "GET", f"{broker.admin}/health/ready")
        assert said.json["insecure"] is True
        assert (await ask(http, "GET", f"{broker.origin}/health/ready")).json["insecure"] is True
        assert any("insecure" in line["event"] for line in broker.log_lines if line["level"] == "warning")
    finally:
        await broker.end()


async def test_a_port_that_is_taken_ends_the_start_with_a_word(daemon: StartDaemon, tmp_path: Path) -> None:
    first = await daemon()
    second = Daemon(tmp_path / "second", {"channels": {"http": {"listen": f"127.0.0.1:{first.port}"}}})
    await second.launch()
    assert await second.ended() == 1
    assert "cannot start" in second.output
    assert "Traceback" not in second.output


# -- how it goes


def to(south: HttpReceiver, **more: Any) -> dict[str, Any]:
    return {"directory": {"endpoints": {SOUTH: south.url}}, "defaults": {"retry": {"first": "300ms"}, **more}}


async def test_a_request_under_way_at_sigterm_is_answered_before_the_daemon_goes(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    south = await receiver()
    south.answer = lambda got: Reply(body=response_to(got.body, id="re"), after=1)
    broker = await daemon(to(south))
    asked = asyncio.create_task(send(http, broker.base, message("q")))
    await south.until_count(1)
    started = asyncio.get_running_loop().time()
    stopping = asyncio.create_task(broker.stop())
    await asyncio.sleep(0.2)
    with_next: list[int] = []
    try:  # who comes now is told to come again, or finds the door shut
        with_next.append((await send(http, broker.base, message("late"))).status)
    except aiohttp.ClientError:
        with_next.append(503)
    assert with_next == [503]
    said = await asked
    assert (said.status, said.json["id"]) == (200, "re"), said
    assert await stopping == 0
    assert asyncio.get_running_loop().time() - started < 20
    events = [line["event"] for line in broker.log_lines]
    assert events[-1] == "stopped"
    assert "stopping" in events
    assert not [line for line in broker.log_lines if line["level"] in ("error", "critical")], broker.output


async def test_callers_readers_and_idle_connections_do_not_hold_a_daemon_up(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    south = await receiver()
    south.answer = lambda got: Reply(status=202)
    broker = await daemon(to(south))
    waiting = asyncio.create_task(send(http, broker.base, message("q"), headers={"Prefer": "wait=50"}))
    reading = asyncio.create_task(
        ask(
            http,
            "GET",
            f"{broker.base}/Bundle?message.destination-uri={NORTH}&_offset=0",
            headers={"Prefer": "wait=50"},
        )
    )
    _, idle = await asyncio.open_connection("127.0.0.1", broker.port)
    await south.until_count(1)
    started = asyncio.get_running_loop().time()
    assert await broker.stop() == 0
    assert asyncio.get_running_loop().time() - started < 20
    said = await waiting
    assert (said.status, problem_ids(said.body)[0]) == (202, "kept"), said
    page = await reading
    assert page.status == 200
    assert not page.json.get("entry")
    idle.close()


async def test_what_waits_at_a_stop_leaves_after_the_next_start(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    south = await receiver()
    broker = await daemon(to(south))
    await south.close()
    bodies = [message(f"m-{n}") for n in range(10)]
    for body in bodies:
        assert (await send(http, broker.base, body, query="?async=true")).status == 202
    assert await broker.stop() == 0
    await south.open()
    await broker.start()
    await south.until_count(10)
    assert sorted(got.body for got in south.got) == sorted(bodies)

    async def settled() -> bool:
        status = (await ask(http, "GET", f"{broker.admin}/admin/v1/status")).json
        return bool(status["counts"]["waiting"] == 0)

    await eventually(settled)
