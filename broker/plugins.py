"""Finds channels by name, and knows which of those that run carries an address.

A channel is an installed package's entry point in the group `broker.channels`; our own come in by the same door.
Only those that the configuration names are imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points

from broker.channel import ChannelSpec, Kind, Receiver, Sender

GROUP = "broker.channels"
MAILBOX = "mailbox:"  # the store's own address scheme: no channel, always there


def known() -> tuple[str, ...]:
    """Names of all channels that are installed."""
    return tuple(sorted({entry.name for entry in entry_points(group=GROUP)}))


def find(name: str) -> ChannelSpec:
    """The manifest of one channel; raises LookupError where there is none, ValueError for a broken one."""
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            spec = entry.load()
            if not isinstance(spec, ChannelSpec) or spec.name != name:
                raise ValueError(f"the plugin {name} does not offer a ChannelSpec of that name ({entry.value})")
            return spec
    raise LookupError(f"no channel is called {name}; installed: {', '.join(known())}")


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
            self._specs[scheme] = spec
        if sender is not None:
            self._senders.update(dict.fromkeys(spec.schemes, sender))
        if receiver is not None:
            self.receivers.append(receiver)
            self._named[spec.name] = receiver

    def listening(self) -> dict[str, str]:
        """Where receivers listen that have a listener of their own."""
        found = {name: getattr(receiver, "listening", "") for name, receiver in self._named.items()}
        return {name: where for name, where in found.items() if where}

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
