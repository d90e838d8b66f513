"""A private RabbitMQ for tests and benchmarks: on free loopback ports, with all of its files in one folder.

It shares nothing with a RabbitMQ that the machine runs besides: its own node name, cookie, plugins and port mapper.
As a program it runs until it is told to end: rabbitmq_node.py --folder FOLDER --port PORT
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

STARTS_WITHIN = 60.0  # seconds; three on an idle core, and the core may have other work
STOPS_WITHIN = 20.0
# Debian's /usr/sbin/rabbitmq-server changes the user and the folder; the program itself is beside its libraries.
PROGRAMS = ("/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server")
CONTROLS = ("/usr/lib/rabbitmq/bin/rabbitmqctl", "rabbitmqctl")
CONFIG = """\
listeners.tcp.1 = 127.0.0.1:{port}
loopback_users.guest = true
disk_free_limit.absolute = 64MB
log.console = false
"""


def program() -> str | None:
    """Where RabbitMQ is, or None when it is not installed."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class RabbitNode:
    """One node: what it keeps in its folder is there again when it is started anew, on the same port."""

    def __init__(self, folder: Path, *, port: int = 0, more: str = "", plugins: str = "") -> None:
        self.folder = folder.resolve()
        self._more = more  # lines of its configuration
        self._plugins = plugins  # names, with commas between them
        self.port = port or free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/"
        self.log = self.folder / "rabbitmq.out"
        self._mapper_port = free_port()
        self._processes: list[subprocess.Popen[bytes]] = []
        self.folder.mkdir(parents=True, exist_ok=True)
        self._environment = self._write_settings()

    def _write_settings(self) -> dict[str, str]:
        folder = self.folder
        (folder / "rabbitmq.conf").write_text(CONFIG.format(port=self.port) + self._more)
        (folder / "enabled_plugins").write_text(f"[{self._plugins}].\n")
        (folder / "environment.conf").touch()  # else the machine's own is read
        own = {name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))}
        return {
            **own,
            "HOME": str(folder),  # the cookie is made there
            "LANG": "C.UTF-8",
            "RABBITMQ_NODENAME": f"private-{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "environment.conf"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "generated"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_ALLOW_INPUT": "1",  # the script becomes the Erlang machine instead of standing before it
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-noinput -kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_PORT": str(self._mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }

    @property
    def pids(self) -> tuple[int, ...]:
        """Of the Erlang machine and its port mapper; children of theirs are RabbitMQ too."""
        return tuple(process.pid for process in self._processes)

    def start(self) -> RabbitNode:
        """Returns once it listens."""
        server = program()
        if server is None:
            raise RuntimeError("RabbitMQ is not installed: scripts/need rabbitmq-server=rabbitmq-server")
        # A mapper that the node started itself would outlive it, in nobody's care.
        mapper = ["epmd", "-port", str(self._mapper_port), "-address", "127.0.0.1"]
        with self.log.open("ab") as log:
            for command in (mapper, [server]):
                self._processes.append(
                    subprocess.Popen(
                        command,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        env=self._environment,
                        cwd=self.folder,
                    )
                )
        try:
            self._wait_until_listening()
        except BaseException:
            self.stop()
            raise
        return self

    def _wait_until_listening(self) -> None:
        deadline = time.monotonic() + STARTS_WITHIN
        while time.monotonic() < deadline and self._processes[-1].poll() is None:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            time.sleep(0.05)
        said = self.log.read_text(errors="replace")[-8000:]
        raise RuntimeError(f"RabbitMQ does not listen on port {self.port}; it said:\n{said}")

    def control(self, *arguments: str) -> str:
        """What `rabbitmqctl` says."""
        program = next(found for name in CONTROLS if (found := shutil.which(name)))
        return subprocess.run(
            [program, "--quiet", *arguments],
            env=self._environment, cwd=self.folder, check=True, capture_output=True, text=True, timeout=STARTS_WITHIN,
        ).stdout  # fmt: skip

    def stop(self, how: int = signal.SIGTERM) -> None:
        """Ends it in good order, or with SIGKILL as a crash would.

        RabbitMQ notes a new quorum queue half a second late: after a crash before that, the queue does not answer.
        """
        while self._processes:
            process = self._processes.pop()
            process.send_signal(how)
            try:
                process.wait(STOPS_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def rabbitmq(folder: Path, *, port: int = 0, more: str = "", plugins: str = "") -> Iterator[RabbitNode]:
    node = RabbitNode(folder, port=port, more=more, plugins=plugins)
    try:
        yield node.start()
    finally:
        node.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("rabbitmq"))
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--look", action="store_true", help="only look whether it is installed: 0, or 1")
    options = parser.parse_args()
    if options.look:
        sys.exit(program() is None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with rabbitmq(options.folder, port=options.port):
        signal.pause()


if __name__ == "__main__":
    main()
