"""The WebSocket server: shakes hands, picks the subprotocol, and goes without leaving anybody in the dark."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Sequence
from ipaddress import ip_network
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import structlog
from websockets.asyncio.server import Server, ServerConnection, serve, unix_serve
from websockets.frames import CloseCode
from websockets.http11 import Request, Response

from broker.channel import Host, Peer
from broker.core.forwarded import peer_address
from broker.serving import BACKLOG, host_and_port, server_context
from plugins.websocket import events, frames, subscribers
from plugins.websocket.connection import Connection
from plugins.websocket.events import Events
from plugins.websocket.exchange import Exchange, Limits
from plugins.websocket.following import Following
from plugins.websocket.mailboxes import Showing
from plugins.websocket.settings import WebSocketSettings
from plugins.websocket.subscribers import Subscribed
from plugins.websocket.taking import Speaker

log = structlog.get_logger("websocket")
# The library tells of each stranger whose handshake fails; that is no news of ours, and may quote what they sent.
library = logging.getLogger("broker.websocket.library")
library.setLevel(logging.CRITICAL + 1)

SHAKE = 10.0  # seconds for TLS and the handshake
GOOD_BYE = 3.0  # seconds that the other side has to answer a close frame
RETRY_AFTER = 10  # seconds, told where there are too many connections
READ_AHEAD = 4  # messages of one connection that wait to be read by us
LARGEST_FRAMING = 4 / 3  # of a body in base64, as in a structured event
UNTOLD = frozenset(
    {"authorization", "proxy-authorization", "cookie", "x-api-key", "host", "connection", "upgrade", "content-length"}
)
_MAILBOX = re.compile(r"/mailbox/(?P<endpoint>[^/]+)/?")
_WAY_IN = re.compile(r"/in/(?P<name>[^/]+)/?")
_POSITION = re.compile(r"[0-9]{1,18}", re.ASCII)
SUBPROTOCOLS = (frames.SUBPROTOCOL, events.SUBPROTOCOL)
Speaking = Exchange | Events | Subscribed


class WebSocketReceiver:
    def __init__(self, settings: WebSocketSettings, host: Host) -> None:
        self._settings = settings
        self._host = host
        self._proxies = tuple(ip_network(network) for network in settings.behind_proxy)
        self._showing = Showing(host)
        self._following = Following(host)
        self._limits = Limits(under_way=settings.under_way, window=settings.window)
        self._server: Server | None = None
        self._sessions: dict[Connection, Speaking] = {}
        self._draining = False
        self.listening = ""

    @property
    def subscribers_at(self) -> str:
        """The URL that subscribers connect to (S-42, S-43); "" where nobody can be told one."""
        url, listen = self._settings.url, self.listening
        if url is not None:
            return url.rstrip("/") + subscribers.PATH
        if not listen or listen.startswith("unix:"):
            return ""
        return f"{'ws' if self._settings.tls is None else 'wss'}://{listen}{subscribers.PATH}"

    # -- life

    async def start(self) -> None:
        settings = self._settings
        ping = settings.ping.total_seconds()
        context = server_context(settings.tls) if settings.tls else None
        options: dict[str, Any] = {
            "origins": [None, *settings.origins],
            "subprotocols": SUBPROTOCOLS,
            "select_subprotocol": _select,
            "compression": None,  # three times the memory of a connection, for bodies that are read once
            "process_request": self._look,
            "server_header": None,
            "open_timeout": SHAKE,
            "ping_interval": ping,
            "ping_timeout": ping,
            "close_timeout": GOOD_BYE,
            "max_size": int(self._host.max_message * LARGEST_FRAMING) + frames.LONGEST_HEAD,
            "max_queue": READ_AHEAD,
            "write_limit": settings.send_queue,
            "logger": library,
            "create_connection": Connection,
            "ssl": context,
            "backlog": BACKLOG,
        }
        if settings.listen.startswith("unix:"):
            path = settings.listen.removeprefix("unix:")
            self._server = await unix_serve(self._handle, path, **options)
            os.chmod(path, 0o660)
            self.listening = settings.listen
            return
        host, port = host_and_port(settings.listen)
        self._server = await serve(self._handle, host or None, port, **options)
        bound = self._server.sockets[0].getsockname()
        self.listening = f"[{bound[0]}]:{bound[1]}" if ":" in str(bound[0]) else f"{bound[0]}:{bound[1]}"

    async def stop(self) -> None:
        """No new connections and no new messages; who waits for nothing is told to come again."""
        self._draining = True
        if self._server is None:
            return
        self._server.close(close_connections=False)
        await self._close([one for one, session in self._sessions.items() if not session.is_busy])

    async def finish(self) -> None:
        """Everything that was under way has ended: its answers are sent, and the rest is closed."""
        if self._server is None:
            return
        try:
            async with asyncio.timeout(GOOD_BYE):
                for session in list(self._sessions.values()):
                    await session.idle()
        except TimeoutError:
            pass
        await self._close(list(self._sessions))
        self._showing.stop()
        self._following.stop()
        async with asyncio.timeout(GOOD_BYE):
            await self._server.wait_closed()

    async def _close(self, connections: Sequence[Connection]) -> None:
        await asyncio.gather(
            *(one.leave(CloseCode.SERVICE_RESTART, "service restart", GOOD_BYE) for one in connections)
        )

    # -- the handshake

    def _look(self, connection: ServerConnection, request: Request) -> Response | None:
        if self._draining or len(self._sessions) >= self._settings.connections:
            response = connection.respond(503, "Too many connections, or a restart: come again later.\n")
            response.headers["Retry-After"] = str(RETRY_AFTER)
            return response
        path = urlsplit(request.path).path
        if path == "/" or _MAILBOX.fullmatch(path) or _WAY_IN.fullmatch(path):
            return None
        if path == subscribers.PATH and self._host.subscriptions is not None:
            return None
        return connection.respond(404, "Nothing is here: use /, /in/{name} or /mailbox/{endpoint}.\n")

    async def _handle(self, connection: ServerConnection) -> None:
        assert isinstance(connection, Connection)
        assert connection.request is not None
        path, query = _place(connection.request.path)
        speaker = self._speaker(connection, path)
        connection.forget_handshake()
        connection.room = self._host.room
        session: Speaking
        if path == subscribers.PATH and self._host.subscriptions is not None:
            session = Subscribed(connection, self._host.subscriptions, speaker)
        elif connection.subprotocol == frames.SUBPROTOCOL:
            if _MAILBOX.fullmatch(path):
                await connection.close(
                    CloseCode.POLICY_VIOLATION, f"with {frames.SUBPROTOCOL}, connect to / and send subscribe"
                )
                return
            session = self._exchange(connection, speaker)
        elif connection.subprotocol == events.SUBPROTOCOL:
            made = await self._events(connection, speaker, path, query)
            if made is None:
                return
            session = made
        else:  # C-46: it is the client's part to go; we say why it should
            await connection.close(CloseCode.POLICY_VIOLATION, f"offer a subprotocol: {' or '.join(SUBPROTOCOLS)}")
            return
        connection.session = session
        self._sessions[connection] = session
        try:
            await session.run()
        except Exception:
            log.exception("a session failed", peer=speaker.peer.address)
            await connection.close(CloseCode.INTERNAL_ERROR, "an error in this broker; its log says what")
        finally:
            connection.session = None
            del self._sessions[connection]

    def _exchange(self, connection: Connection, speaker: Speaker) -> Exchange:
        return Exchange(
            connection, self._host, speaker, limits=self._limits, showing=self._showing, following=self._following,
            draining=self._is_draining,
        )  # fmt: skip

    async def _events(
        self, connection: Connection, speaker: Speaker, path: str, query: dict[str, list[str]]
    ) -> Events | None:
        session = Events(connection, self._host, speaker, showing=self._showing, draining=self._is_draining)
        found = _MAILBOX.fullmatch(path)
        if found is None:
            return session
        after = query.get("after", ["0"])[-1]
        if not _POSITION.fullmatch(after):
            await connection.close(CloseCode.POLICY_VIOLATION, "after is a position, a whole number")
            return None
        session.show(unquote(found["endpoint"]), int(after))
        return session

    def _is_draining(self) -> bool:
        return self._draining

    def _speaker(self, connection: Connection, path: str) -> Speaker:
        assert connection.request is not None
        found = _WAY_IN.fullmatch(path)
        forwarded = connection.request.headers.get_all("X-Forwarded-For")
        headers = tuple(
            (name.lower(), value)
            for name, value in connection.request.headers.raw_items()
            if name.lower() not in UNTOLD and not name.lower().startswith("sec-websocket")
        )
        return Speaker(
            peer=Peer(address=peer_address(connection.remote_address, forwarded, self._proxies)),
            headers=headers,
            way_in=unquote(found["name"]) if found else None,
        )


def _select(connection: ServerConnection, offered: Sequence[str]) -> Any:
    """Ours where it is offered; none where there is no common one, which is no error of the handshake (C-46).

    Subscribers speak none: FHIR names none for its binding.
    """
    if connection.request is not None and urlsplit(connection.request.path).path == subscribers.PATH:
        return None
    return next((one for one in SUBPROTOCOLS if one in offered), None)


def _place(target: str) -> tuple[str, dict[str, list[str]]]:
    parts = urlsplit(target)
    return parts.path, parse_qs(parts.query, keep_blank_values=True)
