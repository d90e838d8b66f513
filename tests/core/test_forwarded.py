"""Who is at the other end, as sockets and our own proxies say."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from broker.core.forwarded import peer_address

PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("name", "forwarded", "who"),
    [
        (("192.0.2.1", 4711), ["203.0.113.9"], "192.0.2.1:4711"),  # no proxy of ours: what it says counts for nothing
        (("2001:db8::1", 4711, 0, 0), [], "[2001:db8::1]:4711"),
        (("10.0.0.1", 4711), ["203.0.113.9"], "203.0.113.9"),
        (("10.0.0.1", 4711), ["198.51.100.7, 203.0.113.9", "10.0.0.2"], "203.0.113.9"),
        (("10.0.0.1", 4711), ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        (("10.0.0.1", 4711), ["203.0.113.9, anybody"], "10.0.0.1"),
        (("10.0.0.1", 4711), [], "10.0.0.1:4711"),
        ("", ["203.0.113.9"], "unix"),
    ],
)
def test_the_last_hop_that_our_proxies_saw_counts(name: object, forwarded: list[str], who: str) -> None:
    assert peer_address(name, forwarded, PROXIES) == who


def test_without_proxies_only_the_socket_counts() -> None:
    assert peer_address(("10.0.0.1", 1), ["203.0.113.9"], ()) == "10.0.0.1:1"
