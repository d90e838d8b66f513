"""The end of an attempt: one transaction for the deliveries, the response that came, and the report of a failure."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Protocol

import structlog

from broker.channel import Accept, Arrival, Asked, Deferred, Delivered, Manner, Peer, Refused
from broker.core.addressing import name_key
from broker.core.circuit import Sign
from broker.core.delivery import Event, State, Step
from broker.core.fhir.header import Header
from broker.core.identity import identity
from broker.core.message import Fate, Message, digest_text
from broker.core.outcome import Problem, Refusal
from broker.core.policy import Order, Policy
from broker.flow import attempt as attempts
from broker.flow.aside import Aside
from broker.flow.callers import Callers
from broker.flow.here import Here
from broker.flow.lane import CLAIMED_FOR, Lane
from broker.flow.letter import message_of
from broker.flow.live import Live
from broker.flow.meter import Meter
from broker.flow.notify import Followers
from broker.flow.queue import Parcel
from broker.flow.report import Reports
from broker.store import (
    Change,
    Copy,
    Delivery,
    Kept,
    NewMessage,
    Settled,
    Settlement,
    Store,
)

log = structlog.get_logger("broker.settle")


class Answers(Protocol):
    """What becomes of a response that came in a receiver's own answer."""

    def in_exchange(
        self,
        message: Message,
        body: bytes,
        sha256: bytes,
        *,
        request: Message,
        answers: tuple[int, int],
        policy: Policy,
    ) -> NewMessage: ...

    async def is_answer(self, header: Header, position: int, request: Message) -> bool: ...

    def arrived(self, kept: Kept | Copy, new: NewMessage) -> None: ...


class Schedule(Protocol):
    """Where deliveries wait, as an attempt and its end know it."""

    def lane(self, name: str) -> Lane: ...
    def is_open(self, name: str, key: str) -> bool: ...
    def poke(self) -> None: ...
    def take(self, kept: Kept, new: NewMessage) -> None: ...
    def released(self, queues: Sequence[tuple[str, str]]) -> None: ...
    def spawn(self, work: Awaitable[None], name: str) -> object: ...


class Noticing(Protocol):
    """Whose notifications are carried (`Fate.NOTICE`)."""

    def manner(self, message: Message, delivery: Delivery) -> Manner | None:
        """How one is sent; None for what travels as a message. Raises LookupError where nobody wants it any more."""
        ...

    def ended(self, position: int, end: attempts.End) -> None: ...
    def failed_later(self, delivery: Delivery, note: str) -> None: ...


