"""A FHIR server as a source of the directory: where it is, and what has to be said to it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import msgspec

from broker.core.addressing import shown
from broker.core.inside import is_this_machine

MIB = 2**20


class ServerSource(msgspec.Struct, frozen=True, kw_only=True):
    """What the configuration says of one server; a plain URL stands for all the rest as it is here."""

    url: str  # of its FHIR base, without a slash at the end
    headers: tuple[tuple[str, str], ...] = ()  # Authorization, an API key
    ca: Path | None = None  # the authorities whose certificates it may show; None: those of the system
    cert: Path | None = None  # our own certificate, where it asks for one
    key: Path | None = None
    types: tuple[str, ...] = ()  # the resources read; none: what the server says it has

    @property
    def shown(self) -> str:
        return shown(self.url)

    @property
    def foreign(self) -> bool:
        """Whether it is elsewhere: one on this machine may point to this machine, as its files might."""
        host = self.url.partition("://")[2].partition("/")[0]
        host = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        return not (host == "localhost" or is_this_machine(host))


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a server may cost us; beyond, its answer is not used, and the last good one stays."""

    page: int = 32 * MIB  # bytes of one answer, unpacked: 500 resources are rarely 2 MiB
    whole: int = 1024 * MIB  # bytes of all pages: the largest national registers are some hundred MiB
    pages: int = 10_000
    resources: int = 1_000_000
    connect: timedelta = timedelta(seconds=10)
    answer: timedelta = timedelta(seconds=60)  # for one page
    time: timedelta = timedelta(minutes=15)  # for all of them: a directory that is older when read is read anew
