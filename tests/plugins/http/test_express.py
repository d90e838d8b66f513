"""The short way of a plain POST: it takes what it may, and says what the ordinary way says, byte for byte."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from http_desk import MESSAGE, RECEIPT, ScriptedHost, serving
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker import express
from broker.channel import Answer, AnswerKind
from broker.core.outcome import Busy, Refusal
from broker.core.tls import Tls
from broker.express import EXPRESS, LARGEST, Connection
from broker.serving import Runner

TARGET = b"/fhir/$process-message?async=true"
PLAIN = {b"Host": b"x", b"Content-Type": b"application/fhir+json"}


def post(body: bytes = MESSAGE, *, target: bytes = TARGET, length: bytes | None = None, **more: bytes) -> bytes:
    fields = {**PLAIN, **{name.replace("_", "-").encode(): value for name, value in more.items()}}
    fields[b"Content-Length"] = str(len(body)).encode() if length is None else length
    lines = b"".join(b"%b: %b\r\n" % field for field in fields.items())
    return b"POST %b HTTP/1.1\r\n%b\r\n%b" % (target, lines, body)


@pytest.fixture
def ways(monkeypatch):
    """Which requests took the short way, and how many connections left it."""
    seen = {"short": 0, "left": 0}
    serve, leave = Connection._serve, Connection._leave

    async def counted(self, head, body):
        seen["short"] += 1
        await serve(self, head, body)

    def counted_leave(self, data):
        seen["left"] += 1
        leave(self, data)

    monkeypatch.setattr(Connection, "_serve", counted)
    monkeypatch.setattr(Connection, "_leave", counted_leave)
    return seen


class Wire:
    """A connection of ours to the server, answer by answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        async with asyncio.timeout(10):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            status, *lines = head[:-4].split("\r\n")
            fields = dict(line.split(": ", 1) for line in lines)
            body = await self.reader.readexactly(int(fields.get("Content-Length", 0)))
        return int(status.split()[1]), fields, body

    async def rest(self) -> bytes:
        async with asyncio.timeout(10):
            return await self.reader.read()


@asynccontextmanager
async def wire(port: int) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()


# --- what takes it, and what does not --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_bytes",
    [
        post(),
        post(target=b"/fhir/$process-message"),
        post(target=b"/fhir/%24process-message"),
        post(target=b"/fhir/R5/$process-message?async=true"),
        post(content_length=b"", length=str(len(MESSAGE)).encode()).replace(b"content-length: \r\n", b""),
        post(Accept=b"application/fhir+xml", User_Agent=b"curl/8", Connection=b"Keep-Alive"),
        post(length=b"0" + str(len(MESSAGE)).encode()),
        post(b"{" + b" " * (LARGEST - 2) + b"}"),
    ],
)
async def test_plain_post_takes_the_short_way(served, ways, request_bytes):
    async with wire(served.port) as one:
        one.send(request_bytes)
        await one.answer()
    assert ways == {"short": 1, "left": 0}


@pytest.mark.parametrize(
    "request_bytes",
    [
        post(target=b"/fhir/Bundle"),
        post(target=b"/fhir/$process-message?_format=xml"),
        post(target=b"/fhir/$process-message?response-url=https%3A%2F%2Fx.example"),
        post(Expect=b"100-continue"),
        post(Transfer_Encoding=b"chunked", length=b"5"),
        post(Content_Encoding=b"gzip"),
        post(Connection=b"close"),
        post(length=b"+5"),
        post(length=b"5 5"),
        post(length=b"99999999999"),
        post(b"{" + b" " * (LARGEST - 1) + b"}"),
        post().replace(b"HTTP/1.1", b"HTTP/1.0"),
        post().replace(b"Host: x\r\n", b""),
        post().replace(b"Host: x\r\n", b"Host: x\r\nPrefer: a\r\nPrefer: b\r\n"),
        post().replace(b"Host: x\r\n", b"Host: x\r\nContent-Length: 1\r\n"),
        post().replace(b"Host: x\r\n", b"Host: x\r\n folded\r\n"),
        post().replace(b"Host: x\r\n", b"Host: x\n"),
        post(Content_Type=b"text/plain"),
        b"GET /fhir/metadata HTTP/1.1\r\nHost: x\r\n\r\n",
        b"rubbish\r\n\r\n",
    ],
)
async def test_what_is_not_plain_goes_the_ordinary_way(served, ways, request_bytes):
    async with wire(served.port) as one:
        one.send(request_bytes)
        one.writer.write_eof()
        await one.rest()
    assert ways == {"short": 0, "left": 1}


