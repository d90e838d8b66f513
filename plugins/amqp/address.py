"""Reads amqp(s) addresses: which server, which exchange and routing key, and the peer that one belongs to.

`amqp:?exchange=X&routing_key=Y` is on the server of the channel's own `url`; `amqps://host:port/vhost?exchange=…` is
on another. Without an exchange it is the default one, where the routing key is the name of a queue.
"""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import msgspec

SCHEMES = ("amqp", "amqps")
PORTS = {"amqp": 5672, "amqps": 5671}
KEYS = ("exchange", "routing_key")
LONGEST_SHORT = 255  # bytes of a short string: of an id, a routing key
LONGEST_EXCHANGE = 127  # as pamqp writes it
NAME = re.compile(r"[a-zA-Z0-9-_.:@#,/+ ]+")  # what pamqp writes as the name of a queue or an exchange
_NOT_URL = re.compile(r"[\x00-\x20\x7f]")
_VHOST = re.compile(r"/[^/]*")


def fits(text: str | None) -> bool:
    """Whether a text can be a short string."""
    if text is None:
        return False
    try:
        return len(text.encode()) <= LONGEST_SHORT
    except UnicodeEncodeError:  # what was read and is no UTF-8 (lenient.py)
        return False


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """A RabbitMQ, and the part of it that is meant."""

    host: str
    port: int
    vhost: str = "/"
    tls: bool = False

    @property
    def place(self) -> str:
        """host:port, as logins are listed and logs say."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        vhost = "" if self.vhost == "/" else quote(self.vhost, safe="")
        return f"amqp{'s' if self.tls else ''}://{self.place}/{vhost}"


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a message goes."""

    server: Server | None  # None: that of the channel's own url
    exchange: str
    routing_key: str


def read_server(url: str, *, user: bool = False) -> Server:
    """The server of a URL; ValueError says why it cannot be used. With `user`, it may carry a login."""
    if _NOT_URL.search(url):
        raise ValueError("an address has no spaces or control characters in it")
    parts = urlsplit(url)
    if parts.scheme not in PORTS:
        raise ValueError("it begins with amqp:// or amqps://")
    if "@" in parts.netloc and not user:
        raise ValueError("an address carries no user or password: they stand under `logins` of the channel amqp")
    if not parts.hostname:
        raise ValueError("the address names no host")
    if parts.port == 0:
        raise ValueError("port 0 cannot be reached")
    if parts.path and not _VHOST.fullmatch(parts.path):
        raise ValueError("the path is the vhost: one segment, its slashes written %2F")
    if parts.fragment:
        raise ValueError("it has a fragment, which means nothing here")
    vhost = unquote(parts.path[1:]) or "/"
    return Server(host=parts.hostname, port=parts.port or PORTS[parts.scheme], vhost=vhost, tls=parts.scheme == "amqps")


def read_login(url: str) -> tuple[str, str]:
    """User and password of a URL; those of a fresh RabbitMQ where it has none."""
    parts = urlsplit(url)
    if parts.username is None:
        return "guest", "guest"
    return unquote(parts.username), unquote(parts.password or "")


@lru_cache(maxsize=1024)  # addresses are few, attempts are many
def read_place(address: str) -> Place:
    """Where an address leads; ValueError says why it cannot be used."""
    scheme, _, rest = address.partition(":")
    base, _, query = rest.partition("?")
    if _NOT_URL.search(address) or scheme.lower() not in SCHEMES:
        raise ValueError("an address of this channel begins with amqp: or amqps:")
    if base and not base.startswith("//"):
        raise ValueError("write amqp:?exchange=…&routing_key=…, or amqp://host/vhost?exchange=…")
    found = _query(query)
    if not base and scheme.lower() == "amqps":
        raise ValueError("amqps: without a host says nothing: amqp:? is on the server of the channel's own url")
    server = read_server(f"{scheme.lower()}:{base}") if base else None
    return Place(server=server, exchange=found.get("exchange", ""), routing_key=found.get("routing_key", ""))


def _query(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), errors="strict")
    except ValueError:
        raise ValueError("its query is not name=value&name=value") from None
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("it says one thing twice")
    strange = [name for name in found if name not in KEYS]
    if strange:
        raise ValueError(f"it has {', '.join(strange)}, where exchange and routing_key are known")
    if not found.get("exchange") and not found.get("routing_key"):
        raise ValueError("it names neither an exchange nor, as routing_key, a queue")
    exchange = found.get("exchange", "")
    if exchange and not (NAME.fullmatch(exchange) and len(exchange) <= LONGEST_EXCHANGE):
        raise ValueError(f"an exchange has at most {LONGEST_EXCHANGE} ASCII letters, digits, spaces and -_.:@#,/+")
    if not fits(found.get("routing_key", "")):
        raise ValueError(f"a routing_key has at most {LONGEST_SHORT} bytes")
    return found


@lru_cache(maxsize=1024)
def peer_of(address: str) -> str:
    """The lane of an address: server and exchange. All queues behind the default exchange are one peer."""
    place = read_place(address)
    base = "amqp:" if place.server is None else str(place.server)
    return f"{base}?exchange={quote(place.exchange)}" if place.exchange else base


def queue_address(queue: str) -> str:
    """The address of a queue on the channel's own server."""
    return f"amqp:?routing_key={quote(queue, safe='')}"
