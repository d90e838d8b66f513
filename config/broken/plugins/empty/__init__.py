"""It neither receives nor sends."""

from dataclasses import dataclass
from datetime import timedelta

from broker.channel import ChannelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    folder: str = "in"
    every: timedelta = timedelta(seconds=1)


CHANNEL = ChannelSpec(name="empty", schemes=("empty",), settings=Settings, peer_of=str)
