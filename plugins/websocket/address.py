"""Reads ws(s) addresses: the peer that one belongs to, how it is called there, and whether it is our own."""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import SplitResult, urlsplit

from websockets.exceptions import InvalidURI
from websockets.uri import WebSocketURI, parse_uri

from broker.dialing import Origin

DEFAULT_PORT = {"ws": 80, "wss": 443}
_NOT_URL = re.compile(r"[\x00-\x20\x7f]")
_LOOPBACK = frozenset({"localhost", "::1", "0.0.0.0", "::"})


def split(address: str) -> SplitResult:
    """The parts of an address; ValueError says why it cannot be used."""
    if _NOT_URL.search(address):
        raise ValueError("an address has no spaces or control characters in it")
    parts = urlsplit(address)
    if parts.scheme not in DEFAULT_PORT:
        raise ValueError("an address of this channel begins with ws:// or wss://")
    if "@" in parts.netloc:
        raise ValueError("an address carries no user or password")
    if not parts.hostname:
        raise ValueError("the address names no host")
    if parts.port == 0:
        raise ValueError("port 0 cannot be reached")
    if parts.fragment:
        raise ValueError("an address of this channel has no #fragment")
    return parts


@lru_cache(maxsize=1024)
def uri_of(address: str) -> WebSocketURI:
    """The address as the library calls it, international names encoded; ValueError for one that cannot be used."""
    split(address)
    try:
        return parse_uri(address)
    except (InvalidURI, UnicodeError):
        raise ValueError("the address is no WebSocket URL") from None


def origin_of(uri: WebSocketURI) -> Origin:
    return Origin(host=uri.host, port=uri.port, tls=uri.secure)


@lru_cache(maxsize=1024)
def peer_of(address: str) -> str:
    """The lane of an address: scheme, host and port."""
    uri = uri_of(address)
    host = f"[{uri.host}]" if ":" in uri.host else uri.host
    return f"{'wss' if uri.secure else 'ws'}://{host}:{uri.port}".lower()


def is_own(address: str, own: str) -> bool:
    """Whether an address leads back to our own listener: the same host and port; there is one server behind both."""
    here, there = uri_of(own), uri_of(address)
    return here.port == there.port and _place(here.host) == _place(there.host)


def _place(host: str) -> str:
    host = host.lower().rstrip(".")
    return "loopback" if host in _LOOPBACK or host.startswith("127.") else host


def without_query(address: str) -> str:
    """An address for a note: queries may identify somebody."""
    return address.partition("?")[0]
