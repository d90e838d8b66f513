"""Starts the servers that are compared, each on the same core, and reads what they cost."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO
from urllib.error import URLError
from urllib.request import urlopen

import psutil
from messages import MAILBOX, RECEIVER, SENDER, SOUGHT_TOPIC

HERE = Path(__file__).parent
SERVERS = HERE.parent / "tests" / "servers"  # real servers of other people, as the tests start them
START = 60.0  # seconds for a server to be ready
STOP = 30.0  # seconds for it to end
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, DRIVER_CORE = {CORES[0]}, {CORES[-1]}
URL = '"amqp://guest:guest@127.0.0.1:{port}/"'
LISTENING = "channels:\n"  # where the WebSocket's listener is added
DELIVERED = "fhir_broker_messages_delivered_total"
TOPIC = "url: http://bench.example/topics/discharge\non: [{event: discharge-notice}]\n"

CONFIG = """\
broker:
  endpoint: urn:oid:2.999.1.{place}
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
    {receiver}: "{address}"
"""
SUBSCRIPTIONS = """\
subscriptions:
  topics: ["{folder}/topic.yaml"]
"""
ADMISSIONS = """\
url: {topic}
on: [{{event: admission-notice, focus: Encounter}}]
filters: [patient]
"""
# Tried more often than by default, so that some seconds are long enough to see what a sick neighbour costs.
SUBSCRIBERS = """\
subscriptions:
  topics: [topic.yaml]
  allow: ["http://127.0.0.1:{hook}/*"]
"""
IMPATIENT = """\
defaults:
  lane: {probe: 1s}
  retry: {first: 500ms, max: 2s}
"""


class Contestant:
    """A server under load: where to post, where to count, and what it has used."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], port: int, settled: str, log: Path) -> None:
        self.name, self.port, self.settled, self.log = name, port, settled, log
        self.started = 0.0  # seconds until it was ready
        self.http = port  # where messages are posted, which is not `port` where that is the WebSocket's
        self.watched = psutil.Process(process.pid)

    def processes(self) -> list[psutil.Process]:
        return [self.watched]

    def cpu(self) -> float:
        """Seconds of processor time so far, those of children that have ended included."""
        return sum(sum(process.cpu_times()[:4]) for process in self.processes())

    def memory(self) -> dict[str, float]:
        """MiB; `pss` shares out among processes what they share."""
        used = [process.memory_full_info() for process in self.processes()]
        return {"rss_mib": sum(u.rss for u in used) / (1 << 20), "pss_mib": sum(u.pss for u in used) / (1 << 20)}


class Tree(Contestant):
    """A server that a small program of ours started and minds: all that runs below it, without it."""

    def processes(self) -> list[psutil.Process]:
        return list(self.watched.children(recursive=True))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def start(command: list[str], *, core: set[int], log: IO[bytes]) -> subprocess.Popen[bytes]:
    def prepare() -> None:
        """Before the program begins, so that each of its threads inherits it."""
        os.sched_setaffinity(0, core)
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # as the service unit does: (h) has 5,000 connections

    return subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=prepare)


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
        time.sleep(0.02)
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
    kind: type[Contestant] = Contestant,
    http: int = 0,
) -> Iterator[Contestant]:
    path = folder / f"{name}.log"
    with path.open("wb") as log:
        began = time.monotonic()
        process = start(command, core=core or SERVER_CORE, log=log)
        try:
            wait_until_ready(process, *(ready or (port, None)), path)
            one = kind(name, process, port, settled, path)
            one.started = time.monotonic() - began
            one.http = http or port
            yield one
        finally:
            process.terminate()
            try:
                process.wait(STOP)
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