async def test_what_follows_an_unusual_request_goes_the_ordinary_way_too(served, ways):
    async with wire(served.port) as one:
        for _ in range(2):
            one.send(post(target=b"/fhir/Bundle"))
            assert (await one.answer())[0] == 201
            one.send(post())
            assert (await one.answer())[0] == 202
    assert ways == {"short": 0, "left": 1}
    assert len(served.host.arrivals) == 4


# --- heads that are kept ---------------------------------------------------------------------------------------------


async def test_equal_heads_are_read_once_and_bodies_stay_apart(served, monkeypatch):
    read = []
    way = served.host.web[EXPRESS][b"POST %b HTTP/1.1" % TARGET].way
    original = way.read
    monkeypatch.setattr(way, "read", lambda request: read.append(1) or original(request))
    bodies = [MESSAGE + b" " * n for n in (0, 5, 0, 2000)]
    async with wire(served.port) as one:
        for body in bodies:
            one.send(post(body))
            assert (await one.answer())[0] == 202
        one.send(post(Accept=b"application/fhir+xml"))
        assert (await one.answer())[1]["Content-Type"] == "application/fhir+xml"
        one.send(post())
        assert (await one.answer())[1]["Content-Type"] == "application/fhir+json"
    assert [arrival.body for arrival in served.host.arrivals] == [*bodies, MESSAGE, MESSAGE]
    assert len(read) == 3


async def test_each_message_has_its_own_moment(served):
    async with wire(served.port) as one:
        for _ in range(2):
            one.send(post())
            await one.answer()
            await asyncio.sleep(0.01)
    first, second = served.host.arrivals
    assert second.at - first.at >= timedelta(milliseconds=10)


async def test_another_path_with_the_same_fields_is_another_head(served):
    async with wire(served.port) as one:
        for target in (TARGET, b"/fhir/$process-message", TARGET):
            one.send(post(target=target))
            await one.answer()
    assert [arrival.asked.asynchronous for arrival in served.host.arrivals] == [True, False, True]


async def test_ids_are_mirrored_and_the_date_is_told(served):
    async with wire(served.port) as one:
        one.send(post(X_Request_Id=b"r-1"))
        status, fields, _ = await one.answer()
    assert (status, fields["X-Request-Id"]) == (202, "r-1")
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", fields["Date"])
    assert "Server" not in fields


# --- pieces and pipelines --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [-1, -50, -len(MESSAGE), 30, 4])
async def test_request_in_two_pieces_arrives_whole(served, cut):
    whole = post()
    async with wire(served.port) as one:
        one.send(whole[:cut])
        await asyncio.sleep(0.02)
        one.send(whole[cut:])
        assert (await one.answer())[0] == 202
        one.send(whole)
        assert (await one.answer())[0] == 202
    assert [arrival.body for arrival in served.host.arrivals] == [MESSAGE] * 2


async def test_body_that_stays_away_is_waited_for_the_ordinary_way(served, ways, monkeypatch):
    monkeypatch.setattr(express, "ALL_HERE", 0.02)
    whole = post()
    async with wire(served.port) as one:
        one.send(whole[:-10])
        await asyncio.sleep(0.1)
        one.send(whole[-10:])
        assert (await one.answer())[0] == 202
    assert ways == {"short": 0, "left": 1}
    assert [arrival.body for arrival in served.host.arrivals] == [MESSAGE]


async def test_requests_sent_ahead_are_answered_in_their_order(served):
    bodies = [MESSAGE + b" " * n for n in range(20)]
    async with wire(served.port) as one:
        one.send(b"".join(post(body, X_Request_Id=b"%d" % len(body)) for body in bodies))
        ids = [int((await one.answer())[1]["X-Request-Id"]) for _ in bodies]
    assert ids == [len(body) for body in bodies]
    assert [arrival.body for arrival in served.host.arrivals] == bodies


