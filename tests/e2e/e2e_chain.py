"""Three daemons in a row: what goes in at the west comes out at the east, and the answer comes all the way back."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from e2e_daemon import Daemon, StartDaemon, free_port, merged
from e2e_messages import FHIR_JSON, NORTH, Said, ask

EAST = "urn:oid:2.999.2.3"  # who receives too, behind the same gateway as SOUTH
NAMES = ("urn:oid:2.999.1.1", "urn:oid:2.999.1.2", "urn:oid:2.999.1.3")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    west: Daemon
    middle: Daemon
    east: Daemon

    @property
    def brokers(self) -> tuple[Daemon, Daemon, Daemon]:
        return self.west, self.middle, self.east


def into(daemon: Daemon) -> str:
    return f"{daemon.base}/$process-message"


async def chain(
    start: StartDaemon,
    *,
    receivers: Mapping[str, str],
    north: Any = "mailbox:",
    config: Mapping[str, Any] | None = None,
    between: Callable[[str], str] = lambda address: address,
) -> Chain:
    """NORTH is at the west; `receivers` (endpoint to address) at the east. `between` leads from the middle to the east.

    Each broker knows the names of its neighbours, and no more of the way than the next hop.
    """
    middle_port, east_port = free_port(), free_port()
    bases = (f"http://127.0.0.1:{middle_port}/fhir", f"http://127.0.0.1:{east_port}/fhir")
    forward = f"{bases[0]}/$process-message", between(f"{bases[1]}/$process-message")

    async def one(place: int, port: int | None, endpoints: Mapping[str, Any]) -> Daemon:
        more: dict[str, Any] = {
            "broker": {"endpoint": NAMES[place]},
            "directory": {"endpoints": dict(endpoints)},
            "defaults": {"retry": {"first": "200ms", "max": "1s"}, "lane": {"probe": "300ms"}},
        }
        if port is not None:
            more["broker"]["base_url"] = f"http://127.0.0.1:{port}/fhir"
            more["channels"] = {"http": {"listen": f"127.0.0.1:{port}"}}
        started = await start(merged(more, config or {}))
        if port is not None:
            started.port, started.base = port, f"http://127.0.0.1:{port}/fhir"
            started.origin = f"http://127.0.0.1:{port}"
        return started

    names = tuple(receivers)
    west = await one(0, None, {NORTH: north, **dict.fromkeys(names, forward[0]), NAMES[1]: forward[0]})
    middle = await one(1, middle_port, {**dict.fromkeys(names, forward[1]), NAMES[0]: into(west), NAMES[2]: forward[1]})
    east = await one(2, east_port, {**receivers, NAMES[1]: forward[0]})
    return Chain(west=west, middle=middle, east=east)


async def mail(http: aiohttp.ClientSession, daemon: Daemon, endpoint: str = NORTH) -> list[dict[str, Any]]:
    """The messages of a mailbox, oldest first."""
    said = await ask(http, "GET", f"{daemon.base}/Bundle?message.destination-uri={endpoint}&_count=1000")
    assert said.status == 200, said
    return [entry["resource"] for entry in said.json.get("entry", ())]


def head_of(bundle: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = bundle["entry"][0]["resource"]
    return found


def issues_of(bundle: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        issue
        for entry in bundle["entry"]
        if entry["resource"]["resourceType"] == "OperationOutcome"
        for issue in entry["resource"]["issue"]
    ]


async def answers(http: aiohttp.ClientSession, daemon: Daemon, response: bytes) -> Said:
    """A receiver hands its response in at its broker, some time after it had taken the request."""
    headers = {"Content-Type": FHIR_JSON}
    return await ask(http, "POST", f"{daemon.base}/$process-message?async=true", data=response, headers=headers)


async def restart(*daemons: Daemon, gently: bool = False) -> None:
    """Each is killed, or stopped, and started again on its store."""

    async def one(daemon: Daemon) -> None:
        await (daemon.stop() if gently else daemon.kill())
        await daemon.start()

    await asyncio.gather(*map(one, daemons))


def counter(prefix: str) -> Callable[[], str]:
    numbers = itertools.count(1)
    return lambda: f"{prefix}-{next(numbers)}"


Look = Callable[[], Awaitable[bool]]
