"""One server and its connection: made when somebody needs it, shared by all, made anew after it broke."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable

import structlog

from plugins.amqp.address import Server
from plugins.amqp.connection import Connection, Login, dial, is_ours
from plugins.amqp.settings import ClientTls
from plugins.amqp.transport import NoConnection, Transport

log = structlog.get_logger("plugins.amqp")


def tls_context(tls: ClientTls) -> ssl.SSLContext:
    """How amqps servers are checked, and our own certificate; ValueError says which file cannot be used."""
    try:
        context = ssl.create_default_context(cafile=tls.ca)
        if tls.cert is not None:
            context.load_cert_chain(tls.cert, tls.key)
    except OSError as error:
        raise ValueError(f"channels.amqp.tls: the certificates cannot be used: {error}") from None
    return context


class Link:
    """The way to one server. Consuming and publishing have one each: RabbitMQ stops reading from who publishes when it
    is short of memory or disk, and acknowledgements must still get through then.
    """

    def __init__(
        self,
        server: Server,
        login: Login,
        *,
        context: ssl.SSLContext | None,
        heartbeat: int,
        name: str,
        may_be_here: Callable[[str], bool],
    ) -> None:
        self.server = server
        self._login = login
        self._context = context
        self._heartbeat = heartbeat
        self._name = name
        self._may_be_here = may_be_here
        self._connection: Connection | None = None
        self._dialling: asyncio.Task[Connection] | None = None

    @property
    def current(self) -> Connection | None:
        """The connection, if there is one now."""
        found = self._connection
        return found if found is not None and found.is_open else None

    async def connection(self, seconds: float) -> Connection:
        """The connection, made where there is none; raises `NoConnection`."""
        current = self.current
        if current is not None:
            return current
        if self._dialling is None or self._dialling.done():
            self._dialling = asyncio.get_running_loop().create_task(self._dial(seconds), name=f"dial {self.server}")
            self._dialling.add_done_callback(_seen)
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.shield(self._dialling)
        except TimeoutError:
            raise NoConnection("no connection in time") from None

    async def close(self) -> None:
        if self._dialling is not None:
            self._dialling.cancel()
            await asyncio.gather(self._dialling, return_exceptions=True)
        if self._connection is not None:
            await self._connection.close()

    # -- dialling

    async def _dial(self, seconds: float) -> Connection:
        transport = Transport(
            self.server, context=self._context, heartbeat=self._heartbeat, may_be_here=self._may_be_here
        )
        try:
            if self._connection is not None:
                await self._connection.close()  # aio-pika lets go of it only so
            async with asyncio.timeout(seconds):
                connection = await dial(self.server, self._login, transport, heartbeat=self._heartbeat, name=self._name)
        except asyncio.CancelledError as error:
            if is_ours(error):
                raise
            raise NoConnection("the server hung up") from None
        except NoConnection:
            raise
        except Exception as error:
            raise NoConnection(_reason(error)) from None
        self._connection = connection
        log.info("amqp: connected", server=str(self.server), connection=self._name)
        return connection


def _seen(dialling: asyncio.Task[Connection]) -> None:
    """Who waited for it may have gone."""
    if not dialling.cancelled():
        dialling.exception()


def _reason(error: BaseException) -> str:
    """Never the text of the exception: it may quote what was on the wire."""
    if isinstance(error, TimeoutError):
        return "no connection in time"
    if isinstance(error, socket.gaierror):
        return "its name is not known"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not believed ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return "no TLS could be agreed"
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return f"no connection: {os.strerror(error.errno).lower()}"
    return f"no connection ({type(error).__name__})"
