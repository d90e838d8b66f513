"""The daemon on sockets that were opened before it started, as the service manager hands them down."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import pytest

ROOT = Path(__file__).parents[2]
CONFIGURATION = """\
broker: {{endpoint: "urn:oid:2.999", base_url: "http://127.0.0.1:8080/fhir"}}
store: {{url: "sqlite:data/broker.db", min_free: 1KiB}}
admin: {{listen: "{admin}"}}
channels: {{http: {{listen: "{http}"}}}}
directory: {{endpoints: {{"urn:oid:2.999.1": "mailbox:"}}}}
"""


async def started(folder: Path, sockets: Mapping[str, socket.socket]) -> asyncio.subprocess.Process:
    """Starts the daemon as systemd does: descriptors from 3 on, LISTEN_PID its own."""
    passed = [os.dup2(one.fileno(), 60 + number, True) for number, one in enumerate(sockets.values())]
    moved = " ".join(f"{3 + number}<&{descriptor}" for number, descriptor in enumerate(passed))
    # the shell becomes the daemon, so that its process id is the daemon's
    line = f"exec {moved} && export LISTEN_PID=$$ && exec {shlex.quote(sys.executable)} -m broker run"
    more = {"PYTHONPATH": str(ROOT), "LISTEN_FDS": str(len(passed)), "LISTEN_FDNAMES": ":".join(sockets)}
    process = await asyncio.create_subprocess_exec(
        "/bin/bash", "-c", line, cwd=folder, env={**os.environ, **more}, pass_fds=passed,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    for descriptor in passed:
        os.close(descriptor)
    return process


async def listening(process: asyncio.subprocess.Process) -> tuple[dict[str, str], list[str]]:
    assert process.stdout is not None
    before: list[str] = []
    while b"event=listening" not in (line := await process.stdout.readline()):
        assert line, before
        before.append(line.decode())
    return dict(part.split("=", 1) for part in line.decode().split()), before


async def stopped(process: asyncio.subprocess.Process) -> None:
    process.send_signal(signal.SIGTERM)
    await process.communicate()
    assert process.returncode == 0


async def live(session: aiohttp.ClientSession, port: int) -> int:
    async with session.get(f"http://127.0.0.1:{port}/health/live") as answer:
        return answer.status


async def test_callers_of_an_inherited_port_wait_for_the_daemon_and_across_a_restart(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as http, socket.create_server(("127.0.0.1", 0)) as admin:
        ports = http.getsockname()[1], admin.getsockname()[1]
        text = CONFIGURATION.format(http=f"127.0.0.1:{ports[0]}", admin="127.0.0.1:0")
        (tmp_path / "broker.yaml").write_text(text)
        async with asyncio.timeout(60), aiohttp.ClientSession() as session:
            for _ in range(2):
                early = asyncio.create_task(live(session, ports[0]))  # nobody is there yet; the socket is
                process = await started(tmp_path, {"http": http, "admin": admin})
                fields, _ = await listening(process)
                assert (fields["http"], fields["admin"]) == (f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}")
                assert (await early, await live(session, ports[1])) == (200, 200)
                await stopped(process)


async def test_a_socket_that_nothing_is_named_after_is_told_and_closed(tmp_path: Path) -> None:
    (tmp_path / "broker.yaml").write_text(CONFIGURATION.format(http="127.0.0.1:0", admin="127.0.0.1:0"))
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        async with asyncio.timeout(60):
            process = await started(tmp_path, {"smtp": other})
            fields, before = await listening(process)
            assert fields["http"] != f"127.0.0.1:{port}"
            assert any("name=smtp" in line and "level=warning" in line for line in before)
            await stopped(process)


async def test_an_admin_socket_in_the_file_system_is_inherited_too(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    (tmp_path / "broker.yaml").write_text(CONFIGURATION.format(http="127.0.0.1:0", admin=f"unix:{path}"))
    with socket.socket(socket.AF_UNIX) as admin:
        admin.bind(str(path))
        admin.listen()
        async with asyncio.timeout(60):
            process = await started(tmp_path, {"admin": admin})
            fields, _ = await listening(process)
            assert fields["admin"] == f"unix:{path}"
            connector = aiohttp.UnixConnector(str(path))
            async with (
                aiohttp.ClientSession(connector=connector) as session,
                session.get("http://admin/health/live") as answer,
            ):
                assert answer.status == 200
            await stopped(process)


@pytest.mark.parametrize("bound", ["0.0.0.0", "127.0.0.2"])
async def test_a_socket_elsewhere_than_the_configuration_says_is_refused(tmp_path: Path, bound: str) -> None:
    with socket.create_server((bound, 0)) as http:
        port = http.getsockname()[1]
        text = CONFIGURATION.format(http=f"127.0.0.1:{port}", admin="127.0.0.1:0")
        (tmp_path / "broker.yaml").write_text(text)
        async with asyncio.timeout(60):
            process = await started(tmp_path, {"http": http})
            out, _ = await process.communicate()
    assert process.returncode == 1
    assert f"listens on {bound}:{port}, the configuration says 127.0.0.1:{port}" in " ".join(out.decode().split())
