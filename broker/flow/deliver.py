"""Deliver: each delivery in its peer's lane, attempt after attempt, until it has ended.

The store is the schedule, memory is a bounded cache of it: a delivery is written with its next attempt already in the
future, so that a crash is no retry storm, and the store is asked lane by lane for what is due.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime, timedelta

import structlog

from broker.core.delivery import State
from broker.core.hold import Hold, Phase
from broker.core.message import Message
from broker.core.resolution import Whereabouts
from broker.flow.aside import Aside
from broker.flow.callers import Callers
from broker.flow.carry import Carrying
from broker.flow.here import Here
from broker.flow.lane import CLAIMED_FOR, Lane
from broker.flow.live import Live
from broker.flow.loads import Loads
from broker.flow.meter import Meter
from broker.flow.notify import Followers
from broker.flow.queue import Parcel
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
WOKEN_AT_ONCE = 1000  # rows of one transaction
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
        live: Live,
        aside: Aside,
        meter: Meter,
    ) -> None:
        self._here = here
        self._store = store
        self._directory = directory
        self._followers = followers
        self._live = live
        self._meter = meter
        self.settling = Settling(
            here=here,
            store=store,
            callers=callers,
            followers=followers,
            live=live,
            aside=aside,
            meter=meter,
            schedule=self,
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
        self._loads = Loads(here.in_flight)
        self.lanes: dict[str, Lane] = {}
        self.holds: dict[str, Hold] = {}  # by lane, what operators ordered, planned ones too
        self._asking: dict[str, asyncio.Task[None]] = {}  # lanes for which the store is being asked
        self._turning: set[tuple[str, str]] = set()  # lanes and destinations whose deliveries are being turned away
        self._poke = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    # -- lanes

    def lane(self, name: str) -> Lane:
        lane = self.lanes.get(name)
        if lane is None:
            lane = self.lanes[name] = Lane(
                name,
                loads=self._loads,
                now=self._here.now,
                attempt=self._carrying.attempt,
                start=self.spawn,
                more=self._ask,
                rests=self._turn,
            )
            hold = self.holds.get(name)
            if hold is not None and hold.phase(self._here.now()) is Phase.HELD:
                lane.holds(hold)
        return lane

    def is_open(self, name: str, key: str) -> bool:
        """Whether a destination can be reached over a lane, as far as is known."""
        lane = self.lanes.get(name)
        if lane is None:
            hold = self.holds.get(name)
            return hold is None or hold.phase(self._here.now()) is not Phase.HELD
        return lane.is_open_for(key)

    def is_under_way(self, lane: str, position: int, number: int) -> bool:
        return any(number in one.under_way.get(position, ()) for one in self._lanes_of(lane))

    def may_have_left(self, lane: str, position: int, number: int) -> bool:
        """Whether an attempt is under way, or has ended and the store does not say so yet."""
        return any(one.may_have_left(position, number) for one in self._lanes_of(lane))

    def _lanes_of(self, lane: str) -> Collection[Lane]:
        # where its name has changed it is in the lane of no peer, and may be under way in the one that it had
        return self.lanes.values() if not lane else (self.lanes[lane],) if lane in self.lanes else ()

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

    def spawn(self, work: Awaitable[None], name: str) -> asyncio.Task[None]:
        """Starts a task that this step owns: it is waited for at the end."""
        task = asyncio.ensure_future(work)
        assert isinstance(task, asyncio.Task)
        task.set_name(name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- what comes from acceptance

    def take(self, kept: Kept, new: NewMessage) -> None:
        """Sets out what has just been accepted, but for what waits for another of its stream."""
        if self._live:
            self._live.tell(new.message.source, "accepted", kept.position)
        self.take_planned(kept, new.deliveries, new.message, new.body)

    def take_planned(self, kept: Kept, planned: Sequence[NewDelivery], message: Message, body: bytes) -> None:
        position = kept.position
        groups: dict[tuple[str, str], list[Delivery]] = {}
        for number, new in zip(kept.ready, planned, strict=True):
            if not number:
                continue
            if new.mailbox is not None:
                self._meter.delivered("mailbox", new.rule)
                self._followers.wake(new.mailbox, position)
                if self._live:
                    self._live.tell(new.destination or new.mailbox, "arrived", position)
            elif new.state is State.WAITING and (position, number) not in self.lane(new.lane).known:
                delivery = _in_memory(position, number, new, self._here.now())
                groups.setdefault((new.lane, new.address), []).append(delivery)
        if groups:
            self._set_out(position, groups, message, body)
        if kept.released:
            self.released(kept.released)

    def _set_out(
        self, position: int, groups: dict[tuple[str, str], list[Delivery]], message: Message, body: bytes
    ) -> None:
        """Into memory, if it finds room there: what shares an address leaves together."""
        version = self._directory().version
        for (name, _), deliveries in groups.items():
            lane = self.lane(name)
            lane.under(deliveries[0].policy.lane)
            kept_body = body if len(body) <= LARGE else None
            parcel = Parcel(position, deliveries, message, kept_body, version)
            if not name or not lane.offer(parcel, deliveries[0].key):
                lane.due_at(deliveries[0].key, min(delivery.due for delivery in deliveries))
                self._poke.set()

    def woken(self, lane: str, key: str) -> None:
        """Something for a destination is due now, in the store (a redrive)."""
        self.lane(lane).due_at(key, self._here.now())
        self._poke.set()

    def released(self, queues: Sequence[tuple[str, str]]) -> None:
        """In these lanes, for these destinations something has its turn: what went before it has ended."""
        for lane, key in queues:
            self.woken(lane, key)

    # -- holds

    async def load_holds(self) -> None:
        """What operators ordered before the broker was started; nothing is carried before that is known."""
        self.holds = {hold.lane: hold for hold in await self._store.holds()}

    async def hold(self, hold: Hold) -> None:
        """Lets nothing go to a peer, from a time on; kept until it is over or somebody resumes the lane."""
        await self._store.hold_lane(hold)
        self.holds[hold.lane] = hold
        lane = self.lanes.get(hold.lane)
        if lane is not None and hold.phase(self._here.now()) is not Phase.HELD:
            lane.resumes()  # the hold that this one replaces had begun
        self._keep_holds(self._here.now())
        self._poke.set()

    async def resume(self, name: str) -> bool:
        """Ends a hold, planned or begun; False where there was none."""
        held = await self._store.resume_lane(name)
        self.holds.pop(name, None)
        if name in self.lanes:
            self.lanes[name].resumes()
        self._poke.set()
        return held

    def _keep_holds(self, now: datetime) -> None:
        """Begins and ends what was planned for now."""
        for name, hold in tuple(self.holds.items()):
            phase = hold.phase(now)
            if phase is Phase.HELD:
                lane = self.lane(name)
                if lane.hold is not hold:
                    lane.holds(hold)
            elif phase is Phase.OVER:
                self.spawn(self._over(hold), f"the hold of {name} ends")
                del self.holds[name]
                if name in self.lanes:
                    self.lanes[name].resumes()

    async def _over(self, hold: Hold) -> None:
        try:
            if hold.lane not in self.holds:
                await self._store.resume_lane(hold.lane)
        except StoreError as error:  # it is over all the same, and is found so at the next start
            log.warning("the end of a hold is not written", lane=hold.lane, error=str(error))

    # -- the directory

    async def follow(self, concerns: Callable[[str], bool]) -> int:
        """What waits for a name that changed is due at once; returns how many deliveries that is."""
        now, woken = self._here.now(), 0
        for queued in await self._store.queued():
            if concerns(queued.name):
                woken += await self._wake(queued.lane, queued.key, now)
                self.lane(queued.lane).forgives(queued.key)
        return woken

    async def _wake(self, name: str, key: str, now: datetime) -> int:
        """Piece by piece, so that no transaction is long; what is in memory looks its address up by itself."""
        lane, woken = self.lane(name), 0
        while True:
            while name in self._asking:  # what is being handed out is memory's in a moment
                await asyncio.wait([self._asking[name]])
            count = await self._store.wake(name, key, now, WOKEN_AT_ONCE, lane.known)
            woken += count
            self.woken("", key)
            if count < WOKEN_AT_ONCE:
                return woken

    def _turn(self, lane: Lane, key: str) -> None:
        """What waits for a destination that is left alone turns to its other address, if it has one that works."""
        if (lane.name, key) not in self._turning and self._carrying.leads_elsewhere(lane.name, key):
            self._turning.add((lane.name, key))
            self.spawn(self._turn_away(lane.name, key), f"{lane.name} is left")

    async def _turn_away(self, lane: str, key: str) -> None:
        try:
            await self._wake(lane, key, self._here.now())
        except StoreError as error:  # it goes with the next probe
            log.warning("what waits for a peer that is left alone cannot be turned away", lane=lane, error=str(error))
        finally:
            self._turning.discard((lane, key))

    # -- the schedule

    async def run(self) -> None:
        """Asks the store for what is due, lane by lane, until cancelled."""
        look_at = self._here.now()
        while True:
            now = self._here.now()
            if now >= look_at:
                look_at = now + LOOK
                await self._look(now)
            self._keep_holds(now)
            for lane in tuple(self.lanes.values()):
                if lane.ask_again(now):
                    self._ask(lane)
            self._drop_idle_lanes()
            self._poke.clear()
            times = [at for lane in self.lanes.values() if (at := lane.asks_at) is not None]
            times += [at for hold in self.holds.values() if (at := hold.changes_at(now)) is not None]
            due = min(times, default=None)
            pause = TICK if due is None else min(max((due - now).total_seconds(), 0.02), TICK)
            try:
                async with asyncio.timeout(pause):
                    await self._poke.wait()
            except TimeoutError:
                continue

    async def _look(self, now: datetime) -> None:
        """At the whole schedule: at start, and now and then in case something was missed."""
        try:
            for waiting in await self._store.schedule():
                self.lane(waiting.lane).due_at(waiting.key, max(waiting.due, now))
        except StoreError as error:
            log.warning("the schedule cannot be read", error=str(error))

    def _drop_idle_lanes(self) -> None:
        """Lanes that have nothing to do and nothing to remember are made anew when they are needed."""
        if len(self.lanes) > 1000:
            for name, lane in tuple(self.lanes.items()):
                if lane.is_idle:
                    del self.lanes[name]

    def _ask(self, lane: Lane) -> None:
        if lane.name not in self._asking and not self._stopping:
            self._asking[lane.name] = self.spawn(self._fetch(lane), f"fetch {lane.name}")

    async def _fetch(self, lane: Lane) -> None:
        """Takes what is due in a lane from the store into memory, some of each destination."""
        now = self._here.now()
        wanted = lane.wanted(now)
        counts: dict[str, int] = {}
        next_due = dict.fromkeys(wanted, now + timedelta(seconds=1))
        lane.gone = set()
        try:
            if wanted:
                claimed = await self._store.claim(lane.name, wanted, now, now + FRESH, now + CLAIMED_FOR)
                next_due = claimed.next_due
                counts = await self._load(lane, claimed, wanted)
        except StoreError as error:
            log.warning("the store cannot be asked for what is due", lane=lane.name, error=str(error))
        finally:
            lane.gone = None
            lane.asked(counts, wanted, next_due)
            self._asking.pop(lane.name, None)

    async def _load(self, lane: Lane, claimed: Claimed, wanted: Collection[str]) -> dict[str, int]:
        """Returns how much was handed out for each destination."""
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
            lane.under(deliveries[0].policy.lane)
            key = next(delivery.key for delivery in deliveries if delivery.key in wanted)
            deliveries.sort(key=lambda delivery: delivery.number)
            lane.put(Parcel(position, deliveries, stored.message, body, None), key)
        return Counter(delivery.key for delivery in claimed.deliveries)

    # -- the end of the day

    async def drain(self, seconds: float) -> None:
        """Finishes the attempts that are under way, and tells who waits for them how they ended.

        What is not done by then is cancelled, and found again at the next start.
        """
        self._stopping = True
        async with asyncio.timeout(seconds + 5):
            deadline = asyncio.get_running_loop().time() + seconds
            for lane in self.lanes.values():
                lane.end()
            while self.settling.unwritten or any(lane.under_way for lane in self.lanes.values()):
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
        answered_by=None, ended=None, steps=(), priority=new.priority,
    )  # fmt: skip
