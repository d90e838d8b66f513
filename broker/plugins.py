"""Finds channels by name, and knows which of those that run carries an address.

A channel is an installed package's entry point in the group `broker.channels`, or a folder in one of those that the
configuration calls `plugins`; our own come in by the first of these doors. Only those that the configuration names
under `channels` are imported, and a manifest is looked at before anything is built of it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import sys
import traceback
import zlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from broker.channel import ChannelSpec, Kind, Receiver, Sender

GROUP = "broker.channels"
MAILBOX = "mailbox:"  # the store's own address scheme: no channel, always there
_NAME = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*")  # a key of the configuration, and part of a module's name
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")


def known() -> tuple[str, ...]:
    """Names of all channels that are installed."""
    return tuple(sorted({entry.name for entry in entry_points(group=GROUP)}))


def find(name: str) -> ChannelSpec:
    """The manifest of one installed channel; raises LookupError where there is none, ValueError for a broken one."""
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            try:
                found = entry.load()
            except Exception as error:
                raise ValueError(f"{entry.value}: {type(error).__name__}: {error}") from error
            return manifest(found, name, entry.value)
    raise LookupError(f"no channel is called {name}; installed: {', '.join(known())}")


def in_folder(folder: Path) -> dict[str, Path]:
    """The plugin folders in a folder, by name; none of them is imported. A folder that is not there has none."""
    if not folder.is_dir():
        return {}
    return {
        path.name: path
        for path in sorted(folder.iterdir())
        if _NAME.fullmatch(path.name) and path.is_dir() and any(path.glob("*.py"))
    }


def find_in(path: Path) -> ChannelSpec:
    """The manifest of the channel in a plugin folder; raises ValueError that says what is wrong with it, and where."""
    path, name = path.absolute(), path.name
    if not (path / "__init__.py").is_file():
        raise ValueError(f"{name}/__init__.py is missing: it says CHANNEL = ChannelSpec(name={name!r}, …)")
    try:
        module = _imported(path)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{_place_in(path, error)}: {type(error).__name__}: {_text_of(error)}") from error
    if not hasattr(module, "CHANNEL"):
        raise ValueError(f"{name}/__init__.py says nothing of CHANNEL, the ChannelSpec that the broker looks for")
    return manifest(module.CHANNEL, name, f"{name}/__init__.py")


def _imported(path: Path) -> ModuleType:
    """The package in a folder, imported once in a process, by a name that no other folder's has."""
    name = f"channel_{path.name}_{zlib.crc32(str(path).encode()):08x}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path / "__init__.py", submodule_search_locations=[str(path)])
    assert spec is not None  # a file that ends in .py has a loader
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        for half in [one for one in sys.modules if one == name or one.startswith(f"{name}.")]:
            del sys.modules[half]
        raise
    return module


def _place_in(path: Path, error: BaseException) -> str:
    """The last line of the plugin's own that the error passed."""
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        places.append((error.filename or "", error.lineno))
    for file, line in reversed(places):
        if Path(file).is_relative_to(path):
            return f"{path.name}/{Path(file).relative_to(path)}:{line}"
    return f"{path.name}/__init__.py"


def _text_of(error: BaseException) -> str:
    return str(error.msg) if isinstance(error, SyntaxError) else str(error)


def manifest(found: object, name: str, where: str) -> ChannelSpec:
    """What a plugin offers, if the broker can use it; raises ValueError."""
    if not isinstance(found, ChannelSpec):
        raise ValueError(f"{where}: CHANNEL is no ChannelSpec but {type(found).__name__}")
    if found.name != name:
        raise ValueError(f"{where}: CHANNEL calls itself {found.name!r}, and must be {name!r}")
    if not dataclasses.is_dataclass(found.settings) or not found.settings.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise ValueError(f"{where}: the settings must be a frozen dataclass (broker/config/blocks.py says of what)")
    if found.receiver is None and found.sender is None:
        raise ValueError(f"{where}: CHANNEL has neither a receiver nor a sender")
    if found.sender is not None and not found.schemes:
        raise ValueError(f"{where}: a sender needs `schemes`: the addresses that are sent by it")
    for scheme in found.schemes:
        if not _SCHEME.fullmatch(scheme) or f"{scheme}:" == MAILBOX:
            raise ValueError(f"{where}: {scheme!r} is no scheme of a channel: lower case, without a colon, not mailbox")
    return found


def scheme_of(address: str) -> str:
    return address.partition(":")[0].lower()


def is_mailbox(address: str) -> bool:
    return address.startswith(MAILBOX)


class Channels:
    """The channels that run, by the scheme of an address."""

    def __init__(self) -> None:
        self._specs: dict[str, ChannelSpec] = {}
        self._senders: dict[str, Sender] = {}
        self.receivers: list[Receiver] = []
        self._named: dict[str, Receiver] = {}

    def add(self, spec: ChannelSpec, *, sender: Sender | None, receiver: Receiver | None) -> None:
        for scheme in spec.schemes if sender is not None else ():
            other = self._specs.setdefault(scheme, spec)
            if other is not spec:
                raise ValueError(f"{scheme}: addresses belong to the channel {other.name}, not to {spec.name} too")
        if sender is not None:
            self._senders.update(dict.fromkeys(spec.schemes, sender))
        if receiver is not None:
            self.receivers.append(receiver)
            self._named[spec.name] = receiver

    def listening(self) -> dict[str, str]:
        """Where receivers listen that have a listener of their own."""
        found = {name: getattr(receiver, "listening", "") for name, receiver in self._named.items()}
        return {name: where for name, where in found.items() if where}

    def troubles(self) -> dict[str, str]:
        """Why receivers take nothing in now, of those that depend on a server that is not ours."""
        found = {name: getattr(receiver, "trouble", "") for name, receiver in self._named.items()}
        return {name: why for name, why in found.items() if why}

    def schemes(self) -> tuple[str, ...]:
        return tuple(self._specs)

    def lane_of(self, address: str) -> str:
        """The peer that an address belongs to; raises ValueError for an address that nobody here can use."""
        spec = self._specs.get(scheme_of(address))
        if spec is None:
            raise ValueError(f"no channel carries {scheme_of(address) or 'nothing'}: addresses")
        return spec.peer_of(address)

    def stores_and_forwards(self, address: str) -> bool:
        if is_mailbox(address):
            return True
        spec = self._specs.get(scheme_of(address))
        return spec is not None and spec.kind is Kind.STORE_AND_FORWARD

    def sender_for(self, address: str) -> Sender | None:
        return self._senders.get(scheme_of(address))

    def senders(self) -> Mapping[str, Sender]:
        return self._senders
