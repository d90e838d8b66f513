"""One attempt over AMQP: published with a confirm and `mandatory`, and one of three ends.

| the server says | end of the attempt |
|---|---|
| confirm, and no return | delivered |
| a return (no queue takes it) | refused |
| nack | deferred |
| connection blocked, closed or not to be had; no confirm in time | deferred: the peer's trouble |
| the exchange is not there (404), or not ours to use (403) | deferred: the peer's trouble; somebody mends it |
| it closes the amqp_channel over this message (406: too large for it) | refused; deferred where another may be meant |
"""

from __future__ import annotations

from datetime import timedelta
from functools import lru_cache

from broker.channel import Deferred, Delivered, Host, Refused, Transmission
from broker.core.outcome import Problem, Who
from plugins.amqp.address import Place, Server, read_place
from plugins.amqp.binding import Writing
from plugins.amqp.links import Links
from plugins.amqp.publisher import Fate, Publication, Published, is_direct_reply
from plugins.amqp.settings import AmqpSettings

Attempted = Delivered | Deferred | Refused
DELIVERED = Delivered(note="confirmed")
BLOCKED_FOR = timedelta(seconds=5)  # an alarm of memory or disk lasts seconds at least
OF_PEER = frozenset({Fate.CLOSED, Fate.BROKEN, Fate.LATE, Fate.NOT_CONNECTED, Fate.BLOCKED})
CRASHED = 541  # INTERNAL_ERROR: what RabbitMQ says to a direct reply whose name is none of its own
REJECTED = 406  # PRECONDITION_FAILED: too large for the server, or a property that it does not take


class AmqpSender:
    """Shares one connection a server; how many messages are under way to an exchange is its lane's business."""

    def __init__(self, settings: AmqpSettings, host: Host) -> None:
        self._host = host
        self._links = Links(settings, may_be_here=host.may_be_here)
        self._writing = Writing(mode=settings.mode, prefix=settings.prefix, reply_queue=settings.reply_queue)
        self._elsewhere = Writing(mode=settings.mode, prefix=settings.prefix, reply_queue=None)
        self._own = self._links.own
        self._consumed = frozenset(one.queue for one in settings.queues())

    async def attempt(self, transmission: Transmission) -> Attempted:
        """Makes one attempt and says how it ended."""
        try:
            place = read_place(transmission.address)
            # the reply queue is on our own server: nobody at another one could answer there
            writing = self._writing if _server(place, self._own) == self._own else self._elsewhere
            properties, body = writing.write(transmission, self._host.now())
            if transmission.manner is not None and self._comes_back(place):
                raise ValueError("a notification to a queue that this broker consumes would be told of again")
        except ValueError as error:
            return _unusable(str(error))
        publication = Publication(
            exchange=place.exchange,
            routing_key=place.routing_key,
            properties=properties,
            body=body,
        )
        direct = is_direct_reply(place.exchange, place.routing_key)
        published = await self._links.publisher(place.server, direct=direct).publish(
            publication,
            connect=transmission.connect.total_seconds(),
            answer=transmission.answer.total_seconds(),
        )
        return DELIVERED if published.fate is Fate.CONFIRMED else not_delivered(published, place)

    async def stop(self) -> None:
        await self._links.close()

    def _comes_back(self, place: Place) -> bool:
        return not place.exchange and place.routing_key in self._consumed and _server(place, self._own) == self._own


@lru_cache(maxsize=1024)
def _server(place: Place, own: Server) -> Server:
    return own if place.server is None else place.server


def not_delivered(published: Published, place: Place) -> Deferred | Refused:
    """What an attempt comes to that was not confirmed."""
    code, text = published.code, published.text
    said = f"{code} {text}" if code else text or str(published.fate.value)
    if published.fate is Fate.RETURNED:
        return _refused(published, f"returned: {said}", _no_queue(place))
    if published.fate is Fate.NACKED:
        return Deferred(note="the server did not take it (nack)")
    direct = code == CRASHED and is_direct_reply(place.exchange, place.routing_key)
    if direct or (published.fate is Fate.CLOSED and code == REJECTED):
        if published.alone:
            return _refused(published, said, f"The AMQP server does not take the message: {said}.")
        return Deferred(note=f"the server hung up over one of several messages: {said}")
    return Deferred(
        note=f"{published.fate.value}: {said}" if said != published.fate.value else said,
        of_peer=published.fate in OF_PEER,
        retry_after=BLOCKED_FOR if published.fate is Fate.BLOCKED else None,
        status=code or None,
        left=published.left,
    )


def _no_queue(place: Place) -> str:
    if place.exchange:
        return (
            f"No queue is bound to the exchange {place.exchange} for the routing key {place.routing_key or '(none)'}; "
            "bind one, and send the message again."
        )
    return f"There is no queue {place.routing_key}; declare it, and send the message again."


def _refused(published: Published, note: str, text: str) -> Refused:
    returned = published.fate is Fate.RETURNED
    problem = Problem(
        code="not-found" if returned else "processing",
        id="no-queue" if returned else "refused-by-receiver",
        text=text,
        who=Who.RECEIVER,
    )
    return Refused(note=note, problem=problem, status=published.code or None)


def _unusable(why: str) -> Refused:
    text = f"The message cannot be sent: {why}; correct the directory, the rule or the Subscription with this address."
    return Refused(note=why, problem=Problem(code="processing", id="unusable-address", text=text, who=Who.BROKER))
