"""What the daemon and the service manager tell each other: ready, alive, stopping, and sockets handed down.

systemd's protocols are a few lines of environment and datagrams, so its library is not needed. Without a manager
(no NOTIFY_SOCKET) every call does nothing.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Mapping

FIRST_INHERITED = 3  # sd_listen_fds(3): SD_LISTEN_FDS_START
STATUS_LIMIT = 512  # characters; one line in `systemctl status`


class ServiceManager:
    """The way to the manager that started us; a manager that is gone never disturbs the daemon."""

    def __init__(self, address: str | None) -> None:
        self._socket: socket.socket | None = None
        if not address or address[0] not in "/@":  # sd_notify(3) knows paths and abstract names; vsock is for guests
            return
        self._address = "\0" + address[1:] if address[0] == "@" else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)

    @classmethod
    def of(cls, env: Mapping[str, str]) -> ServiceManager:
        return cls(env.get("NOTIFY_SOCKET"))

    def ready(self, status: str = "") -> bool:
        """Start-up is over; also ends a reload."""
        return self._tell("READY=1", *_status(status))

    def status(self, text: str) -> bool:
        return self._tell(*_status(text))

    def reloading(self) -> bool:
        # Type=notify-reload asks for the instant, so that an older READY is not taken for the end of this reload.
        return self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str = "") -> bool:
        return self._tell("STOPPING=1", *_status(status))

    def alive(self) -> bool:
        return self._tell("WATCHDOG=1")

    async def keep_alive(self, interval: float) -> None:
        """Feed the watchdog from the event loop until cancelled: a loop that is stuck goes hungry."""
        while True:
            self.alive()
            await asyncio.sleep(interval)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _tell(self, *lines: str) -> bool:
        if self._socket is None or not lines:
            return False
        try:
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            return False
        return True


def watchdog_interval(env: Mapping[str, str], *, pid: int | None = None) -> float | None:
    """Seconds between signs of life: half of what the manager allows, or None when it does not watch us."""
    meant_for = env.get("WATCHDOG_PID")
    if meant_for and meant_for != str(os.getpid() if pid is None else pid):
        return None
    try:
        allowed = int(env.get("WATCHDOG_USEC", "0"))
    except ValueError:
        return None
    return allowed / 2_000_000 if allowed > 0 else None


def inherited_sockets(env: Mapping[str, str], *, pid: int | None = None) -> dict[str, socket.socket]:
    """Listening sockets the manager opened for us, by FileDescriptorName (without one: "3", "4", ...)."""
    if env.get("LISTEN_PID") != str(os.getpid() if pid is None else pid):
        return {}
    try:
        count = int(env.get("LISTEN_FDS", "0"))
    except ValueError:
        return {}
    names = env.get("LISTEN_FDNAMES", "").split(":")
    found: dict[str, socket.socket] = {}
    for number in range(count):
        descriptor = FIRST_INHERITED + number
        os.set_inheritable(descriptor, False)
        name = names[number] if number < len(names) and names[number] else str(descriptor)
        found[name] = socket.socket(fileno=descriptor)
    return found


def _status(text: str) -> tuple[str, ...]:
    return (f"STATUS={' '.join(text.split())[:STATUS_LIMIT]}",) if text else ()
