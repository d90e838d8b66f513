"""One HTTP/1.1 connection: a request out, its answer in, one at a time, every part of the answer bounded (RFC 9112)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum
from typing import cast

import httptools
import msgspec

from broker.dialing import Undialed

LARGEST_HEAD = 64 * 1024  # all that is no body: status lines, headers, interim answers, what chunks are framed with
MOST_HEADERS = 128
FRAMING = 16  # bytes of framing that a byte of body may have; the smallest chunk has five
AT_ONCE = 64 * 1024  # a body up to this is handed over with its head; a larger one as fast as the peer reads
SLICE = 256 * 1024  # of a larger body; bounds what the transport holds for a peer that has stopped reading
TURN = 4  # slices in a turn of the loop: to a peer as fast as we are, a large body would hold up everybody else
BODILESS = frozenset({101, 204, 304})


class Trouble(StrEnum):
    """Why there is no answer."""

    NO_NAME = Undialed.NO_NAME.value
    INSIDE = Undialed.INSIDE.value
    NO_CONNECTION = Undialed.NO_CONNECTION.value
    NO_CONNECTION_IN_TIME = Undialed.NO_CONNECTION_IN_TIME.value
    CERTIFICATE = Undialed.CERTIFICATE.value
    HANDSHAKE = Undialed.HANDSHAKE.value
    CLOSED = "the connection was closed before an answer came"
    LATE = "no answer in time"
    UNREADABLE = "the answer is not HTTP that can be read"


class NoAnswer(Exception):
    """The request has no answer; `untouched`: not one byte of one had come on a connection that was open."""

    def __init__(self, trouble: Trouble, reason: str = "", *, untouched: bool = False) -> None:
        super().__init__(f"{trouble}: {reason}" if reason else str(trouble))
        self.trouble = trouble
        self.reason = reason
        self.untouched = untouched


class Flaw(StrEnum):
    """Why the body of an answer is not whole."""

    TOO_LARGE = "it is larger than allowed"
    CUT = "its body was cut short"
    BROKEN = "the connection broke within its body"
    LATE = "its body did not come in time"
    UNREADABLE = "its body is not HTTP that can be read"


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """An answer as it came; with a flaw, `body` is what there was of it."""

    status: int
    fields: dict[bytes, bytes]  # the headers by their names in lower case; of several with one name, the first
    again: list[tuple[bytes, bytes]] = []  # the others
    body: bytes = b""
    flaw: Flaw | None = None

    def first(self, name: bytes) -> str | None:
        """The value of a header, decoded only now: few of them are ever asked for."""
        value = self.fields.get(name)
        return None if value is None else _text(value)

    def all(self, name: bytes) -> str:
        """The values of a header that is a list, joined (RFC 9110, section 5.3)."""
        values = [self.fields[name]] if name in self.fields else []
        return ",".join(map(_text, [*values, *(value for written, value in self.again if written == name)]))


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape").strip(" \t")


Allowed = Callable[[int], int]  # status → bytes of its body that are read


class _Stop(Exception):
    """Raised out of the parser's callbacks, so that it reads no further."""


