"""The WebSocket channel: exchange with acknowledgements, CloudEvents, live notifications (docs/websocket.md)."""

from __future__ import annotations

from broker.channel import ChannelSpec, Kind
from plugins.websocket.address import peer_of
from plugins.websocket.receiver import WebSocketReceiver
from plugins.websocket.sender import WebSocketSender
from plugins.websocket.settings import WebSocketSettings

CHANNEL = ChannelSpec(
    name="websocket",
    schemes=("ws", "wss"),
    settings=WebSocketSettings,
    receiver=WebSocketReceiver,
    sender=WebSocketSender,
    kind=Kind.DIRECT,
    peer_of=peer_of,
)