def configuration(
    folder: Path, *, port: int, admin: int, to: int | str, neighbours: Mapping[str, str] | None = None, place: int = 1
) -> str:
    """`to` is the receiver's port or address, `neighbours` further endpoints with their addresses."""
    names = {"sender": SENDER, "mailbox": MAILBOX, "receiver": RECEIVER}
    address = to if isinstance(to, str) else f"http://127.0.0.1:{to}/fhir/$process-message"
    text = CONFIG.format(port=port, admin=admin, address=address, folder=folder, place=place, **names)
    if neighbours is None:
        return text
    return text + "".join(f'    {endpoint}: "{where}"\n' for endpoint, where in neighbours.items()) + IMPATIENT


def broker(
    folder: Path,
    *,
    to: int | str,
    name: str = "broker",
    neighbours: Mapping[str, str] | None = None,
    place: int = 1,
    core: set[int] | None = None,
    websocket: bool = False,
    subscribed: bool = False,
    hook: int = 0,
    amqp: Contestant | None = None,
    consume: str = "",
    under_way: int = 16,
) -> contextlib.AbstractContextManager[Contestant]:
    """The daemon as an operator would run it: its own defaults, logging included. The store is the folder's.

    `place` is that of one in a row of brokers, which know each other by it. With `websocket` the contestant's port is
    that of the WebSocket server; with `subscribed` it has a topic to subscribe to, and sockets for those who do. With a
    `hook`'s port there is a topic for subscribers; with `amqp` it consumes a queue of that node,
    and has as many messages `under_way` to it as the driver has.
    """
    port, admin = free_port(), free_port()
    http = port
    config = folder / "broker.yaml"
    text = configuration(folder, port=port, admin=admin, to=to, neighbours=neighbours, place=place)
    if websocket:
        port = free_port()
        text = text.replace(LISTENING, f'{LISTENING}  websocket: {{listen: "127.0.0.1:{port}"}}\n')
    if subscribed:
        (folder / "topic.yaml").write_text(ADMISSIONS.format(topic=SOUGHT_TOPIC))
        text = text.replace(LISTENING, f'{LISTENING}  websocket: {{listen: "127.0.0.1:{free_port()}"}}\n')
        text += SUBSCRIPTIONS.format(folder=folder)
    if amqp is not None:
        text += f"defaults: {{lane: {{concurrent: {under_way}}}}}\n"
        text = text.replace(
            LISTENING, f"{LISTENING}  amqp: {{url: {URL.format(port=amqp.port)}, consume: [{consume}]}}\n"
        )
    if hook:
        (folder / "topic.yaml").write_text(TOPIC)
        text += SUBSCRIBERS.format(hook=hook)
    config.write_text(text)
    command = [sys.executable, "-m", "broker", "run", "--config", str(config)]
    settled = f"http://127.0.0.1:{admin}/metrics#{DELIVERED}"
    ready = (admin, "/health/ready")
    return running(name, command, folder=folder, port=port, ready=ready, settled=settled, core=core, http=http)


def fanout(folder: Path) -> contextlib.AbstractContextManager[Contestant]:
    port = free_port()
    return running("fanout", program("fanout", "--port", port), folder=folder, port=port)


def proxy(folder: Path, *, to: int) -> contextlib.AbstractContextManager[Contestant]:
    port = free_port()
    return running("proxy", program("proxy", "--port", port, "--to", to), folder=folder, port=port)


def receiver(folder: Path, name: str, *, size: int, core: set[int]) -> contextlib.AbstractContextManager[Contestant]:
    port = free_port()
    command = program("receiver", "--port", port, "--size", size, "--answers")
    return running(name, command, folder=folder, port=port, core=core)


def rabbitmq(folder: Path) -> contextlib.AbstractContextManager[Contestant]:
    """A private node; Erlang's port mapper and helpers count as it."""
    port = free_port()
    command = [
        sys.executable,
        str(SERVERS / "rabbitmq_node.py"),
        "--folder",
        str(folder / "rabbitmq"),
        "--port",
        str(port),
    ]
    return running("rabbitmq", command, folder=folder, port=port, kind=Tree)


def has_rabbitmq() -> bool:
    return subprocess.run([sys.executable, str(SERVERS / "rabbitmq_node.py"), "--look"], check=False).returncode == 0
