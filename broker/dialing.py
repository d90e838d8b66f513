"""Makes a connection: the name looked up once, its addresses tried in a staggered race (RFC 8305), TLS checked.

What was looked up is checked, and that very address connected to, so that a name which means something else a moment
later changes nothing (A-27). Every channel that connects as a client does it here.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Coroutine
from enum import StrEnum
from itertools import chain, zip_longest
from typing import Any, NamedTuple, TypeVar

from broker.core.inside import is_inside

STAGGER = 0.25  # seconds until the next address is tried beside one that is silent (RFC 8305, section 5)
Place = tuple[str, int]  # an IP address and a port
Connected = TypeVar("Connected", bound=asyncio.BaseProtocol)
Pair = tuple[Any, Connected]  # transport and protocol


class Undialed(StrEnum):
    """Why there is no connection. In each case nothing has left."""

    NO_NAME = "the host's name could not be resolved"
    INSIDE = (
        "the host is this machine or its own link, where only a host may be that an address or a pattern of this "
        "broker's operator names, without `*`"
    )
    NO_CONNECTION = "no connection"
    NO_CONNECTION_IN_TIME = "no connection in time"
    CERTIFICATE = "TLS: the certificate is not valid for the host"
    HANDSHAKE = "TLS: the handshake failed"


class NotDialed(Exception):
    def __init__(self, why: Undialed, reason: str = "") -> None:
        super().__init__(f"{why}: {reason}" if reason else str(why))
        self.why, self.reason = why, reason


class Origin(NamedTuple):
    """Where connections lead, and what makes them interchangeable."""

    host: str  # ASCII, without brackets
    port: int
    tls: bool


def anywhere(_host: str) -> bool:
    return True


def client_context(ca: str | None) -> ssl.SSLContext:
    """TLS as a client: 1.2 at least (X-1), checked against a CA bundle or the system's; raises `NotDialed`."""
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError:
        raise NotDialed(Undialed.HANDSHAKE, "client_ca cannot be read") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


async def dial(
    origin: Origin,
    build: Callable[[], Connected],
    context: ssl.SSLContext | None,
    seconds: float,
    *,
    may_be_here: Callable[[str], bool] = anywhere,
) -> Connected:
    """A connection that is ready to be written to; raises `NotDialed`, and ValueError for a host that is no name.

    `may_be_here`: whether a host may be this machine or its own link.
    """
    try:
        async with asyncio.timeout(seconds):
            return await _dial(origin, build, context, seconds, may_be_here)
    except socket.gaierror:
        raise NotDialed(Undialed.NO_NAME) from None
    except ssl.SSLCertVerificationError:
        raise NotDialed(Undialed.CERTIFICATE) from None
    except ssl.SSLError:
        raise NotDialed(Undialed.HANDSHAKE) from None
    except TimeoutError:
        raise NotDialed(Undialed.NO_CONNECTION_IN_TIME) from None
    except OSError as exc:
        # Never the text of the exception: it may quote what was on the wire.
        reason = os.strerror(exc.errno).lower() if exc.errno and exc.errno > 0 else type(exc).__name__
        raise NotDialed(Undialed.NO_CONNECTION, reason) from None


async def _dial(
    origin: Origin,
    build: Callable[[], Connected],
    context: ssl.SSLContext | None,
    seconds: float,
    may_be_here: Callable[[str], bool],
) -> Connected:
    loop = asyncio.get_running_loop()

    async def to(place: Place) -> Pair[Connected]:
        if context is None:
            return await loop.create_connection(build, *place)
        return await loop.create_connection(
            build,
            *place,
            ssl=context,
            server_hostname=origin.host.rstrip("."),
            ssl_handshake_timeout=seconds + 1,  # ours comes first
            ssl_shutdown_timeout=1,
        )

    places = await _places(origin)
    if any(is_inside(ip) for ip, _ in places) and not may_be_here(origin.host):
        places = [place for place in places if not is_inside(place[0])]
        if not places:
            raise NotDialed(Undialed.INSIDE)
    pair = await to(places[0]) if len(places) == 1 else await _first(places, to)
    return pair[1]


async def _places(origin: Origin) -> list[Place]:
    """The addresses of a host, the two families in turn (RFC 8305, section 4); an address is its own."""
    if _is_address(origin.host):
        return [(origin.host, origin.port)]
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
    by_family: dict[int, dict[Place, None]] = {}
    for family, _, _, _, place in found:
        if family in (socket.AF_INET, socket.AF_INET6):
            by_family.setdefault(family, {})[str(place[0]), int(place[1])] = None
    mixed = [place for place in chain(*zip_longest(*by_family.values())) if place is not None]
    if not mixed:
        raise socket.gaierror(socket.EAI_NONAME, "no address")
    return mixed


def _is_address(host: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    except OSError:
        return False
    return True


async def _first(places: list[Place], to: Callable[[Place], Coroutine[None, None, Pair[Connected]]]) -> Pair[Connected]:
    """The first that succeeds, each begun when the one before has failed or kept silent; else the first failure."""
    waiting = places[::-1]
    under_way: set[asyncio.Task[Pair[Connected]]] = set()
    failure: BaseException | None = None
    try:
        while waiting or under_way:
            if waiting:
                under_way.add(asyncio.create_task(to(waiting.pop())))
            done, _ = await asyncio.wait(
                under_way, timeout=STAGGER if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for one in done:
                under_way.discard(one)
                if (failed := one.exception()) is None:
                    under_way.update(done - {one})  # two at once: the other is put away below
                    return one.result()
                failure = failure or failed
        raise failure or socket.gaierror(socket.EAI_NONAME, "no address")
    finally:
        for other in under_way:
            other.cancel()
        for end in await asyncio.gather(*under_way, return_exceptions=True):
            if not isinstance(end, BaseException):
                end[0].abort()