class Settling:
    notices: Noticing | None = None  # where nobody may subscribe there are none
    answers: Answers  # joined by app: responses and deliveries know each other
    reports: Reports
    arrivals: Accept  # the way in, for a message in a receiver's answer that is no answer

    def __init__(
        self,
        *,
        here: Here,
        store: Store,
        callers: Callers,
        followers: Followers,
        live: Live,
        aside: Aside,
        meter: Meter,
        schedule: Schedule,
    ) -> None:
        self._here = here
        self._store = store
        self._callers = callers
        self._followers = followers
        self._live = live
        self._aside = aside
        self._meter = meter
        self._schedule = schedule
        self.unwritten = 0  # ends of attempts of which the store has not said yet that they are on disk

    async def ended(
        self,
        lane: Lane,
        parcel: Parcel,
        deliveries: list[Delivery],
        result: Delivered | Deferred | Refused,
        *,
        at: datetime,
        took: float,
        turned: Mapping[int, str] = MappingProxyType({}),
    ) -> None:
        """What an attempt came to, for the deliveries that left in it; `turned`: in which lanes those wait now that
        have another address."""

        def told(event: Event, note: str, *, left: bool = True) -> Step:
            return Step(
                at=at, what=event.value, note=note, status=result.status, took=round(took, 6), left=left,
                address=deliveries[0].address,
            )  # fmt: skip

        position = parcel.position
        if isinstance(result, Deferred):
            step = told(Event.DEFERRED, result.note, left=result.left)
            if result.of_peer:
                unreached = not result.left and result.status is None
                sign = Sign.NO_CONNECTION if unreached else Sign.TROUBLE
                lane.trouble(parcel, sign, result.note, result.retry_after)
            else:
                lane.fine(parcel)
            now, dice = self._here.now(), self._here.dice()  # once for all: what left together leaves together again
            for delivery in deliveries:
                to = turned.get(delivery.number)
                end = attempts.deferred(position, delivery, result, step, now=now, dice=dice, lane=to)
                self.settle(lane, [delivery], parcel.message, end)
            return
        lane.fine(parcel)
        if isinstance(result, Refused):
            step = told(Event.REFUSED, result.note)
            self.settle(lane, deliveries, parcel.message, attempts.refused(position, deliveries, result, step))
            return
        response, note = None, ""
        if result.body is not None:
            response, note = await self._response(parcel, deliveries, result, result.body)
        step = told(Event.DELIVERED, note or result.note)
        self.settle(lane, deliveries, parcel.message, attempts.delivered(position, deliveries, result, step), response)

    async def _response(
        self, parcel: Parcel, deliveries: list[Delivery], result: Delivered, body: bytes
    ) -> tuple[NewMessage | None, str]:
        """A Bundle of type message in a 2xx answer is an arrival from that receiver, and nearly always the response."""
        if parcel.message.fate is not Fate.MESSAGE or parcel.message.header.is_response:
            return None, ""
        arrival = self._arrival(deliveries[0], body, result.media_type)
        try:
            header, sha256 = await self._aside.opened(arrival)
        except Refusal as refusal:
            return None, f"{result.note}; its answer is no message that we can read: {refusal}"
        is_answer = await self.answers.is_answer(header, parcel.position, parcel.message)
        if not is_answer or _speaks_for_another(header, parcel.message, deliveries):
            self._schedule.spawn(self._arrives(arrival), "a message in an answer")
            return None, f"{result.note} that is not the response to this one"
        message = message_of(
            arrival, header, here=self._here, source=header.source, identity=identity(header, sha256),
            digest=digest_text(sha256),
            trusted=False, fate=Fate.ANSWER,
        )  # fmt: skip
        source = name_key(header.source) if header.source else ""
        number = next(
            (d.number for d in deliveries if d.destination and name_key(d.destination) == source), deliveries[0].number
        )
        answers = (parcel.position, number)
        response = self.answers.in_exchange(
            message, body, sha256, request=parcel.message, answers=answers, policy=deliveries[0].policy
        )
        return response, ""

    def _arrival(self, delivery: Delivery, body: bytes, media_type: str | None) -> Arrival:
        return Arrival(
            channel=delivery.address.partition(":")[0],
            peer=Peer(address=delivery.lane),
            body=body,
            media_type=media_type or "application/fhir+json",
            at=self._here.now(),
            asked=Asked(asynchronous=True),
        )

    async def _arrives(self, arrival: Arrival) -> None:
        """Nobody can be told that it is refused: the receiver has had its exchange."""
        try:
            await self.arrivals(arrival)
        except Refusal as refusal:
            log.info("a message in an answer was refused", peer=arrival.peer.address, error=refusal.problem.id)

    def settle(
        self,
        lane: Lane,
        deliveries: list[Delivery],
        message: Message,
        end: attempts.End,
        comes: NewMessage | None = None,
    ) -> None:
        """One transaction: the deliveries' end, and the response or the report that comes of it."""
        position = deliveries[0].position
        if (
            comes is None
            and end.report is not None
            and not self._callers.would_hear_refused(position, end.change.numbers)
        ):
            comes = self._report(position, deliveries, message, end)
        # the caller waits for it, or what comes next in its stream, or the source for its answer; a report can wait
        soon = self._callers.waits(position) or deliveries[0].policy.order is not Order.NONE
        soon = soon or (comes is not None and comes.reports_on is None)
        self.unwritten += 1
        future = self._store.settle(Settlement(change=end.change, comes=comes), soon=soon)
        future.add_done_callback(lambda done: self._settled(lane, deliveries, message, end, comes, done))

    def _report(
        self, position: int, deliveries: list[Delivery], message: Message, end: attempts.End
    ) -> NewMessage | None:
        assert end.report is not None
        if not attempts.wants_bounce(deliveries[0].policy):
            return None
        names = " ".join(d.destination for d in deliveries if d.destination)
        return self.reports.about(
            position, message, end.report, final=end.final, destination=names or None, outcome=end.outcome
        )

    def _settled(
        self,
        lane: Lane,
        deliveries: list[Delivery],
        message: Message,
        end: attempts.End,
        comes: NewMessage | None,
        done: asyncio.Future[Settled],
    ) -> None:
        self.unwritten -= 1
        position, numbers = deliveries[0].position, end.change.numbers
        lane.settled(position, numbers, ended=end.outcome is not None)
        if done.cancelled() or done.exception() is not None:
            log.error("an attempt's end could not be written", id=self._here.ids.of(position))
            for delivery in deliveries:
                lane.due_at(delivery.key, self._here.now() + CLAIMED_FOR)
            return
        settled = done.result()
        if settled.released:
            self._schedule.released(settled.released)
        if self._live:
            self._show(message, deliveries, end)
        if message.fate is Fate.NOTICE and self.notices is not None and settled.changed:
            self.notices.ended(position, end)
        if end.outcome is None:
            if end.change.due is not None:
                to = lane if end.change.lane is None else self._schedule.lane(end.change.lane)
                for delivery in deliveries:
                    to.due_at(delivery.key, end.change.due)
                self._schedule.poke()
            return
        self._count(deliveries[0], end)
        self._tell(position, numbers, message, deliveries, end, comes, settled)

    def _show(self, message: Message, deliveries: list[Delivery], end: attempts.End) -> None:
        """To who follows the source of the message, as it happens."""
        problem = end.outcome.problem if end.outcome is not None else None
        self._live.tell(
            message.source,
            end.change.step.what,
            deliveries[0].position,
            destination=" ".join(delivery.destination for delivery in deliveries),
            note=problem.id if problem is not None else "",
        )

    def _count(self, delivery: Delivery, end: attempts.End) -> None:
        if end.outcome is not None and end.outcome.problem is not None:
            self.died(delivery, end.outcome.problem)
        else:
            self._meter.delivered(delivery.address.partition(":")[0], delivery.rule)

    def died(self, delivery: Delivery, problem: Problem) -> None:
        self._meter.died(delivery.rule, problem.id)
        log.warning("dead", id=self._here.ids.of(delivery.position), destination=delivery.destination, error=problem.id)

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
        self._schedule.take(came, new)

    def expire(self, delivery: Delivery, message: Message) -> None:
        step = Step(at=self._here.now(), what=Event.EXPIRED.value, left=False)
        last = delivery.steps[-1].note if delivery.steps else ""
        end = attempts.expired(delivery.position, delivery, step, made=delivery.attempts, last=last)
        self.settle(self._schedule.lane(delivery.lane), [delivery], message, end)

    def put_back(self, lane: Lane, delivery: Delivery, change: Change, to: str | None = None) -> None:
        def written(future: asyncio.Future[Settled]) -> None:
            if not future.cancelled() and future.exception() is None:
                self._schedule.released(future.result().released)
            lane.settled(delivery.position, (delivery.number,))
            if change.mailbox is not None:
                self._followers.wake(change.mailbox, delivery.position)
                if self._live:
                    self._live.tell(change.mailbox, "arrived", delivery.position)
            if change.state is State.WAITING and change.due is not None:
                self._schedule.lane(lane.name if to is None else to).due_at(delivery.key, change.due)
                self._schedule.poke()

        self._store.settle(Settlement(change=change)).add_done_callback(written)


def _speaks_for_another(header: Header, request: Message, deliveries: Sequence[Delivery]) -> bool:
    """Whether a response is that of another destination of its request, which has a delivery of its own.

    A gateway that had them one by one answers each of those who wait with the first response that it has.
    """
    source = name_key(header.source) if header.source else ""
    named = {name_key(one.endpoint) for one in request.header.destinations if one.endpoint}
    return source in named and all(name_key(delivery.destination) != source for delivery in deliveries)
