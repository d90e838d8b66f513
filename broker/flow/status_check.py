"""Status checks: a message that asks how far another is has its answer from the broker itself (W-35 … W-37)."""

from __future__ import annotations

from broker.core.addressing import name_key
from broker.core.answer import Answer, AnswerKind, Receipt
from broker.core.fhir.status import Fate, media_type_of, status_response
from broker.core.message import Fate as MessageFate
from broker.core.outcome import MessageInvalid, NotFound
from broker.flow.here import Here
from broker.flow.letter import Letter
from broker.store import Delivery, Store, Stored

CANDIDATES = 32  # messages that share an id


class StatusChecks:
    def __init__(self, *, here: Here, store: Store) -> None:
        self._here = here
        self._store = store

    async def answer(self, letter: Letter) -> Answer:
        """The state of the newest message of this source that the focus names."""
        here = self._here
        if not letter.header.focus:
            raise MessageInvalid(
                "a status check names the message that it asks for in MessageHeader.focus, as Bundle/ID,"
                " MessageHeader/ID or urn:uuid:ID, and this one names none",
                code="required",
                id="status-check-of-nothing",
                expression="Bundle.entry[0].resource.focus",
            )
        about = await self._asked_for(letter)
        if about is None:
            raise NotFound(
                "no message of this source that the focus names is known here",
                id="unknown-message",
                expression="Bundle.entry[0].resource.focus[0].reference",
            )
        deliveries = await self._store.deliveries(about.position)
        message_id = here.ids.of(about.position)
        body = status_response(
            request=letter.header,
            about=about.message.header,
            message_id=message_id,
            fates=[_fate(delivery) for delivery in deliveries],
            broker_endpoint=here.endpoint,
            ids=[here.new_id() for _ in range(3 + len(deliveries))],
            at=here.now(),
        )
        return Answer(
            kind=AnswerKind.RESPONSE,
            receipt=Receipt(message_id=message_id, position=about.position),
            body=body,
            media_type=media_type_of(letter.header.format, letter.header.release),
        )

    async def _asked_for(self, letter: Letter) -> Stored | None:
        """Only its own messages are anybody's business."""
        for reference in letter.header.focus:
            id = reference.removeprefix("urn:uuid:").rpartition("/")[2]
            ours = self._here.ids.position(id)
            positions = (ours,) if ours is not None else await self._store.find((id,), CANDIDATES)
            for position in positions:
                stored = await self._store.stored(position)
                if stored is not None and _is_own(stored, letter.source_key):
                    return stored
        return None


def _is_own(stored: Stored, source_key: str) -> bool:
    message = stored.message
    return message.fate is MessageFate.MESSAGE and (name_key(message.source) if message.source else "") == source_key


def _fate(delivery: Delivery) -> Fate:
    at = delivery.ended or (delivery.steps[-1].at if delivery.steps else delivery.accepted)
    problem = delivery.outcome.problem if delivery.outcome is not None else None
    return Fate(
        destination=delivery.destination, state=delivery.state, answer=delivery.answer, attempts=delivery.attempts,
        at=at, problem=problem,
    )  # fmt: skip
