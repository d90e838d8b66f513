"""Decides which IP addresses are this machine or its own link, where a stranger's word may not lead us (A-27).

Private networks are not among them: brokers live inside hospitals, and most of their partners do as well.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

# Where clouds answer questions about the machine's own credentials, outside the link-local range.
_METADATA = frozenset({ip_address("100.100.100.200"), ip_address("fd00:ec2::254")})
_NAT64 = IPv6Network("64:ff9b::/96")


def is_inside(address: str) -> bool:
    """Loopback, link-local, metadata services, unspecified and multicast; text that is no IP address is not."""
    ip = _read(address)
    return ip is not None and (
        ip.is_loopback or ip.is_link_local or ip.is_unspecified or ip.is_multicast or ip in _METADATA
        or (ip.version == 4 and ip.packed[0] == 0)  # 0.0.0.0/8 is "this host" to many a system
        or (ip.version == 4 and ip.packed == b"\xff\xff\xff\xff")
    )  # fmt: skip


def is_this_machine(address: str) -> bool:
    """Loopback alone."""
    ip = _read(address)
    return ip is not None and ip.is_loopback


def _read(address: str) -> IPv4Address | IPv6Address | None:
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    if isinstance(ip, IPv6Address):  # an IPv4 address in the clothes of an IPv6 one
        if ip.ipv4_mapped is not None:
            return ip.ipv4_mapped
        if ip.sixtofour is not None:
            return ip.sixtofour
        if ip in _NAT64:
            return IPv4Address(ip.packed[-4:])
    return ip
