"""The HTTP channel: `$process-message` and `POST /Bundle` come in, deliveries go out (docs/http.md)."""

from __future__ import annotations

from broker.channel import ChannelSpec, Kind
from plugins.http.address import peer_of
from plugins.http.receiver import HttpReceiver
from plugins.http.sender import HttpSender
from plugins.http.settings import HttpSettings

CHANNEL = ChannelSpec(
    name="http",
    schemes=("http", "https"),
    settings=HttpSettings,
    receiver=HttpReceiver,
    sender=HttpSender,
    kind=Kind.DIRECT,
    peer_of=peer_of,
)
