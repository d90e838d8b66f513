"""Streams, as an operator sees them: which stand still or are long, and the word that one may go on."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from broker.api.admin_frame import AdminError, as_json, number_of
from broker.api.admin_messages import one_position
from broker.api.admin_parts import Parts
from broker.core.stream import key_of
from broker.store import Stream

PAGE, MOST = 50, 500


class Streams:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def list(self, request: web.Request) -> web.Response:
        """Held streams, the longest held first; then those in which some wait for others, the longest first."""
        found = await self._parts.store.streams(number_of(request, "limit", PAGE, least=1, most=MOST))
        return as_json({"streams": [told for one in found if (told := await self._told(one)) is not None]})

    async def _told(self, one: Stream) -> dict[str, Any] | None:
        """None for one that has ended since it was looked at."""
        ids, store = self._parts.here.ids, self._parts.store
        position, number = one.head or one.held_by[0][:2]
        stored = await store.stored(position)
        delivery = next((each for each in await store.deliveries(position) if each.number == number), None)
        if stored is None or delivery is None:
            return None
        message = stored.message
        key = key_of(
            delivery.policy.order, source=message.source, header=message.header, envelope=message.envelope
        )  # fmt: skip
        return {
            "destination": delivery.destination or None,
            "address": delivery.address or None,
            "order": delivery.policy.order.value,
            "by": key.kind.value if key is not None else None,
            "value": key.value or None if key is not None else None,
            "waiting": one.waiting,
            "next": ids.of(one.head[0]) if one.head is not None else None,
            "held_by": [
                {"id": ids.of(holder), "delivery": its, "since": since} for holder, its, since in one.held_by
            ],
        }  # fmt: skip

    async def resume(self, request: web.Request) -> web.Response:
        """The streams that a message's dead letters hold go on without them; the letters stay what they are."""
        position = await one_position(self._parts, request.match_info["id"])
        wanted = number_of(request, "number", 0, least=1)
        holding = [place.number for place in await self._parts.store.places(position) if place.holds]
        resumed = []
        for number in holding:
            if wanted in (0, number):
                released = await self._parts.store.resume(position, number, self._parts.here.now())
                if released is not None:
                    resumed.append(number)
                    for lane, key in released.queues:
                        self._parts.delivering.woken(lane, key)
        if not resumed:
            text = "no dead letter of this message holds a stream; `streams ls` and the traces of what waits name those"
            raise AdminError(409, "not-held", text)
        return as_json({"id": self._parts.here.ids.of(position), "resumed": resumed})
