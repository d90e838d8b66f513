"""Speaks `cloudevents.json` (CloudEvents WebSocket binding): one structured event in each Text frame (C-46).

The binding has no acknowledgement (C-47). What comes in is kept or refused: a refusal comes back as an event of our
own, silence means nothing. What goes out is the mailbox that the URL names, from the position that it names.
"""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

import msgspec
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from broker.channel import Asked, Hold, Host, Mail
from broker.core.attributes import is_extension
from broker.core.cloudevent import read_event, write_event
from broker.core.envelope import Envelope
from broker.core.fhir.header import Format
from broker.core.fhir.outcomes import outcome_bytes
from broker.core.outcome import Refusal
from plugins.websocket.connection import Connection
from plugins.websocket.frames import Payload
from plugins.websocket.mailboxes import Reader, Showing
from plugins.websocket.taking import Speaker, arrival, check, closed

SUBPROTOCOL = "cloudevents.json"
REFUSED = "fhir-broker.refused"
OUR_ATTRIBUTES = ("messageid", "position")


def write_mail(mailbox: str, mail: Mail) -> Payload:
    """The event, with our id and the position in the mailbox: where to go on after."""
    envelope = mail.envelope
    more = tuple((n, v) for n, v in envelope.more if n not in OUR_ATTRIBUTES and is_extension(n))
    shown = msgspec.structs.replace(
        envelope, more=(*more, ("messageid", mail.message_id), ("position", str(mail.position)))
    )
    return write_event(shown, mail.body, mail.media_type), True


class Events:
    """One connection's session."""

    __slots__ = ("_connection", "_draining", "_host", "_reader", "_showing", "_speaker")

    def __init__(
        self, connection: Connection, host: Host, speaker: Speaker, *, showing: Showing, draining: Callable[[], bool]
    ) -> None:
        self._connection = connection
        self._host = host
        self._speaker = speaker
        self._showing = showing
        self._draining = draining
        self._reader: Reader | None = None

    def show(self, mailbox: str, after: int) -> None:
        self._reader = Reader(
            self._connection, mailbox, after, window=None, write=write_mail, ended=self._reading_ended
        )
        self._showing.begin(self._reader)

    async def run(self) -> None:
        try:
            while True:
                message = await self._connection.recv(decode=False)
                hold = self._connection.take_hold()
                try:
                    await self._one(message, hold)
                finally:
                    if hold is not None:
                        hold.let_go()
        except ConnectionClosed:
            pass
        finally:
            if self._reader is not None:
                self._showing.leave(self._reader)

    def resumed(self) -> None:
        if self._reader is not None:
            self._showing.wake(self._reader)

    is_busy = False

    async def idle(self) -> None:
        """What came is taken in or not: nobody is told."""

    async def _one(self, message: bytes, hold: Hold | None) -> None:
        id: str | None = None
        try:
            event = read_event(message)
            id = event.envelope.id
            if self._draining():
                raise closed()
            await check(self._host, event.body, event.envelope)
            await self._host.accept(
                arrival(
                    self._host,
                    self._speaker,
                    body=event.body,
                    media_type=event.media_type,
                    envelope=event.envelope,
                    asked=Asked(asynchronous=True),
                    reference=id,
                    hold=hold,
                    event=True,
                )
            )
        except Refusal as refusal:
            await self._connection.answer(self._refused(id, refusal))

    def _refused(self, id: str | None, refusal: Refusal) -> Payload:
        """An event of our own: data is the OperationOutcome, `correlationid` the id of the event that it is about."""
        release = self._host.default_release
        envelope = Envelope(
            id=str(uuid4()),
            source=self._host.endpoint,
            type=REFUSED,
            time=self._host.now(),
            correlationid=id,
        )
        outcome = outcome_bytes(refusal.problems, format=Format.JSON, release=release)
        return write_event(envelope, outcome, "application/fhir+json"), True

    def _reading_ended(self, reader: Reader, refusal: Refusal) -> None:
        """Nothing but the close frame has a place for it."""
        self._showing.leave(reader)
        self._connection.fail(CloseCode.POLICY_VIOLATION, str(refusal))
