"""A host that leads to this machine, or its own link, is connected to only where the operator named it (A-27)."""

from __future__ import annotations

import asyncio
import socket
from datetime import timedelta

import pytest
from yarl import URL

from broker.dialing import Origin
from plugins.http.client import Client, target_of
from plugins.http.dial import dial
from plugins.http.exchange import Connection, NoAnswer, Trouble

SECOND = timedelta(seconds=1)


class Listening(asyncio.Protocol):
    """Counts who connects."""

    def __init__(self) -> None:
        self.connected = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.connected += 1
        transport.close()


async def attempt(url: str, named: set[str]) -> Trouble:
    client = Client(may_be_here=lambda host: host in named)
    try:
        with pytest.raises(NoAnswer) as no:
            await client.send(
                target_of(URL(url)), [("X-Any", "x")], b"", connect=SECOND, answer=SECOND, allowed=lambda status: 0
            )
        return no.value.trouble
    finally:
        await client.stop()


@pytest.fixture
async def listening():
    there = Listening()
    server = await asyncio.get_running_loop().create_server(lambda: there, "127.0.0.1", 0)
    there.port = server.sockets[0].getsockname()[1]
    yield there
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "127.1", "2130706433"])
async def test_this_machine_is_not_connected_to_by_whatever_name(listening, host):
    assert await attempt(f"http://{host}:{listening.port}/", set()) is Trouble.INSIDE
    assert listening.connected == 0


@pytest.mark.parametrize("host", ["169.254.169.254", "0.0.0.0", "[fe80::1]"])
async def test_the_link_and_metadata_services_are_not_connected_to(host):
    assert await attempt(f"http://{host}/", set()) is Trouble.INSIDE


async def test_a_host_that_is_named_is_connected_to(listening):
    assert await attempt(f"http://127.0.0.1:{listening.port}/", {"127.0.0.1"}) is Trouble.CLOSED
    assert listening.connected == 1


async def test_of_several_addresses_of_a_name_only_those_elsewhere_are_tried(monkeypatch):
    """A name may have one address outside and one inside; the check is made of each, and of those that are used."""
    tried = []

    async def found(self, host, port, **more):
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (ip, port)) for ip in ("127.0.0.1", "192.0.2.1")]

    async def connects(self, build, ip, port, **more):
        tried.append(ip)
        raise OSError(111, "refused")

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(type(loop), "getaddrinfo", found)
    monkeypatch.setattr(type(loop), "create_connection", connects)
    with pytest.raises(NoAnswer, match="no connection"):
        await dial(Origin("partner.example", 80, False), Connection, None, 1.0, may_be_here=lambda host: False)
    assert tried == ["192.0.2.1"]
