"""Starts the servers that are compared, each on the same core, and reads what they cost."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from urllib.error import URLError
from urllib.request import urlopen

import psutil
from messages import MAILBOX, RECEIVER, SENDER

HERE = Path(__file__).parent
START = 30.0  # seconds for a server to be ready
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, DRIVER_CORE = {CORES[0]}, {CORES[-1]}
DELIVERED = "fhir_broker_messages_delivered_total"

CONFIG = """\
broker:
  endpoint: urn:oid:2.999.1.1
  base_url: http://127.0.0.1:{port}/fhir
  fhir: "4.0"
store: {{url: "sqlite:{folder}/broker.db", min_free: 64MiB}}
admin: {{listen: "127.0.0.1:{admin}"}}
channels:
  http: {{listen: "127.0.0.1:{port}"}}
directory:
  endpoints:
    {sender}: "mailbox:"
    {mailbox}: "mailbox:"
    {receiver}: "http://127.0.0.1:{to}/fhir/$process-message"
"""


class Contestant:
    """A server under load: where to post, where to count, and what it has used."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], port: int, settled: str) -> None:
        self.name, self.process, self.port, self.settled = name, process, port, settled
        self.watched = psutil.Process(process.pid)

    def cpu(self) -> float:
        used = self.watched.cpu_times()
        return float(used.user + used.system)

    def rss(self) -> float:
        """MiB."""
        return float(self.watched.memory_info().rss) / (1 << 20)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def start(command: list[str], *, core: set[int], log: IO[bytes]) -> subprocess.Popen[bytes]:
    # Set before the program begins, so that each of its threads inherits it.
    return subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=lambda: os.sched_setaffinity(0, core))


def wait_until_ready(process: subprocess.Popen[bytes], port: int, path: str | None, log: Path) -> None:
    deadline = time.monotonic() + START
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"{' '.join(map(str, process.args))} ended with {process.returncode}:\n{tail(log)}")  # type: ignore[arg-type]
        with contextlib.suppress(OSError, URLError):
            if path is None:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            with urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
                if answer.status == 200:
                    return
        time.sleep(0.05)
    raise SystemExit(f"not ready within {START:.0f} s:\n{tail(log)}")


def tail(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:]


@contextlib.contextmanager
def running(
    name: str,
    command: list[str],
    *,
    folder: Path,
    port: int,
    core: set[int] | None = None,
    ready: tuple[int, str | None] | None = None,
    settled: str = "",
) -> Iterator[Contestant]:
    path = folder / f"{name}.log"
    with path.open("wb") as log:
        process = start(command, core=core or SERVER_CORE, log=log)
        try:
            wait_until_ready(process, *(ready or (port, None)), path)
            yield Contestant(name, process, port, settled)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def program(name: str, *arguments: object) -> list[str]:
    return [sys.executable, str(HERE / f"{name}.py"), *map(str, arguments)]


def bare(folder: Path, *, to: int = 0) -> contextlib.AbstractContextManager[Contestant]:
    port = free_port()
    command = program("bare", "--port", port, "--db", folder / "bare.db", "--to", to)
    settled = f"http://127.0.0.1:{port}/settled"
    return running("bare", command, folder=folder, port=port, ready=(port, "/health/ready"), settled=settled)


def broker(folder: Path, *, to: int) -> contextlib.AbstractContextManager[Contestant]:
    """The daemon as an operator would run it: its own defaults, logging included."""
    port, admin = free_port(), free_port()
    config = folder / "broker.yaml"
    names = {"sender": SENDER, "mailbox": MAILBOX, "receiver": RECEIVER}
    config.write_text(CONFIG.format(port=port, admin=admin, to=to, folder=folder, **names))
    command = [sys.executable, "-m", "broker", "run", "--config", str(config)]
    settled = f"http://127.0.0.1:{admin}/metrics#{DELIVERED}"
    ready = (admin, "/health/ready")
    return running("broker", command, folder=folder, port=port, ready=ready, settled=settled)


def proxy(folder: Path, *, to: int) -> contextlib.AbstractContextManager[Contestant]:
    port = free_port()
    return running("proxy", program("proxy", "--port", port, "--to", to), folder=folder, port=port)


def receiver(folder: Path, name: str, *, size: int, core: set[int]) -> contextlib.AbstractContextManager[Contestant]:
    port = free_port()
    command = program("receiver", "--port", port, "--size", size, "--answers")
    return running(name, command, folder=folder, port=port, core=core)
