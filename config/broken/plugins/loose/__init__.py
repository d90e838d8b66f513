"""Settings that could change while the daemon runs."""

from dataclasses import dataclass

from broker.channel import ChannelSpec


@dataclass
class Settings:
    folder: str = "in"


CHANNEL = ChannelSpec(
    name="loose", schemes=("loose",), settings=Settings, sender=lambda settings, host: None, peer_of=str
)
