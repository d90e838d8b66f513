"""Promise 9 by the clock: a healthy endpoint is served as quickly beside sick neighbours as it is alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import aiohttp
import pytest
from e2e_daemon import StartDaemon, free_port
from e2e_messages import eventually, message, send
from e2e_receiver import CUSTODY, Got, OpenReceiver, Reply

NAMES = ("well", "dead", "slow", "flap", "refuse")
SICK = NAMES[1:]
ENDS = {name: f"urn:oid:2.999.3.{number}" for number, name in enumerate(NAMES)}
BOXES = {name: f"urn:oid:2.999.4.{number}" for number, name in enumerate(NAMES)}  # the same load, and no neighbours
RATE = 100  # a second to the healthy one, and as many to the four others together
SECONDS = 6
HURRY = 0.05  # seconds that two busy cores may add to anything


def reply(got: Got) -> Reply:
    return {
        "dead": Reply(status=503),
        "slow": Reply(after=30),
        "flap": Reply(status=503 if time.monotonic() % 2 > 1 else 200),
        "refuse": Reply(status=422),
    }.get(got.path.rsplit("/", 1)[1], CUSTODY)


class Served:
    """When each message was sent to the healthy endpoint, and how long it took to stand there."""

    def __init__(self) -> None:
        self.sent: dict[str, float] = {}
        self.took: dict[str, float] = {}

    def answer(self, got: Got) -> Reply:
        if got.path.endswith("/well"):
            id = got.bundle_id
            self.took.setdefault(id, time.monotonic() - self.sent[id])
        return reply(got)

    def quantile(self, part: float, kind: str) -> float:
        took = sorted(took for id, took in self.took.items() if id.startswith(kind))
        return took[int(len(took) * part)]


async def due(count: int) -> AsyncIterator[int]:
    """Numbers at the rate of both halves of the load, however long what is done with them takes."""
    began = time.monotonic()
    for number in range(count):
        await asyncio.sleep(max(began + number / (2 * RATE) - time.monotonic(), 0))
        yield number


async def load(http: aiohttp.ClientSession, base: str, served: Served, kind: str, others: Callable[[int], str]) -> None:
    """Every other message is for the healthy endpoint."""

    async def one(number: int) -> None:
        id = f"{kind}-{number}"
        to = others(number // 2) if number % 2 else ENDS["well"]
        served.sent[id] = time.monotonic()
        assert (await send(http, base, message(id, to=to), query="?async=true")).status == 202

    async with asyncio.TaskGroup() as tasks:
        async for number in due(2 * RATE * SECONDS):
            tasks.create_task(one(number))


@pytest.mark.slow
@pytest.mark.parametrize("behind_one_gateway", [False, True], ids=["own", "gateway"])
async def test_healthy_endpoint_is_served_beside_sick_neighbours_as_it_is_alone(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession, behind_one_gateway: bool
) -> None:
    served = Served()
    receivers = [await receiver() for _ in range(1 if behind_one_gateway else len(NAMES))]
    for one in receivers:
        one.answer = served.answer
    ports = {name: receivers[number % len(receivers)].port for number, name in enumerate(NAMES)}
    if not behind_one_gateway:
        ports["dead"] = free_port()  # nothing listens there
    broker = await daemon(
        {
            "directory": {
                "endpoints": {ENDS[name]: f"http://127.0.0.1:{ports[name]}/{name}" for name in NAMES}
                | dict.fromkeys(BOXES.values(), "mailbox:"),
            },
            "defaults": {
                "lane": {"answer": "40s", "probe": "1s"},
                "retry": {"first": "500ms", "max": "2s"},
                "sync": {"expects": "nothing"},
            },
        }
    )
    await load(http, broker.base, served, "warm", lambda number: BOXES[SICK[number % 4]])
    await load(http, broker.base, served, "alone", lambda number: BOXES[SICK[number % 4]])
    await load(http, broker.base, served, "beside", lambda number: ENDS[SICK[number % 4]])

    async def all_stand_there() -> bool:
        return len(served.took) == 3 * RATE * SECONDS

    await eventually(all_stand_there, within=5)  # its rate: nothing is left behind
    seen = {got.path for one in receivers for got in one.got}
    assert seen >= {f"/{name}" for name in NAMES if name != "dead"}, "each of them was tried"
    figures = {
        kind: [round(served.quantile(part, kind) * 1000, 2) for part in (0.5, 0.99)] for kind in ("alone", "beside")
    }
    assert served.quantile(0.5, "beside") <= 1.5 * served.quantile(0.5, "alone") + HURRY / 10, figures
    assert served.quantile(0.99, "beside") <= 3 * served.quantile(0.99, "alone") + HURRY, figures
