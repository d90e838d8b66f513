"""Decides whether an endpoint is one that subscriptions may be told at: the operator's list (S-61)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from broker.core.address_pattern import AddressPattern, AddressPatterns

_MAIL = re.compile(r"mailto:(\*|[^\s@<>,;:\"*?]{1,64})@((?:\*\.)?[A-Za-z0-9](?:[A-Za-z0-9.\-]{0,251}[A-Za-z0-9])?)")
_PLAIN = re.compile(
    r"[a-z][a-z0-9+.\-]*:\?[\x21-\x29\x2b-\x7e]*=[\x21-\x29\x2b-\x7e]*\*?"
)  # amqp:?exchange=…: no host, the channel's own
_REST = re.compile(r"[\x21-\x25\x27-\x29\x2b-\x7e]+")  # of one value: no `&`, which would begin another


class Target:
    """`https://*.partner.example/*`, `mailto:*@partner.example` or `amqp:?exchange=told&routing_key=*`."""

    __slots__ = ("_mail", "text", "url")

    def __init__(self, text: str) -> None:
        """ValueError says what is wrong with the pattern."""
        self.text = text
        self.url: AddressPattern | None = None
        self._mail: tuple[str, str] | None = None
        if "://" in text:
            self.url = AddressPattern.parse(text)
        elif mail := _MAIL.fullmatch(text):
            self._mail = (mail[1], mail[2].lower())
        elif not _PLAIN.fullmatch(text):
            raise ValueError(
                f"{text[:200]!r} is no pattern for endpoints; "
                "write https://host/*, mailto:*@host or amqp:?exchange=…&routing_key=…"
            )

    def matches(self, endpoint: str) -> bool:
        if self.url is not None:
            return self.url.matches(endpoint)
        if self._mail is not None:
            return _same_mail(*self._mail, endpoint)
        if self.text.endswith("*"):
            front = self.text[:-1]
            return endpoint.startswith(front) and _REST.fullmatch(endpoint[len(front) :]) is not None
        return endpoint == self.text


def _same_mail(person: str, host: str, endpoint: str) -> bool:
    """People count in upper and lower case, hosts do not (RFC 5321, section 2.4); `*.` is one label or more."""
    scheme, _, rest = endpoint.partition(":")
    name, _, domain = rest.rpartition("@")
    if scheme.lower() != "mailto" or "*" in rest or _MAIL.fullmatch(f"mailto:{rest}") is None:
        return False
    domain = domain.lower()
    fits = domain.endswith(host[1:]) and len(domain) >= len(host) if host.startswith("*.") else domain == host
    return fits and person in ("*", name)


class Targets:
    """The list; what has a host is found by it, whatever the number of patterns."""

    def __init__(self, patterns: Iterable[str]) -> None:
        targets = [Target(text) for text in patterns]
        self._urls = AddressPatterns(target.url for target in targets if target.url is not None)
        self._others = tuple(target for target in targets if target.url is None)

    def match(self, endpoint: str) -> bool:
        return self._urls.match(endpoint) or any(target.matches(endpoint) for target in self._others)
