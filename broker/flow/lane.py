"""A lane: what goes to one peer, how much of it at once, in whose turn, and who is to be left alone for now.

Within a lane each destination has a queue of its own, and they take turns (`ready`), so that one destination's trouble
is its own also behind a gateway.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import msgspec
import structlog

from broker.core.circuit import ALL_WELL, WELL, Health, Sign, destination_after, peer_after
from broker.core.hold import Hold
from broker.core.policy import LanePolicy
from broker.flow.agenda import Agenda
from broker.flow.loads import Loads
from broker.flow.queue import MOST, Parcel, Queue
from broker.flow.ready import LOW, READY, Ready
from broker.flow.workers import Workers

log = structlog.get_logger("broker.lane")

AT_ONCE = 64  # destinations that the store is asked for at once
ALL = 0  # in place of a number; those of deliveries begin at 1
CLAIMED_FOR = timedelta(seconds=10)  # what the store handed out is not due again before; a crash costs that delay


class Lane:
    """Hands parcels to as many workers as its policy allows, destination by destination."""

    def __init__(
        self,
        name: str,
        *,
        loads: Loads,
        now: Callable[[], datetime],
        attempt: Callable[[Lane, Parcel], Awaitable[None]],
        start: Callable[[Awaitable[None], str], object],
        more: Callable[[Lane], None],
        rests: Callable[[Lane, str], None],
    ) -> None:
        self.name = name
        self.policy = LanePolicy()
        self.known: set[tuple[int, int]] = set()  # position and number of all that is in memory, until it is settled
        self.gone: set[tuple[int, int]] | None = None  # ended or withdrawn while the store is asked for what is due
        self.under_way: dict[int, set[int]] = {}  # position: numbers
        self.peer = ALL_WELL
        self.hold: Hold | None = None  # while an operator lets nothing go
        self.ready = Ready(loads, freed=self._there_is_room)
        self.workers = Workers(
            f"lane {name}", ready=self.ready, carry=self._carry, start=start, more=self._ask_for_more
        )
        self.ready.concurrent = self.policy.concurrent
        self._agenda = Agenda()
        self._is_shut = False  # held, or the broker stops: nothing is begun
        self._ends = False  # the broker stops: what is under way is finished, nothing is begun
        self._reason = ""
        self._now = now
        self._attempt = attempt
        self._more = more  # asks for what the store has
        self._rests = rests  # told of a destination that waits and is left alone
        self._ill: set[Queue] = set()  # whose health is not well
        self._probes = 0  # of them and of those that are ready: sent although the peer is left alone
        self._probing: set[str] = set()  # destinations that the store is being asked for in order to probe
        self._kept_out = False  # something may be due that there was no room for

    def under(self, policy: LanePolicy) -> None:
        """The newest message's word on how this lane is run."""
        if policy is not self.policy:
            self.policy = policy
            self.ready.concurrent, self.workers.rate = policy.concurrent, policy.rate

    # -- what comes in

    def offer(self, parcel: Parcel, key: str) -> bool:
        """Takes a parcel into memory; False where it has to wait in the store."""
        queue = self._agenda.queue(key)
        if not self._takes(queue) or not self.ready.has_room(queue, parcel.priority):
            queue.held_back = True
            return False
        self._put(parcel, queue)
        return True

    def put(self, parcel: Parcel, key: str) -> bool:
        """Takes what the store handed out; False where things have changed since it was asked."""
        queue = self._agenda.queue(key)
        if not self._takes(queue) and (self._is_shut or key not in self._probing):
            return False
        self._put(parcel, queue)
        return True

    def _put(self, parcel: Parcel, queue: Queue) -> None:
        if self.peer.until is not None:
            parcel.is_probe = True
            self._probes += 1
        self.known.update([(parcel.position, delivery.number) for delivery in parcel.deliveries])
        self.ready.put(parcel, queue)
        if queue.under_way < self.ready.allowed:
            self.workers.wake()

    def _takes(self, queue: Queue) -> bool:
        """Whether something for this destination may set out at once."""
        if self._is_shut:
            return False
        until, peer = queue.health.until, self.peer.until
        if until is None and peer is None:
            return True
        rests, now = self._rests_until(queue), self._now()  # if that is over, this one is the probe
        if self._probing or (rests is not None and rests > now):
            return False
        return not (until is not None and (queue.count or queue.under_way)) and not (peer is not None and self._probes)

    def due_at(self, key: str, due: datetime) -> None:
        """Something of a destination is due then, in the store."""
        self._enter(self._agenda.queue(key), due)

    def _enter(self, queue: Queue, due: datetime) -> None:
        """Whoever is left alone is not due before that is over; then those that waited longest come first."""
        rests = self._rests_until(queue)
        if rests is not None and rests > due:
            queue.held_back = True
            due = rests
            self._rests(self, queue.key)
        self._agenda.enter(queue, due)

    def forget(self, position: int, number: int | None = None) -> None:
        """Takes deliveries of a message (or one) out of what waits in memory."""
        if self.gone is not None:
            self.gone.add((position, ALL if number is None else number))
        for parcel in self.ready:
            if parcel.position == position:
                for delivery in [d for d in parcel.deliveries if number is None or d.number == number]:
                    parcel.deliveries.remove(delivery)
                    self.known.discard((position, delivery.number))

    # -- what sets out

    def _there_is_room(self) -> None:
        self.workers.wake()

    def _ask_for_more(self) -> None:
        """There may be room again for what had to stay in the store."""
        if self._kept_out and not self.ready.is_full and self.ask_again(self._now()):
            self._more(self)

    async def _carry(self, parcel: Parcel) -> None:
        queue = parcel.queue
        if parcel.deliveries:
            numbers = {delivery.number for delivery in parcel.deliveries}
            self.under_way.setdefault(parcel.position, set()).update(numbers)
            queue.under_way += 1
            self.ready.busy += 1
            try:
                await self._attempt(self, parcel)
            finally:
                self.ready.busy -= 1
                queue.under_way -= 1
                left = self.under_way[parcel.position] - numbers
                if left:
                    self.under_way[parcel.position] = left
                else:
                    del self.under_way[parcel.position]
        if parcel.body is None:
            self.ready.unload(parcel)
        if parcel.is_probe:
            self._probes -= 1
        if queue.held_back and queue.count < READY // LOW:
            self._enter(queue, self._now())
            self._more(self)

    def settled(self, position: int, numbers: tuple[int, ...], *, ended: bool = False) -> None:
        for number in numbers:
            self.known.discard((position, number))
            if ended and self.gone is not None:
                self.gone.add((position, number))

    def may_have_left(self, position: int, number: int) -> bool:
        """Whether a delivery that is in memory does not wait there any more: its end may not be written yet."""
        return (position, number) in self.known and not self.ready.holds(position, number)

    def has_seen(self, position: int, number: int) -> bool:
        """Whether a delivery that the store handed out is in memory already, or has ended since it was asked."""
        name = (position, number)
        return name in self.known or (self.gone is not None and (name in self.gone or (position, ALL) in self.gone))

    # -- the health of the peer and of its destinations

    def fine(self, parcel: Parcel) -> None:
        """The destination answered: whatever it said, it is there, and so is its peer."""
        if self._ill or self.peer is not ALL_WELL:
            self._learn(parcel, Sign.ANSWERED, "", None)

    def trouble(self, parcel: Parcel, sign: Sign, note: str, asked: timedelta | None) -> None:
        """An attempt failed for reasons that are not its message's; `asked`: the peer's word on when to come again."""
        self._learn(parcel, sign, note, asked)

    def _learn(self, parcel: Parcel, sign: Sign, note: str, asked: timedelta | None) -> None:
        now, policy = self._now(), self.policy
        keys = {parcel.queue.key, *(delivery.key for delivery in parcel.deliveries)}
        for key in keys:
            queue = self._agenda.queue(key)
            health = destination_after(
                queue.health, sign, now=now, open_after=policy.open_after, probe=policy.probe, asked=asked
            )
            if health is not queue.health:
                self._destination_is(queue, health, note, now)
        was = self.peer
        self.peer = peer_after(was, sign, keys, now=now, open_after=policy.open_after, probe=policy.probe)
        if self.peer.until is not None:
            self._reason = note
            if was.until is None:
                log.warning("lane closed", lane=self.name, reason=note, until=self.peer.until.isoformat())
                self._put_back_all(now)
        elif was.until is not None:
            self._reason = ""
            log.info("lane open", lane=self.name)
            self._resume(now)

    def _destination_is(self, queue: Queue, health: Health, note: str, now: datetime) -> None:
        was, queue.health = queue.health, health
        if health is WELL:
            self._ill.discard(queue)
        else:
            self._ill.add(queue)
        if health.until is not None:
            if was.until is None:
                log.warning("destination left alone", lane=self.name, destination=queue.key, reason=note)
            queue.reason = note
            self._put_back(queue)
            queue.next_due = None
            self._agenda.enter(queue, health.until)
            self._rests(self, queue.key)
        elif was.until is not None:
            log.info("destination answers again", lane=self.name, destination=queue.key)
            queue.reason = ""
            self._enter(queue, now)
            self._more(self)

    def forgives(self, key: str) -> None:
        """Its address has changed: what a destination was left alone for may be over."""
        queue = self._agenda.known(key)
        if queue is not None and queue.health is not WELL:
            self._destination_is(queue, WELL, "", self._now())
        if key in self.peer.tried:
            self.peer = msgspec.structs.replace(self.peer, tried=self.peer.tried - {key})

    def _put_back(self, queue: Queue) -> None:
        """What waits in memory for a destination goes back to the store, which has never lost it."""
        for parcel in self.ready.empty(queue):
            self.settled(parcel.position, tuple(delivery.number for delivery in parcel.deliveries))
            self._probes -= parcel.is_probe

    def _put_back_all(self, now: datetime) -> None:
        for queue in self.ready.queues():
            self._put_back(queue)
            self._enter(queue, now)

    def _resume(self, now: datetime) -> None:
        """Whoever had to wait for the lane is due now; those that are left alone wait for their own time."""
        for queue in self._agenda:
            if queue.held_back:
                self._enter(queue, now)
        self._more(self)

    # -- what an operator says

    def holds(self, hold: Hold) -> None:
        """Nothing sets out any more; what is under way is finished."""
        if self.hold is None:
            log.info("lane held", lane=self.name, reason=hold.reason)
        self.hold, self._is_shut = hold, True
        self._put_back_all(self._now())

    def resumes(self) -> None:
        if self.hold is not None:
            log.info("lane resumed", lane=self.name)
            self.hold, self._is_shut = None, self._ends
            self._resume(self._now())

    def end(self) -> None:
        """The broker stops."""
        self._ends = self._is_shut = True
        self._put_back_all(self._now())

    # -- what others ask

    @property
    def waiting(self) -> int:
        """Parcels that are ready."""
        return self.ready.count

    @property
    def is_open(self) -> bool:
        """Whether anything goes to this peer now."""
        return self.peer.until is None and self.hold is None

    def is_open_for(self, key: str) -> bool:
        """Whether something for this destination would set out at once, be it to see whether the peer is back."""
        queue = self._agenda.known(key)
        if queue is not None:
            return self._takes(queue)
        until = self.peer.until
        return not self._is_shut and (until is None or (until <= self._now() and not self._probes))

    @property
    def closed_until(self) -> datetime | None:
        return self.peer.until

    @property
    def reason(self) -> str:
        return self.hold.reason if self.hold is not None else self._reason

    @property
    def left_alone(self) -> tuple[tuple[str, datetime, str], ...]:
        """The destinations that are left alone: key, until when, why."""
        return tuple([
            (queue.key, queue.health.until, queue.reason) for queue in self._ill if queue.health.until is not None
        ])  # fmt: skip

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing to do and nothing to remember."""
        return not (self.known or self.under_way or self._ill or self.hold) and (
            self.peer is ALL_WELL and self.next_due is None
        )

    # -- what is asked of the store

    @property
    def next_due(self) -> datetime | None:
        return self._agenda.first()

    @property
    def asks_at(self) -> datetime | None:
        """When the store is to be asked, as things stand; whoever is at work asks by itself once there is room."""
        due = self._agenda.first()
        if due is None or self._is_shut:
            return None
        if self.peer.until is None:
            return None if self.ready.is_full else due
        if self._probes:  # one at a time
            return None
        return max(due, self.peer.until) if self.peer.nobody_may_be_tried else due

    def ask_again(self, now: datetime) -> bool:
        """Whether the store has something for this lane that may be tried now."""
        at = self.asks_at
        self._kept_out = at is None and self.ready.is_full
        return at is not None and at <= now

    def wanted(self, now: datetime) -> dict[str, int]:
        """For which destinations the store is to be asked now, and for how much of each."""
        limits: dict[str, int] = {}
        while len(limits) < AT_ONCE and self.ask_again(now):
            queue = self._agenda.take()
            rests = self._rests_until(queue)
            if rests is not None and rests > now:
                self._enter(queue, now)
            elif queue.count >= READY // LOW or (queue.is_left_alone and (queue.count or queue.under_way)):
                queue.held_back = True  # until there is room, or its probe has ended
            elif rests is not None:
                self._agenda.is_asked(queue)
                limits[queue.key] = 1
                self._probing.add(queue.key)
                if self.peer.until is not None:
                    break
            else:
                self._agenda.is_asked(queue)
                limits[queue.key] = queue.portion
        many = len(limits) or 1
        share = max(min((READY - self.waiting) // (many + 1), MOST // many), 1)
        return {key: min(limit, share) for key, limit in limits.items()}

    def _rests_until(self, queue: Queue) -> datetime | None:
        """When a destination may be tried; None where neither it nor its peer is left alone."""
        until, peer = queue.health.until, self.peer.until
        if peer is None:
            return until
        if self.peer.may_be_tried(queue.key):
            peer = self._now()
        return peer if until is None else max(until, peer)

    def asked(self, counts: dict[str, int], limits: dict[str, int], next_due: dict[str, datetime]) -> None:
        """The store has answered: so much that is new for each, and when the rest is due."""
        now = self._now()
        self._probing.clear()
        for key, due in next_due.items():
            queue = self._agenda.queue(key)
            self._enter(queue, max(due, now))
            queue.answered(left_over=counts.get(key, 0) >= limits[key])
