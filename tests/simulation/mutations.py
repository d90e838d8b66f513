"""Rules that are broken on purpose, each in one place of the real code: the simulation has to find every one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec

from broker.channel import Arrival, Delivered, Transmission
from broker.core.answer import Answer, AnswerKind, Receipt
from broker.core.message import Fate, Message
from broker.core.outcome import LoopDetected
from broker.flow import attempt
from broker.flow.accept import Accepting
from broker.flow.callers import Caller
from broker.flow.carry import Carrying
from broker.flow.lane import Lane
from broker.flow.letter import opened_here
from broker.flow.queue import Parcel
from broker.flow.receive import Receiving
from broker.flow.report import Reports
from broker.flow.respond import Responding
from broker.store import Copy, Delivery, Kept, NewMessage
from broker.store.tables import Tables


def settle_before_send() -> None:
    send = Carrying._send

    async def settled_first(
        self: Carrying, lane: Lane, parcel: Parcel, deliveries: list[Delivery], body: bytes, at: datetime
    ) -> None:
        await self._settling.ended(lane, parcel, deliveries, Delivered(status=202), at=at, took=0.0)
        await send(self, lane, parcel, deliveries, body, at)

    Carrying._send = settled_first  # type: ignore[method-assign]


def acknowledge_before_sync() -> None:
    async def kept_in_memory(
        self: Accepting, _letter: Any, new: Any, _route: Any, _caller: Caller | None
    ) -> Kept | Copy:
        known, _on_disk = self._store.accept_early(new)
        return await known

    Accepting._keep = kept_in_memory  # type: ignore[method-assign]


def forget_the_return_path() -> None:
    Responding._address_back = lambda self, request: (None, None)  # type: ignore[method-assign]


def drop_via() -> None:
    transmission = attempt.transmission

    def without_us(message: Any, *more: Any, **named: Any) -> Transmission:
        sent = transmission(message, *more, **named)
        envelope = msgspec.structs.replace(sent.envelope, via=message.envelope.via)
        return msgspec.structs.replace(sent, envelope=envelope)

    attempt.transmission = without_us


def look_for_duplicates_before_loops() -> None:
    take_in = Receiving.__call__

    async def duplicates_first(self: Receiving, arrival: Arrival) -> Answer:
        try:
            return await take_in(self, arrival)
        except LoopDetected:
            letter = self._letter(arrival, *opened_here(arrival), trusted=True)
            copy = await self._accepting._copies.find(letter)
            if copy is None:
                raise
            receipt = Receipt(message_id=self._here.ids.of(copy.position), position=copy.position, duplicate=True)
            return Answer(kind=AnswerKind.ACCEPTED, receipt=receipt)

    Receiving.__call__ = duplicates_first  # type: ignore[method-assign]


def key_duplicates_without_the_destination() -> None:
    async def nothing_to_add(self: Accepting, *_arguments: Any) -> tuple[int, ...]:
        return ()

    Accepting._add = nothing_to_add  # type: ignore[method-assign]


def let_streams_overtake() -> None:
    Tables.join = lambda self, stream, position: (position, False)  # type: ignore[method-assign]


def send_after_expiry() -> None:
    Carrying._in_time = lambda self, parcel, now: list(parcel.deliveries)  # type: ignore[method-assign]


def report_on_reports() -> None:
    about = Reports.about

    def whatever(self: Reports, position: int, message: Message, *more: Any, **named: Any) -> NewMessage | None:
        header = msgspec.structs.replace(message.header, response=None)
        message = msgspec.structs.replace(message, fate=Fate.MESSAGE, header=header)
        return about(self, position, message, *more, **named)

    Reports.about = whatever  # type: ignore[method-assign]


def keep_callers_waiting() -> None:
    Caller.time_is_over = lambda self: None  # type: ignore[method-assign]


MUTATIONS: dict[str, Callable[[], None]] = {
    one.__name__.replace("_", "-"): one
    for one in (
        settle_before_send, acknowledge_before_sync, forget_the_return_path, drop_via, look_for_duplicates_before_loops,
        key_duplicates_without_the_destination, let_streams_overtake, send_after_expiry, report_on_reports,
        keep_callers_waiting,
    )
}  # fmt: skip
