"""Listening: the sockets of an HTTP application, with TLS, inherited or opened, and the limits of a connection."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from broker.core.tls import ClientCertificate, Tls
from broker.express import Connection
from broker.web import LONGEST_FIELD

IDLE = 75.0  # seconds a connection may stand without a request; also the most that headers may take
BACKLOG = 1024  # connections that wait to be taken: what comes in at once, a restart included
LINGER = 2.0  # seconds in which the rest of a refused body is thrown away, so that the answer is read
LONGEST_LINE = 16 * 1024  # request line: `response-url` and chained searches


def server_context(tls: Tls) -> ssl.SSLContext:
    """TLS for a listener: 1.2 at least (X-1), client certificates as the block says."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(tls.cert, tls.key)
    if tls.client is not ClientCertificate.OFF:
        if tls.client_ca is None:
            raise ValueError(f"tls: client: {tls.client} needs client_ca, the authorities to check against")
        context.load_verify_locations(cafile=tls.client_ca)
        required = tls.client is ClientCertificate.REQUIRED
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    return context


class _Server(web.Server):
    app: web.Application
    ends = False

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if self.ends:  # it was taken just before the listener closed: nobody would end it any more
            transport.close()

    def pre_shutdown(self) -> None:
        self.ends = True
        super().pre_shutdown()

    def __call__(self) -> RequestHandler:
        return Connection(self, app=self.app, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """Runs an application on any number of listeners; a caller that goes away cancels its handler."""

    __slots__ = ("listening",)

    def __init__(self, app: web.Application, *, drain: float = 10.0) -> None:
        super().__init__(
            app,
            handler_cancellation=True,
            access_log=None,  # a request line is as sensitive as a payload
            auto_decompress=False,  # compressed bodies are unpacked by who knows the limit
            max_field_size=LONGEST_FIELD,
            max_line_size=LONGEST_LINE,
            keepalive_timeout=IDLE,
            lingering_time=LINGER,
            shutdown_timeout=drain,
        )
        self.listening: list[str] = []

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        server = _Server(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            **made._kwargs,
        )
        server.app = self.app
        return server

    async def listen(self, listen: str, tls: Tls | None = None) -> str:
        """Listens on host:port or unix:PATH; returns it with the real port."""
        if self.server is None:
            await self.setup()
        context = server_context(tls) if tls else None
        if listen.startswith("unix:"):
            path = listen.removeprefix("unix:")
            await web.UnixSite(self, path, ssl_context=context).start()
            os.chmod(path, 0o660)
            self.listening.append(listen)
            return listen
        host, port = host_and_port(listen)
        before = len(self.addresses)
        await web.TCPSite(self, host or None, port, ssl_context=context, backlog=BACKLOG).start()
        self.listening.append(_shown(self.addresses[before]))
        return self.listening[-1]

    async def listen_on(self, inherited: socket.socket, listen: str, tls: Tls | None = None) -> str:
        """Listens on a socket that the service manager has opened; it must be what the configuration says."""
        bound = _shown(inherited.getsockname())
        if not _is_same(listen, bound):
            raise ValueError(
                f"the socket that was handed down listens on {bound}, the configuration says {listen}:"
                " what it says of TLS and of who may come in is meant for that"
            )
        if self.server is None:
            await self.setup()
        context = server_context(tls) if tls else None
        await web.SockSite(self, inherited, ssl_context=context, backlog=BACKLOG).start()
        self.listening.append(bound)
        return bound


async def listen(app: web.Application, listen: str, tls: Tls | None = None) -> Runner:
    """Serves the application; `runner.listening[0]` says where, `runner.cleanup()` ends it."""
    runner = Runner(app)
    try:
        await runner.listen(listen, tls)
    except BaseException:
        await runner.cleanup()
        raise
    return runner


def _shown(bound: Any) -> str:
    """What `getsockname` says, as it is written in the configuration."""
    if not isinstance(bound, tuple):
        return f"unix:{os.fsdecode(bound)}"
    host = f"[{bound[0]}]" if ":" in str(bound[0]) else bound[0]
    return f"{host}:{bound[1]}"


def _is_same(listen: str, bound: str) -> bool:
    if listen.startswith("unix:") or bound.startswith("unix:"):
        return listen == bound
    (host, port), (bound_host, bound_port) = host_and_port(listen), host_and_port(bound)
    names = ("127.0.0.1", "::1") if host.lower() == "localhost" else (host,)
    return port in (0, bound_port) and bound_host in names


def host_and_port(text: str) -> tuple[str, int]:
    """ "127.0.0.1:8080", "[::1]:0", ":8080" as host and port."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is not host:port or unix:PATH")
    return host.removeprefix("[").removesuffix("]"), int(port)
