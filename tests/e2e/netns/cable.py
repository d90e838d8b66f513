"""Network namespaces, and cables between them that lose, delay and double packets, or are cut.

A cable is a pair of TUN devices with this process between them, so that what is lost are real IP packets and each side
has its own TCP. That is what `tc netem` does on a veth, without asking the kernel for netem, which many lack.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import random
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import aiohttp

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000  # linux/if_tun.h
CLONE_NEWNET = 0x40000000
PACKET = 65_536
QUEUE = 1_000  # packets on their way in one direction: beyond, they are lost, as in any router
_libc = ctypes.CDLL(None, use_errno=True)


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Namespace:
    """A network of its own. A socket belongs to the namespace it was made in, whoever uses it afterwards."""

    def __init__(self, name: str) -> None:
        self.name = name
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")

    @property
    def enter(self) -> list[str]:
        """What to write before a command that shall run in it."""
        return ["nsenter", f"--net=/run/netns/{self.name}", "--"]

    @contextmanager
    def inside(self) -> Iterator[None]:
        """This thread is in the namespace meanwhile: nothing may be awaited."""
        home, there = os.open("/proc/thread-self/ns/net", os.O_RDONLY), os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        try:
            _enter(there)
            yield
            _enter(home)
        finally:
            os.close(home)
            os.close(there)

    def session(self, **rest: Any) -> aiohttp.ClientSession:
        """An HTTP client that lives in it."""

        def made(info: Any) -> socket.socket:
            with self.inside():
                return socket.socket(*info[:3])

        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, socket_factory=made), **rest)

    def listener(self, port: int) -> socket.socket:
        with self.inside():
            made = socket.create_server(("127.0.0.1", port), backlog=512)
        made.setblocking(False)
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """What happens to a packet; times in seconds."""

    loss: float = 0.01
    double: float = 0.002
    delay: float = 0.003
    jitter: float = 0.002  # more than the gap between two packets: they also overtake each other


FAIR, STORM, SILENCE = Weather(), Weather(loss=0.2, double=0.05, delay=0.06, jitter=0.04), Weather(loss=1.0)


class _Plug:
    """One end: a TUN device in a namespace."""

    def __init__(self, namespace: Namespace, name: str, address: str) -> None:
        self.namespace, self.name = namespace, name
        with namespace.inside():
            self.tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.ioctl(self.tun, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
        ip("-n", namespace.name, "addr", "add", address, "dev", name)
        self.set("up")

    def set(self, state: str) -> None:
        ip("-n", self.namespace.name, "link", "set", self.name, state)


class Cable:
    """Joins two namespaces; addresses are NETWORK.1 and NETWORK.2."""

    def __init__(self, name: str, one: Namespace, other: Namespace, network: str, dice: random.Random) -> None:
        self.name = name
        self.weather = FAIR
        self.carried = self.lost = 0
        self._dice = dice
        self._ends = (_Plug(one, name, f"{network}.1/30"), _Plug(other, name, f"{network}.2/30"))
        self._loop = asyncio.get_running_loop()
        self._under_way = 0
        for here, there in (self._ends, self._ends[::-1]):
            self._loop.add_reader(here.tun, self._carry, here, there)

    def cut(self) -> None:
        """Both sides see that the link is down."""
        for end in self._ends:
            end.set("down")

    def mend(self) -> None:
        for end in self._ends:
            end.set("up")

    def _carry(self, here: _Plug, there: _Plug) -> None:
        with suppress(BlockingIOError):
            for _ in range(64):
                packet, weather, dice = os.read(here.tun, PACKET), self.weather, self._dice
                if dice.random() < weather.loss or self._under_way > QUEUE:
                    self.lost += 1
                    continue
                for _copy in range(1 + (dice.random() < weather.double)):
                    self._under_way += 1
                    after = weather.delay + dice.random() * weather.jitter
                    self._loop.call_later(after, self._arrive, there, packet)

    def _arrive(self, there: _Plug, packet: bytes) -> None:
        self._under_way -= 1
        try:
            os.write(there.tun, packet)
            self.carried += 1
        except OSError:  # cut meanwhile, or its queue is full
            self.lost += 1

    def close(self) -> None:
        for end in self._ends:
            self._loop.remove_reader(end.tun)
            os.close(end.tun)
