"""Accept: decide the route, claim the identity, write message and deliveries; only then is the sender told.

Routing comes before the acknowledgement, so the unroutable is refused while the sender still listens.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial

import msgspec
import structlog

from broker.core.answer import Answer, AnswerKind, Receipt
from broker.core.answering import answer_now
from broker.core.cancellation import keys_of
from broker.core.delivery import State
from broker.core.identity import quotable_ids
from broker.core.message import Fate
from broker.core.outcome import NoRoute, Problem, RefusedByRule
from broker.core.policy import Policy
from broker.core.resolution import Whereabouts
from broker.core.routing import Decision, Question, Route, RuleSet, decide
from broker.flow.callers import Caller, Callers
from broker.flow.cancel import Cancelling
from broker.flow.copies import Copies
from broker.flow.deliver import Delivering
from broker.flow.here import Here
from broker.flow.letter import Letter
from broker.flow.meter import Meter
from broker.flow.plan import Planning
from broker.flow.refusals import Refusals
from broker.flow.report import Reports
from broker.flow.respond import Answering, Responding
from broker.flow.status_check import StatusChecks
from broker.flow.validate import validate
from broker.flow.waits import Waits
from broker.store import Copy, Delivery, Kept, NewDelivery, NewMessage, Store

log = structlog.get_logger("broker.accept")
level = logging.getLogger(
    "broker.accept"
)  # asked for every message; structlog would make a logger of its own each time


class Accepting:
    def __init__(
        self,
        *,
        here: Here,
        store: Store,
        rules: RuleSet,
        defaults: Policy,
        directory: Callable[[], Whereabouts],
        planning: Planning,
        delivering: Delivering,
        responding: Responding,
        reports: Reports,
        callers: Callers,
        waits: Waits,
        refusals: Refusals,
        meter: Meter,
    ) -> None:
        self._here = here
        self._store = store
        self._rules = rules
        self._defaults = defaults
        self._directory = directory
        self._planning = planning
        self._delivering = delivering
        self._responding = responding
        self._reports = reports
        self._callers = callers
        self._waits = waits
        self._refusals = refusals
        self._meter = meter
        # what is kept though it goes nowhere, since subscribers are to hear of it; None where there can be none
        self.for_subscribers: Callable[[Letter, NoRoute], Awaitable[Route | None]] | None = None
        self._copies = Copies(store)
        self._checks = StatusChecks(here=here, store=store)
        self._cancelling = Cancelling(
            here=here, store=store, rules=rules, delivering=delivering, callers=callers, reports=reports
        )

    # -- the way in

    async def take(self, letter: Letter) -> Answer | Caller:
        """Keeps the message; returns the answer, or the caller that waits for it. Raises Refusal."""
        now = self._here.now()
        if letter.header.event == self._here.status_event and not letter.header.is_response:
            return await self._checks.answer(letter)
        try:
            # a response finds its request before any rule is asked
            answering = await self._responding.find(letter) if letter.header.is_response else None
            route, new = self._decide(letter, answering, now)
        except NoRoute as refusal:
            kept = None if self.for_subscribers is None else await self.for_subscribers(letter, refusal)
            if kept is None:
                return await self._carried_before(letter, refusal)
            route, deliveries = self._planning.deliveries(kept, letter.message, now=now)
            new = self._new(letter, deliveries, route)
        for decision in route.accepted:
            if decision.policy.validate == "resource":
                await asyncio.to_thread(validate, letter.body, letter.header)
                break
        notes: tuple[Problem, ...] = ()
        if self._cancelling.is_used and self._cancelling.is_cancel(new) and await self._copies.find(letter) is None:
            new, notes = await self._cancelling.call_off(letter, new)
        return await self._keep_and_acknowledge(letter, route, new, notes)

    def _decide(self, letter: Letter, answering: Answering | None, now: datetime) -> tuple[Route, NewMessage]:
        """The route and what is written for it."""
        route = self._route(letter, now)
        if not route.accepted and any(problem.id == RefusedByRule.id for problem in route.problems):
            raise route.refusal()
        if answering is not None:
            return route, self._responding.response(letter, answering, route, now=now)
        if route.is_refused:
            raise route.refusal()
        route, deliveries = self._planning.deliveries(route, letter.message, now=now)
        if route.is_refused:
            raise route.refusal()
        return route, self._new(letter, deliveries, route)

    def _route(self, letter: Letter, now: datetime) -> Route:
        arrival, message = letter.arrival, letter.message
        question = Question(
            header=None if letter.header.opaque else letter.header,
            destinations=letter.destinations,
            source=message.source,
            party=message.party,
            channel=message.channel,
            way_in=message.way_in,
            transport_headers=arrival.headers,
            event_type=message.envelope.type,
            now=now,
        )
        return decide(question, self._rules, self._directory(), self._defaults)

    def _new(self, letter: Letter, deliveries: tuple[NewDelivery, ...], route: Route) -> NewMessage:
        identity = letter.identity
        consequence = expects = False
        for decision in route.accepted:
            consequence = consequence or decision.policy.category == "consequence"
        for delivery in deliveries:
            expects = expects or delivery.answer_by is not None
        quotes = tuple([id for id in quotable_ids(letter.header) if id != identity.key]) if expects else ()
        if self._cancelling.is_used:
            quotes += keys_of(letter.header)
        return NewMessage(
            message=letter.message,
            body=letter.body,
            digest=letter.sha256,
            source_key=letter.source_key,
            identity=identity.key,
            exclusive=f"only once:{identity.message_id}" if consequence and identity.message_id else None,
            quotes=quotes,
            deliveries=deliveries,
        )

    async def _keep_and_acknowledge(
        self, letter: Letter, route: Route, new: NewMessage, notes: tuple[Problem, ...] = ()
    ) -> Answer | Caller:
        caller = self._waits.caller(letter, route, new.deliveries)
        kept = await self._keep(letter, new, route, caller)
        if isinstance(kept, Copy):
            return await self._copy(letter, route, new, kept)
        if caller is None or caller.kept is None:
            self._meter.accepted(letter.arrival.channel)
        receipt = self._receipt(kept.position, route, notes)
        if caller is not None:
            self._callers.enter(caller, receipt)
        self._log(letter, receipt, new)
        self._set_out(letter, kept, new, route, caller)
        return Answer(kind=AnswerKind.ACCEPTED, receipt=receipt) if caller is None else caller

    async def _keep(self, letter: Letter, new: NewMessage, route: Route, caller: Caller | None) -> Kept | Copy:
        if caller is not None and _is_one_to_be_carried(new, route):
            # Nobody is told anything before the answer: the attempt need not wait for the disk, the answer does.
            future, caller.kept = self._store.accept_early(new)
            caller.kept.add_done_callback(partial(self._is_kept, letter, caller))
        else:
            future = self._store.accept(new)
        try:
            return await future
        except asyncio.CancelledError:  # the caller has gone; what was kept meanwhile sets out without it
            if future.done() and not future.exception() and isinstance(kept := future.result(), Kept):
                self._set_out(letter, kept, new, route, None)
            raise

    def _is_kept(self, letter: Letter, caller: Caller, done: asyncio.Future[Kept | Copy]) -> None:
        """The message that has set out is on disk; or it is not, and what came of it is nobody's."""
        error = done.exception()
        if error is None:
            if isinstance(done.result(), Kept):
                self._meter.accepted(letter.arrival.channel)
            return
        self._delivering.forget(caller.position)
        if not caller.answer.done():
            caller.answer.set_exception(error)
            caller.answer.exception()  # where it had not set out yet, its caller is told of that elsewhere

    def _receipt(self, position: int, route: Route, more: tuple[Problem, ...]) -> Receipt:
        """What the sender gets; it names the destinations that cannot be reached, since each of them gets a bounce."""
        refused = len(route.accepted) < len(route.decisions)
        notes = route.problems if refused and route.accepted else ()
        return Receipt(message_id=self._here.ids.of(position), position=position, notes=(*more, *notes))

    def _log(self, letter: Letter, receipt: Receipt, new: NewMessage) -> None:
        """The ordinary case, told only where somebody looks for it: traces and metrics have it anyway."""
        if level.isEnabledFor(logging.DEBUG):
            log.debug(
                "accepted",
                id=receipt.message_id,
                channel=letter.arrival.channel,
                peer=letter.arrival.peer.address,
                message_event=str(letter.header.event),
                source=letter.message.source,
                destinations=[delivery.destination for delivery in new.deliveries],
                size=len(letter.body),
                fate=new.message.fate.name.lower(),
            )

    # -- what follows from the commit

    def _set_out(self, letter: Letter, kept: Kept, new: NewMessage, route: Route, caller: Caller | None) -> None:
        position = kept.position
        if new.answers is not None:
            self._responding.arrived(kept, new)
        self._delivering.take(kept, new)
        if new.answers is None and len(route.accepted) < len(route.decisions):
            for decision in route.decisions:
                if decision.problem is not None:
                    self._refusals.note(letter.arrival, letter.header, decision.problem, decision.destination)
                    self._bounce(letter, position, decision)
        if caller is not None:
            caller.look()

    def _bounce(self, letter: Letter, position: int, decision: Decision) -> None:
        assert decision.problem is not None
        if decision.policy.bounce == "always" and not letter.header.is_response:
            self._reports.send(position, letter.message, decision.problem, final=True, destination=decision.destination)

    # -- copies

    async def _carried_before(self, letter: Letter, refusal: NoRoute) -> Answer | Caller:
        """A copy of what was carried is answered as ever, also when the directory knows its destination no more."""
        copy = await self._copies.find(letter)
        if copy is None or await self._copies.compare(letter, copy) is None:
            raise refusal
        route = Route.of(())
        return await self._copy(letter, route, self._new(letter, (), route), copy)

    async def _copy(self, letter: Letter, route: Route, new: NewMessage, copy: Copy) -> Answer | Caller:
        """The identity was here before: the same message again, or another one under ids that were used (M-20…M-22)."""
        policies = [decision.policy for decision in route.accepted] or [self._defaults]
        note = await self._copies.compare(letter, copy)
        if note is None or any(policy.duplicates == "forward" for policy in policies):
            return await self._under_used_ids(letter, route, new, copy, policies, same=note is not None)
        self._meter.duplicate(letter.arrival.channel)
        notes = (note,) if note.text else ()
        receipt = Receipt(
            message_id=self._here.ids.of(copy.position), position=copy.position, duplicate=True, notes=notes
        )
        await self._copies.remember(letter, copy.position, note, self._here.now())
        added = await self._add(letter, new, copy.position)
        log.info("copy", id=receipt.message_id, channel=letter.arrival.channel, added=len(added))
        asked = letter.arrival.asked
        if asked.asynchronous:
            if asked.reply_to is None:
                await self._responding.return_untold(copy.position)
            return await self._without_waiting(new, receipt, listens=asked.reply_to is not None)
        return await self._join(letter, route, new, receipt)

    async def _under_used_ids(
        self,
        letter: Letter,
        route: Route,
        new: NewMessage,
        copy: Copy,
        policies: Sequence[Policy],
        *,
        same: bool,
    ) -> Answer | Caller:
        if not same and (copy.exclusive or not any(policy.reused_id == "accept" for policy in policies)):
            raise await self._copies.conflict(letter, copy, self._here.ids.of(copy.position))
        # `reused_id: accept` makes the bytes part of the identity; `duplicates: forward` sends each copy on as its own
        key = f"{letter.identity.key}\n{letter.sha256.hex()}" if not same else None
        new = msgspec.structs.replace(new, identity=key, exclusive=None, quotes=(*new.quotes, letter.identity.key))
        return await self._keep_and_acknowledge(letter, route, new)

    async def _add(self, letter: Letter, new: NewMessage, position: int) -> tuple[int, ...]:
        """A copy that names a destination the message did not have yet adds that delivery."""
        if new.answers is not None:
            return ()
        kept = await self._store.add(  # one that was withdrawn sets out again
            position, new.deliveries, (new.body, new.digest)
        )
        self._delivering.take(kept, new)
        return tuple(number for number in kept.numbers if number)

    async def _without_waiting(self, new: NewMessage, receipt: Receipt, *, listens: bool) -> Answer:
        """A copy whose sender does not wait; `listens`: its channel sends the answer to where that one listens."""
        self._callers.share(receipt.position)
        known = await self._responding.stored_response(receipt) if listens else None
        if known is None and new.answers is None:
            # a caller may have been told that it was refused, whose connection broke, and nobody else was
            there = await self._store.deliveries(receipt.position)
            known = answer_now([delivery.outcome for delivery in there], listens_on=False, receipt=receipt)
            if known is None or known.kind is not AnswerKind.REFUSED:
                self._tell_again(receipt.position, new, [one for one in there if one.state is State.DEAD])
            elif await self._is_reported(receipt.position, new):
                known = None
        if known is not None and known.kind in (AnswerKind.RESPONSE, AnswerKind.REFUSED):
            return known
        return Answer(kind=AnswerKind.ACCEPTED, receipt=receipt)

    async def _is_reported(self, position: int, copy: NewMessage) -> bool:
        """Whether the source has our own word of the refusal: a hop that heard of it too would report it once more."""
        if not copy.message.envelope.via:
            return False  # the source itself asks
        return any(one.message.fate is Fate.REPORT for one in await self._store.answers_to(position))

    def _tell_again(self, position: int, new: NewMessage, dead: Sequence[Delivery]) -> None:
        """Of some destinations only: a report for each that the copy asks for."""
        asked = {delivery.key for delivery in new.deliveries}
        for one in dead:
            problem = one.outcome.problem if one.outcome is not None else None
            if problem is not None and one.key in asked and one.policy.bounce == "always":
                self._reports.send(position, new.message, problem, final=True, destination=one.destination)

    async def _join(self, letter: Letter, route: Route, new: NewMessage, receipt: Receipt) -> Answer | Caller:
        """A copy gets the stored response, or waits for what is under way, as the first would have."""
        stored = await self._responding.stored_response(receipt)
        if stored is not None:
            return stored
        caller = self._waits.caller(letter, route, new.deliveries)
        if caller is None:
            return Answer(kind=AnswerKind.ACCEPTED, receipt=receipt)
        self._callers.enter(caller, receipt)
        for delivery in await self._store.deliveries(receipt.position):
            if delivery.outcome is not None:
                caller.ends[delivery.number] = delivery.outcome
            elif delivery.state is State.WAITING or caller.listens_on:
                caller.expect((delivery.number,))
            else:
                caller.ends.pop(delivery.number, None)  # in a mailbox, or withdrawn: it has no further end
        stored = await self._responding.stored_response(receipt)  # it may have come with the ends just read
        if stored is not None or not caller.ends:
            self._callers.leave(caller)
            return stored or Answer(kind=AnswerKind.ACCEPTED, receipt=receipt)
        caller.look()
        return caller


def _is_one_to_be_carried(new: NewMessage, route: Route) -> bool:
    """Whether all that follows from acceptance is one attempt: no bounce, no mailbox, no turn in a stream."""
    if len(new.deliveries) != 1 or new.answers is not None or len(route.accepted) < len(route.decisions):
        return False
    (delivery,) = new.deliveries
    return delivery.state is State.WAITING and delivery.stream is None and delivery.behind is None
