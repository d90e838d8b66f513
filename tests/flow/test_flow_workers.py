"""Who is at work in a lane: as many as are needed, and none that has had nothing to do for long."""

import asyncio
from collections.abc import Awaitable

import pytest

from broker.core.circuit import WELL
from broker.flow import workers
from broker.flow.loads import Loads
from broker.flow.queue import Parcel, Queue
from broker.flow.ready import Ready
from broker.flow.workers import Workers


class Place:
    """A lane's workers, whose parcels take until they are told that they are done."""

    def __init__(self, concurrent: int) -> None:
        self.ready = Ready(Loads(1 << 20), freed=lambda: None)
        self.ready.concurrent = concurrent
        self.queue = Queue("urn:d")
        self.carried: list[asyncio.Future[None]] = []
        self.tasks: list[asyncio.Future[None]] = []
        self.workers = Workers("lane", ready=self.ready, carry=self.carry, start=self.start, more=lambda: None)

    def start(self, work: Awaitable[None], _name: str) -> None:
        self.tasks.append(asyncio.ensure_future(work))

    async def carry(self, _parcel: Parcel) -> None:
        self.carried.append(asyncio.get_running_loop().create_future())
        self.ready.busy += 1
        await self.carried[-1]
        self.ready.busy -= 1

    async def comes(self, count: int) -> None:
        for _ in range(count):
            parcel = Parcel.__new__(Parcel)
            parcel.priority, parcel.size, parcel.body = 0, 1, b"x"
            self.ready.put(parcel, self.queue)
            self.workers.wake()
        await self.turns()

    async def turns(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def ends(self, count: int) -> None:
        for _ in range(count):
            self.carried.pop(0).set_result(None)
        await self.turns()


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "IDLE", 0.02)


@pytest.mark.usefixtures("looks")
async def test_who_is_always_called_stays_and_the_others_go_home() -> None:
    place = Place(8)
    await place.comes(4)
    assert place.workers.count == 4
    await place.ends(4)
    for _ in range(12):  # one at a time, for several looks
        await place.comes(1)
        await asyncio.sleep(0.01)
        await place.ends(1)
    assert place.workers.count == 1
    await asyncio.sleep(0.1)
    assert place.workers.count == 0
    assert place.queue.health is WELL
    await asyncio.gather(*place.tasks)


@pytest.mark.usefixtures("looks")
async def test_what_comes_while_the_only_worker_goes_home_is_carried() -> None:
    place = Place(1)
    await place.comes(1)
    await place.ends(1)
    place.workers._spare = 1
    place.workers._look()  # told to go home, and not gone yet
    await place.comes(1)
    assert (place.workers.count, len(place.carried)) == (1, 1)
    await place.ends(1)
    await asyncio.sleep(0.1)
    assert place.workers.count == 0
