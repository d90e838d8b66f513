"""Respond: which request a response answers, and the way back to who asked.

A response is a message: it is kept like any other. It goes to the first of: the caller that waits, the request's
`response-url`, the directory's address of the request's source, the previous hop, the source's mailbox.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec
import structlog

from broker.core.addressing import name_key
from broker.core.answer import Answer, AnswerKind, Receipt
from broker.core.conversation import is_final
from broker.core.correlation import Candidate, Match, Verdict, match
from broker.core.delivery import AnswerState, State
from broker.core.fhir.header import Header
from broker.core.identity import identity, quotable_ids, quoted_ids
from broker.core.message import Fate, Message
from broker.core.policy import Late, Order, Policy, Responses
from broker.core.resolution import How, Resolution, Whereabouts
from broker.core.resolution import State as Standing
from broker.core.routing import Decision, Route
from broker.flow.callers import Caller, Callers
from broker.flow.deliver import Delivering
from broker.flow.here import Here
from broker.flow.letter import Letter
from broker.flow.live import Live
from broker.flow.meter import Meter
from broker.flow.plan import Planning, stream_of
from broker.plugins import MAILBOX
from broker.store import Copy, Kept, NewDelivery, NewMessage, Open, Store

log = structlog.get_logger("broker.respond")

CALLER = "caller:"  # the address of a response that went to the caller that waited
CANDIDATES = 32  # messages that share a quoted id; ids repeat (corpus), but an answer to an older one is a guess
FATES = {
    Verdict.ANSWERS: Fate.ANSWER,
    Verdict.LATE: Fate.LATE,
    Verdict.DOUBLE: Fate.DOUBLE,
    Verdict.UNMATCHED: Fate.UNMATCHED,
}


class Answering(msgspec.Struct, frozen=True, kw_only=True):
    """A response and the request it belongs to."""

    match: Match
    request: Open


class Responding:
    def __init__(
        self,
        *,
        here: Here,
        store: Store,
        directory: Callable[[], Whereabouts],
        planning: Planning,
        delivering: Delivering,
        callers: Callers,
        live: Live,
        defaults: Policy,
        meter: Meter,
    ) -> None:
        self._here = here
        self._store = store
        self._directory = directory
        self._planning = planning
        self._delivering = delivering
        self._callers = callers
        self._live = live
        self._defaults = defaults
        self._meter = meter
        self._since = here.now()

    # -- which request

    async def find(self, letter: Letter) -> Answering | None:
        """The request that a response answers or answered; None where it is of nothing we carried."""
        link = letter.header.response
        assert link is not None
        quoted = quoted_ids(link)
        if letter.via and letter.message.envelope.correlationid and self._is_word_of_hop(letter):
            # of what expects no answer only the identity is kept, and what its envelope is called by is mostly that
            quoted += (letter.message.envelope.correlationid,)
        for _ in range(2):
            found = await self._store.quoted(quoted, CANDIDATES)
            chosen = self._match(letter, found)
            if chosen.verdict is not Verdict.UNMATCHED:
                return Answering(match=chosen, request=next(r for r in found if r.stored.position == chosen.position))
            # an attempt that was under way when the store was read may have ended by now: then it is read again
            if not any(map(self._candidates, found)):
                break
        return None

    def _match(self, letter: Letter, found: Sequence[Open]) -> Match:
        source = letter.message.source
        return match(
            [candidate for request in found for candidate in self._candidates(request)],
            source=letter.source_key,
            destinations=[name_key(name) for name in letter.destinations],
            is_at=lambda address: _same_address(source, address),
            lives_at=lambda address: self._lives_at(source, address),
            hop_at=lambda address: self._is_word_of_hop(letter) and self._is_way_to(letter.via[-1], address),
        )

    def _is_word_of_hop(self, letter: Letter) -> bool:
        """Whether a broker on the way made the response itself: it is the first in `via`, under its own name."""
        return bool(letter.via) and name_key(letter.via[0]) == letter.source_key

    def _candidates(self, request: Open) -> list[Candidate]:
        message = request.stored.message
        if message.fate is not Fate.MESSAGE or message.header.is_response:
            return []  # M-36: there is never a response to a response
        return [
            Candidate(
                position=delivery.position,
                number=delivery.number,
                request_source=name_key(message.source) if message.source else "",
                destination=name_key(delivery.destination) if delivery.destination else "",
                address=delivery.address,
                open=delivery.answer is AnswerState.OPEN,
                answered=delivery.answer is AnswerState.ANSWERED,
                carried=delivery.left
                or delivery.state is State.DONE
                # what waits from before the start may have left just before the end, which nobody could note
                or (delivery.state is State.WAITING and delivery.accepted < self._since)
                or self._delivering.may_have_left(delivery.lane, delivery.position, delivery.number),
            )
            for delivery in request.deliveries
        ]

    def _lives_at(self, source: str | None, address: str) -> bool:
        return source is not None and address in self._look_up(source).addresses

    def _is_way_to(self, hop: str, address: str) -> bool:
        """Whether an address leads to that broker, which may have ways in of several paths."""
        return any(self._planning.share_a_peer(one, address) for one in self._look_up(hop).addresses)

    def _look_up(self, name: str) -> Resolution:
        return self._directory().resolve(name, release=None, format=None, now=self._here.now())

    # -- what is written for it

    def response(self, letter: Letter, answering: Answering, route: Route, *, now: datetime) -> NewMessage:
        """The response as it is kept, with its way back."""
        chosen, request = answering.match, answering.request.stored.message
        fate = FATES[chosen.verdict]
        answers = (chosen.position, chosen.number)
        policy = route.accepted[0].policy if route.accepted else self._defaults
        asked = next((d for d in answering.request.deliveries if d.number == chosen.number), None)
        drop = asked is not None and self._drops(asked.policy, chosen.position, fate)
        message = msgspec.structs.replace(letter.message, fate=fate, in_reply_to=request.reference)
        if letter.arrival.envelope.correlationid is None:
            message = _in_conversation(message, request)
        return NewMessage(
            message=message,
            body=letter.body,
            digest=letter.sha256,
            source_key=letter.source_key,
            identity=letter.identity.key,
            quotes=(),
            deliveries=self.way_back(
                request,
                now,
                policy=policy,
                position=chosen.position if fate is Fate.ANSWER else None,
                drop=drop,
                response=message,
                one_by_one=asked is not None and asked.policy.responses is Responses.SEVERAL,
            ),
            answers=answers,
            final=asked is None or is_final(asked.policy, letter.header, letter.body),
        )

    def _drops(self, policy: Policy, request: int, fate: Fate) -> bool:
        """Whether a response is kept and shown only: the request is closed, or the wait of its caller is over."""
        return policy.sync.late is Late.DROP and (fate is not Fate.ANSWER or self._callers.is_too_late(request))

    async def is_answer(self, header: Header, position: int, request: Message) -> bool:
        """Whether a message in a receiver's own answer is the response to what it was sent.

        An id that no request of ours has is a slip, and the exchange itself says what is meant. An id that another
        request has makes it that one's answer, and what is no response at all is an echo, or a message of its own.
        """
        if header.response is None:
            return False
        quoted = quoted_ids(header.response)
        if not {*quoted}.isdisjoint(quotable_ids(request.header)):
            return True
        asked_by = name_key(request.source) if request.source else ""
        named = [name_key(one.endpoint) for one in header.destinations if one.endpoint]
        if named and asked_by and asked_by not in named:
            return False
        return not any(
            other.stored.position != position and self._candidates(other)
            for other in await self._store.quoted(quoted, CANDIDATES)
        )

    def in_exchange(
        self,
        message: Message,
        body: bytes,
        sha256: bytes,
        *,
        request: Message,
        answers: tuple[int, int],
        policy: Policy,
    ) -> NewMessage:
        """A response that came in the receiver's own answer: it answers that very delivery."""
        now = self._here.now()
        if request.reference is not None:
            message = msgspec.structs.replace(message, in_reply_to=request.reference)
        message = _in_conversation(message, request)
        return NewMessage(
            message=message,
            body=body,
            digest=sha256,
            source_key=name_key(message.source) if message.source else "",
            identity=identity(message.header, sha256).key,
            quotes=(),
            deliveries=self.way_back(
                request,
                now,
                policy=self._defaults,
                position=answers[0],
                drop=self._drops(policy, answers[0], Fate.ANSWER),
                response=message,
                one_by_one=policy.responses is Responses.SEVERAL,
            ),
            answers=answers,
            final=is_final(policy, message.header, body),
        )

    def way_back(
        self,
        request: Message,
        now: datetime,
        *,
        policy: Policy | None = None,
        position: int | None = None,
        drop: bool = False,
        response: Message | None = None,
        one_by_one: bool = False,
    ) -> tuple[NewDelivery, ...]:
        """The delivery of a response (or report) to who sent `request`; `position` where a caller may wait for it.

        `one_by_one`: others follow it, in the order in which they came.
        """
        if position is not None and self._callers.waits_alone(position):
            return (self._to(CALLER, request, now, policy, state=State.DONE),)
        address, found = self._address_back(request)
        if drop or address is None:
            return (self._to("", request, now, policy, state=State.LOGGED),)
        policy = policy or self._defaults
        if one_by_one and policy.order is Order.NONE:
            policy = msgspec.structs.replace(policy, order=Order.CORRELATION)
        return (self._to(address, request, now, policy, state=State.WAITING, found=found, response=response),)

    def _to(
        self,
        address: str,
        request: Message,
        now: datetime,
        policy: Policy | None,
        *,
        state: State,
        found: Resolution | None = None,
        response: Message | None = None,
    ) -> NewDelivery:
        source = request.source or ""
        decision = Decision(destination=source, rule=None, policy=policy or self._defaults, resolution=found)
        planned = self._planning.to(
            address if address != CALLER else "", source, name_key(source) if source else "", decision, request,
            now=now, state=state, expects=False,
        )  # fmt: skip
        # an answer outlives its request's own expiry: what the sender wanted by then was the question carried
        expiry = now + planned.policy.retry.give_up
        # a response is ordered as its own rule says; our reports never are, since bad news does not wait behind any
        stream = None
        if response is not None and state is State.WAITING:
            stream = stream_of(planned.policy, response, planned.key or address)
        return msgspec.structs.replace(planned, address=address, expiry=expiry, stream=stream)

    def _address_back(self, request: Message) -> tuple[str | None, Resolution | None]:
        """Where a response goes, and the directory's word for it where it came from there."""
        pending = None
        if request.response_url is not None and self._planning.can_use(request.response_url):
            return request.response_url, None
        if request.source is not None:
            found = self._look_up(request.source)
            pending = found if found.pending else None
            # the default gateway is for strangers' names, and who sends through us is none
            if self._leads_back(found) and found.how is not How.DEFAULT:
                return self._planning.choose(found.addresses, name_key(request.source)), found
        if request.envelope.via:
            found = self._look_up(request.envelope.via[-1])
            if self._leads_back(found):
                return self._planning.choose(found.addresses, name_key(request.envelope.via[-1])), None
        if pending is not None:  # it may have an address: whether it reads a mailbox instead is not known yet
            return "", pending
        return (MAILBOX if request.source is not None else None), None

    def _leads_back(self, found: Resolution) -> bool:
        # where no channel carries the address, the next way is taken: a response is never lost for it
        return found.state is Standing.USE and any(map(self._planning.can_use, found.addresses))

    # -- after the commit

    def arrived(self, kept: Kept | Copy, new: NewMessage) -> None:
        """The response is kept: the caller hears it, and what still waits of its request needs no further attempt."""
        assert new.answers is not None
        position, number = new.answers
        self._meter.responded(new.message.fate.name.lower())
        self._delivering.forget_one(position, number)
        if self._live and new.deliveries:  # the way back leads to who asked
            response = self._here.ids.of(kept.position)
            self._live.tell(new.deliveries[0].destination, "answered", position, note=response)
        to_caller = any(delivery.address == CALLER for delivery in new.deliveries)
        told = self._callers.respond(position, new.body, new.message.media_type)
        if isinstance(kept, Copy):
            return
        if to_caller and not told:
            self._return(kept.position, new)

    def not_told(self, caller: Caller) -> None:
        """A caller had its answer and went before it was written; a response then takes the return path."""
        if caller.was_told(AnswerKind.RESPONSE):
            self._delivering.spawn(self._return_stored(caller.position), "return a response")

    async def _return_stored(self, position: int) -> None:
        request = await self._store.stored(position)
        for response in await self._store.answers_to(position):
            if request is not None and response.message.fate is Fate.ANSWER:
                await self._add_return(response.position, request.message, response.message)

    async def return_untold(self, position: int) -> None:
        """Who sends a request again and does not wait may have died over the answer that it was given (R4: our response
        got lost): what went to a caller only takes the return path too, once."""
        for response in await self._store.answers_to(position):
            if response.message.fate is Fate.ANSWER:
                ways = await self._store.deliveries(response.position)
                request = await self._store.stored(position) if all(way.address == CALLER for way in ways) else None
                if request is not None:
                    await self._add_return(response.position, request.message, response.message)

    def _return(self, position: int, new: NewMessage) -> None:
        assert new.answers is not None
        self._delivering.spawn(self._return_one(position, new.answers[0], new.message), "return a response")

    async def _return_one(self, position: int, request_position: int, response: Message) -> None:
        request = await self._store.stored(request_position)
        if request is not None:
            await self._add_return(position, request.message, response)

    async def _add_return(self, position: int, request: Message, response: Message) -> None:
        """The delivery to the caller is there already; one more goes by the return path."""
        (planned,) = self.way_back(request, self._here.now())
        planned = msgspec.structs.replace(planned, key=f"{planned.key}\nreturn")
        kept = await self._store.add(position, (planned,))
        if kept.numbers[0]:
            body = await self._store.body(position) or b""
            self._delivering.take_planned(kept, (planned,), response, body)
        log.info("caller gone, response returned", id=self._here.ids.of(position))

    async def stored_response(self, receipt: Receipt) -> Answer | None:
        """The response that a request has had, for a copy of it."""
        for response in await self._store.answers_to(receipt.position):
            link = response.message.header.response
            if link is not None and link.code == "transient-error":
                continue  # M-32: it asks for the resend that this copy is
            if response.message.fate in (Fate.ANSWER, Fate.DOUBLE, Fate.LATE) and response.body_kept:
                body = await self._store.body(response.position)
                return Answer(
                    kind=AnswerKind.RESPONSE, receipt=receipt, body=body, media_type=response.message.media_type
                )
        return None


def _in_conversation(response: Message, request: Message) -> Message:
    """What its sender has not put into a conversation belongs to that of its request: one id for all of it (W-40)."""
    correlation = request.envelope.correlationid
    if correlation is None:
        return response
    envelope = msgspec.structs.replace(response.envelope, correlationid=correlation)
    return msgspec.structs.replace(response, envelope=envelope)


def _same_address(source: str | None, address: str) -> bool:
    """Whether a response's source is the very address that the request went to, with or without the operation."""
    suffix = "/$process-message"
    return source is not None and source.removesuffix("/").removesuffix(suffix) == address.removesuffix(
        "/"
    ).removesuffix(suffix)
