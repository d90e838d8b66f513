"""Promise 9 with the real daemon: behind one gateway a dead, a slow, a flapping, a refusing and a healthy endpoint."""

from __future__ import annotations

import asyncio
import itertools
import time

import aiohttp
from e2e_daemon import StartDaemon
from e2e_messages import message, send
from e2e_receiver import CUSTODY, Got, OpenReceiver, Reply

ENDS = {name: f"urn:oid:2.999.3.{number}" for number, name in enumerate(("dead", "slow", "flap", "refuse", "well"))}
SICK = [name for name in ENDS if name != "well"]
BACKLOG, SENT = 150, 100


async def test_healthy_endpoint_behind_a_gateway_does_not_feel_its_sick_neighbours(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    gateway = await receiver()
    flaps = itertools.cycle((503, 503, 503, 503, 503, 503, 200))
    came: dict[str, float] = {}

    def answer(got: Got) -> Reply:
        name = got.path.rsplit("/", 1)[1]
        if name == "well":
            came[got.bundle_id] = time.monotonic()
        return {
            "dead": Reply(status=503),
            "slow": Reply(after=30),
            "flap": Reply(status=next(flaps) if name == "flap" else 200),
            "refuse": Reply(status=422),
        }.get(name, CUSTODY)

    gateway.answer = answer
    broker = await daemon(
        {
            "directory": {
                "endpoints": {ENDS[name]: f"http://127.0.0.1:{gateway.port}/{name}" for name in ENDS},
            },
            "defaults": {
                "lane": {"answer": "3s", "concurrent": 16, "probe": "1s"},
                "retry": {"first": "200ms", "max": "1s"},
                "sync": {"expects": "nothing"},
            },
        }
    )

    async def alone(name: str, number: int) -> float:
        id = f"{name}-{number}"
        begun = time.monotonic()
        assert (await send(http, broker.base, message(id, to=ENDS[name]), query="?async=true")).status == 202
        if name != "well":
            return 0.0
        await gateway.until(lambda: id in came, within=20)
        return came[id] - begun

    before = sorted([await alone("well", number) for number in range(SENT)])
    await asyncio.gather(*(alone(name, number) for name in SICK for number in range(BACKLOG)))
    beside = []
    for number in range(SENT, 2 * SENT):
        beside.append(await alone("well", number))
        await asyncio.sleep(0.03)  # some seconds, in which attempts time out and probes are made
    beside.sort()
    assert beside[95] < before[95] + 0.25, "no place was taken from it, nor was its lane closed"
    assert beside[-1] < 2
