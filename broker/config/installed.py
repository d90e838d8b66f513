"""The channels that are installed, each imported when it is asked for and not before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from broker import plugins
from broker.channel import ChannelSpec


class Installed(Mapping[str, ChannelSpec]):
    """Channel specs by name; asking for one may raise what its import raises."""

    def __init__(self) -> None:
        self._names = plugins.known()

    def __getitem__(self, name: str) -> ChannelSpec:
        if name not in self._names:
            raise KeyError(name)
        return plugins.find(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names  # without importing it

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
