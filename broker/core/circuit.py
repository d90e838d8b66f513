"""The circuit of a peer and of each destination behind it: who is left alone after troubles, and until when. Pure.

| what an attempt shows | the destination | the whole peer |
|---|---|---|
| an answer of its own | open, its troubles are forgotten | open, its troubles are forgotten |
| trouble: 429 or 503 without a word on the destination, or no answer | left alone after `open_after` in a row, or at \
once where the peer says for how long | left alone after `open_after` in a row from more than one destination |
| no connection | no news | left alone after `open_after` in a row |

Whoever is left alone is probed once its time is over: one attempt, whose end decides. While a peer is left alone for
troubles, a destination that has had none of them is no cause: one attempt for it may be made before that time, since
its gateway may well serve it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from enum import Enum

import msgspec

LONGEST_ASKED = timedelta(minutes=10)  # a peer's Retry-After leaves a destination alone for no longer than that
MANY = 64  # destinations in trouble at once: so many are no coincidence, and no further one is tried before its time


class Sign(Enum):
    """What an attempt shows of the other side."""

    ANSWERED = "answered"
    TROUBLE = "trouble"
    NO_CONNECTION = "no connection"


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Of one destination."""

    troubles: int = 0  # in a row
    until: datetime | None = None  # left alone until then; after that it is probed


class PeerHealth(msgspec.Struct, frozen=True, kw_only=True):
    """Of a peer with all its destinations."""

    unreached: int = 0  # failures to connect in a row
    troubles: int = 0  # since something was answered
    tried: frozenset[str] = frozenset()  # the destinations that had them
    until: datetime | None = None

    @property
    def nobody_may_be_tried(self) -> bool:
        """Whether, while it is left alone, every destination has to wait."""
        return bool(self.unreached) or len(self.tried) >= MANY

    def may_be_tried(self, destination: str) -> bool:
        """Whether a destination may be tried although its peer is left alone."""
        return not self.nobody_may_be_tried and destination not in self.tried


WELL = Health()
ALL_WELL = PeerHealth()


def destination_after(
    was: Health, sign: Sign, *, now: datetime, open_after: int, probe: timedelta, asked: timedelta | None = None
) -> Health:
    """A destination's health after an attempt; `asked` is the peer's Retry-After."""
    if sign is Sign.ANSWERED:
        return WELL
    if sign is Sign.NO_CONNECTION:
        return was
    troubles = was.troubles + 1
    rest = min(asked, LONGEST_ASKED) if asked is not None else timedelta()
    if troubles >= open_after:
        rest = max(rest, probe)
    if not rest:
        return Health(troubles=troubles)
    until = now + rest
    return Health(troubles=troubles, until=until if was.until is None else max(was.until, until))


def peer_after(
    was: PeerHealth, sign: Sign, destinations: Iterable[str], *, now: datetime, open_after: int, probe: timedelta
) -> PeerHealth:
    """A peer's health after an attempt that went to these destinations."""
    if sign is Sign.ANSWERED:
        return ALL_WELL
    if sign is Sign.NO_CONNECTION:
        unreached, troubles, tried = was.unreached + 1, was.troubles, was.tried
    else:
        unreached, troubles, tried = 0, was.troubles + 1, was.tried
        if len(tried) < MANY:
            tried |= frozenset(destinations)
    closes = unreached >= open_after or (troubles >= open_after and len(tried) > 1)
    until = None
    if closes:  # what had set out before it was left alone, or out of turn, does not put the next probe off
        until = was.until if was.until is not None and was.until > now else now + probe
    return PeerHealth(unreached=unreached, troubles=troubles, tried=tried, until=until)
