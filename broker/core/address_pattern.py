"""Decides whether an address is one that an allow-list means; what it does not surely understand, it refuses.

This list guards where the broker connects (M-48, A-27). An address is compared piece by piece, as a URL, and every
spelling that two readers of URLs have been known to read differently is refused: user parts, backslashes, fragments,
encoded dots and slashes, numbers as hosts, dots at the end of a host.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator

import msgspec

PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443, "amqp": 5672, "amqps": 5671, "mqtt": 1883, "mqtts": 8883}
LONGEST = 8190  # characters; what HTTP servers commonly take as a request line

# Authority without user part, brackets aside; `re.fullmatch` and classes spelled out: nothing else gets through.
_URL = re.compile(
    r"([A-Za-z][A-Za-z0-9+.\-]*)://"
    r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._\-]+)(?::([0-9]{1,5}))?"
    r"((?:/[A-Za-z0-9._~!$&'()*+,;=:@%\-]*)*)"
    r"(?:\?[\x21-\x22\x24-\x5b\x5d-\x7e]*)?"
)
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_\-]{0,61}[a-z0-9_])?")
_NUMBERISH = re.compile(r"(?:[0-9]+|0[xX][0-9a-fA-F]*)")
_ESCAPE = re.compile(r"%(?:([0-9A-Fa-f]{2})|)")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_~")


class Url(msgspec.Struct, frozen=True):
    """The pieces of an address that a pattern looks at, in one spelling each."""

    scheme: str
    host: str  # lower case; an IPv6 literal in brackets and in its shortest form
    port: int | None
    path: tuple[str, ...]  # segments; ("",) for `/` and for no path


def read_url(text: str) -> Url:
    """The pieces of `scheme://host[:port][/path][?query]`; ValueError, saying why, for all that is not surely that."""
    if len(text) > LONGEST:
        raise ValueError(f"it is longer than {LONGEST} characters")
    match = _URL.fullmatch(text)
    if not match:
        raise ValueError(_why_no_url(text))
    scheme = match[1].lower()
    return Url(scheme, _host(match[2].lower()), _port(match[3], scheme), _path(match[4]))


def _why_no_url(text: str) -> str:
    if not text.isascii() or not text.isprintable() or " " in text:
        return "it has characters that no URL has; write a host name as xn--… and the rest percent-encoded"
    if "\\" in text:
        return "it has a backslash"
    if "#" in text:
        return "it has a fragment, and nothing of it would be sent"
    scheme, found, rest = text.partition("://")
    if not found or not scheme:
        return "it is not scheme://host/path"
    if "@" in re.split(r"[/?]", rest, maxsplit=1)[0]:
        return "it has a user part before the host"
    return "host, port or path are not written as a URL has them"


def _host(host: str) -> str:
    if host.startswith("["):
        try:
            return f"[{ipaddress.IPv6Address(host[1:-1]).compressed}]"
        except ValueError:
            raise ValueError("the host is no IPv6 address") from None
    labels = host.split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("the host name has an empty, overlong or misspelt label, or a dot at its end")
    if _NUMBERISH.fullmatch(labels[-1]):  # 127.1, 0x7f.0.0.1 and 2130706433 are 127.0.0.1 to many a resolver
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise ValueError("the host is a number, but no IPv4 address in four decimal parts") from None
    return host


def _port(port: str | None, scheme: str) -> int | None:
    if port is None:
        return PORTS.get(scheme)
    if port.startswith("0") or int(port) > 65535:
        raise ValueError("the port is no number from 1 to 65535")
    return int(port)


def _path(path: str) -> tuple[str, ...]:
    segments = tuple(_segment(segment) for segment in path.split("/")[1:])
    return segments or ("",)


def _segment(segment: str) -> str:
    # `..;x` is `..` to servers that cut path parameters off
    if segment.split(";", 1)[0] in (".", ".."):
        raise ValueError("the path has a segment of dots, which steps out of what stands before it")
    return _ESCAPE.sub(_unescape, segment) if "%" in segment else segment


def _unescape(match: re.Match[str]) -> str:
    """One spelling for each escape; none for those that would be read as structure once decoded."""
    if match[1] is None:
        raise ValueError("the path has a % without two hexadecimal digits")
    byte = int(match[1], 16)
    if byte < 0x20 or byte in b"./\\%#?;" or byte == 0x7F:
        raise ValueError(f"the path has {match[0]} for a character that must not be hidden")
    return chr(byte) if byte in _UNRESERVED else match[0].upper()


def host_of(text: str) -> str:
    """The host that an address or a pattern names literally, in one spelling; nothing where it has none or a `*`."""
    authority = re.split(r"[/?#]", text.partition("://")[2], maxsplit=1)[0].rpartition("@")[2]
    host = authority[1:].partition("]")[0] if authority.startswith("[") else authority.partition(":")[0]
    return "" if "*" in host else same_host(host)


def same_host(host: str) -> str:
    """Two hosts are the same where this is: case, a dot at the end and the spelling of an IPv6 address do not count."""
    if ":" in host:
        try:
            return ipaddress.IPv6Address(host).compressed
        except ValueError:
            return host.lower()
    return host.lower().rstrip(".")


class AddressPattern(msgspec.Struct, frozen=True):
    """`scheme://host[:port]/path`, where the host may begin with `*.` and the path may end in `/*`.

    `*.` stands for one or more labels. `/*` stands for one or more segments, the last of which may be empty, so
    `https://a.example/*` means every address at that host.
    """

    text: str
    url: Url  # of a wildcard host, what follows `*.`
    subdomains: bool  # the host began with `*.`
    below: bool  # the path ended in `/*`

    @classmethod
    def parse(cls, text: str) -> AddressPattern:
        """Read a pattern; ValueError says what is wrong with it and how one is written."""
        try:
            return cls._parse(text)
        except ValueError as error:
            raise ValueError(
                f"{text[:200]!r} is no pattern for addresses: {error}; "
                "write scheme://host/path, where `*.` may begin the host and `/*` may end the path"
            ) from None

    @classmethod
    def _parse(cls, text: str) -> AddressPattern:
        scheme, found, rest = text.partition("://")
        if not found:
            raise ValueError("it is not scheme://host/path")
        subdomains = rest.startswith("*.")
        if subdomains:
            rest = rest[2:]
        below = rest.endswith("/*")
        if below:
            rest = rest[:-2]
        if "*" in rest or "*" in scheme:
            raise ValueError("it has `*` elsewhere")
        if "?" in rest:
            raise ValueError("it has a query, which is never compared")
        url = read_url(f"{scheme}://{rest}")
        if subdomains and (url.host.startswith("[") or _NUMBERISH.fullmatch(url.host.rsplit(".", 1)[-1])):
            raise ValueError("nothing stands below a numeric host")
        if below and "/" not in rest:
            url = msgspec.structs.replace(url, path=())
        return cls(text, url, subdomains, below)

    def matches(self, address: str) -> bool:
        """Whether this address is meant; False for whatever is not surely an address."""
        try:
            return self.matches_url(read_url(address))
        except ValueError:
            return False

    def matches_url(self, url: Url) -> bool:
        mine = self.url
        if mine.scheme != url.scheme or mine.port != url.port:
            return False
        if self.subdomains:
            if not url.host.endswith("." + mine.host):
                return False
        elif mine.host != url.host:
            return False
        if not self.below:
            return mine.path == url.path
        return len(url.path) > len(mine.path) and url.path[: len(mine.path)] == mine.path


class AddressPatterns:
    """Many patterns, found by host: the cost of a question does not grow with their number."""

    __slots__ = ("_by_host", "patterns")

    def __init__(self, patterns: Iterable[AddressPattern]) -> None:
        self.patterns = tuple(patterns)
        self._by_host: dict[tuple[bool, str], list[AddressPattern]] = {}
        # the longest path first, so that what is found is the narrowest
        for pattern in sorted(self.patterns, key=lambda p: -len(p.url.path)):
            self._by_host.setdefault((pattern.subdomains, pattern.url.host), []).append(pattern)

    def __bool__(self) -> bool:
        return bool(self.patterns)

    def find(self, address: str) -> AddressPattern | None:
        """The narrowest pattern that means this address."""
        if not self._by_host or "://" not in address:
            return None
        try:
            url = read_url(address)
        except ValueError:
            return None
        for place in _places(url.host):
            for pattern in self._by_host.get(place, ()):
                if pattern.matches_url(url):
                    return pattern
        return None

    def match(self, address: str) -> bool:
        return self.find(address) is not None


def _places(host: str) -> Iterator[tuple[bool, str]]:
    yield False, host
    while "." in host and not host.startswith("["):
        host = host.split(".", 1)[1]
        yield True, host
