"""What a directory answers when it is asked where an endpoint lives."""

from __future__ import annotations

from datetime import datetime
from enum import Enum, StrEnum
from typing import Protocol

import msgspec

from broker.core.fhir.header import Format, Release


class How(StrEnum):
    """By which kind of line the directory knew the name; in the order in which they are tried."""

    EXACT = "exact"
    PREFIX = "prefix"
    DIRECT = "direct"  # the endpoint is its own address
    DEFAULT = "default"
    NONE = "none"


class State(Enum):
    """What to do with it (A-22)."""

    USE = "use"
    HOLD = "hold"  # accept and wait: suspended, error
    NONE = "none"  # off, entered in error, outside its period; or not known at all


class Lookup(msgspec.Struct, frozen=True, kw_only=True):
    """One thing the directory tried, for explanations."""

    how: How
    tried: str
    found: str | None = None  # the line that was found, as written


class Resolution(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Where to go for one name."""

    addresses: tuple[str, ...] = ()
    first: bool = False  # the first that works; otherwise all of them
    how: How = How.NONE
    matched: str | None = None  # the name or pattern, as the directory writes it
    state: State = State.NONE
    origin: str = ""  # file:line, or file and resource
    reason: str = ""

    @property
    def known(self) -> bool:
        return self.how is not How.NONE


class Whereabouts(Protocol):
    """A directory at one moment: it does not change while it is asked."""

    @property
    def version(self) -> str: ...

    def resolve(
        self,
        name: str,
        *,
        release: Release | None,
        format: Format | None,
        now: datetime,
        lookups: list[Lookup] | None = None,
    ) -> Resolution: ...

    def nearest(self, name: str) -> tuple[str, ...]:
        """A few known names that look like this one, for a sender who mistyped."""
        ...
