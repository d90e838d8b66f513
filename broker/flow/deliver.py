"""Deliver: each delivery in its peer's lane, attempt after attempt, until it has ended.

The store is the schedule, memory is a bounded cache of it: a delivery is written with its next attempt already in the
future, so that a crash is no retry storm, and the store is asked lane by lane for what is due.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from broker.channel import Arrival, Deferred, Delivered, Peer, Refused
from broker.core.addressing import name_key
from broker.core.delivery import Event, State, Step
from broker.core.fhir.header import Header
from broker.core.fhir.media import media_type
from broker.core.fhir.read import read
from broker.core.identity import identity
from broker.core.message import Fate, Message
from broker.core.outcome import Refusal
from broker.core.resolution import State as Standing
from broker.core.resolution import Whereabouts
from broker.flow import attempt as attempts
from broker.flow.callers import Callers
from broker.flow.here import Here
from broker.flow.lane import Lane, Parcel
from broker.flow.letter import message_of
from broker.flow.meter import Meter
from broker.flow.notify import Followers
from broker.flow.plan import mailbox_of
from broker.flow.report import Reports
from broker.plugins import Channels, is_mailbox
from broker.store import (
    Change,
    Claimed,
    Copy,
    Delivery,
    Kept,
    NewDelivery,
    NewMessage,
    Settled,
    Settlement,
    Store,
    StoreError,
)

log = structlog.get_logger("broker.deliver")

CLAIMED_FOR = timedelta(seconds=60)  # what the store handed out is not due again before; a crash costs that delay
FRESH = timedelta(seconds=2)  # what was never tried may be taken this much before its due time
LARGE = 256 * 1024  # bytes; a larger body is read when it is sent, so that waiting costs no memory
LOOK = timedelta(minutes=1)  # between looks at the whole schedule
TICK = 1.0  # seconds between looks at the schedule when nothing calls for an earlier one


class Answers(Protocol):
    """What becomes of a response that came in a receiver's own answer."""

    def in_exchange(self, message: Message, body: bytes, request: Message, answers: tuple[int, int]) -> NewMessage: ...

    def arrived(self, kept: Kept | Copy, new: NewMessage) -> None: ...


