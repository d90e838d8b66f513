"""Binding tokens of sockets (S-43): which subscriptions, until when, and a seal. Nothing of them is kept anywhere.

A token is the store's numbers of the subscriptions, sealed with a key of the store, so it is good for as long as it
says, also after a restart, and one that we did not give out opens nothing. Whoever has it is told what these
subscriptions are told: it is a secret, and is never logged.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import msgspec

from broker.core.outcome import BadRequest, NotAllowed
from broker.core.subscription.binding import LONGEST

_PURPOSE = b"binding token"  # so that nothing else that is sealed with the store's key passes for one
_SEAL = 16  # bytes: nobody guesses one of 2^128
_TIME = 5  # bytes of seconds since 1970
_FORM = b"\x01"
_BEGIN = datetime(1970, 1, 1, tzinfo=UTC)


class Opened(msgspec.Struct, frozen=True):
    keys: tuple[int, ...]  # of subscriptions, ascending
    until: datetime


class Tokens:
    """Makes and opens the tokens of one store."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key

    def seal(self, keys: Iterable[int], until: datetime) -> str:
        """Raises BadRequest for more subscriptions than one token has room for: about a thousand."""
        seconds = int((until - _BEGIN).total_seconds())
        said = _FORM + seconds.to_bytes(_TIME, "big") + _packed(sorted(set(keys)))
        token = urlsafe_b64encode(self._sealed(said) + said).rstrip(b"=").decode()
        if len(token) > LONGEST:
            raise BadRequest(
                "These are more subscriptions than one token has room for: ask for several tokens, by `id`; one socket"
                " may be bound with all of them.",
                code="too-costly",
                id="too-many-for-a-token",
                expression="id",
            )
        return token

    def open(self, token: str, now: datetime) -> Opened:
        """Raises NotAllowed for what is no token of ours, or too old."""
        try:
            whole = urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except (Error, ValueError):
            whole = b""
        seal, said = whole[:_SEAL], whole[_SEAL:]
        if not hmac.compare_digest(seal, self._sealed(said)) or not said.startswith(_FORM):
            raise NotAllowed("This is no token of this broker: get one by $get-ws-binding-token.", code="login",
                             id="bad-token")  # fmt: skip
        until = _BEGIN + timedelta(seconds=int.from_bytes(said[1 : 1 + _TIME], "big"))
        if until <= now:
            raise NotAllowed("The token has expired: get another by $get-ws-binding-token.", code="expired",
                             id="expired-token")  # fmt: skip
        return Opened(_unpacked(said[1 + _TIME :]), until)

    def _sealed(self, said: bytes) -> bytes:
        return hashlib.blake2b(said, digest_size=_SEAL, key=self._key, person=_PURPOSE).digest()


def _packed(keys: Iterable[int]) -> bytes:
    """Ascending numbers as what each is more than the one before, seven bits a byte."""
    packed, before = bytearray(), 0
    for key in keys:
        more, before = key - before, key
        while more > 0x7F:
            packed.append(more & 0x7F | 0x80)
            more >>= 7
        packed.append(more)
    return bytes(packed)


def _unpacked(packed: bytes) -> tuple[int, ...]:
    keys, before, more, shift = [], 0, 0, 0
    for byte in packed:
        more |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            before += more
            keys.append(before)
            more, shift = 0, 0
    return tuple(keys)
