"""The AMQP 0-9-1 channel (RabbitMQ): queues are consumed, deliveries are published with confirms (docs/amqp.md)."""

from __future__ import annotations

from broker.channel import ChannelSpec, Kind
from plugins.amqp.address import SCHEMES, peer_of
from plugins.amqp.receiver import AmqpReceiver
from plugins.amqp.sender import AmqpSender
from plugins.amqp.settings import AmqpSettings

CHANNEL = ChannelSpec(
    name="amqp",
    schemes=SCHEMES,
    settings=AmqpSettings,
    receiver=AmqpReceiver,
    sender=AmqpSender,
    kind=Kind.STORE_AND_FORWARD,
    peer_of=peer_of,
)
