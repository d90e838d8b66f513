"""Dead letters: what was given up and why, and an operator's two ways with it: redrive or drop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

from aiohttp import web

from broker.api.admin_frame import AdminError, as_json, number_of, object_of
from broker.api.admin_messages import one_position
from broker.api.admin_parts import Parts
from broker.api.story import delivery_told, line, places_of
from broker.core.delivery import State
from broker.store import DeadLetter, Delivery, Released

PAGE, MOST = 50, 500
AT_ONCE = 200  # rows read at a time where all are wanted
LONGEST_REASON = 500  # characters: it stays in the trace


class Dead:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def list(self, request: web.Request) -> web.Response:
        """Dead letters in the order of their messages; `next` is what to go on after."""
        limit = number_of(request, "limit", PAGE, least=1, most=MOST)
        letters, more = await self._page(number_of(request, "after", 0), limit)
        ids = self._parts.here.ids
        told = []
        for one in letters:
            place = (await places_of(self._parts.store, (one.delivery,))).get(one.delivery.number)
            told.append({**line(one.stored, ids), "delivery": delivery_told(one.delivery, ids, place=place)})
        return as_json({"dead": told, "next": letters[-1].delivery.position if more else None})

    async def _page(self, after: int, limit: int) -> tuple[Sequence[DeadLetter], bool]:
        """Whole messages only, since one goes on after a position: a message may have several dead letters."""
        while True:
            letters = await self._parts.store.dead(limit + 1, after)
            if len(letters) <= limit:
                return letters, False
            last = letters[-1].delivery.position
            whole = [letter for letter in letters if letter.delivery.position < last]
            if whole:
                return whole, True
            limit *= 2

    async def redrive(self, request: web.Request) -> web.Response:
        """The dead deliveries of one message (or one of them) wait again, due at once."""
        position = await one_position(self._parts, request.match_info["id"])
        wanted = number_of(request, "number", 0, least=1)
        numbers = [one.number for one in await self._dead(position, wanted) if await self._redrive(one)]
        if not numbers:
            raise AdminError(409, "not-dead", "none of its deliveries is dead any more; its trace says why")
        return as_json({"id": self._parts.here.ids.of(position), "redriven": numbers})

    async def redrive_several(self, request: web.Request) -> web.Response:
        """All dead letters, or those of the messages that are named."""
        body = await object_of(request)
        wanted = body.get("ids")
        if wanted is not None and not (isinstance(wanted, list) and all(isinstance(one, str) for one in wanted)):
            raise AdminError(400, "bad-request", "`ids` must be a list of message ids")
        if set(body) - {"ids"}:
            raise AdminError(400, "bad-request", "the body knows `ids` only; without it all dead letters are meant")
        if wanted is not None:
            return as_json(await self._named(wanted))
        done, left = 0, []
        async for one in self._all():
            try:
                done += await self._redrive(one)
            except AdminError as error:
                left.append(self._left(self._parts.here.ids.of(one.position), error, one.number))
        return as_json({"redriven": done, "left": left})

    async def _named(self, wanted: Sequence[str]) -> dict[str, Any]:
        done, left = 0, []
        for text in wanted:
            try:
                for one in await self._dead(await one_position(self._parts, text), 0):
                    done += await self._redrive(one)
            except AdminError as error:
                left.append(self._left(text, error, None))
        return {"redriven": done, "left": left}

    @staticmethod
    def _left(id: str, error: AdminError, number: int | None) -> dict[str, Any]:
        return {"id": id, "delivery": number, "error": {"id": error.id, "text": error.text}}

    async def _all(self) -> AsyncIterator[Delivery]:
        """Every dead letter there was when asked; what dies again meanwhile is not redriven in circles."""
        until = self._parts.here.now()
        after, more = 0, True
        while more:
            letters, more = await self._page(after, AT_ONCE)
            for letter in letters:
                if letter.delivery.ended is None or letter.delivery.ended <= until:
                    yield letter.delivery
            after = letters[-1].delivery.position if letters else after

    async def _redrive(self, one: Delivery) -> bool:
        """Its time to be given up is counted anew; what the sender said is worth nothing by now stays dead."""
        now = self._parts.here.now()
        expiry = now + one.policy.retry.give_up
        stored = await self._parts.store.stored(one.position)
        said = stored.message.envelope.expirytime if stored is not None else None
        if said is not None and said <= now + timedelta(seconds=1):
            text = f"the sender said that it is worth nothing after {said.isoformat()}; it can only be dropped"
            raise AdminError(409, "expired", text)
        if stored is None or not stored.body_kept:
            raise AdminError(410, "body-removed", "the bytes are gone: retention has removed them")
        done = await self._parts.store.redrive(one.position, one.number, now, min(said, expiry) if said else expiry)
        return self._went_on(done)

    def _went_on(self, done: Released | None) -> bool:
        """What is due now is looked for in its lane; says whether anything was done at all."""
        for lane, key in done.queues if done is not None else ():
            self._parts.delivering.woken(lane, key)
        return done is not None

    async def drop(self, request: web.Request) -> web.Response:
        """Gives dead deliveries up for good; the story stays, with the reason."""
        position = await one_position(self._parts, request.match_info["id"])
        wanted = number_of(request, "number", 0, least=1)
        body = await object_of(request)
        reason = body.get("reason")
        if not isinstance(reason, str) or not reason.strip() or len(reason) > LONGEST_REASON:
            text = f'say why, for the trace: {{"reason": "…"}}, up to {LONGEST_REASON} characters'
            raise AdminError(400, "reason-missing", text)
        now, reason = self._parts.here.now(), " ".join(reason.split())
        numbers = [
            one.number
            for one in await self._dead(position, wanted)
            if self._went_on(await self._parts.store.drop(position, one.number, now, reason))
        ]
        if not numbers:
            raise AdminError(409, "not-dead", "none of its deliveries is dead any more; its trace says why")
        return as_json({"id": self._parts.here.ids.of(position), "dropped": numbers})

    async def _dead(self, position: int, wanted: int) -> Sequence[Delivery]:
        deliveries = await self._parts.store.deliveries(position)
        if wanted:
            deliveries = tuple(one for one in deliveries if one.number == wanted)
            if not deliveries:
                raise AdminError(404, "unknown-delivery", f"the message has no delivery with the number {wanted}")
        dead = [one for one in deliveries if one.state is State.DEAD]
        if not dead:
            states = ", ".join(f"{one.number}: {one.state.name.lower()}" for one in deliveries) or "it has none"
            raise AdminError(409, "not-dead", f"none of these deliveries is dead ({states})")
        return dead
