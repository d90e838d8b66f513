"""`fhir-broker run`: starts, says what it listens on, and ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

from command_desk import ROOT, fhir_broker

CONFIGURATION = """\
broker: {{endpoint: "urn:oid:2.999", base_url: "http://127.0.0.1:{port}/fhir"}}
store: {{url: "sqlite:data/broker.db", min_free: 1KiB}}
admin: {{listen: "127.0.0.1:0"}}
channels: {{http: {{listen: "127.0.0.1:{port}"}}}}
directory: {{endpoints: {{"urn:oid:2.999.1": "mailbox:"}}}}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_it_says_what_it_listens_on_and_stops_on_sigterm(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "broker.yaml").write_text(CONFIGURATION.format(port=port))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "broker", "run", cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    async with asyncio.timeout(60):
        while b"event=listening" not in (line := await process.stdout.readline()):
            assert line, await process.communicate()
        fields = dict(part.split("=", 1) for part in line.decode().split())
        assert (fields["level"], fields["http"]) == ("info", f"127.0.0.1:{port}")
        ran = await fhir_broker("directory", "lookup", "urn:oid:2.999.1", "--admin", fields["admin"], folder=tmp_path)
        assert (ran.code, "=> mailbox:" in ran.out) == (0, True)
        process.send_signal(signal.SIGTERM)
        out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert out.splitlines()[-1].endswith(b"event=stopped")


async def test_a_port_that_is_taken_ends_with_1_and_names_it(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (tmp_path / "broker.yaml").write_text(CONFIGURATION.format(port=port))
        ran = await fhir_broker("run", folder=tmp_path)
    assert (ran.code, "the broker cannot start" in ran.err, str(port) in ran.err) == (1, True, True)
    assert "Traceback" not in ran.err
