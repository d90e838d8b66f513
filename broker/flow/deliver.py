"""Deliver: each delivery in its peer's lane, attempt after attempt, until it has ended.

The store is the schedule, memory is a bounded cache of it: a delivery is written with its next attempt already in the
future, so that a crash is no retry storm, and the store is asked lane by lane for what is due.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime, timedelta

import structlog

from broker.core.delivery import State
from broker.core.message import Message
from broker.core.resolution import Whereabouts
from broker.flow.callers import Callers
from broker.flow.carry import Carrying
from broker.flow.here import Here
from broker.flow.lane import CLAIMED_FOR, Lane, Parcel
from broker.flow.meter import Meter
from broker.flow.notify import Followers
from broker.flow.settle import Settling
from broker.plugins import Channels
from broker.store import (
    Claimed,
    Delivery,
    Kept,
    NewDelivery,
    NewMessage,
    Store,
    StoreError,
)

log = structlog.get_logger("broker.deliver")

FRESH = timedelta(seconds=2)  # what was never tried may be taken this much before its due time
LARGE = 256 * 1024  # bytes; a larger body is read when it is sent, so that waiting costs no memory
LOOK = timedelta(minutes=1)  # between looks at the whole schedule
TICK = 1.0  # seconds between looks at the schedule when nothing calls for an earlier one


class Delivering:
    def __init__(
        self,
        *,
        here: Here,
        store: Store,
        channels: Channels,
        directory: Callable[[], Whereabouts],
        callers: Callers,
        followers: Followers,
        meter: Meter,
    ) -> None:
        self._here = here
        self._store = store
        self._directory = directory
        self._followers = followers
        self._meter = meter
        self.settling = Settling(
            here=here, store=store, callers=callers, followers=followers, meter=meter, schedule=self
        )
        self._carrying = Carrying(
            here=here,
            store=store,
            channels=channels,
            directory=directory,
            callers=callers,
            meter=meter,
            schedule=self,
            settling=self.settling,
        )
        self.lanes: dict[str, Lane] = {}
        self._asking: set[str] = set()  # lanes for which the store is being asked
        self._poke = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    # -- lanes

    def lane(self, name: str) -> Lane:
        lane = self.lanes.get(name)
        if lane is None:
            lane = self.lanes[name] = Lane(
                name, now=self._here.now, attempt=self._carrying.attempt, start=self.spawn, more=self._ask
            )
        return lane

    def is_open(self, name: str) -> bool:
        lane = self.lanes.get(name)
        return lane is None or lane.is_open

    def is_in_memory(self, position: int, number: int) -> bool:
        return any((position, number) in lane.known for lane in self.lanes.values())

    def is_under_way(self, lane: str, position: int, number: int) -> bool:
        # where its name has changed it is in the lane of no peer, and may be under way in the one that it had
        lanes = self.lanes.values() if not lane else (self.lanes[lane],) if lane in self.lanes else ()
        return any(number in one.under_way.get(position, ()) for one in lanes)

    def forget(self, position: int) -> Collection[int]:
        """Takes what waits of a message out of memory; returns the numbers of what is under way."""
        under_way: set[int] = set()
        for lane in self.lanes.values():
            lane.forget(position)
            under_way |= lane.under_way.get(position, set())
        return under_way

    def forget_one(self, position: int, number: int) -> None:
        for lane in self.lanes.values():
            if (position, number) in lane.known:
                lane.forget(position, number)

    def poke(self) -> None:
        """The schedule has changed: something may be due earlier than it was thought."""
        self._poke.set()

    def spawn(self, work: Awaitable[None], name: str) -> None:
        """Starts a task that this step owns: it is waited for at the end."""
        task = asyncio.ensure_future(work)
        assert isinstance(task, asyncio.Task)
        task.set_name(name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- what comes from acceptance

    def take(self, kept: Kept, new: NewMessage) -> None:
        """Sets out what has just been accepted, but for what waits for another of its stream."""
        self.take_planned(kept, new.deliveries, new.message, new.body)

    def take_planned(self, kept: Kept, planned: Sequence[NewDelivery], message: Message, body: bytes) -> None:
        now, position = self._here.now(), kept.position
        groups: dict[tuple[str, str], list[Delivery]] = {}
        for number, new in zip(kept.ready, planned, strict=True):
            if not number:
                continue
            if new.mailbox is not None:
                self._meter.delivered("mailbox", new.rule)
                self._followers.wake(new.mailbox, position)
            elif new.state is State.WAITING and (position, number) not in self.lane(new.lane).known:
                delivery = _in_memory(position, number, new, now)
                groups.setdefault((new.lane, new.address), []).append(delivery)
        version = self._directory().version if groups else None
        for (name, _), deliveries in groups.items():
            lane = self.lane(name)
            lane.policy = deliveries[0].policy.lane
            kept_body = body if len(body) <= LARGE else None
            if not name or not lane.offer(Parcel(position, deliveries, message, kept_body, version)):
                lane.due_at(min(delivery.due for delivery in deliveries))
                self._poke.set()
        if kept.released:
            self.released(kept.released)

    def woken(self, lane: str) -> None:
        """Something of a lane is due now, in the store (a redrive, a name that changed)."""
        self.lane(lane).next_due = self._here.now()
        self._poke.set()

    def released(self, lanes: Sequence[str]) -> None:
        """In these lanes something has its turn, since what went before it in its stream has ended."""
        for lane in lanes:
            self.woken(lane)

    # -- the schedule

    async def run(self) -> None:
        """Asks the store for what is due, lane by lane, until cancelled."""
        look_at = self._here.now()
        while True:
            now = self._here.now()
            if now >= look_at:
                look_at = now + LOOK
                await self._look(now)
            for lane in tuple(self.lanes.values()):
                if lane.ask_again(now):
                    self._ask(lane)
            self._drop_idle_lanes()
            self._poke.clear()
            due = min((at for lane in self.lanes.values() if (at := lane.asks_at) is not None), default=None)
            pause = TICK if due is None else min(max((due - now).total_seconds(), 0.02), TICK)
            try:
                async with asyncio.timeout(pause):
                    await self._poke.wait()
            except TimeoutError:
                continue

    async def _look(self, now: datetime) -> None:
        """At the whole schedule: at start, and now and then in case something was missed."""
        try:
            for waiting in await self._store.lanes():
                self.lane(waiting.lane).due_at(max(waiting.due, now))
        except StoreError as error:
            log.warning("the schedule cannot be read", error=str(error))

    def _drop_idle_lanes(self) -> None:
        """Lanes that have nothing to do and nothing to remember are made anew when they are needed."""
        if len(self.lanes) > 1000:
            for name, lane in tuple(self.lanes.items()):
                if not lane.known and not lane.under_way and lane.next_due is None and lane.is_open:
                    del self.lanes[name]

    def _ask(self, lane: Lane) -> None:
        if lane.name not in self._asking and not self._stopping:
            self._asking.add(lane.name)
            self.spawn(self._fetch(lane), f"fetch {lane.name}")

    async def _fetch(self, lane: Lane) -> None:
        """Takes what is due in a lane from the store into memory."""
        now = self._here.now()
        lane.next_due, lane.held_back, lane.gone = None, False, set()
        try:
            claimed = await self._store.claim(lane.name, now, now + FRESH, now + CLAIMED_FOR, lane.limit)
            await self._load(lane, claimed)
        except StoreError as error:
            log.warning("the store cannot be asked for what is due", lane=lane.name, error=str(error))
            lane.due_at(now + timedelta(seconds=1))
        finally:
            lane.gone = None
            self._asking.discard(lane.name)

    async def _load(self, lane: Lane, claimed: Claimed) -> None:
        fresh = [
            d
            for d in claimed.deliveries
            if not lane.has_seen(d.position, d.number)
            and (lane.name or not self.is_under_way("", d.position, d.number))  # its end decides what becomes of it
        ]
        reserved = {(d.position, d.number) for d in fresh}
        lane.known |= reserved  # an acceptance that hears of its commit just now leaves them to us
        try:
            loaded = await self._store.load(tuple({d.position for d in fresh}), LARGE)
        finally:
            lane.known -= reserved
        groups: dict[tuple[int, str], list[Delivery]] = {}
        for delivery in fresh:
            if delivery.position in loaded and not lane.has_seen(delivery.position, delivery.number):
                groups.setdefault((delivery.position, delivery.address), []).append(delivery)
        for (position, _), deliveries in groups.items():
            stored, body = loaded[position]
            lane.policy = deliveries[0].policy.lane
            lane.put(Parcel(position, deliveries, stored.message, body, None))
        if claimed.next_due is not None:
            lane.due_at(claimed.next_due)
        if len(claimed.deliveries) >= lane.limit:
            lane.held_back = True
            if not fresh:
                lane.due_at(self._here.now())

    # -- the end of the day

    async def drain(self, seconds: float) -> None:
        """Finishes the attempts that are under way; what is not done by then is cancelled and found again at start."""
        self._stopping = True
        async with asyncio.timeout(seconds + 5):
            deadline = asyncio.get_running_loop().time() + seconds
            for lane in self.lanes.values():
                lane.ends = True
                lane.close(self._here.now(), "the broker stops")
            while any(lane.under_way for lane in self.lanes.values()):
                if asyncio.get_running_loop().time() > deadline:
                    break
                await asyncio.sleep(0.02)
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)


def _in_memory(position: int, number: int, new: NewDelivery, now: datetime) -> Delivery:
    return Delivery(
        position=position, number=number, destination=new.destination, key=new.key, address=new.address,
        lane=new.lane, state=new.state, due=new.due, expiry=new.expiry, accepted=now, policy=new.policy,
        rule=new.rule, fixed=new.fixed, attempts=0, left=False, answer=new.answer, answer_by=new.answer_by,
        answered_by=None, ended=None, steps=(),
    )  # fmt: skip
