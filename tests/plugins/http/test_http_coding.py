"""Compressed bodies come out in pieces that take no time worth speaking of, and whole."""

from __future__ import annotations

import gzip
import zlib
from random import Random

import pytest

from plugins.http.coding import MOST_RATIO, PIECE, SMALL, Coding, Damaged, TooBig, Unpacker

LIMIT = 64 << 20


def unpacked(packed: bytes, coding: Coding, *, fed: int, limit: int = LIMIT) -> list[bytes]:
    unpacker = Unpacker(coding, limit)
    pieces = [piece for start in range(0, len(packed), fed) for piece in unpacker.feed(packed[start : start + fed])]
    unpacker.finish()
    return pieces


def text(size: int, repeats: int) -> bytes:
    """Packs about so many times."""
    dice = Random(size)
    return b"".join(dice.randbytes(16) * repeats for _ in range(size // 16 // repeats + 1))[:size]


@pytest.mark.parametrize("coding", [Coding.GZIP, Coding.DEFLATE])
@pytest.mark.parametrize("fed", [7, 1000, 1 << 16, 1 << 30])
@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 3 * PIECE + 17])
def test_all_comes_out_in_pieces_however_it_is_fed(coding: Coding, fed: int, size: int) -> None:
    """Also where the last input is taken in while much is still to come out."""
    body = text(size, 100)
    pieces = unpacked(gzip.compress(body) if coding is Coding.GZIP else zlib.compress(body), coding, fed=fed)
    assert b"".join(pieces) == body
    assert max(map(len, pieces), default=0) <= PIECE


def test_several_members_come_out_as_one_body() -> None:
    bodies = [text(PIECE, 50), b"", text(2 * PIECE, 20)]
    packed = b"\0\0".join(map(gzip.compress, bodies))
    for fed in (3, 1 << 20):
        assert b"".join(unpacked(packed, Coding.GZIP, fed=fed)) == b"".join(bodies)


def test_bomb_is_found_before_much_of_it_has_come_out() -> None:
    came: list[int] = []
    pieces = Unpacker(Coding.GZIP, LIMIT).feed(gzip.compress(bytes(LIMIT))[:2000])
    with pytest.raises(TooBig, match=f"{MOST_RATIO} times"):
        came.extend(map(len, pieces))
    assert sum(came) <= SMALL


def test_more_than_the_limit_is_refused_and_the_limit_itself_is_not() -> None:
    body = text(2 * PIECE, 20)
    assert len(b"".join(unpacked(gzip.compress(body), Coding.GZIP, fed=100, limit=len(body)))) == len(body)
    with pytest.raises(TooBig):
        unpacked(gzip.compress(body), Coding.GZIP, fed=100, limit=len(body) - 1)


def test_body_that_ends_in_the_middle_is_damaged() -> None:
    with pytest.raises(Damaged):
        unpacked(gzip.compress(text(PIECE, 5))[:-9], Coding.GZIP, fed=1000)
