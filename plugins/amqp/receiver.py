"""What comes from queues becomes arrivals: acknowledged once kept, laid aside with the reason where it is refused."""

from __future__ import annotations

import asyncio
from datetime import datetime

import structlog
from aiormq.abc import DeliveredMessage

from broker.channel import Arrival, Asked, Host, Peer
from broker.core.outcome import Busy, NotAllowed, NotKnownYet, Refusal, StoreUnavailable
from plugins.amqp.address import fits, queue_address
from plugins.amqp.binding import Read, read
from plugins.amqp.consumer import Consumer, Load
from plugins.amqp.dead_letters import dead_letter, refusal_answer
from plugins.amqp.lenient import be_lenient
from plugins.amqp.links import Links
from plugins.amqp.publisher import Fate, is_direct_reply
from plugins.amqp.settings import AmqpSettings, Consume

log = structlog.get_logger("plugins.amqp")

LATER = (Busy, StoreUnavailable, NotKnownYet)  # the same message may be taken in a moment
# Seconds that a message waits in hand until it is offered again. What `retry_after` says is for those who would have to
# send it once more; for us a try costs nothing, and room that is free again should not wait for us.
SHORTEST_HOLD, LONGEST_HOLD = 0.5, 5.0
USER = "user-id"
PUBLISH = 10.0  # seconds, to connect and for the confirm


class AmqpReceiver:
    """Consumes over one connection, and publishes what cannot be taken over another."""

    def __init__(self, settings: AmqpSettings, host: Host) -> None:
        self._settings = settings
        self._host = host
        be_lenient()
        self._links = Links(settings, may_be_here=host.may_be_here)
        self._link = self._links.link(None, "consume")
        self._own_queues = frozenset(one.queue for one in settings.queues())
        load = self._load = Load(settings.buffer, self._link)
        self._consumers = [Consumer(one, self._link, load, self._take) for one in settings.queues()]
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        """Returns at once: a RabbitMQ that is down now is waited for."""
        for consumer in self._consumers:
            consumer.start()

    @property
    def trouble(self) -> str:
        """Why some queues are not consumed now."""
        return "; ".join(f"{one.consume.queue}: {one.trouble}" for one in self._consumers if one.trouble)

    async def stop(self) -> None:
        self._stopping.set()
        self._load.open()
        await asyncio.gather(*(consumer.stop() for consumer in self._consumers))
        await self._links.close()
        await self._link.close()

    # -- one message

    async def _take(self, consume: Consume, message: DeliveredMessage) -> bool:
        """Whether it has ended: it is kept, or laid aside."""
        at = self._host.now()
        try:
            found = read(message.header.properties, message.body, at)
            arrival = self._arrival(consume, found, at=at)
            while True:
                try:
                    await self._host.accept(arrival)
                    return True
                except LATER as later:
                    if not await self._hold(later.retry_after):
                        return False
        except Refusal as refusal:
            return await self._lay_aside(consume, message, refusal)

    def _arrival(self, consume: Consume, found: Read, *, at: datetime) -> Arrival:
        properties = found.properties
        return Arrival(
            channel="amqp",
            peer=Peer(address=f"amqp:{consume.queue}"),
            body=found.body,
            media_type=found.media_type,
            at=at,
            envelope=found.envelope,
            asked=Asked(asynchronous=True, reply_to=self._reply_to(properties.reply_to)),
            way_in=consume.queue,
            headers=_with_user(found.headers, properties.user_id),
            reference=properties.correlation_id or properties.message_id,
            event=found.event,
        )

    def _reply_to(self, queue: str | None) -> str | None:
        if not queue or queue in self._own_queues:  # some copy all properties of what they answer, ours among them
            return None
        if not self._settings.may_reply_to(queue):
            raise NotAllowed(
                f"answers may not be sent to the queue {queue}: it is not on the list `channels.amqp.reply_to`",
                id="reply-to-not-allowed",
                expression="amqp.reply_to",
            )
        return queue_address(queue)

    async def _hold(self, seconds: float | None) -> bool:
        """Keeps a message in hand, unacknowledged, so that no more comes than prefetch permits; False: it goes back."""
        try:
            async with asyncio.timeout(min(max(seconds or 0.0, SHORTEST_HOLD), LONGEST_HOLD)):
                await self._stopping.wait()
        except TimeoutError:
            return True
        return False

    # -- what is refused

    async def _lay_aside(self, consume: Consume, message: DeliveredMessage, refusal: Refusal) -> bool:
        """Acknowledged only once the dead letter is confirmed: it is never lost."""
        publisher = self._links.publisher(None)
        letter = dead_letter(message, consume, refusal, self._host.now())
        wait = SHORTEST_HOLD
        while (
            published := await publisher.publish(letter, connect=PUBLISH, answer=PUBLISH)
        ).fate is not Fate.CONFIRMED:
            log.error(
                "amqp: a dead letter is not taken; it is kept in hand", queue=consume.queue, exchange=letter.exchange,
                routing_key=letter.routing_key, error=refusal.problem.id, said=published.text or published.fate.value,
            )  # fmt: skip
            if not await self._hold(wait):
                return False
            wait = min(wait * 2, LONGEST_HOLD)
        log.warning("amqp: laid aside", queue=consume.queue, to=letter.routing_key, error=refusal.problem.id)
        await self._tell_requester(message, refusal)
        return True

    async def _tell_requester(self, message: DeliveredMessage, refusal: Refusal) -> None:
        """Who waits at a reply queue hears of it, if it can; the dead letter says it in any case."""
        properties = message.header.properties
        queue = properties.reply_to
        try:
            if not queue or not fits(queue) or self._reply_to(queue) is None:
                return
        except Refusal:
            return
        reference = properties.correlation_id or properties.message_id
        answer = refusal_answer(queue, reference, refusal, self._host.default_release)
        publisher = self._links.publisher(None, direct=is_direct_reply("", queue))
        await publisher.publish(answer, connect=PUBLISH, answer=PUBLISH)


def _with_user(headers: tuple[tuple[str, str], ...], user: str | None) -> tuple[tuple[str, str], ...]:
    """`user-id` is the property, which RabbitMQ checks against the login (X-32); never a header of that name."""
    kept = tuple(one for one in headers if one[0] != USER)
    return (*kept, (USER, user)) if user else kept
