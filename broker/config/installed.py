"""The channels that there are, installed or in plugin folders, each imported when it is asked for and not before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from broker import plugins
from broker.channel import ChannelSpec


class Entries(Mapping[str, ChannelSpec]):
    """The installed channels by name; asking for one may raise what is wrong with it."""

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


class Installed(Mapping[str, ChannelSpec]):
    """All channels by name: the installed ones, and those in plugin folders."""

    def __init__(self, folders: Sequence[Path] = (), *, entries: Mapping[str, ChannelSpec] | None = None) -> None:
        self.entries = Entries() if entries is None else entries
        self._places: dict[str, list[Path]] = {}
        for folder in dict.fromkeys(folders):
            for name, path in plugins.in_folder(folder).items():
                self._places.setdefault(name, []).append(path)

    def __getitem__(self, name: str) -> ChannelSpec:
        """Raises ValueError for one that is there twice: which is meant, nobody should have to guess."""
        places = self._places.get(name, ())
        if name in self.entries:
            if places:
                raise ValueError(f"it is installed, and in the plugin folder {places[0].parent} too; rename that one")
            return self.entries[name]
        if not places:
            raise KeyError(name)
        if len(places) > 1:
            raise ValueError(f"it is in two plugin folders: {' and '.join(str(path.parent) for path in places)}")
        return plugins.find_in(places[0])

    def __contains__(self, name: object) -> bool:
        return name in self.entries or name in self._places  # without importing it

    def __iter__(self) -> Iterator[str]:
        yield from self.entries
        yield from (name for name in self._places if name not in self.entries)

    def __len__(self) -> int:
        return sum(1 for _ in self)
