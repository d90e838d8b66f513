"""Whether an address in the configuration can be used: its scheme picks the channel, and the channel has to be on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress

from broker.channel import ChannelSpec
from broker.config.installed import Installed
from broker.config.mistake import Wrong, did_you_mean
from broker.config.patterns import scheme_of
from broker.config.places import without_user
from broker.config.whole import SCHEMES_TO_COME

MAILBOX = "mailbox:"


class Addresses:
    """Judges addresses for one configuration."""

    def __init__(self, on: Mapping[str, ChannelSpec], *, installed: Installed, base_url: str) -> None:
        self._on = on
        self._installed = installed
        self._base_url = base_url

    def check(self, address: str) -> None:
        """Raises `Wrong`; the text goes on after the address."""
        scheme = scheme_of(address)
        if not scheme:
            raise Wrong("is no address: it has no scheme", "such as https: or mailbox:")
        if scheme == "mailbox":
            if address != MAILBOX:
                raise Wrong("says too much: every endpoint has one mailbox", f'did you mean "{MAILBOX}"?')
            return
        if address == self._base_url or address.startswith(f"{self._base_url}/"):
            raise Wrong("is this broker itself, by its base_url", f'did you mean "{MAILBOX}"?')
        self.peer(scheme, address)

    def scheme(self, scheme: str) -> ChannelSpec:
        """The channel that speaks a scheme, if it is on."""
        for spec in self._on.values():
            if scheme in spec.schemes:
                return spec
        off = list(self._off())
        for spec in off:
            if scheme in spec.schemes:
                raise Wrong(f"needs the channel {spec.name}, which is off", f"add `{spec.name}:` under channels")
        if scheme in self._installed and scheme not in self._on:
            raise Wrong(f"needs the channel {scheme}, which is off", f"add `{scheme}:` under channels")
        if scheme in SCHEMES_TO_COME:
            raise Wrong(f"needs the channel {SCHEMES_TO_COME[scheme]}, which is not in this release")
        known = ["mailbox", *(known for spec in (*self._on.values(), *off) for known in spec.schemes)]
        near = did_you_mean(scheme, known)
        raise Wrong("has a scheme that no channel speaks", near and f"{near[:-1]}:?")

    def _off(self) -> Iterator[ChannelSpec]:
        """Only imported when an address asks for a channel that is not on; what stands in folders, not even then."""
        for name in self._installed.entries:
            if name not in self._on:
                with suppress(ImportError, ValueError):  # a plugin that is broken and off concerns nobody here
                    yield self._installed.entries[name]

    def peer(self, scheme: str, address: str) -> None:
        spec = self.scheme(scheme)
        if spec.sender is None:
            raise Wrong(f"cannot be sent to: the channel {spec.name} only receives")
        try:
            spec.peer_of(address)
        except ValueError as error:
            raise Wrong("cannot be used", without_user(str(error))) from None
