"""Makes sure of queues: they are there, or are made, or are waited for."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from plugins.amqp.connection import Closed, Connection, calling
from plugins.amqp.dead_letters import dead_queue
from plugins.amqp.settings import Consume, Declare

NOT_FOUND = 404
TYPES: Mapping[Declare, str] = MappingProxyType({Declare.CLASSIC: "classic", Declare.QUORUM: "quorum"})


async def make_sure(connection: Connection, consume: Consume) -> None:
    """Of the queue and, where no exchange takes them, of the queue of its dead letters; raises `Closed`."""
    await _make_sure(connection, consume.queue, TYPES.get(consume.declare))
    if consume.dead_letter is None:
        await _make_sure(connection, dead_queue(consume), TYPES.get(consume.declare, "quorum"))


async def _make_sure(connection: Connection, name: str, type: str | None) -> None:
    """A server closes the amqp_channel over a queue that is not there, and over one that is otherwise than asked."""
    channel = await connection.amqp_channel()
    try:
        async with calling():
            await channel.declare_queue(name, passive=True)
    except Closed as closed:
        if closed.ended.code != NOT_FOUND or type is None:
            raise
        channel = await connection.amqp_channel()
        async with calling():
            await channel.declare_queue(name, durable=True, arguments={"x-queue-type": type})
    async with calling():
        await channel.close()
