"""Reads the body of a request: bounded while it comes, unpacked, in time, and checked against its digests."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from aiohttp import hdrs, web

from broker.channel import Hold, Room
from broker.core.outcome import BadRequest, Refusal, TooLarge, Unsupported
from broker.web import Asking, HttpRefusal, send_continue
from plugins.http.coding import PIECE, Coding, Damaged, TooBig, Unpacker, coding_of
from plugins.http.digest import BESIDE_THE_LOOP, HASHES, digest_of, parse_attribute, parse_content_digest

DEADLINE = 60.0  # seconds for a body of any size, …
NO_WIRE: Mapping[str, bytes] = MappingProxyType({})  # the body came unpacked: its bytes are those on the wire
SLOWEST = 64 * 1024  # … and one more for each so many bytes that have come: a big message over a thin line is welcome


async def read_body(
    request: web.Request, limit: int, *, room: Room, deadline: float = DEADLINE
) -> tuple[bytes, Hold | None]:
    """The body as the sender wrote it, without its `Content-Encoding`; and its hold on the room, if it came in pieces.

    What is declared is refused here if there is no room for it now, but takes none: it counts as it comes, so that who
    declares much and sends little keeps nobody out, and what is half read is bounded with the rest.
    """
    coding = _coding(request)
    declared = request.content_length or 0
    if declared > limit:
        raise too_large(limit)
    claims = claims_of(request)
    if coding is Coding.IDENTITY and request.content.is_eof():  # most messages are here with their headers
        await send_continue(request)
        body = request.content.read_nowait()
        if len(body) > limit:
            raise too_large(limit)
        if claims:
            await check_claims(body, claims)
        return body, None
    room.check(declared)
    await send_continue(request)
    hold = room.hold()
    try:
        body, wire = await _stream(request, Unpacker(coding, limit), claims, hold, deadline)
        if claims:
            await check_claims(body, claims, wire)
    except BaseException:
        hold.let_go()
        raise
    return body, hold


async def _stream(
    request: web.Request, unpacker: Unpacker, claims: Iterable[str], hold: Hold, deadline: float
) -> tuple[bytes, dict[str, bytes]]:
    """The unpacked body, and the digests of its bytes on the wire."""
    pieces: list[bytes] = []
    wire = {name: hashlib.new(HASHES[name]) for name in claims}
    loop, came = asyncio.get_running_loop(), 0
    start = loop.time()
    try:
        async with asyncio.timeout(deadline) as clock:
            async for chunk in request.content.iter_any():
                came += len(chunk)
                clock.reschedule(start + deadline + came / SLOWEST)
                for hasher in wire.values():
                    hasher.update(chunk)
                for piece in unpacker.feed(chunk):
                    hold.grow(len(piece))
                    pieces.append(piece)
                    if len(piece) >= PIECE:  # a little unpacks to much: others have their turn in between
                        await asyncio.sleep(0)
        unpacker.finish()
    except TimeoutError:
        text = f"the body did not come in time; {came} bytes were read; send it again"
        raise HttpRefusal(text, status=408, code="timeout", id="slow-body") from None
    except TooBig as exc:
        raise too_large(unpacker.limit, str(exc)) from None
    except Damaged as exc:
        text = f"{exc}; check Content-Encoding"
        raise BadRequest(text, id="damaged-encoding", expression="http.content-encoding") from None
    except web.RequestPayloadError:
        raise BadRequest("the body breaks off or its framing is wrong", id="damaged-body", code="structure") from None
    body = await asyncio.to_thread(b"".join, pieces) if came > BESIDE_THE_LOOP else b"".join(pieces)
    return body, {name: hasher.digest() for name, hasher in wire.items()}


def _coding(request: web.Request) -> Coding:
    field = ",".join(request.headers.getall(hdrs.CONTENT_ENCODING, ()))
    coding = coding_of(field)
    if coding is None:
        raise Unsupported(
            "Content-Encoding may be gzip, deflate or identity, one of them",
            id="unsupported-encoding",
            expression="http.content-encoding",
        )
    return coding


def too_large(limit: int, how: str = "") -> TooLarge:
    text = f"the body is larger than the {limit} bytes that this broker takes"
    return TooLarge(f"{text} ({how})" if how else text, expression="http.content-length")


def claims_of(request: Asking) -> dict[str, bytes]:
    field = ",".join(request.headers.getall("Content-Digest", ()))
    try:
        return parse_content_digest(field) if field else {}
    except ValueError as exc:
        raise BadRequest(str(exc), expression="http.content-digest") from None


async def check_claims(body: bytes, claims: Mapping[str, bytes], wire: Mapping[str, bytes] = NO_WIRE) -> None:
    """RFC 9530 digests the bytes on the wire; many digest what they had before packing it (X-45). Either proves it."""
    for algorithm, claimed in claims.items():
        if claimed not in (wire.get(algorithm), await digest_of(body, algorithm)):
            raise _damaged("Content-Digest")


async def check_attribute(body: bytes, attribute: str | None) -> None:
    """Compares the body with the envelope's digest."""
    if attribute is not None and parse_attribute(attribute) != await digest_of(body):
        raise _damaged("ce-digest")


def _damaged(header: str) -> Refusal:
    return HttpRefusal(
        f"the body is not the one that {header} speaks of: it was changed on the way; send it again",
        status=400,
        code="transient",
        id="digest-mismatch",
        expression=f"http.{header.lower()}",
    )
