"""The short way of a plain POST: read once, handed on, answered, without the frame that other requests need.

Most messages come over connections that are kept, each with the same head but for the length of its body. Such a head
is read once, and what it says is kept for the next. Whatever is not plain (chunked or packed or large bodies, `Expect`,
a head in pieces, any other path) goes to aiohttp with the bytes as they came, and the connection stays there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Protocol

import httptools
from aiohttp import hdrs, web
from aiohttp.web_protocol import RequestHandler
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from broker.core.fhir.header import Format, Release
from broker.core.fhir.outcomes import outcome_bytes
from broker.core.outcome import Problem, Refusal
from broker.web import BUG, LONGEST_FIELD, Asking, Reply, failure_reply, log_bug, mirrored

log = logging.getLogger("broker.web")

LARGEST = 64 * 1024  # bytes of a body; a larger one is read as it comes, under limits of its own
ALL_HERE = 1.0  # seconds for the rest of a body that has begun; then aiohttp goes on waiting for it
MOST_AHEAD = 256 * 1024  # bytes that a caller may send ahead of the answer it waits for
LENGTH = b"\r\ncontent-length:"
UNUSUAL = frozenset({"transfer-encoding", "content-encoding", "expect", "upgrade", "trailer"})


class Way(Protocol):
    """What takes plain POSTs; `read` is asked once for each different head, `answer` for each message."""

    def read(self, request: Asking) -> Any:
        """What the head says, for `answer`; raises Refusal."""

    async def answer(self, said: Any, body: bytes) -> Reply:
        """Takes a body in; raises Refusal."""


class Line:
    """A request line on the short way."""

    __slots__ = ("url", "way")

    def __init__(self, way: Way, target: str) -> None:
        self.way = way
        self.url = URL(target, encoded=True)


EXPRESS = web.AppKey("express", dict[bytes, Line])  # by the bytes of the request line


def add_express(app: web.Application, target: str, way: Way) -> None:
    """Opens the short way for `POST target`; the same path must be routed the ordinary way too."""
    app.setdefault(EXPRESS, {})[f"POST {target} HTTP/1.1".encode()] = Line(way, target)


class Head:
    """A head as it came, cut at the length of the body, and what it says; an `Asking`."""

    __slots__ = ("after", "app", "before", "echo", "headers", "line", "match_info", "rel_url", "said", "transport")

    def __init__(
        self, app: web.Application, line: Line, headers: CIMultiDictProxy[str], transport: asyncio.Transport | None
    ) -> None:
        self.app = app
        self.line = line
        self.rel_url = line.url
        self.match_info: Mapping[str, str] = {}
        self.headers = headers
        self.transport = transport
        self.said = line.way.read(self)
        self.echo = "".join([f"{name}: {value}\r\n" for name, value in mirrored(self)])
        self.before = self.after = b""


class Connection(RequestHandler):
    """A connection that knows the short way, and says nothing of what serves it."""

    __slots__ = ("_ahead", "_app", "_closing", "_head", "_lines", "_missing", "_pieces", "_plain", "_serving", "_timer")

    def __init__(self, server: web.Server, *, app: web.Application, **limits: Any) -> None:
        super().__init__(server, **limits)
        self._app = app
        self._lines = app.get(EXPRESS, {})
        self._plain = bool(self._lines)
        self._head: Head | None = None  # the last one
        self._serving: asyncio.Task[None] | None = None
        self._ahead = b""  # what came while a request is answered
        self._pieces: list[bytes] = []  # of a request whose body is not all here, the head with them
        self._missing = 0  # bytes of that body
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False

    # --- what comes in ---

    def data_received(self, data: bytes) -> None:
        if not self._plain or self._close or self._force_close:
            super().data_received(data)
        elif self._serving is not None:
            self._ahead += data
            if len(self._ahead) > MOST_AHEAD:
                self._pause_reading_for_buffer()
        elif self._pieces:
            self._pieces.append(data)
            self._missing -= len(data)
            if self._missing <= 0:
                self._begin(self._whole())
        else:
            self._begin(data)

    def _begin(self, data: bytes) -> None:
        """Starts a request, if it is plain and all here."""
        head, cut = self._head, -1
        if head is not None and data.startswith(head.before):
            cut = data.find(b"\r", len(head.before), len(head.before) + 8)
        if head is None or cut < 0 or not data.startswith(head.after, cut):
            head = self._head = self._read(data)
            if head is None:
                self._leave(data)
                return
            cut = data.find(b"\r", len(head.before))
        length = data[len(head.before) : cut]
        start = cut + len(head.after)
        if not length.isdigit() or int(length) > LARGEST:
            self._leave(data)
            return
        end = start + int(length)
        if len(data) < end:
            self._pieces, self._missing = [data], end - len(data)
            self._timer = self._loop.call_later(ALL_HERE, self._give_away)
            return
        self._ahead = data[end:]
        self._serving = self._loop.create_task(self._serve(head, data[start:end]))

    def _read(self, data: bytes) -> Head | None:
        """The head of a plain request; None for one that is not."""
        end = data.find(b"\r\n\r\n", 0, LONGEST_FIELD) + 4
        line = self._lines.get(data[: data.find(b"\r\n")])
        if end < 4 or line is None:
            return None
        fields = _Fields()
        try:
            httptools.HttpRequestParser(fields).feed_data(data[:end])
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            return None
        headers = CIMultiDict(fields.all)
        place = data[:end].lower().find(LENGTH)
        if (
            place < 0
            or len(set(headers)) < len(fields.all)  # a field that is there twice
            or hdrs.HOST not in headers
            or not UNUSUAL.isdisjoint(name.lower() for name in headers)
            or headers.get(hdrs.CONNECTION, "keep-alive").lower() != "keep-alive"
        ):
            return None
        try:
            head = Head(self._app, line, CIMultiDictProxy(headers), self.transport)
        except Refusal:
            return None  # said the ordinary way
        place += len(LENGTH)
        while data[place : place + 1] == b" ":
            place += 1
        head.before, head.after = data[:place], data[data.find(b"\r", place) : end]
        return head

    def _whole(self) -> bytes:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        data, self._pieces = b"".join(self._pieces), []
        return data

    def _give_away(self) -> None:
        self._leave(self._whole())

    def _leave(self, data: bytes) -> None:
        """From here on this connection is aiohttp's alone."""
        self._plain, self._head = False, None
        super().data_received(data)

    # --- what goes out ---

    async def _serve(self, head: Head, body: bytes) -> None:
        try:
            answer = _written(await head.line.way.answer(head.said, body), head.echo)
        except asyncio.CancelledError:
            self.force_close()
            raise
        except Exception as exc:
            answer = _written(failure_reply(head, exc), head.echo)
        if self.transport is None:
            return  # the caller has gone
        self.transport.write(answer)
        if self.writing_paused:
            with suppress(ConnectionError):  # gone while it was read to
                await self._drain_helper()
        self._answered()

    def _answered(self) -> None:
        self._serving = None
        if self._closing or self._force_close:
            super().close()
            if self.transport is not None:
                self.transport.close()  # what is written is still sent
            return
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._buffer_paused:
            self._resume_reading_for_buffer()
        if self._ahead:
            ahead, self._ahead = self._ahead, b""
            self._begin(ahead)

    # --- the end ---

    def close(self) -> None:
        """No further request is taken; the one under way is answered first."""
        self._closing = True
        if self._serving is None:
            super().close()

    async def shutdown(self, timeout: float | None = 15.0) -> None:
        super().close()  # who was taken in the turn before was told to close when it was not yet waiting for a request
        serving = self._serving
        if serving is not None:
            self._closing = True
            await asyncio.wait([serving], timeout=timeout)
            serving.cancel()
            await asyncio.wait([serving], timeout=timeout)
        await super().shutdown(timeout)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._serving is not None:
            self._serving.cancel()
        if self._timer is not None:
            self._timer.cancel()
        self._head = None
        super().connection_lost(exc)

    def _process_keepalive(self) -> None:
        if self._serving is not None:
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        super()._process_keepalive()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answers what is not HTTP in FHIR's words too."""
        if request.writer.output_size > 0:
            raise ConnectionError("part of an answer was sent already")
        if status >= 500:
            if exc is not None:
                log_bug(exc)
            problem = BUG
        else:
            log.info("not HTTP from %s: %s", request.remote, type(exc).__name__)
            problem = Problem(code="structure", id="not-http", text="the request is not HTTP/1.1 that can be read")
        body = outcome_bytes((problem,), format=Format.JSON, release=Release.R4)
        headers = {hdrs.CONTENT_TYPE: "application/fhir+json", hdrs.SERVER: "fhir-broker"}
        response = web.Response(status=status, body=body, headers=headers)
        response.force_close()
        return response


class _Fields:
    """What httptools reads of a head; values as aiohttp gives them."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.all.append((name.decode("ascii"), value.decode("utf-8", "surrogateescape").strip(" \t")))


_STATUS = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}


def _written(reply: Reply, echo: str) -> bytes:
    """The bytes of an answer."""
    fields = "".join([f"{name}: {value}\r\n" for name, value in reply.headers])
    if fields.count("\n") != len(reply.headers) or fields.count("\r") != len(reply.headers):
        raise ValueError("a header with a line break")
    length = "" if reply.status == 204 else f"Content-Length: {len(reply.body)}\r\n"
    head = f"{_STATUS[reply.status]}{fields}{echo}{length}Date: {_date()}\r\n\r\n"
    return head.encode("utf-8", "surrogateescape") + reply.body


_now = (0, "")  # second and its date


def _date() -> str:
    global _now
    second = int(time.time())
    if _now[0] != second:
        _now = (second, formatdate(second, usegmt=True))
    return _now[1]
