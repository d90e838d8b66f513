"""Speaks FHIR's own binding with a subscriber: `bind`, `bind-with-token`, and texts that it is told (S-42 to S-44).

No subprotocol and no frames of ours: what a client says is a line, what it is told is `bound`, `ping` or a Bundle. One
text at a time is taken from the flow, once the one before has found room in the queue; so a client that does not read
costs its queue and one text, and delays nobody.
"""

from __future__ import annotations

import asyncio

import structlog
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from broker.channel import Subscriber, Subscriptions
from broker.core.outcome import BadRequest, Gone, NotAllowed, NotFound, Refusal
from broker.core.subscription.binding import LONGEST
from plugins.websocket.connection import Connection, reason_of
from plugins.websocket.taking import Speaker

log = structlog.get_logger("websocket")

PATH = "/subscriptions"
LONGEST_TEXT = LONGEST + 32  # bytes; a longer message is not read at all
# Of the codes that nobody else uses (RFC 6455, section 7.4.2), by what HTTP would say: what a client does is in it.
BAD_TOKEN, NOT_ALLOWED, NOT_FOUND, ENDED = 4401, 4403, 4404, 4410


class Subscribed:
    """One connection's session."""

    __slots__ = ("_connection", "_subscriber")

    def __init__(self, connection: Connection, subscriptions: Subscriptions, speaker: Speaker) -> None:
        self._connection = connection
        self._subscriber: Subscriber = subscriptions.subscriber(speaker.peer)
        connection.protocol.max_message_size = LONGEST_TEXT

    async def run(self) -> None:
        """Until the connection is closed, by whichever side."""
        telling = asyncio.get_running_loop().create_task(self._tell())
        try:
            while True:
                text = await self._connection.recv()
                if not isinstance(text, str):
                    raise BadRequest("Say `bind-with-token TOKEN` as a text.", id="no-bind")
                await self._subscriber.say(text)
        except ConnectionClosed:
            pass
        except Refusal as refusal:
            await self._refuse(refusal)
        finally:
            telling.cancel()
            self._subscriber.close()
            await asyncio.wait((telling,))

    async def _tell(self) -> None:
        try:
            while True:
                await self._connection.send(await self._subscriber.next())
        except ConnectionClosed:
            pass
        except Refusal as refusal:
            await self._refuse(refusal)
        except Exception:
            log.exception("telling a subscriber failed")
            await self._connection.close(CloseCode.INTERNAL_ERROR, "an error in this broker; its log says what")

    async def _refuse(self, refusal: Refusal) -> None:
        """FHIR has no word for it but the end of the connection; the code says what to do, the reason why."""
        await self._connection.close(code_of(refusal), reason_of(str(refusal)))

    def resumed(self) -> None:
        """The writer waits for that by itself."""

    is_busy = False

    async def idle(self) -> None:
        """Nobody waits for an answer."""


def code_of(refusal: Refusal) -> int:
    if refusal.passes:
        return CloseCode.TRY_AGAIN_LATER
    if isinstance(refusal, NotAllowed):
        return NOT_ALLOWED if refusal.problem.code == "forbidden" else BAD_TOKEN
    if isinstance(refusal, NotFound):
        return NOT_FOUND
    return ENDED if isinstance(refusal, Gone) else CloseCode.POLICY_VIOLATION
