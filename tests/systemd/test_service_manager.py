"""What the service manager hears, on a real datagram socket; and what it hands down."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.notify import ServiceManager, inherited_sockets, watchdog_interval


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """The manager's end, and the address it puts into NOTIFY_SOCKET."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@fhir-broker-{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind("\0" + address[1:] if address[0] == "@" else address)
        heard.settimeout(5)
        yield address, heard


def test_manager_hears_ready_with_a_status(manager: tuple[str, socket.socket]) -> None:
    address, heard = manager
    daemon = ServiceManager.of({"NOTIFY_SOCKET": address})
    assert daemon.ready("listening on 127.0.0.1:8080")
    assert heard.recv(4096) == b"READY=1\nSTATUS=listening on 127.0.0.1:8080"
    daemon.close()


def test_manager_hears_each_word_of_the_protocol(manager: tuple[str, socket.socket]) -> None:
    address, heard = manager
    daemon = ServiceManager(address)
    assert daemon.status("3 lanes held")
    assert heard.recv(4096) == b"STATUS=3 lanes held"
    assert daemon.alive()
    assert heard.recv(4096) == b"WATCHDOG=1"
    assert daemon.reloading()
    first, second = heard.recv(4096).split(b"\n")
    assert first == b"RELOADING=1"
    assert second.startswith(b"MONOTONIC_USEC=")
    assert second.removeprefix(b"MONOTONIC_USEC=").isdigit()
    assert daemon.stopping("draining")
    assert heard.recv(4096) == b"STOPPING=1\nSTATUS=draining"
    daemon.close()


def test_status_stays_one_line_of_bounded_length(manager: tuple[str, socket.socket]) -> None:
    address, heard = manager
    daemon = ServiceManager(address)
    daemon.status("first\nREADY=1\n" + "x" * 5000)
    told = heard.recv(65536)
    assert told.startswith(b"STATUS=first READY=1 xxx")
    assert b"\n" not in told
    assert len(told) < 600
    daemon.close()


def test_without_a_manager_nothing_is_said() -> None:
    daemon = ServiceManager.of({})
    assert not daemon.ready()
    assert not daemon.alive()
    daemon.close()


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "relative/path"])
def test_an_address_we_do_not_speak_is_no_manager(address: str) -> None:
    assert not ServiceManager.of({"NOTIFY_SOCKET": address}).ready()


def test_a_manager_that_is_gone_does_not_disturb(tmp_path: Path) -> None:
    daemon = ServiceManager(str(tmp_path / "nobody"))
    assert not daemon.ready()
    daemon.close()
    assert not daemon.stopping()


async def test_the_event_loop_feeds_the_watchdog(manager: tuple[str, socket.socket]) -> None:
    address, heard = manager
    daemon = ServiceManager(address)
    feeding = asyncio.create_task(daemon.keep_alive(0))
    heard.setblocking(False)
    loop = asyncio.get_running_loop()
    for _ in range(3):
        assert await asyncio.wait_for(loop.sock_recv(heard, 4096), 5) == b"WATCHDOG=1"
    feeding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await feeding
    daemon.close()


@pytest.mark.parametrize(
    ("env", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "77"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "78"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_watchdog_is_fed_at_half_its_time(env: dict[str, str], seconds: float | None) -> None:
    assert watchdog_interval(env, pid=77) == seconds


def test_watchdog_meant_for_this_process_is_fed() -> None:
    assert watchdog_interval({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())}) == 1.0


def test_sockets_meant_for_another_process_are_left_alone() -> None:
    assert inherited_sockets({"LISTEN_PID": "1", "LISTEN_FDS": "1"}, pid=2) == {}
    assert inherited_sockets({}, pid=2) == {}
    assert inherited_sockets({"LISTEN_PID": "2", "LISTEN_FDS": "many"}, pid=2) == {}


def test_a_socket_handed_down_is_found_by_its_name() -> None:
    child = (
        "import os; from broker.notify import inherited_sockets\n"
        "env = {'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': '2', 'LISTEN_FDNAMES': 'http:'}\n"
        "found = inherited_sockets(env)\n"
        "print({name: s.getsockname()[1] for name, s in found.items()}, os.get_inheritable(3))\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        ports = one.getsockname()[1], two.getsockname()[1]
        # A shell puts the sockets where the protocol wants them: at descriptors 3 and 4.
        a, b = os.dup2(one.fileno(), 60, True), os.dup2(two.fileno(), 61, True)
        done = subprocess.run(
            ["/bin/bash", "-c", f'exec 3<&{a} 4<&{b} && exec "$0" -c "$1"', sys.executable, child],
            pass_fds=(a, b),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        os.close(a)
        os.close(b)
    assert done.stderr == ""
    assert done.stdout.strip() == f"{{'http': {ports[0]}, '4': {ports[1]}}} False"
