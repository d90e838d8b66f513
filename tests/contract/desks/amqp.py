"""The amqp channel's desk: aio-pika publishes to a real RabbitMQ; taps on the wire see what is acknowledged and sent.

The peer is the server that is published to. It forwards what it takes to RabbitMQ and, where the test wants it, says
no, not now or nothing at all in its place.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import aio_pika
from e2e_daemon import free_port
from pamqp import header as headers
from rabbitmq_node import RabbitNode, rabbitmq

from broker.core.attributes import from_attributes, to_attributes
from broker.core.envelope import EMPTY, Envelope
from desks.amqp_tap import Contents, Session, Tap, commands
from desks.desk import JSON, WITHIN, Ended, Got, How, ListeningDesk, Peer, Says

NUMBER = "x-desk"  # a header of our own: which of the messages of this desk it is
SILENCE = 2.0  # seconds without an acknowledgement: that is how AMQP says "later"
PREFIX = "ce-"


def got_of(properties: Any, body: bytes) -> Got:
    """A message as any AMQP client sees it."""
    table = {str(name): str(value) for name, value in (properties.headers or {}).items()}
    found = {name.removeprefix(PREFIX): value for name, value in table.items() if name.startswith(PREFIX)}
    found |= {name: table[name] for name in ("traceparent", "tracestate") if name in table}
    return Got(
        body=body,
        media_type=properties.content_type,
        envelope=from_attributes(found),
        in_reply_to=properties.correlation_id,
    )


class AmqpPeer(Peer):
    def __init__(self, node: RabbitNode, queue: str) -> None:
        super().__init__()
        self.port = free_port()
        self.address = f"amqp://127.0.0.1:{self.port}/?routing_key={queue}"
        self._tap = Tap(self.port, node.port, from_client=self._published, from_server=self._confirmed)

    async def start(self) -> None:
        await self._tap.open()

    async def stop(self) -> None:
        await self._tap.close()

    async def _published(self, session: Session, number: int, found: Any, raw: bytes) -> bool:
        """The frames of a message wait until it is whole, and the peer has said what it does with it."""
        contents: Contents = session.known.setdefault("contents", Contents())
        frames: list[bytes] = session.known.setdefault(("frames", number), [])
        if not isinstance(found, commands.Basic.Publish) and not frames:
            return True
        frames.append(raw)
        whole = contents.whole(number, found, commands.Basic.Publish)
        if whole is None:
            return False
        publish, properties, body = whole
        held, frames[:] = b"".join(frames), []
        tag = session.known[("tag", number)] = session.known.get(("tag", number), 0) + 1
        match await self.heard(got_of(properties, body)):
            case Says.TAKES:
                session.known.setdefault(("taken", number), []).append(tag)
                session.server.write(held)
                await session.server.drain()
            case Says.LATER:
                session.say(number, commands.Basic.Nack(delivery_tag=tag))
            case Says.REFUSES:  # no queue takes it: `mandatory` brings it back
                back = commands.Basic.Return(312, "NO_ROUTE", publish.exchange, publish.routing_key)
                content = headers.ContentHeader(0, 0, properties)
                session.say(number, back, content, commands.Basic.Ack(delivery_tag=tag))
            case Says.DIES:
                session.abort()
        return False

    async def _confirmed(self, session: Session, number: int, found: Any, raw: bytes) -> bool:
        """RabbitMQ counts what it got; the broker counts what it sent."""
        if isinstance(found, commands.Basic.Ack | commands.Basic.Nack) and found.delivery_tag:
            found.delivery_tag = session.known[("taken", number)][found.delivery_tag - 1]
            session.say(number, found)
            return False
        return True


class AmqpDesk(ListeningDesk):
    name = "amqp"
    takes_events = True
    says = frozenset(Says)
    unusable = ("amqp:?", "amqps:?routing_key=q", "amqp://a:secret@rabbit.example/?routing_key=q", "amqp:q")
    has_references = True
    tries_again = True

    def __init__(self, folder: Path, server: Any = None) -> None:
        super().__init__(folder, server)
        self._node: RabbitNode = server
        self._id = uuid4().hex[:8]
        self._in, self._out, self._own = (f"{way}-{self._id}" for way in ("in", "out", "own"))
        self._tap = Tap(free_port(), self._node.port, from_client=self._answered, from_server=self._handed)
        self._numbers = itertools.count(1)
        self._ends: dict[int, asyncio.Future[Ended]] = {}
        self._refused: dict[int, str] = {}
        self._waiting = 0

    @classmethod
    @contextmanager
    def serving(cls, folder: Path) -> Iterator[RabbitNode]:
        with rabbitmq(folder) as node:
            yield node

    async def open(self) -> None:
        self._connection = await aio_pika.connect(self._node.url)
        self._channel = await self._connection.channel()
        for queue in (self._in, self._out, self._own):
            await self._channel.declare_queue(queue, durable=True)
        self.peer = AmqpPeer(self._node, self._out)
        await self._tap.open()
        await self.peer.start()

    async def close(self) -> None:
        await self.peer.stop()
        await self._tap.close()
        for queue in (self._in, f"{self._in}.dead", self._out, self._own):
            await self._channel.queue_delete(queue)
        await self._connection.close()

    def configuration(self) -> dict[str, Any]:
        guest = {"user": "guest", "password": "guest"}
        block = {
            "url": f"amqp://guest:guest@127.0.0.1:{self._tap.port}/",
            "consume": [{"queue": self._in, "declare": "classic"}],
            "logins": {f"127.0.0.1:{self.peer.port}": guest},
        }
        return {"channels": {"amqp": block}}

    async def hand_in(
        self,
        body: bytes,
        envelope: Envelope = EMPTY,
        *,
        media_type: str = JSON,
        reference: str | None = None,
        answer_here: bool = False,
    ) -> Ended:
        number = next(self._numbers)
        self._ends[number] = asyncio.get_running_loop().create_future()
        attributes = {PREFIX + name: value for name, value in to_attributes(envelope).items()}
        message = aio_pika.Message(
            body,
            content_type=media_type,
            headers={**attributes, NUMBER: number},
            delivery_mode=2,
            correlation_id=reference,
            reply_to=self._own if answer_here else None,
        )
        await self._channel.default_exchange.publish(message, self._in)
        return await self._ended(number, SILENCE)

    async def again(self, body: bytes) -> Ended:
        """RabbitMQ has it still."""
        return await self._ended(self._waiting, WITHIN)

    async def _ended(self, number: int, within: float) -> Ended:
        done, _ = await asyncio.wait([self._ends[number]], timeout=within)
        if not done:
            self._waiting = number
            return Ended(how=How.LATER)
        return self._ends[number].result()

    async def answer(self) -> Got:
        queue = await self._channel.get_queue(self._own)
        async with queue.iterator(no_ack=True) as messages:
            found = await anext(messages)
        return got_of(found, found.body)

    # -- on the wire

    async def _handed(self, session: Session, number: int, found: Any, raw: bytes) -> bool:
        """What the server delivers to the broker."""
        contents: Contents = session.known.setdefault("delivered", Contents())
        whole = contents.whole(number, found, commands.Basic.Deliver)
        if whole is not None:
            said, properties, _ = whole
            session.known.setdefault(("in hand", number), {})[said.delivery_tag] = properties.headers[NUMBER]
        return True

    async def _answered(self, session: Session, number: int, found: Any, raw: bytes) -> bool:
        """What the broker says of it: the dead letter comes before the acknowledgement."""
        contents: Contents = session.known.setdefault("dead", Contents())
        whole = contents.whole(number, found, commands.Basic.Publish)
        if whole is not None and "x-error-id" in (whole[1].headers or {}):
            self._refused[whole[1].headers[NUMBER]] = whole[1].headers["x-error-id"]
        if isinstance(found, commands.Basic.Ack):
            in_hand: dict[int, int] = session.known.get(("in hand", number), {})
            last = found.delivery_tag
            for tag in [tag for tag in in_hand if tag == last or (found.multiple and tag < last)]:
                self._settle(in_hand.pop(tag))
        return True

    def _settle(self, one: int) -> None:
        problem = self._refused.get(one)
        end = self._ends[one]
        if not end.done():
            end.set_result(Ended(how=How.REFUSED, problem=problem) if problem else Ended(how=How.TAKEN))
