"""Cancel: a message that calls off an earlier one withdraws what has not left of it, and follows what has (W-12).

It judges nothing: what reached the receiver is the receiver's to cancel, and both outcomes go their way (W-30).
"""

from __future__ import annotations

import msgspec
import structlog

from broker.core.addressing import name_key
from broker.core.cancellation import CANCELLED, NOTHING_TO_CANCEL, OUTCOME, called_off
from broker.core.delivery import AnswerState, State
from broker.core.message import Fate
from broker.core.outcome import Problem
from broker.core.rules import RuleSet
from broker.flow.callers import Callers
from broker.flow.deliver import Delivering
from broker.flow.here import Here
from broker.flow.letter import Letter
from broker.flow.report import Reports
from broker.store import Delivery, NewDelivery, NewMessage, Store, Stored

log = structlog.get_logger("broker.cancel")

CANDIDATES = 32  # earlier messages about the same; those before them have long gone
WHY = "called off by its sender's cancel message"


class Cancelling:
    def __init__(
        self,
        *,
        here: Here,
        store: Store,
        rules: RuleSet,
        delivering: Delivering,
        callers: Callers,
        reports: Reports,
    ) -> None:
        self._here = here
        self._store = store
        self._delivering = delivering
        self._callers = callers
        self._reports = reports
        self._rules = frozenset(rule.name for rule in rules.rules if rule.cancels)
        self.is_used = bool(self._rules)

    def is_cancel(self, new: NewMessage) -> bool:
        return new.answers is None and any(planned.rule in self._rules for planned in new.deliveries)

    async def call_off(self, letter: Letter, new: NewMessage) -> tuple[NewMessage, tuple[Problem, ...]]:
        """The message as it is kept then: what has nothing to cancel at its receiver goes nowhere."""
        earlier = await self._earlier(letter)
        planned = [
            await self._one(one, earlier) if one.rule in self._rules and one.state is not State.LOGGED else one
            for one in new.deliveries
        ]
        idle = any(now.state is State.LOGGED is not was.state for now, was in zip(planned, new.deliveries, strict=True))
        changed = msgspec.structs.replace(new, deliveries=tuple(planned))
        return changed, (NOTHING_TO_CANCEL,) if idle else ()

    async def _earlier(self, letter: Letter) -> list[Stored]:
        """Messages of the same source about the same, newest first; whoever else is about it has nothing to fear."""
        found = []
        for position in await self._store.find(called_off(letter.header, letter.body), CANDIDATES):
            stored = await self._store.stored(position)
            if stored is None or stored.message.fate is not Fate.MESSAGE or stored.message.header.is_response:
                continue
            source = stored.message.source
            if (name_key(source) if source else "") == letter.source_key:
                found.append(stored)
        return found

    async def _one(self, planned: NewDelivery, earlier: list[Stored]) -> NewDelivery:
        """For one destination: withdrawn is what can be, and behind the newest of the rest it goes."""
        withdrawn, behind, left = False, None, False
        for stored in earlier:
            for delivery in await self._of(stored, planned):
                if await self._withdraw(stored, delivery):
                    withdrawn = True
                    continue
                left = True
                if behind is None:
                    behind = (delivery.position, delivery.number)
                if delivery.answer is AnswerState.OPEN:  # nobody waits for the answer of what was called off
                    await self._store.missing(
                        delivery.position, delivery.number, self._here.now(), None, AnswerState.CLOSED
                    )
        if withdrawn and not left:
            return msgspec.structs.replace(
                planned, state=State.LOGGED, mailbox=None, unread_by=None, stream=None, answer=AnswerState.NONE,
                answer_by=None,
            )  # fmt: skip
        return msgspec.structs.replace(planned, behind=behind)

    async def _of(self, stored: Stored, planned: NewDelivery) -> list[Delivery]:
        """The earlier message's deliveries to the same destination, but for those of cancel messages."""
        name = planned.key.partition("\n")[0]
        return [
            delivery
            for delivery in await self._store.deliveries(stored.position)
            if delivery.key.partition("\n")[0] == name and delivery.rule not in self._rules
        ]

    async def _withdraw(self, stored: Stored, delivery: Delivery) -> bool:
        """Whether the receiver surely never has it: it is withdrawn now, or was before."""
        if delivery.state is State.WITHDRAWN:
            return True
        if delivery.state is not State.WAITING or delivery.left:
            return False
        position, number = stored.position, delivery.number
        others = {one.number for one in await self._store.deliveries(position)} - {number}
        may_have_left = self._delivering.may_have_left(delivery.lane, position, number)
        self._delivering.forget_one(position, number)
        waits = self._callers.waits(position)
        report = None if waits or delivery.policy.bounce != "always" else self._report(stored, delivery)
        done = await self._store.withdraw(
            position, self._here.now(), WHY, others | ({number} if may_have_left else set()), OUTCOME, report
        )
        self._delivering.released(done.released)
        if not done.numbers:
            self._delivering.woken(delivery.lane, delivery.key)  # it waits in the store only now
            return False
        log.info("cancelled", id=self._here.ids.of(position), destination=delivery.destination)
        if done.came is not None and report is not None:
            self._delivering.settling.came(done.came, report)
        if waits:
            self._callers.ended(position, done.numbers, OUTCOME)
        return True

    def _report(self, stored: Stored, delivery: Delivery) -> NewMessage | None:
        return self._reports.about(
            stored.position, stored.message, CANCELLED, final=True, destination=delivery.destination or None
        )
