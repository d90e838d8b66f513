"""Waits: which caller is kept waiting for the answer, how long, and what it hears when that time is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta

import structlog

from broker.core.answer import Answer, AnswerKind
from broker.core.answering import caller_waits, how_long, wants_silence
from broker.core.delivery import State
from broker.core.policy import Expects, OnTimeout, Policy
from broker.core.routing import Route
from broker.flow.callers import Caller, Callers
from broker.flow.deliver import Delivering
from broker.flow.here import Here
from broker.flow.letter import Letter
from broker.flow.respond import Responding
from broker.store import NewDelivery, Store, StoreError

log = structlog.get_logger("broker.waits")


class Waits:
    def __init__(
        self,
        *,
        here: Here,
        store: Store,
        callers: Callers,
        delivering: Delivering,
        responding: Responding,
        defaults: Policy,
        stores_and_forwards: Callable[[str], bool],
    ) -> None:
        self._here = here
        self._store = store
        self._callers = callers
        self._delivering = delivering
        self._responding = responding
        self._defaults = defaults
        self._stores_and_forwards = stores_and_forwards

    def caller(self, letter: Letter, route: Route, deliveries: Sequence[NewDelivery]) -> Caller | None:
        asked = letter.arrival.asked
        if asked.asynchronous:
            return None
        policies = [decision.policy for decision in route.accepted] or [self._defaults]
        silence = all(
            wants_silence(
                expects=policy.sync.expects,
                is_response=letter.header.is_response,
                response_request=letter.header.response_request,
            )
            for policy in policies
        )
        waits = caller_waits(
            asynchronous=asked.asynchronous,
            silence=silence,
            asked_to_wait=asked.wait is not None,
            response_demanded=any(policy.sync.expects is Expects.RESPONSE for policy in policies),
            destinations=len({delivery.destination for delivery in deliveries}),
            all_store_and_forward=all(
                self._stores_and_forwards(delivery.address) for delivery in deliveries if delivery.address
            )
            and any(delivery.address for delivery in deliveries),
        )
        if not waits or all(delivery.state is State.LOGGED for delivery in deliveries):
            return None
        listens_on = asked.wait is not None or any(p.sync.expects is Expects.RESPONSE for p in policies)
        caller = Caller(
            listens_on=listens_on,
            until=letter.arrival.at + self._how_long(letter, policies),
            refuses=all(policy.sync.on_timeout is OnTimeout.REFUSE for policy in policies),
        )
        caller.expect(number for number, d in enumerate(deliveries, 1) if d.state is State.WAITING or listens_on)
        return caller

    def _how_long(self, letter: Letter, policies: Sequence[Policy]) -> timedelta:
        """How long the caller is kept: what its envelope leaves, or what it asks for; at most the rule's longest."""
        asked, timeleft = letter.arrival.asked.wait, letter.arrival.envelope.timeleft
        left = None
        if timeleft is not None and self._here.steers(letter.message.party):
            left = timedelta(milliseconds=timeleft)  # who sent it has left out what the way back takes
        return min(
            how_long(asked=asked, left=left, wait=policy.sync.wait, longest=policy.sync.longest) for policy in policies
        )

    async def until_answered(self, caller: Caller) -> Answer:
        """Keeps the caller until it is answered or its wait ends; what it is told is on disk."""
        left = (caller.until - self._here.now()).total_seconds()
        timer = asyncio.get_running_loop().call_later(max(left, 0), caller.time_is_over)
        try:
            answer = await caller.answer
            if caller.kept is not None and not caller.kept.done():
                await caller.kept
        except asyncio.CancelledError:  # it may have had its answer, and is gone before that could be written
            self._responding.not_told(caller)
            raise
        finally:
            timer.cancel()
            self._callers.leave(caller)
        return await self._wait_over(caller) if answer is None else answer

    async def _wait_over(self, caller: Caller) -> Answer:
        self._callers.gave_up(caller)
        if not caller.refuses:
            return Answer(kind=AnswerKind.KEPT, receipt=caller.receipt)
        try:
            left = not await self.withdraw(
                caller.position, "the caller's wait is over, and the rule says to refuse then"
            )
        except StoreError as error:  # it could not be withdrawn, so that it is kept
            log.warning("not withdrawn", id=caller.receipt.message_id, error=str(error))
            return Answer(kind=AnswerKind.KEPT, receipt=caller.receipt)
        return Answer(kind=AnswerKind.WITHDRAWN, receipt=caller.receipt, left=left)

    async def withdraw(self, position: int, why: str) -> bool:
        """Withdraws what has not left; says whether that was everything."""
        under_way = self._delivering.forget(position)
        withdrawn = await self._store.withdraw(position, self._here.now(), why, under_way)
        self._delivering.released(withdrawn.released)
        return all(delivery.state is State.WITHDRAWN for delivery in await self._store.deliveries(position))
