"""One attempt of a parcel: is it in time, where does its endpoint live now, and the sending."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import msgspec
import structlog

from broker.channel import Deferred, Delivered, Refused, Transmission
from broker.core.delivery import Event, State, Step
from broker.core.envelope import EMPTY
from broker.core.message import Fate, Message
from broker.core.resolution import State as Standing
from broker.core.resolution import Whereabouts
from broker.flow import attempt as attempts
from broker.flow.callers import Callers
from broker.flow.here import Here
from broker.flow.lane import Lane
from broker.flow.meter import Meter
from broker.flow.plan import is_further, mailbox_of
from broker.flow.queue import Parcel
from broker.flow.settle import Schedule, Settling
from broker.plugins import MAILBOX, Channels, is_mailbox
from broker.store import (
    Change,
    Delivery,
    Store,
    StoreError,
)

log = structlog.get_logger("broker.carry")

ENDS = {Delivered: "delivered", Deferred: "deferred", Refused: "refused"}  # as the meter hears of them


class Carrying:
    def __init__(
        self,
        *,
        here: Here,
        store: Store,
        channels: Channels,
        directory: Callable[[], Whereabouts],
        callers: Callers,
        meter: Meter,
        schedule: Schedule,
        settling: Settling,
    ) -> None:
        self._here = here
        self._store = store
        self._channels = channels
        self._directory = directory
        self._callers = callers
        self._meter = meter
        self._schedule = schedule
        self._settling = settling

    async def attempt(self, lane: Lane, parcel: Parcel) -> None:
        try:
            now = self._here.now()
            deliveries = self._look_up(lane, parcel, self._in_time(parcel, now), now)
            if not deliveries:
                return
            body = parcel.body
            if body is None:
                body, now = await self._store.body(parcel.position), self._here.now()
            if body is None:
                log.error("no body", id=self._here.ids.of(parcel.position))
                self._leave(lane, parcel)
                return
            await self._send(lane, parcel, deliveries, body, now)
        except (StoreError, OSError) as error:
            log.warning("attempt not made", lane=lane.name, error=str(error))
            self._leave(lane, parcel)
        except Exception:  # a bug costs this delivery a delay, and the lane nothing
            log.exception("attempt failed", lane=lane.name, id=self._here.ids.of(parcel.position))
            self._leave(lane, parcel)

    def _leave(self, lane: Lane, parcel: Parcel) -> None:
        """Back to the store, where it is found once its claim is over."""
        lane.settled(parcel.position, tuple(d.number for d in parcel.deliveries))
        for delivery in parcel.deliveries:
            lane.due_at(delivery.key, self._here.now() + timedelta(seconds=5))

    def _in_time(self, parcel: Parcel, now: datetime) -> list[Delivery]:
        """Those that are still worth something; the others end here, and are never sent."""
        live = []
        for delivery in parcel.deliveries:
            if delivery.expiry > now:
                live.append(delivery)
            else:
                self._settling.expire(delivery, parcel.message)
        return live

    def _look_up(self, lane: Lane, parcel: Parcel, deliveries: list[Delivery], now: datetime) -> list[Delivery]:
        """The address anew; what has moved to another peer, or has none now, goes back to the store."""
        directory = self._directory()
        if parcel.snapshot == directory.version:
            return deliveries
        here = []
        for delivery in deliveries:
            address, reason = self._address(delivery, parcel.message, directory, now, lane.name)
            if address is not None and not is_mailbox(address) and not self._lane_name(address):
                address, reason = None, "no channel that runs carries its address"
            if address is None:
                self._settling.put_back(
                    lane, delivery, attempts.held(parcel.position, delivery, now=now, reason=reason)
                )
            elif self._lane_name(address) != lane.name or is_mailbox(address):
                self._move(lane, parcel, delivery, address, now)
            else:
                delivery.address = address
                here.append(delivery)
        for delivery in here[1:]:  # they left in one transmission because they shared an address
            if delivery.address != here[0].address:
                here.remove(delivery)
                self._settling.put_back(
                    lane, delivery, attempts.moved(parcel.position, delivery, delivery.address, lane.name, now=now)
                )
        return here

    def _address(
        self, delivery: Delivery, message: Message, directory: Whereabouts, now: datetime, asking: str
    ) -> tuple[str | None, str]:
        if delivery.fixed or not delivery.destination:
            return delivery.address or None, "it has no address"
        opaque, header = message.header.opaque, message.header
        found = directory.resolve(
            delivery.destination,
            release=None if opaque else header.release,
            format=None if opaque else header.format,
            now=now,
        )
        if found.state is not Standing.USE or not found.addresses:
            if message.fate is not Fate.MESSAGE and delivery.address:
                return delivery.address, ""  # the way back was decided once: a response-url, a hop
            if message.fate is not Fate.MESSAGE and not found.known and not found.pending:
                return MAILBOX, ""  # it had waited until the directory was known
            return None, found.reason or "the directory does not know the destination now"
        if found.first:
            return self._first(found.addresses, delivery.key, delivery.attempts, asking), ""
        if delivery.address in found.addresses:
            return delivery.address, ""
        # Of several that are all served its own has changed; the first has a delivery of its own.
        others = found.addresses[1:] if is_further(delivery.key) else ()
        return (*others, *found.addresses)[0], ""

    def _first(self, addresses: Sequence[str], key: str, attempts: int, asking: str) -> str:
        """The next address after each failure, if its peer can be reached as far as we know."""
        turn = attempts % len(addresses)
        order = (*addresses[turn:], *addresses[:turn])
        for address in order:
            # one that is left alone asks for one delivery only, to see whether it is back: that one stays there
            if self._lane_name(address) == asking or self._is_open(address, key):
                return address
        return order[0]

    def leads_elsewhere(self, lane: str, key: str) -> bool:
        """Whether a destination that is left alone in this lane has another address, one that can be reached."""
        found = self._directory().resolve(key, release=None, format=None, now=self._here.now())
        return (
            found.first
            and found.state is Standing.USE
            and any(self._lane_name(one) != lane and self._is_open(one, key) for one in found.addresses)
        )

    def _next(self, delivery: Delivery, message: Message, now: datetime) -> str:
        """The address that is its turn after a failure, of those that have several of which one is enough."""
        if delivery.fixed or not delivery.destination:
            return ""
        opaque, header = message.header.opaque, message.header
        found = self._directory().resolve(
            delivery.destination,
            release=None if opaque else header.release,
            format=None if opaque else header.format,
            now=now,
        )
        if found.state is not Standing.USE or not found.first or len(found.addresses) < 2:
            return ""
        return self._first(found.addresses, delivery.key, delivery.attempts + 1, "")

    def _is_open(self, address: str, key: str) -> bool:
        return is_mailbox(address) or self._schedule.is_open(self._lane_name(address), key)

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
            self._settling.put_back(
                lane, delivery, attempts.moved(parcel.position, delivery, address, name, now=now), name
            )
            return
        step = Step(at=now, what=Event.DELIVERED.value, address=address, note="put into the mailbox")
        change = Change(
            position=parcel.position, numbers=(delivery.number,), state=State.DONE, step=step, address=address,
            lane="", mailbox=mailbox, attempted=False,
        )  # fmt: skip
        self._settling.put_back(lane, delivery, change)

    async def _send(self, lane: Lane, parcel: Parcel, deliveries: list[Delivery], body: bytes, at: datetime) -> None:
        position, message = parcel.position, parcel.message
        sender = self._channels.sender_for(deliveries[0].address)
        assert sender is not None, "a lane has a channel"
        clock = asyncio.get_running_loop().time
        started = clock()
        wait_left = self._callers.wait_left(position, at)
        sent = attempts.transmission(
            message,
            body,
            deliveries,
            here=self._here,
            position=position,
            wait_left=wait_left,
            listens_on=wait_left is not None and self._callers.listens_on(position),
            response_url=message.header.is_response,
        )
        if message.fate is Fate.NOTICE:
            try:
                sent = self._as_asked(sent, message, deliveries[0])
            except LookupError as gone:
                result: Delivered | Deferred | Refused = Deferred(note=str(gone), left=False)
                await self._settling.ended(lane, parcel, deliveries, result, at=at, took=0.0)
                return
        try:
            result = await sender.attempt(sent)
        except Exception:
            log.exception("a channel failed", lane=lane.name, id=sent.message_id)
            result = Deferred(note="the channel failed; its log says why")
        took = clock() - started
        self._meter.attempted(lane.name.partition(":")[0], ENDS[type(result)], took)
        turned: dict[int, str] = {}
        if isinstance(result, Deferred) and result.of_peer:  # who has another address tries that next
            after = {d.number: self._next(d, message, at) for d in deliveries}
            turned = {number: self._lane_name(address) for number, address in after.items() if address}
        await self._settling.ended(lane, parcel, deliveries, result, at=at, took=took, turned=turned)

    def _as_asked(self, sent: Transmission, message: Message, delivery: Delivery) -> Transmission:
        """A notification as its subscriber wants it, with nothing of ours around it."""
        if self._settling.notices is None:
            raise LookupError("nobody may subscribe here any more")
        manner = self._settling.notices.manner(message, delivery)
        return sent if manner is None else msgspec.structs.replace(sent, manner=manner, envelope=EMPTY)
