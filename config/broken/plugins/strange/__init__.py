"""A setting that no file could hold."""

from collections.abc import Iterator
from dataclasses import dataclass

from broker.channel import ChannelSpec


@dataclass(frozen=True)
class Settings:
    made_of: "Nowhere"


CHANNEL = ChannelSpec(
    name="strange", schemes=("strange",), settings=Settings, sender=lambda settings, host: None, peer_of=str
)
