"""Which IP addresses are this machine or its own link."""

from __future__ import annotations

import pytest

from broker.core.address_pattern import host_of, same_host
from broker.core.inside import is_inside, is_this_machine


@pytest.mark.parametrize(
    "ip",
    [
        "127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "0.1.2.3", "::", "169.254.169.254", "fe80::1", "fe80::1%eth0",
        "224.0.0.1", "ff02::1", "255.255.255.255", "100.100.100.200", "fd00:ec2::254", "::ffff:127.0.0.1",
        "2002:7f00:1::", "64:ff9b::a9fe:a9fe",
    ],
)  # fmt: skip
def test_this_machine_and_its_link_are_inside_in_whatever_clothes(ip: str) -> None:
    """A-27."""
    assert is_inside(ip)


@pytest.mark.parametrize(
    "ip",
    ["10.0.0.1", "192.168.1.1", "172.16.0.1", "fd00::1", "8.8.8.8", "2001:4860:4860::8888", "64:ff9b::808:808", "a.b"],
)
def test_private_networks_are_not_inside_since_hospitals_are_private_networks(ip: str) -> None:
    assert not is_inside(ip)


def test_this_machine_is_its_loopback() -> None:
    assert [is_this_machine(ip) for ip in ("127.0.0.1", "::1", "169.254.1.1", "x", "")] == [True, True, *[False] * 3]


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("https://A.example/x", "a.example"),
        ("https://a.example.:8443", "a.example"),
        ("http://u:p@a.example?x", "a.example"),
        ("http://[0:0::1]:80/x", "::1"),
        ("http://[zz::1]/", "zz::1"),
        ("https://*.a.example/*", ""),
        ("http://127.0.0.1:9/*", "127.0.0.1"),
        ("mailbox:", ""),
    ],
)
def test_the_host_of_an_address_or_a_pattern_is_the_one_that_it_names(text: str, host: str) -> None:
    assert host_of(text) == host


def test_hosts_are_the_same_in_any_spelling() -> None:
    assert same_host("A.Example.") == same_host("a.example")
    assert same_host("0:0:0:0:0:0:0:1") == same_host("::1")
