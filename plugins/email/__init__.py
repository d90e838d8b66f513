"""The email channel: mails with a message in them come in, deliveries go out by a smarthost (docs/email.md)."""

from __future__ import annotations

from broker.channel import ChannelSpec, Kind
from plugins.email.address import peer_of
from plugins.email.receiver import EmailReceiver
from plugins.email.sender import EmailSender
from plugins.email.settings import EmailSettings

CHANNEL = ChannelSpec(
    name="email",
    schemes=("mailto",),
    settings=EmailSettings,
    receiver=EmailReceiver,
    sender=EmailSender,
    kind=Kind.STORE_AND_FORWARD,
    peer_of=peer_of,
)
