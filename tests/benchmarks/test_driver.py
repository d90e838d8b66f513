"""The benchmarks' own parts work together: messages of the promised size, a driver that counts what arrives."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fhir.resources.R4B.bundle import Bundle

from broker.config import load

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
OPERATION = "/fhir/$process-message?async=true"

TWO_COPIES = """
import sys
from messages import *
ids = fresh_ids()
for kind in (requests(int(sys.argv[1]), MAILBOX), responses(int(sys.argv[1]))):
    places = (BUNDLE_ID, IDENTIFIER, HEADER_ID, ANSWERED)
    print(kind.with_ids({place: next(ids) for place in places}).decode())
"""


THE_BROKERS_CONFIGURATION = """
from pathlib import Path
from contestants import configuration
more = dict.fromkeys(("urn:oid:2.999.20.11", "urn:oid:2.999.20.12"), "mailbox:") if NEIGHBOURS else None
print(configuration(Path("."), port=8080, admin=8079, to=8090, neighbours=more))
"""


def printed(program: str, *arguments: str) -> str:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, check=True, timeout=60).stdout


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def started(name: str, port: int, *arguments: str) -> subprocess.Popen[bytes]:
    """One of the benchmarks' servers, once it listens."""
    process = subprocess.Popen([sys.executable, str(BENCHMARKS / f"{name}.py"), "--port", str(port), *arguments])
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return process
    process.kill()
    process.wait()
    raise AssertionError(f"{name} did not start")


def drive(port: int, *arguments: str, path: str = OPERATION) -> dict[str, Any]:
    command = [sys.executable, str(BENCHMARKS / "driver.py"), "--url", f"http://127.0.0.1:{port}{path}"]
    command += ["--to", "urn:oid:2.999.20.2", "--connections", "8", "--n", "200", "--seconds", "30", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=90)
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


@pytest.fixture
def receiver() -> Iterator[int]:
    port = free_port()
    process = started("receiver", port, "--answers")
    yield port
    process.terminate()
    process.wait(10)


@pytest.mark.parametrize("size", [4 << 10, 100 << 10, 1 << 20])
def test_messages_have_the_promised_size_and_are_valid(size: int) -> None:
    request, response = printed(TWO_COPIES, str(size)).splitlines()
    assert len(request) == len(response) == size
    for text in (request, response):
        message = json.loads(text)
        for entry in message["entry"][:40]:
            Bundle.model_validate({"resourceType": "Bundle", "type": "collection", "entry": [entry]})
        del message["entry"][40:]
        Bundle.model_validate(message)
    assert json.loads(request)["id"] != json.loads(response)["id"]


def test_driver_counts_what_bare_keeps_delivers_and_settles(tmp_path: Path) -> None:
    port, to = free_port(), free_port()
    bare = started("bare", port, "--db", str(tmp_path / "bare.db"), "--to", str(to))
    try:
        seen = drive(port, "--receive", str(to), "--settled", f"http://127.0.0.1:{port}/settled")
    finally:
        bare.terminate()
        bare.wait(10)
    assert seen["answered"] == 200
    assert seen["others"] == {}
    assert seen["seconds_to_settled"] >= seen["seconds"] > 0


def test_the_plain_proxy_carries_request_and_response(receiver: int) -> None:
    port = free_port()
    proxy = started("proxy", port, "--to", str(receiver))
    try:
        seen = drive(port, path="/fhir/$process-message")
    finally:
        proxy.terminate()
        proxy.wait(10)
    assert seen["answered"] == 200
    assert seen["p50_ms"] > 0


def test_driver_drives_nothing_but_loopback() -> None:
    command = [sys.executable, str(BENCHMARKS / "driver.py"), "--url", "http://192.0.2.1:80/", "--to", "urn:x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0
    assert "Only loopback" in done.stderr


@pytest.mark.parametrize("neighbours", [0, 2])
def test_the_broker_is_measured_with_a_configuration_it_accepts(tmp_path: Path, neighbours: int) -> None:
    file = tmp_path / "broker.yaml"
    file.write_text(printed(THE_BROKERS_CONFIGURATION.replace("NEIGHBOURS", str(neighbours))))
    settings = load(file)
    assert settings.warnings == ()
    assert len(settings.directory.endpoints) == 3 + neighbours