class Delivering:
    answers: Answers  # joined by app: responses and deliveries know each other
    reports: Reports

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
        self._channels = channels
        self._directory = directory
        self._callers = callers
        self._followers = followers
        self._meter = meter
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
                name, now=self._here.now, attempt=self._attempt, start=self.spawn, more=self._ask
            )
        return lane

    def is_open(self, name: str) -> bool:
        lane = self.lanes.get(name)
        return lane is None or lane.is_open

    def is_in_memory(self, position: int, number: int) -> bool:
        return any((position, number) in lane.known for lane in self.lanes.values())

    def is_under_way(self, lane: str, position: int, number: int) -> bool:
        known = self.lanes.get(lane)
        return known is not None and number in known.under_way.get(position, ())

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

    def spawn(self, work: Awaitable[None], name: str) -> None:
        """Starts a task that this step owns: it is waited for at the end."""
        task = asyncio.ensure_future(work)
        assert isinstance(task, asyncio.Task)
        task.set_name(name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- what comes from acceptance

    def take(self, position: int, numbers: Sequence[int], new: NewMessage) -> None:
        """Sets out what has just been accepted; `numbers` are those of its deliveries."""
        self.take_planned(position, numbers, new.deliveries, new.message, new.body)

    def take_planned(
        self,
        position: int,
        numbers: Sequence[int],
        planned: Sequence[NewDelivery],
        message: Message,
        body: bytes,
    ) -> None:
        now = self._here.now()
        groups: dict[tuple[str, str], list[Delivery]] = {}
        for number, new in zip(numbers, planned, strict=True):
            if number and new.state is State.WAITING and (position, number) not in self.lane(new.lane).known:
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

    def woken(self, lane: str) -> None:
        """Something of a lane is due now, in the store (a redrive, a name that changed)."""
        self.lane(lane).next_due = self._here.now()
        self._poke.set()

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
        fresh = [d for d in claimed.deliveries if not lane.has_seen(d.position, d.number)]
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

    # -- an attempt

    async def _attempt(self, lane: Lane, parcel: Parcel) -> None:
        try:
            now = self._here.now()
            deliveries = self._look_up(lane, parcel, self._in_time(parcel, now), now)
            if not deliveries:
                return
            body = parcel.body if parcel.body is not None else await self._store.body(parcel.position)
            if body is None:
                log.error("no body", id=self._here.ids.of(parcel.position))
                self._leave(lane, parcel)
                return
            await self._send(lane, parcel, deliveries, body)
        except (StoreError, OSError) as error:
            log.warning("attempt not made", lane=lane.name, error=str(error))
            self._leave(lane, parcel)
        except Exception:  # a bug costs this delivery a delay, and the lane nothing
            log.exception("attempt failed", lane=lane.name, id=self._here.ids.of(parcel.position))
            self._leave(lane, parcel)

    def _leave(self, lane: Lane, parcel: Parcel) -> None:
        """Back to the store, where it is found once its claim is over."""
        lane.settled(parcel.position, tuple(d.number for d in parcel.deliveries))
        lane.due_at(self._here.now() + timedelta(seconds=5))

    def _in_time(self, parcel: Parcel, now: datetime) -> list[Delivery]:
        """Those that are still worth something; the others end here, and are never sent."""
        live = []
        for delivery in parcel.deliveries:
            if delivery.expiry > now:
                live.append(delivery)
            else:
                self.expire(delivery, parcel.message)
        return live

    def expire(self, delivery: Delivery, message: Message) -> None:
        step = Step(at=self._here.now(), what=Event.EXPIRED.value, left=False)
        last = delivery.steps[-1].note if delivery.steps else ""
        end = attempts.expired(delivery.position, delivery, step, made=delivery.attempts, last=last)
        self._settle(self.lane(delivery.lane), [delivery], message, end)

    def _look_up(self, lane: Lane, parcel: Parcel, deliveries: list[Delivery], now: datetime) -> list[Delivery]:
        """The address anew; what has moved to another peer, or has none now, goes back to the store."""
        directory = self._directory()
        if parcel.snapshot == directory.version:
            return deliveries
        here = []
        for delivery in deliveries:
            address, reason = self._address(delivery, parcel.message, directory, now)
            if address is not None and not is_mailbox(address) and not self._lane_name(address):
                address, reason = None, "no channel that runs carries its address"
            if address is None:
                self._put_back(lane, delivery, attempts.held(parcel.position, delivery, now=now, reason=reason))
            elif self._lane_name(address) != lane.name or is_mailbox(address):
                self._move(lane, parcel, delivery, address, now)
            else:
                delivery.address = address
                here.append(delivery)
        for delivery in here[1:]:  # they left in one transmission because they shared an address
            if delivery.address != here[0].address:
                here.remove(delivery)
                self._put_back(
                    lane, delivery, attempts.moved(parcel.position, delivery, delivery.address, lane.name, now=now)
                )
        return here

    def _address(
        self, delivery: Delivery, message: Message, directory: Whereabouts, now: datetime
    ) -> tuple[str | None, str]:
        if delivery.fixed or not delivery.destination:
            return delivery.address or None, "it has no address"
        found = directory.resolve(
            delivery.destination, release=message.header.release, format=message.header.format, now=now
        )
        if found.state is not Standing.USE or not found.addresses:
            if message.fate is not Fate.MESSAGE and delivery.address:
                return delivery.address, ""  # the way back was decided once: a response-url, a hop
            return None, found.reason or "the directory does not know the destination now"
        if found.first:
            turn = delivery.attempts % len(found.addresses)  # the next when one is down
            order = (*found.addresses[turn:], *found.addresses[:turn])
            return next((a for a in order if is_mailbox(a) or self.is_open(self._lane_name(a))), order[0]), ""
        if delivery.address in found.addresses:
            return delivery.address, ""
        return found.addresses[0], ""

    def _lane_name(self, address: str) -> str:
        if is_mailbox(address):
            return ""
        try:
            return self._channels.lane_of(address)
        except ValueError:
            return ""

    def _move(self, lane: Lane, parcel: Parcel, delivery: Delivery, address: str, now: datetime) -> None:
        mailbox = mailbox_of(address, delivery.destination)
        if mailbox is None:
            name = self._lane_name(address)
            self._put_back(lane, delivery, attempts.moved(parcel.position, delivery, address, name, now=now), name)
            return
        step = Step(at=now, what=Event.DELIVERED.value, address=address, note="put into the mailbox")
        change = Change(
            position=parcel.position, numbers=(delivery.number,), state=State.DONE, step=step, address=address,
            lane="", mailbox=mailbox, attempted=False,
        )  # fmt: skip
        self._put_back(lane, delivery, change)

    def _put_back(self, lane: Lane, delivery: Delivery, change: Change, to: str | None = None) -> None:
        def written(_future: asyncio.Future[Settled]) -> None:
            lane.settled(delivery.position, (delivery.number,))
            if change.mailbox is not None:
                self._followers.wake(change.mailbox, delivery.position)
            if change.state is State.WAITING and change.due is not None:
                self.lane(lane.name if to is None else to).due_at(change.due)
                self._poke.set()

        self._store.settle(Settlement(change=change)).add_done_callback(written)

    async def _send(self, lane: Lane, parcel: Parcel, deliveries: list[Delivery], body: bytes) -> None:
        position, message = parcel.position, parcel.message
        sender = self._channels.sender_for(deliveries[0].address)
        assert sender is not None, "a lane has a channel"
        clock = asyncio.get_running_loop().time
        started, at = clock(), self._here.now()
        sent = attempts.transmission(
            message,
            body,
            deliveries,
            here=self._here,
            position=position,
            wait_left=self._callers.wait_left(position, at),
            response_url=message.header.is_response,
        )
        try:
            result = await sender.attempt(sent)
        except Exception:
            log.exception("a channel failed", lane=lane.name, id=sent.message_id)
            result = Deferred(note="the channel failed; its log says why")
        took = clock() - started
        self._meter.attempted(lane.name.partition(":")[0], type(result).__name__.lower(), took)
        self._ended(lane, parcel, deliveries, result, at=at, took=took)

    # -- its end

    def _ended(
        self,
        lane: Lane,
        parcel: Parcel,
        deliveries: list[Delivery],
        result: Delivered | Deferred | Refused,
        *,
        at: datetime,
        took: float,
    ) -> None:
        position = parcel.position
        if isinstance(result, Deferred):
            step = Step(
                at=at, what=Event.DEFERRED.value, note=result.note, status=result.status, took=round(took, 6),
                left=result.left, address=deliveries[0].address,
            )  # fmt: skip
            if result.of_peer:
                lane.trouble(result.note)
            else:
                lane.fine()
            now, dice = self._here.now(), self._here.dice()  # once for all: what left together leaves together again
            for delivery in deliveries:
                end = attempts.deferred(position, delivery, result, step, now=now, dice=dice)
                self._settle(lane, [delivery], parcel.message, end)
            return
        lane.fine()
        if isinstance(result, Refused):
            step = Step(
                at=at, what=Event.REFUSED.value, note=result.note, status=result.status, took=round(took, 6),
                address=deliveries[0].address,
            )  # fmt: skip
            self._settle(lane, deliveries, parcel.message, attempts.refused(position, deliveries, result, step))
            return
        response, note = self._response(parcel, deliveries, result)
        step = Step(
            at=at, what=Event.DELIVERED.value, note=note or result.note, status=result.status, took=round(took, 6),
            address=deliveries[0].address,
        )  # fmt: skip
        self._settle(lane, deliveries, parcel.message, attempts.delivered(position, deliveries, result, step), response)

    def _response(self, parcel: Parcel, deliveries: list[Delivery], result: Delivered) -> tuple[NewMessage | None, str]:
        """A Bundle of type message in a 2xx answer is an arrival from that receiver."""
        if result.body is None or parcel.message.fate is not Fate.MESSAGE or parcel.message.header.is_response:
            return None, ""
        try:
            header = read(result.body, media_type(result.media_type or "application/fhir+json"))
        except Refusal as refusal:
            return None, f"{result.note}; its answer is no message that we can read: {refusal}"
        message = self._arrived(header, deliveries[0], result)
        source = name_key(header.source) if header.source else ""
        number = next(
            (d.number for d in deliveries if d.destination and name_key(d.destination) == source), deliveries[0].number
        )
        return self.answers.in_exchange(message, result.body, parcel.message, (parcel.position, number)), ""

    def _arrived(self, header: Header, delivery: Delivery, result: Delivered) -> Message:
        assert result.body is not None
        arrival = Arrival(
            channel=delivery.address.partition(":")[0],
            peer=Peer(address=delivery.lane),
            body=result.body,
            media_type=result.media_type or "application/fhir+json",
            at=self._here.now(),
        )
        return message_of(
            arrival, header, here=self._here, source=header.source, identity=identity(header, b""), digest="",
            trusted=False, fate=Fate.ANSWER,
        )  # fmt: skip

    def _settle(
        self,
        lane: Lane,
        deliveries: list[Delivery],
        message: Message,
        end: attempts.End,
        comes: NewMessage | None = None,
    ) -> None:
        """One transaction: the deliveries' end, and the response or the report that comes of it."""
        position = deliveries[0].position
        if comes is None and end.report is not None and not self._callers.waits(position):
            comes = self._report(position, deliveries, message, end)
        future = self._store.settle(Settlement(change=end.change, comes=comes))
        future.add_done_callback(lambda done: self._settled(lane, deliveries, message, end, comes, done))

    def _report(
        self, position: int, deliveries: list[Delivery], message: Message, end: attempts.End
    ) -> NewMessage | None:
        assert end.report is not None
        if not attempts.wants_bounce(deliveries[0].policy):
            return None
        names = " ".join(d.destination for d in deliveries if d.destination)
        return self.reports.about(position, message, end.report, final=end.final, destination=names or None)

    def _settled(
        self,
        lane: Lane,
        deliveries: list[Delivery],
        message: Message,
        end: attempts.End,
        comes: NewMessage | None,
        done: asyncio.Future[Settled],
    ) -> None:
        position, numbers = deliveries[0].position, end.change.numbers
        lane.settled(position, numbers, ended=end.outcome is not None)
        if done.cancelled() or done.exception() is not None:
            log.error("an attempt's end could not be written", id=self._here.ids.of(position))
            lane.due_at(self._here.now() + CLAIMED_FOR)
            return
        settled = done.result()
        if end.outcome is None:
            if end.change.due is not None:
                lane.due_at(max(end.change.due, lane.closed_until or end.change.due))
                self._poke.set()
            return
        self._count(deliveries[0], end, position)
        self._tell(position, numbers, message, deliveries, end, comes, settled)

    def _count(self, delivery: Delivery, end: attempts.End, position: int) -> None:
        if end.outcome is not None and end.outcome.problem is not None:
            self._meter.died(delivery.rule, end.outcome.problem.id)
            log.warning(
                "dead", id=self._here.ids.of(position), destination=delivery.destination, error=end.outcome.problem.id
            )
        else:
            self._meter.delivered(delivery.address.partition(":")[0], delivery.rule)

    def _tell(
        self,
        position: int,
        numbers: tuple[int, ...],
        message: Message,
        deliveries: list[Delivery],
        end: attempts.End,
        comes: NewMessage | None,
        settled: Settled,
    ) -> None:
        """Who waits for the end of this delivery, and what came of it, sets out."""
        assert end.outcome is not None
        if comes is not None and settled.came is not None:
            self.came(settled.came, comes)
            if comes.answers is not None:
                return  # the caller has heard the response itself
        told = self._callers.ended(position, numbers, end.outcome)
        if end.report is not None and comes is None and not told and settled.changed:
            report = self._report(position, deliveries, message, end)  # the caller that was to be told has gone
            if report is not None:
                self.post(report)

    def post(self, new: NewMessage) -> asyncio.Future[Kept | Copy]:
        """Keeps a message of our own and sets it out."""
        future = self._store.accept(new)

        def kept(done: asyncio.Future[Kept | Copy]) -> None:
            if done.cancelled() or done.exception() is not None:
                log.error("a report could not be kept", error=str(done.exception()))
            else:
                self.came(done.result(), new)

        future.add_done_callback(kept)
        return future

    def came(self, came: Kept | Copy, new: NewMessage) -> None:
        if new.answers is not None:
            self.answers.arrived(came, new)
        if isinstance(came, Copy):
            return
        for delivery in new.deliveries:
            if delivery.mailbox is not None:
                self._followers.wake(delivery.mailbox, came.position)
        self.take(came.position, came.numbers, new)

    # -- the end of the day

    async def drain(self, seconds: float) -> None:
        """Finishes the attempts that are under way; what is not done by then is cancelled and found again at start."""
        self._stopping = True
        async with asyncio.timeout(seconds + 5):
            deadline = asyncio.get_running_loop().time() + seconds
            for lane in self.lanes.values():
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
