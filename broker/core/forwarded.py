"""Who is at the other end of a connection: who the socket says, or behind our own proxies whom the last of them saw."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

Network = IPv4Network | IPv6Network


def peer_address(socket_name: Any, forwarded: Iterable[str], proxies: Sequence[Network]) -> str:
    """Of what the socket says of its peer, and the `X-Forwarded-For` fields that came."""
    if not isinstance(socket_name, (tuple, list)):
        return "unix"
    seen = str(socket_name[0])
    if proxies and _is_inside(seen, proxies):
        chain = [hop.strip() for field in forwarded for hop in field.split(",")]
        for hop in reversed(chain):
            if not _is_address(hop):
                break  # what stands before it may be anybody's invention
            seen = hop
            if not _is_inside(hop, proxies):
                return hop
        if chain:
            return seen
    return f"[{seen}]:{socket_name[1]}" if ":" in seen else f"{seen}:{socket_name[1]}"


def _is_inside(address: str, networks: Sequence[Network]) -> bool:
    return _is_address(address) and any(ip_address(address) in network for network in networks)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
