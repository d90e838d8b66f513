"""Receive: who is it, has it been here, is it still worth anything; the header is read, and nothing more.

Loops are refused here, before duplicates are looked for, since a message that comes back looks like its own copy.
"""

from __future__ import annotations

import structlog

from broker.channel import Arrival
from broker.core.addressing import name_key
from broker.core.answer import Answer
from broker.core.fhir.header import Header
from broker.core.identity import identity
from broker.core.message import DIGEST, digest_text
from broker.core.outcome import (
    BadRequest,
    Expired,
    LoopDetected,
    NotAllowed,
    Refusal,
    Who,
)
from broker.flow.accept import Accepting
from broker.flow.aside import ASIDE, Aside
from broker.flow.callers import Caller
from broker.flow.event import opened_event
from broker.flow.here import Here
from broker.flow.intake import Intake
from broker.flow.letter import Letter, message_of, opened_here
from broker.flow.meter import Meter
from broker.flow.refusals import Refusals
from broker.flow.waits import Waits
from broker.store import StoreError

log = structlog.get_logger("broker.receive")


class Receiving:
    """The one way in: every channel hands its arrivals here (broker.channel.Accept)."""

    def __init__(
        self,
        *,
        here: Here,
        accepting: Accepting,
        waits: Waits,
        intake: Intake,
        aside: Aside,
        refusals: Refusals,
        meter: Meter,
    ) -> None:
        self._here = here
        self._accepting = accepting
        self._waits = waits
        self._intake = intake
        self._aside = aside
        self._refusals = refusals
        self._meter = meter

    async def __call__(self, arrival: Arrival) -> Answer:
        self._meter.received(arrival.channel)
        intake, hold, size = self._intake, arrival.hold, len(arrival.body)
        header: Header | None = None
        try:
            if hold is None:
                intake.enter(size)
            try:
                if hold is not None:  # it came in pieces, and was counted while it came
                    intake.check_store()
                if arrival.event:
                    header, sha256 = await opened_event(arrival, self._aside)
                else:
                    header, sha256 = opened_here(arrival) if size <= ASIDE else await self._aside.opened(arrival)
                trusted = self._here.steers(arrival.peer.party)
                self._admit(arrival, trusted=trusted)
                taken = await self._accepting.take(self._letter(arrival, header, sha256, trusted=trusted))
            finally:
                if hold is None:
                    intake.leave(size)
                else:
                    hold.let_go()
            return await self._waits.until_answered(taken) if isinstance(taken, Caller) else taken
        except Refusal as refusal:
            self._refused(arrival, header, refusal)
            raise
        except StoreError as error:
            unkept = intake.failed(error)
            self._refused(arrival, header, unkept)
            raise unkept from error

    def _refused(self, arrival: Arrival, header: Header | None, refusal: Refusal) -> None:
        self._refusals.note(arrival, header, refusal.problem)
        self._meter.refused(arrival.channel, refusal.problem.id)
        log.info(
            "refused",
            channel=arrival.channel,
            peer=arrival.peer.address,
            error=refusal.problem.id,
            who=refusal.problem.who.value,
        )

    def _letter(self, arrival: Arrival, header: Header, sha256: bytes, *, trusted: bool) -> Letter:
        digest = digest_text(sha256)
        given = arrival.envelope.digest
        if given is not None and given.startswith(DIGEST) and given.rstrip(":") != digest:
            raise Refusal(
                "the bytes are not those that the digest was made of; send the message again",
                code="transient",
                id="digest-mismatch",
            )
        who = identity(header, sha256)
        return Letter(
            arrival=arrival,
            header=header,
            message=message_of(
                arrival, header, here=self._here, source=header.source, identity=who, digest=digest, trusted=trusted
            ),
            sha256=sha256,
            source_key=name_key(header.source) if header.source else "",
            identity=who,
            destinations=self._destinations(arrival, header, trusted=trusted),
        )

    def _admit(self, arrival: Arrival, *, trusted: bool) -> None:
        here, envelope = self._here, arrival.envelope
        if here.endpoint in envelope.via:
            path = " > ".join((*envelope.via, here.endpoint))
            raise LoopDetected(
                f"the message has been here: {path}; correct the directory of one of these", who=Who.BROKER
            )
        if len(envelope.via) >= here.hops:
            raise LoopDetected(
                f"the message has passed {len(envelope.via)} brokers, the limit is {here.hops}:"
                f" {' > '.join(envelope.via)}",
                id="too-many-hops",
                who=Who.BROKER,
            )
        given = envelope.expirytime if trusted else None
        # somebody else's clock: it is over only if ours and the machine's both say so (decision 0008)
        if given is not None and given + here.clock_skew <= min(arrival.at, here.wall()):
            raise Expired(
                f"the message was worth something until {given.isoformat()} and comes too late",
                id="expired-on-arrival",
            )
        url = arrival.asked.response_url
        if url is not None and not here.may_respond_to(url):
            raise NotAllowed(
                "responses may not be sent to this response-url: it is not on the list `allow.response_url`",
                id="response-url-not-allowed",
                expression="response-url",
            )

    def _destinations(self, arrival: Arrival, header: Header, *, trusted: bool) -> tuple[str, ...]:
        """Those that the envelope names for this hop, if it may; else all that the header names (M-20, promise 6)."""
        named = tuple(one.endpoint for one in header.destinations if one.endpoint)
        asked = arrival.envelope.destination if trusted else ()
        if not asked:
            return named
        if named and arrival.peer.party not in self._here.brokers:
            known = {name_key(name) for name in named}
            strange = [name for name in asked if name_key(name) not in known]
            if strange:
                raise BadRequest(
                    f"the envelope names the destination {strange[0]}, which the message itself does not",
                    id="destination-not-in-message",
                    expression="ce-destination",
                )
        return asked
