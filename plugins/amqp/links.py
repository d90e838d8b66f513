"""The servers that are spoken to: whose login goes where, and one publisher for each."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import structlog

from broker.core.inside import is_this_machine
from plugins.amqp.address import Server, read_login, read_server
from plugins.amqp.connection import Login, hush
from plugins.amqp.publisher import Publisher
from plugins.amqp.server import Link, tls_context
from plugins.amqp.settings import AmqpSettings

log = structlog.get_logger("plugins.amqp")

ANONYMOUS = ("guest", "guest")  # what a fresh RabbitMQ knows


class Links:
    """Makes the ways to servers; each is dialled when it is first needed."""

    def __init__(self, settings: AmqpSettings, *, may_be_here: Callable[[str], bool]) -> None:
        hush()
        self.own = read_server(settings.url, user=True)
        self._settings = settings
        self._may_be_here = may_be_here
        self._context: ssl.SSLContext | None = None
        # made at once where it is surely needed: a file that cannot be used is a mistake of the start, not of a message
        if self.own.tls or settings.tls.ca or settings.tls.cert:
            self._tls()
        self._publishers: dict[tuple[Server | None, bool], Publisher] = {}

    def publisher(self, server: Server | None, *, direct: bool = False) -> Publisher:
        """None: of our own server. Direct replies have a connection of their own: a name that some requester made up
        makes RabbitMQ close it, with all that is under way on it.
        """
        key = (None if server == self.own else server, direct)
        found = self._publishers.get(key)
        if found is None:
            found = self._publishers[key] = Publisher(self.link(key[0], "reply" if direct else "publish"))
        return found

    def link(self, server: Server | None, what: str) -> Link:
        """A connection of its own to a server."""
        there = server or self.own
        return Link(
            there,
            self._own_login() if server is None else self._login(server),
            context=self._tls() if there.tls else None,
            heartbeat=int(self._settings.heartbeat.total_seconds()),
            name=f"fhir-broker {what}",
            may_be_here=_anywhere if server is None else self._may_be_here,
        )

    def _own_login(self) -> Login:
        url = self._settings.url
        if self.own.tls and self._settings.tls.cert is not None and "@" not in url:
            return Login(user="", password="")  # the certificate says who we are
        user, password = read_login(url)
        if not self.own.tls and not _is_here(self.own.host):
            log.warning("amqp: the password goes over the network unencrypted; use amqps", server=str(self.own))
        return Login(user=user, password=password)

    def _login(self, server: Server) -> Login:
        logins = self._settings.logins
        found = logins.get(server.place) or logins.get(server.host)
        if found is None or not (server.tls or _is_here(server.host)):  # a directory may name any address
            if server.tls and self._settings.tls.cert is not None:
                return Login(user="", password="")
            user, password = ANONYMOUS
            return Login(user=user, password=password)
        return Login(user=found.user, password=found.password)

    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = tls_context(self._settings.tls)
        return self._context

    async def close(self) -> None:
        for publisher in self._publishers.values():
            await publisher.close()


def _is_here(host: str) -> bool:
    return host.lower() == "localhost" or is_this_machine(host)


def _anywhere(_host: str) -> bool:
    return True
