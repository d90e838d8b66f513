"""Unpacks compressed bodies with a bound on size and ratio, so that a bomb is refused before memory is spent."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from enum import StrEnum

# FHIR packs about ten to forty times; only a bomb does better than this over a whole megabyte.
MOST_RATIO = 250
PIECE = 256 * 1024  # bytes unpacked in one go, which takes about a millisecond
SMALL = 1024 * 1024  # below this the ratio is not looked at


class TooBig(Exception):
    """More comes out than is allowed."""


class Damaged(Exception):
    """The packed bytes cannot be unpacked, or end in the middle."""


class Coding(StrEnum):
    IDENTITY = "identity"
    GZIP = "gzip"
    DEFLATE = "deflate"


def coding_of(content_encoding: str) -> Coding | None:
    """The one coding of a `Content-Encoding` header, None for what we cannot undo."""
    if not content_encoding:
        return Coding.IDENTITY
    names = [name.strip().lower() for name in content_encoding.split(",")]
    names = [{"x-gzip": "gzip"}.get(name, name) for name in names if name not in ("", "identity")]
    if not names:
        return Coding.IDENTITY
    try:
        return Coding(names[0]) if len(names) == 1 else None
    except ValueError:
        return None


class Unpacker:
    """Feeds of packed bytes in, unpacked bytes out, never more than `limit` in all."""

    def __init__(self, coding: Coding, limit: int) -> None:
        self.limit = limit
        self._taken = self._given = 0
        self._held = b""
        self._engine: zlib._Decompress | None = None
        self._new: Callable[[bytes], zlib._Decompress] = _gzip if coding is Coding.GZIP else _deflate
        self._plain = coding is Coding.IDENTITY

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What comes out, in pieces of at most `PIECE` bytes; all of them are to be taken."""
        self._taken += len(data)
        if self._plain:
            self._given += len(data)
            if self._given > self.limit:
                raise TooBig(f"more than {self.limit} bytes")
            yield data
            return
        data = self._held + data
        self._held = b""
        more = False  # may come out of what the engine has taken in already
        while data or more:
            if self._engine is None:
                data = data.lstrip(b"\0") if self._given else data  # padding between and after gzip members
                if len(data) < 2:  # a coding shows itself in its first two bytes
                    self._held = data
                    return
                self._engine = self._new(data)
            room = min(PIECE, self.limit - self._given + 1)
            try:
                piece = self._engine.decompress(data, room)
            except zlib.error as exc:
                raise Damaged("the compressed body cannot be unpacked") from exc
            data = self._count(piece, self._engine)
            more = self._engine is not None and len(piece) == room
            yield piece

    def _count(self, piece: bytes, engine: zlib._Decompress) -> bytes:
        """Returns what is still to be unpacked."""
        self._given += len(piece)
        if self._given > self.limit:
            raise TooBig(f"more than {self.limit} bytes when unpacked")
        if self._given > SMALL and self._given > MOST_RATIO * self._taken:
            raise TooBig(f"unpacks to more than {MOST_RATIO} times its size")
        if engine.eof:
            self._engine = None
            return engine.unused_data
        return engine.unconsumed_tail

    def finish(self) -> None:
        """Says that all has been fed."""
        if self._held or (self._engine is not None and not self._engine.eof):
            raise Damaged("the compressed body ends in the middle")


def _gzip(head: bytes) -> zlib._Decompress:
    return zlib.decompressobj(wbits=31)


def _deflate(head: bytes) -> zlib._Decompress:
    """`deflate` is the zlib format; many senders leave its wrapping out (RFC 9110, section 8.4.1.2)."""
    wrapped = head[0] & 0x0F == 8 and (head[0] * 256 + head[1]) % 31 == 0
    return zlib.decompressobj(wbits=15 if wrapped else -15)
