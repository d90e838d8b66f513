"""A connection of aio-pika, and in our words why it ended; what aio-pika raises is translated here, and only here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import MappingProxyType
from urllib.parse import quote

import aio_pika
import msgspec
from aio_pika.abc import AbstractChannel
from aiormq import channel as channels
from aiormq import connection as connections
from aiormq.exceptions import AMQPError, AuthenticationError, ChannelClosed, ChannelInvalidStateError, ConnectionClosed
from aiormq.exceptions import ProbableAuthenticationError as Denied
from yarl import URL

from plugins.amqp.address import Server
from plugins.amqp.transport import NoConnection, Transport

CALL = 15.0  # seconds for the answer to one call; RabbitMQ takes milliseconds, a quorum queue in trouble some seconds
CLOSE = 5.0  # seconds for a close in good order
MOST_CHANNELS = 2047  # that RabbitMQ grants a connection
CODES = MappingProxyType(
    {made: code for code, made in {**connections.EXCEPTION_MAPPING, **channels.EXCEPTION_MAPPING}.items()}
    | {Denied: 403}
)


class Ended(msgspec.Struct, frozen=True):
    """Why an amqp_channel or a connection is no more; 0 where nobody said so in AMQP's words."""

    code: int
    text: str

    def __str__(self) -> str:
        return f"{self.code} {self.text}" if self.code else self.text


class Closed(Exception):
    """The amqp_channel or its connection is closed."""

    def __init__(self, ended: Ended) -> None:
        super().__init__(str(ended))
        self.ended = ended


def ended_by(error: BaseException | None) -> Ended:
    """Only what the server said: the text of other exceptions may quote what was on the wire."""
    if isinstance(error, Closed):
        return error.ended
    code = CODES.get(type(error))
    if code is not None and error is not None:
        return Ended(code, str(error.args[0]))
    if isinstance(error, ChannelClosed | ConnectionClosed) and len(error.args) == 2 and error.args[0]:
        return Ended(int(error.args[0]), str(error.args[1]))
    return Ended(0, "the connection broke")


def is_ours(error: asyncio.CancelledError) -> bool:
    """Whether this task is really cancelled: aiormq ends futures with CancelledError when a connection closes."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


@asynccontextmanager
async def calling(seconds: float = CALL) -> AsyncIterator[None]:
    """Around calls to a server; raises `Closed`."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except asyncio.CancelledError as error:
        if is_ours(error):
            raise
        raise Closed(ended_by(error)) from None
    except TimeoutError:
        raise Closed(Ended(0, "the server did not answer in time")) from None
    except (AMQPError, ChannelInvalidStateError, OSError, RuntimeError, ValueError) as error:
        raise Closed(ended_by(error)) from None


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """How we prove ourselves: EXTERNAL (the certificate says who we are) where the user is empty."""

    user: str
    password: str


class _Dialled(aio_pika.Connection):
    """aio-pika's own, over a transport of ours."""

    def __init__(self, url: URL, transport: Transport) -> None:
        super().__init__(url)
        self.kwargs["transport_factory"] = transport


class Connection:
    """Made by `dial`; `closing` is done when it is no more."""

    def __init__(self, made: aio_pika.Connection, transport: Transport) -> None:
        assert made.transport is not None
        underlay = made.transport.connection
        assert isinstance(underlay, connections.Connection)
        self.transport = transport
        self._made = made
        self._underlay = underlay
        self._opening = asyncio.Lock()

    @property
    def is_open(self) -> bool:
        return self._underlay.is_opened

    @property
    def is_blocked(self) -> bool:
        """Whether the server said that it takes no messages now: `ready` then waits, and else returns at once."""
        waiting = self._underlay.ready()
        try:
            waiting.send(None)
        except StopIteration:
            return False
        waiting.close()
        return True

    @property
    def is_silent(self) -> bool:
        return self._underlay.is_connection_was_stuck

    async def amqp_channel(self, *, confirms: bool = False) -> AbstractChannel:
        """A new one, by the lowest number: aiormq takes ever higher ones, up to where the server hangs up."""
        async with calling(), self._opening:
            taken = self._underlay.channels
            number = next(n for n in range(1, MOST_CHANNELS + 1) if n not in taken)
            channel = self._made.channel(number, publisher_confirms=confirms)
            await channel.initialize()
            return channel

    async def close(self) -> None:
        """In good order, within a bound."""
        self.transport.pause(False)
        try:
            async with asyncio.timeout(CLOSE):
                await self._made.close()
        except TimeoutError:
            self.transport.abort()
            await self._made.close()


def hush() -> None:
    """What matters of it we say ourselves; aiormq logs whole messages, and addresses of its own objects."""
    for name in ("aiormq", "aio_pika"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


async def dial(server: Server, login: Login, transport: Transport, *, heartbeat: int, name: str) -> Connection:
    """Raises `NoConnection` for what the server says, and what looking up and connecting raise."""
    user = f"{quote(login.user, safe='')}:{quote(login.password, safe='')}@" if login.user else ""
    url = URL(
        f"amqp{'s' if server.tls else ''}://{user}{server.place}/{quote(server.vhost, safe='')}"
        f"?heartbeat={heartbeat}&name={quote(name)}&auth={'plain' if login.user else 'external'}",
        encoded=True,
    )
    made = _Dialled(url, transport)
    try:
        await made.connect()
    except BaseException as error:
        transport.abort()
        await made.close()
        if isinstance(error, AMQPError):
            raise NoConnection(_no_handshake(error)) from None
        raise
    return Connection(made, transport)


def _no_handshake(error: AMQPError) -> str:
    ended = ended_by(error)
    if ended.code:
        return f"the server says {ended}"
    if isinstance(error, AuthenticationError):
        return "the server knows no way of login that we know"
    return "what answers there is no AMQP 0-9-1 server, or it hung up"