async def test_requests_of_both_kinds_sent_ahead_are_answered_in_their_order(served):
    async with wire(served.port) as one:
        one.send(post() + post(target=b"/fhir/Bundle") + post() + b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n")
        assert [(await one.answer())[0] for _ in range(4)] == [202, 201, 202, 404]


async def test_caller_that_sends_far_ahead_is_not_read_from(served):
    gate = asyncio.Event()

    async def slow(arrival):
        await gate.wait()
        return

    served.host.answer = slow
    ahead = post(MESSAGE + b" " * 8000)
    async with wire(served.port) as one:
        one.send(ahead * 400)  # beyond what the sockets between us hold
        await asyncio.sleep(0.2)
        assert len(served.host.arrivals) == 1
        gate.set()
        assert [(await one.answer())[0] for _ in range(400)] == [202] * 400


# --- answers ---------------------------------------------------------------------------------------------------------


async def test_refusal_keeps_the_connection(served):
    async with wire(served.port) as one:
        served.host.answer = Busy("later", retry_after=3)
        one.send(post())
        status, fields, body = await one.answer()
        assert (status, fields["Retry-After"]) == (503, "3")
        assert b"OperationOutcome" in body
        served.host.answer = None
        one.send(post())
        assert (await one.answer())[0] == 202


async def test_bug_is_a_plain_500(served, caplog):
    served.host.answer = ValueError("Anna")
    async with wire(served.port) as one:
        one.send(post())
        status, _, body = await one.answer()
    assert status == 500
    assert b"Anna" not in body
    assert "Anna" not in caplog.text
    assert "ValueError" in caplog.text


async def test_204_has_neither_body_nor_length(served):
    served.host.answer = Answer(kind=AnswerKind.DONE, receipt=RECEIPT)
    async with wire(served.port) as one:
        one.send(post() + post())
        for _ in range(2):
            status, fields, body = await one.answer()
            assert (status, body) == (204, b"")
            assert "Content-Length" not in fields


async def test_media_type_of_a_stranger_cannot_break_the_head(served):
    served.host.answer = Answer(
        kind=AnswerKind.RESPONSE, receipt=RECEIPT, body=b"{}", media_type="application/json\r\nX-Evil: 1"
    )
    async with wire(served.port) as one:
        one.send(post())
        status, fields, _ = await one.answer()
    assert status == 500
    assert "X-Evil" not in fields


async def test_wrong_digest_is_refused(served):
    async with wire(served.port) as one:
        one.send(post(Content_Digest=b"sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:"))
        status, _, body = await one.answer()
    assert status == 400
    assert b"digest-mismatch" in body
    assert served.host.arrivals == []


async def test_body_larger_than_the_broker_takes_is_413(serve):
    async with serving(ScriptedHost(max_message=100)) as served, wire(served.port) as one:
        one.send(post())
        status, _, body = await one.answer()
        assert status == 413
        assert b"too-long" in body
        one.send(post(b"{}"))
        assert (await one.answer())[0] == 202


async def test_large_response_to_a_slow_reader_arrives_whole(served):
    large = b"x" * (8 << 20)
    served.host.answer = Answer(kind=AnswerKind.RESPONSE, receipt=RECEIPT, body=large, media_type="application/json")
    async with wire(served.port) as one:
        one.send(post() + post())
        await asyncio.sleep(0.2)
        assert len(served.host.arrivals) == 1  # the second waits until the first has been read
        for _ in range(2):
            assert (await one.answer())[2] == large


# --- the end of a connection -----------------------------------------------------------------------------------------


async def test_caller_that_goes_cancels_what_it_waits_for(served):
    cancelled = asyncio.Event()

    came = asyncio.Event()

    async def waits(arrival):
        came.set()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    served.host.answer = waits
    async with wire(served.port) as one:
        one.send(post())
        await came.wait()
    await asyncio.wait_for(cancelled.wait(), 5)


async def test_request_under_way_is_answered_when_the_server_stops():
    host = ScriptedHost()
    came, gate = asyncio.Event(), asyncio.Event()

    async def slow(arrival):
        came.set()
        await gate.wait()
        return

    async with serving(host) as served:
        host.answer = slow
        async with wire(served.port) as one:
            one.send(post())
            await came.wait()
            runner = served.receiver_runner
            stopping = asyncio.create_task(runner.cleanup())
            await asyncio.sleep(0.05)
            one.send(post())  # too late: nothing further is taken
            await asyncio.sleep(0.05)
            gate.set()
            assert (await one.answer())[0] == 202
            assert await one.rest() == b""
            await stopping
    assert len(host.arrivals) == 1


async def test_idle_connection_is_closed_and_a_busy_one_is_not(monkeypatch):
    host = ScriptedHost()
    monkeypatch.setattr("broker.serving.IDLE", 0.2)

    async def slow(arrival):
        await asyncio.sleep(0.5)
        return

    async with serving(host) as served:
        host.answer = slow
        async with wire(served.port) as one:
            one.send(post())
            assert (await one.answer())[0] == 202
            assert await one.rest() == b""


async def test_short_way_is_there_over_tls(certificate, ways, tmp_path):
    cert, key = certificate
    host = ScriptedHost()
    async with serving(host) as served:
        runner = Runner(served.host.web)
        place = await runner.listen("127.0.0.1:0", Tls(cert=cert, key=key))
        context = ssl.create_default_context(cafile=cert)
        context.check_hostname = False
        reader, writer = await asyncio.open_connection("127.0.0.1", int(place.rpartition(":")[2]), ssl=context)
        one = Wire(reader, writer)
        one.send(post())
        assert (await one.answer())[0] == 202
        writer.close()
        await runner.cleanup()
    assert ways["short"] == 1


# --- both ways say the same ------------------------------------------------------------------------------------------

FIELDS = st.lists(
    st.sampled_from(
        [
            b"Accept: application/fhir+xml",
            b"Accept: text/html",
            b"Accept: */*",
            b"Prefer: respond-async",
            b"Prefer: wait=3, return=minimal",
            b"X-Request-Id: abc",
            b"ce-priority: 3",
            b"ce-priority: high",
            b"ce-via: urn:oid:1.2%20urn:oid:1.3",
            b"Correlation-Id: c",
            b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            b"Connection: keep-alive",
            b"Content-Digest: sha-256=:AAAA:",
            b"Content-Encoding: identity",
            b"X-Odd: bl\xc3\xa5",
            b"X-Odd: \xff",
            b"X-Odd:",
            b"Cookie: a=b",
            b"Content-Type: application/fhir+json; fhirVersion=4.3",
            b"Content-Type: text/csv",
        ]
    ),
    max_size=5,
    unique_by=lambda field: field.partition(b":")[0],  # aiohttp drops what came with a malformed head as well
)
REQUESTS = st.tuples(
    st.sampled_from([TARGET, b"/fhir/$process-message", b"/fhir/R5/$process-message", b"/fhir/Bundle", b"/fhir/x"]),
    FIELDS,
    st.sampled_from([b"", b"{}", MESSAGE, b"x" * 5000]),
)
RAISES = st.sampled_from([None, Busy("later", retry_after=2), Refusal("no", code="processing", id="x")])


def written(request: tuple[bytes, list[bytes], bytes]) -> bytes:
    target, fields, body = request
    lines = [b"POST %b HTTP/1.1" % target, b"Host: x", *fields, b"Content-Length: %d" % len(body)]
    if not any(field.startswith(b"Content-Type") for field in fields):
        lines.append(b"Content-Type: application/fhir+json")
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


async def said(port: int, pieces: list[bytes], requests: int) -> list[tuple[int, list[tuple[str, str]], bytes]]:
    answers = []
    async with wire(port) as one:
        for piece in pieces:
            one.send(piece)
            await asyncio.sleep(0)
        for _ in range(requests):
            try:
                status, fields, body = await one.answer()
            except asyncio.IncompleteReadError:
                break
            shown = sorted(
                (name.lower(), value) for name, value in fields.items() if name not in ("Date", "Connection")
            )
            answers.append((status, shown, body))
            if fields.get("Connection") == "close":
                break
    return answers


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    requests=st.lists(REQUESTS, min_size=1, max_size=4), cuts=st.lists(st.integers(1, 4000), max_size=3), raises=RAISES
)
def test_both_ways_say_the_same(requests, cuts, raises):
    async def compare() -> None:
        data = b"".join(map(written, requests))
        places = sorted({cut for cut in cuts if cut < len(data)})
        pieces = [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]
        seen = []
        for short in (True, False):
            host = ScriptedHost(answer=raises)
            async with serving(host, express=short) as served:
                answers = await said(served.port, pieces, len(requests))
                seen.append((answers, [(a.body, a.headers, a.asked, a.envelope, a.release) for a in host.arrivals]))
        assert seen[0] == seen[1]

    asyncio.run(compare())
