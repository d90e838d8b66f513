"""Reads http(s) addresses: the peer that one belongs to, the URL as it goes on the wire, and whether it is our own."""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import SplitResult, unquote, urlsplit

from yarl import URL

DEFAULT_PORT = {"http": 80, "https": 443}
_NOT_URL = re.compile(r"[\x00-\x20\x7f]")
_NOT_ASCII = re.compile(r"[^\x21-\x7e]+")
LOOPBACK = frozenset({"localhost", "::1", "0.0.0.0", "::"})


def split(address: str) -> SplitResult:
    """The parts of an address; ValueError says why it cannot be used."""
    if _NOT_URL.search(address):
        raise ValueError("an address has no spaces or control characters in it")
    parts = urlsplit(address)
    if parts.scheme not in DEFAULT_PORT:
        raise ValueError("an address of this channel begins with http:// or https://")
    if "@" in parts.netloc:
        raise ValueError("an address carries no user or password")
    if not parts.hostname:
        raise ValueError("the address names no host")
    if parts.port == 0:
        raise ValueError("port 0 cannot be reached")
    return parts


def _ascii_host(parts: SplitResult) -> str:
    host = parts.hostname or ""
    if not host.isascii():
        host = URL.build(scheme="http", host=host).raw_host or ""  # IDNA
    return f"[{host}]" if ":" in host else host


@lru_cache(maxsize=1024)
def peer_of(address: str) -> str:
    """The lane of an address: scheme, host and port."""
    parts = split(address)
    return f"{parts.scheme}://{_ascii_host(parts)}:{parts.port or DEFAULT_PORT[parts.scheme]}".lower()


@lru_cache(maxsize=1024)  # addresses are few, attempts are many
def on_the_wire(address: str, *, asynchronous: bool = False) -> URL:
    """The URL exactly as encoded, without its fragment; `asynchronous` adds `async=true` unless `async` is there."""
    parts = split(address)
    query = parts.query
    if asynchronous and not any(_names_async(part) for part in query.split("&")):
        query = f"{query}&async=true" if query else "async=true"
    port = f":{parts.port}" if parts.port is not None else ""
    text = f"{parts.scheme}://{_ascii_host(parts)}{port}{parts.path or '/'}"
    return URL(_percent(f"{text}?{query}" if query else text), encoded=True)


def _names_async(part: str) -> bool:
    return unquote(part.partition("=")[0]) == "async"


def _percent(text: str) -> str:
    return _NOT_ASCII.sub(lambda m: "".join(f"%{byte:02X}" for byte in m[0].encode()), text)


def without_query(address: str) -> str:
    """An address for a note: queries and fragments may identify somebody."""
    return address.partition("?")[0].partition("#")[0]


@lru_cache(maxsize=1024)
def is_own(address: str, base_url: str, also: tuple[str, ...] = ("/in/", "/events")) -> bool:
    """Whether an address leads back to this broker: its FHIR base, or one of its ways in beside it.

    Another path on the same host is not: a reverse proxy may have us and the receiver side by side.
    """
    own, there = split(base_url), split(address)
    if (own.port or DEFAULT_PORT[own.scheme]) != (there.port or DEFAULT_PORT[there.scheme]):
        return False
    if _place(own) != _place(there):
        return False
    path = _resolved(there.path)
    base = _resolved(own.path).rstrip("/")
    return path == base or path.startswith(base + "/") or any(path.startswith(way) for way in also)


def _place(parts: SplitResult) -> str:
    host = _ascii_host(parts).lower().strip("[]").rstrip(".")
    return "loopback" if host in LOOPBACK or host.startswith("127.") else host


def _resolved(path: str) -> str:
    """The path as a server understands it: decoded, without dot segments and empty ones."""
    kept: list[str] = []
    for segment in unquote(path).split("/"):
        if segment == "..":
            kept[-1:] = []
        elif segment not in ("", "."):
            kept.append(segment)
    return "/" + "/".join(kept) + ("/" if path.endswith("/") and kept else "")
