"""Where a listener listens: `host:port`, or `unix:PATH`."""

from __future__ import annotations

import ipaddress
import re

import msgspec

from broker.config.mistake import Wrong

_HOST_PORT = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>\d{1,5})")
_EXPECTED = "must be host:port or unix:PATH"


class Listen(msgspec.Struct, frozen=True, kw_only=True):
    """Either `path`, or `host` and `port` (0: any that is free)."""

    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def is_loopback(self) -> bool:
        """A Unix socket is: its file's permissions guard it."""
        if self.path or self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def listen(text: str) -> Listen:
    """Raises `Wrong`."""
    if text.startswith("unix:"):
        if not (path := text.removeprefix("unix:")):
            raise Wrong(_EXPECTED, "unix:/run/fhir-broker/http.sock")
        return Listen(path=path)
    found = _HOST_PORT.fullmatch(text)
    if found is None:
        raise Wrong(_EXPECTED, _nearest(text))
    host, port = found["six"] or found["host"], int(found["port"])
    if port > 65535:
        raise Wrong("has a port above 65535")
    if found["six"]:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise Wrong(_EXPECTED) from None
    return Listen(host=host, port=port)


def _nearest(text: str) -> str:
    if re.fullmatch(r":?\d{1,5}", text):
        return f"did you mean 127.0.0.1:{text.lstrip(':')}?"
    if "://" in text:
        return f"did you mean {text.split('://', 1)[1].split('/', 1)[0]}?"
    if re.fullmatch(r"[A-Za-z0-9._-]+", text):
        return f"did you mean {text}:8080?"
    return ""
