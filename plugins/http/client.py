"""A thin HTTP/1.1 client: one request, its answer, and the connections that are kept for the next one.

No pool limit (the lane counts), no redirects, no cookies, no proxies, no retries but one: a kept connection that the
peer closed before a byte of the answer is replaced by a new one within the same attempt (RFC 9112, section 9.3.1).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from datetime import timedelta

import msgspec
from yarl import URL

from broker.dialing import NotDialed, Origin, anywhere, client_context
from plugins.http.dial import dial
from plugins.http.exchange import Allowed, Connection, NoAnswer, Response, Trouble

IDLE = 30.0  # seconds a connection is kept; below the 60 after which many servers and balancers drop it
GOOD_BYE = 1.0  # seconds that connections have to close when we stop


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where a request goes, and how it begins: both the same for every message to one address."""

    origin: Origin
    start: str  # the request line and Host


def target_of(url: URL, method: str = "POST") -> Target:
    """Of an encoded URL; `Host` without the scheme's own port, an IPv6 address in brackets (RFC 9110, section 7.2)."""
    host, port = url.raw_host, url.port
    if not host or port is None:
        raise ValueError("the address names no host")
    start = f"{method} {url.raw_path_qs} HTTP/1.1\r\nHost: {url.host_port_subcomponent}\r\n"
    return Target(origin=Origin(host=host, port=port, tls=url.scheme == "https"), start=start)


def fields_of(*headers: tuple[str, str]) -> str:
    """Header lines; ValueError for a value that would end its line and begin another."""
    text = "".join([f"{name}: {value}\r\n" for name, value in headers])
    if "\0" in text or not text.count("\r") == text.count("\n") == len(headers):
        raise ValueError("a header's value has a line break in it")
    return text


class Client:
    """Keeps connections by origin; whoever finished last is used next, so that what is too many grows idle."""

    def __init__(
        self,
        *,
        client_ca: str | None = None,
        idle: float = IDLE,
        may_be_here: Callable[[str], bool] = anywhere,
    ) -> None:
        self._client_ca = client_ca
        self._may_be_here = may_be_here
        self._idle = idle
        self._context: ssl.SSLContext | None = None
        self._kept: dict[Origin, list[Connection]] = {}  # the one that was used last is last
        self._all: set[Connection] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._gone: asyncio.Event | None = None  # set once all are closed, after a stop

    async def send(
        self,
        target: Target,
        fields: str,
        body: bytes,
        *,
        connect: timedelta,
        answer: timedelta,
        allowed: Allowed,
    ) -> Response:
        """The answer to one request with these header lines (`fields_of`), its body bounded by what `allowed` says.

        Raises `NoAnswer`, and ValueError for a host that is no name. `connect` limits name, TCP and TLS, `answer` all
        that follows; both together limit the attempt, also where a second connection is needed.
        """
        if self._gone is not None:
            raise NoAnswer(Trouble.NO_CONNECTION, "this broker is stopping")
        head = f"{target.start}{fields}Content-Length: {len(body)}\r\n\r\n".encode()
        now = asyncio.get_running_loop().time
        to_connect, wait = connect.total_seconds(), answer.total_seconds()
        until = now() + to_connect + wait
        kept = self._take(target.origin)
        connection = kept or await self._dial(target.origin, to_connect)
        while True:
            response = connection.send(head, body, allowed, wait)
            try:
                return await response
            except asyncio.CancelledError:
                if response.cancelled():  # else it is done, and the connection may be somebody else's already
                    connection.abort()
                raise
            except NoAnswer as no:
                if connection is not kept or not no.untouched or self._gone is not None:
                    raise
                died = no
            # The peer had closed it, most likely before it read anything; if it did read, it gets a copy (promise 2).
            try:
                connection = await self._dial(target.origin, min(to_connect, until - now()))
            except NoAnswer as none:  # but then nobody may say that nothing has left
                raise died from none
            wait = min(wait, until - now())

    async def stop(self) -> None:
        """Closes every connection, those under way as well."""
        self._gone = asyncio.Event()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        idle = {connection for kept in self._kept.values() for connection in kept}
        self._kept.clear()
        for connection in list(self._all):
            if connection in idle:
                connection.close()
            else:
                connection.abort()
        try:
            async with asyncio.timeout(GOOD_BYE):
                while self._all:
                    self._gone.clear()
                    await self._gone.wait()
        except TimeoutError:
            for connection in list(self._all):
                connection.abort()
            await asyncio.sleep(0)

    # --- connections ---

    async def _dial(self, origin: Origin, seconds: float) -> Connection:
        def build() -> Connection:
            return Connection(lambda one: self._keep(origin, one), lambda one: self._lose(origin, one))

        context = self._tls() if origin.tls else None
        connection = await dial(origin, build, context, seconds, may_be_here=self._may_be_here)
        if self._gone is not None:
            connection.abort()
            raise NoAnswer(Trouble.NO_CONNECTION, "this broker is stopping")
        if not connection.open:  # closed, or spoken on, before we could ask
            raise NoAnswer(Trouble.CLOSED)
        self._all.add(connection)
        return connection

    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            try:
                self._context = client_context(self._client_ca)
            except NotDialed as not_dialed:
                raise NoAnswer(Trouble[not_dialed.why.name], not_dialed.reason) from None
        return self._context

    def _take(self, origin: Origin) -> Connection | None:
        kept = self._kept.get(origin)
        while kept:
            connection = kept.pop()
            if connection.open:
                return connection
        return None

    def _keep(self, origin: Origin, connection: Connection) -> None:
        if self._gone is not None:
            connection.abort()
            return
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        kept = self._kept.get(origin)
        if kept is None:
            kept = self._kept[origin] = []
        kept.append(connection)
        if self._sweeper is None:
            self._sweeper = loop.call_later(self._idle, self._sweep)

    def _lose(self, origin: Origin, connection: Connection) -> None:
        self._all.discard(connection)
        kept = self._kept.get(origin)
        if kept is not None:
            if connection in kept:
                kept.remove(connection)
            if not kept:
                del self._kept[origin]
        if self._gone is not None and not self._all:
            self._gone.set()

    def _sweep(self) -> None:
        """Closes what has been idle for long enough, and comes again when the next one will have been."""
        loop = asyncio.get_running_loop()
        oldest, self._sweeper = loop.time() - self._idle, None
        next_one: float | None = None
        for origin, kept in list(self._kept.items()):
            count = next((at for at, one in enumerate(kept) if one.idle_since > oldest), len(kept))
            for connection in kept[:count]:
                connection.close()
            del kept[:count]
            if kept:
                next_one = min(next_one or kept[0].idle_since, kept[0].idle_since)
            else:
                del self._kept[origin]
        if next_one is not None:
            self._sweeper = loop.call_at(next_one + self._idle, self._sweep)
