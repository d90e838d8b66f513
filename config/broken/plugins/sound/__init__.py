"""There is nothing wrong with this one."""

from dataclasses import dataclass
from datetime import timedelta

from broker.channel import ChannelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    folder: str = "in"
    every: timedelta = timedelta(seconds=1)


CHANNEL = ChannelSpec(
    name="sound", schemes=("sound",), settings=Settings, sender=lambda settings, host: None, peer_of=str
)