class Connection(asyncio.Protocol):
    """Bytes between one request and its answer; `free` is told when it may carry another, `lost` when it is gone."""

    def __init__(self, free: Callable[[Connection], None], lost: Callable[[Connection], None]) -> None:
        self._free, self._lost = free, lost
        self._loop = asyncio.get_running_loop()
        self._parser: httptools.HttpResponseParser | None = None
        self._answer: asyncio.Future[Response] | None = None
        self._until = 0.0  # loop time at which the answer is late
        self._timer: asyncio.TimerHandle | None = None  # outlives its request: see `_watch`
        self._looks = 0.0  # loop time at which the timer looks
        self._rest: memoryview | None = None  # of the body, not yet handed to the transport
        self._paused = False
        self.open = False
        self.idle_since = 0.0

    # --- the request ---

    def send(self, head: bytes, body: bytes, allowed: Allowed, seconds: float) -> asyncio.Future[Response]:
        """Sends a request; the future has its answer or `NoAnswer`, at the latest when the seconds have passed."""
        self._answer = answer = self._loop.create_future()
        self._allowed = allowed
        self._received = self._head = self._length = self._limit = self._status = 0
        self._raw: list[tuple[bytes, bytes]] = []
        self._fields: dict[bytes, bytes] = {}
        self._again: list[tuple[bytes, bytes]] = []
        self._pieces: list[bytes] = []
        self._whole = self._reusable = self._until_close = False
        self._flaw: Flaw | None = None
        if len(body) <= AT_ONCE:
            self._transport.write(b"".join((head, body)))
        else:
            self._transport.write(head)
            self._rest = memoryview(body)
            self._send_on()
        self._until = until = self._loop.time() + seconds
        if self._timer is None or until < self._looks:
            self._watch(until)
        return answer

    def _watch(self, at: float) -> None:
        """Looks then whether the answer is late.

        One timer serves many requests, since nearly all are answered long before: it is neither cancelled nor set anew
        for each, and when it looks too early for the request under way, it looks again at the right time.
        """
        if self._timer is not None:
            self._timer.cancel()
        self._looks = at
        self._timer = self._loop.call_at(at, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._answer is None:
            return  # idle: the next request sets a timer of its own
        if self._loop.time() < self._until:
            self._watch(self._until)
        else:
            self._end(Flaw.LATE, Trouble.LATE)

    def _send_on(self) -> None:
        for _ in range(TURN):
            if self._rest is None or self._paused:
                return
            self._transport.write(self._rest[:SLICE])
            self._rest = self._rest[SLICE:] if len(self._rest) > SLICE else None
        if self._rest is not None and not self._paused:
            self._loop.call_soon(self._send_on)

    def abort(self) -> None:
        """Closes without a good-bye: what is still to be sent or read is nobody's any more."""
        self.open = False
        self._rest = None
        self._transport.abort()

    def close(self) -> None:
        self.open = False
        self._transport.close()

    # --- what the transport says ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpResponseParser(self)
        # What clients have always taken: lines that end in LF alone, untidy values, blanks after a chunk's size.
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self.open = True

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._send_on()

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._parser is None:
            self.abort()  # bytes that nobody asked for: whatever comes next is no answer of ours
            return
        self._received += len(data)
        readable = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:  # ours too, out of a callback; and what follows an answer
            readable = False
        except httptools.HttpParserUpgrade:  # 101, which nobody asked for
            self._reusable = False
        if self._whole:
            self._end(None, keep=readable and self._reusable)
        elif self._flaw is not None:
            self._end(self._flaw)
        elif not readable or self._received - FRAMING * self._length > LARGEST_HEAD:
            self._end(Flaw.UNREADABLE, Trouble.UNREADABLE)

    def eof_received(self) -> bool:
        self._closed(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed(exc)
        self._parser = None  # which refers back to us
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._lost(self)

    def _closed(self, exc: Exception | None) -> None:
        self.open = False
        if self._answer is None:
            return
        if self._until_close and exc is None:
            self._end(None)
        else:
            self._end(Flaw.CUT if exc is None else Flaw.BROKEN, Trouble.CLOSED)

    # --- what the parser says ---

    def on_message_begin(self) -> None:
        if self._whole:
            raise _Stop  # a second answer to one question
        self._raw = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head += len(name) + len(value)
        if self._head > LARGEST_HEAD or len(self._raw) >= MOST_HEADERS:
            raise _Stop
        if not self._status:  # a trailer is counted, and not kept
            self._raw.append((name, value))

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if 100 <= status < 200 and status != 101:
            return  # interim; the answer follows
        if status < 100:
            raise _Stop
        self._status = status
        fields = self._fields
        for written, value in self._raw:
            name = written.lower()
            if name in fields:
                self._again.append((name, value))
            else:
                fields[name] = value
        self._limit = self._allowed(status)
        coding = self._coding() if b"transfer-encoding" in fields else b""
        if status in BODILESS:
            return
        length = fields.get(b"content-length")
        self._until_close = not length and coding != b"chunked"
        if length and int(length) > self._limit:
            self._flaw = Flaw.TOO_LARGE
            raise _Stop

    def _coding(self) -> bytes:
        """The Transfer-Encoding; all but one are codings that we did not offer to take (RFC 9112, section 6.1)."""
        values = [value for name, value in self._raw if name.lower() == b"transfer-encoding"]
        coding = b",".join(values).strip(b" \t").lower()
        if coding not in (b"chunked", b"identity", b""):
            raise _Stop
        return coding

    def on_body(self, data: bytes) -> None:
        self._length += len(data)
        if self._length > self._limit:
            self._flaw = Flaw.TOO_LARGE
            raise _Stop
        self._pieces.append(data)

    def on_message_complete(self) -> None:
        if self._status:
            assert self._parser is not None
            self._whole = True
            self._reusable = self._parser.should_keep_alive()

    # --- the end of the answer ---

    def _end(self, flaw: Flaw | None, trouble: Trouble | None = None, *, keep: bool = False) -> None:
        """An answer that has begun is one, with its flaw; before that the trouble is all there is."""
        answer, self._answer = self._answer, None
        if answer is None:
            return
        pieces, self._pieces = self._pieces, []
        # An answer may come before the request is all written: the rest would be read as the next one.
        if keep and self._rest is None and not answer.done() and not self._transport.get_write_buffer_size():
            self._free(self)
        else:
            self.abort()
        if answer.done():
            return  # cancelled in this very moment
        if trouble is not None and not self._status:
            untouched = trouble is Trouble.CLOSED and not self._received
            answer.set_exception(NoAnswer(trouble, untouched=untouched))
        else:
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            answer.set_result(
                Response(status=self._status, fields=self._fields, again=self._again, body=body, flaw=flaw)
            )
