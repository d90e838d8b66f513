"""One reader's request: which base it came to, what it asks for, and the format and release of the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Protocol
from urllib.parse import parse_qsl

from aiohttp import hdrs, web

from broker.core.fhir.header import Release
from broker.core.fhir.media import acceptable
from broker.core.ids import MessageIds
from broker.core.outcome import BadRequest, NotFound, TooLarge, Unsupported
from broker.web import (
    PINNED,
    HttpRefusal,
    Reply,
    content_type_of,
    parameters,
    pinned_release,
    preferences,
    send_continue,
    wanted,
)

FORM = "application/x-www-form-urlencoded"
LARGEST_FORM = 64 * 1024  # bytes: a search in a body is longer than a line may be, but nobody writes a book
BODY_DEADLINE = 10.0  # seconds for a body of that size

_SEGMENTS = {release: name for name, release in PINNED.items()}


class Here(Protocol):
    """What the reading side knows of this broker."""

    @property
    def base_url(self) -> str: ...
    @property
    def ids(self) -> MessageIds: ...
    @property
    def release(self) -> Release: ...
    @property
    def now(self) -> Callable[[], datetime]: ...


class Asking:
    """How one request is answered; made first, so that a 406 comes before any work."""

    __slots__ = ("_default", "base", "format", "named", "request")

    def __init__(self, request: web.Request, here: Here, pairs: Sequence[tuple[str, str]] = ()) -> None:
        self.request = request
        pinned = pinned_release(request)
        in_form = next((value for name, value in pairs if name == "_format"), None)
        if request.method == hdrs.METH_POST and in_form:
            self.format, asked = acceptable(None, in_form)
        else:
            self.format, asked = wanted(request)
        self.named = asked or pinned  # what the answer's media type says
        self._default = here.release
        self.base = here.base_url.rstrip("/") + (f"/{_SEGMENTS[pinned]}" if pinned else "")

    @property
    def release(self) -> Release:
        return self.named or self._default

    @property
    def is_strict(self) -> bool:
        """Whether an unknown parameter is an error: `Prefer: handling=strict`."""
        return preferences(self.request).get("handling") == "strict"

    def answer(
        self, body: bytes, *, status: int = 200, headers: Mapping[str, str] | Iterable[tuple[str, str]] = ()
    ) -> web.Response:
        content_type = content_type_of(self.format, self.named)
        return Reply(status, body, (*dict(headers).items(), (hdrs.CONTENT_TYPE, content_type))).response()


def position_of(here: Here, request: web.Request) -> int:
    """The position in the id of the path; 404 for an id that this broker did not give out."""
    position = here.ids.position(request.match_info["id"])
    if position is None:
        raise NotFound(
            "this id was not given out by this broker; use the id from a receipt, a Location or a mailbox page",
            id="unknown-message",
            expression="http.id",
        )
    return position


async def asked_of(request: web.Request) -> list[tuple[str, str]]:
    """The search parameters: those of the query, and of the form where the search is a POST."""
    pairs = parameters(request)
    if request.method == hdrs.METH_POST:
        pairs += await _form(request)
    return pairs


async def _form(request: web.Request) -> list[tuple[str, str]]:
    if not request.can_read_body:
        return []
    if request.content_type != FORM:
        raise Unsupported(f"a search is posted as {FORM}", id="unsupported-media-type", expression="http.content-type")
    body = await body_of(request, LARGEST_FORM, what="posted search")
    try:
        return parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=200)
    except ValueError:
        raise BadRequest(
            "the form is not percent-encoded UTF-8 of at most 200 fields", expression="http.body"
        ) from None


async def body_of(request: web.Request, largest: int, *, what: str) -> bytes:
    """A short body, bounded in bytes and time."""
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        raise Unsupported(f"a {what} is not compressed", id="unsupported-encoding")
    await send_continue(request)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_DEADLINE):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > largest:
                    raise TooLarge(f"a {what} has at most {largest} bytes")
    except TimeoutError:
        raise HttpRefusal(
            f"the {what} did not arrive within {BODY_DEADLINE:g} s; send it again",
            status=408,
            code="timeout",
            id="body-too-slow",
        ) from None
    return bytes(body)


def reader_address(request: web.Request) -> str:
    """Who reads, as far as it is known: the address alone, since every connection has another port."""
    return request.remote or "unix"
