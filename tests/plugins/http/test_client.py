"""The thin client byte by byte: what it writes, what it takes for an answer, which connections it keeps (RFC 9112)."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from http_desk import read_request
from hypothesis import example, given, settings
from hypothesis import strategies as st

from broker import dialing as dial_module
from broker.dialing import Origin
from plugins.http import client as client_module
from plugins.http.address import on_the_wire
from plugins.http.client import Client, Target, fields_of, target_of
from plugins.http.exchange import LARGEST_HEAD, Connection, Flaw, NoAnswer, Response, Trouble

TAKEN = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"
MANY = 64 * 1024 * 1024


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    one = Client()
    yield one
    await one.stop()


@pytest.fixture
def post(client: Client) -> Callable[..., Any]:
    async def attempt(url: str, **changes: Any) -> Response:
        return await posted(client, url, **changes)

    return attempt


async def posted(client: Client, url: str, body: bytes = b"{}", **changes: Any) -> Response:
    return await client.send(
        target_of(on_the_wire(url)),
        fields_of(*changes.pop("headers", [("Content-Type", "application/fhir+json")])),
        body,
        connect=timedelta(seconds=changes.pop("connect", 5)),
        answer=timedelta(seconds=changes.pop("answer", 10)),
        allowed=lambda status: changes.get("limit", MANY),
    )


async def read_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bytes = TAKEN) -> None:
    """A peer that takes one request after another."""
    while True:
        await read_request(reader)
        writer.write(answer)
        await writer.drain()


async def until(is_so: Callable[[], bool]) -> None:
    """What happens at the other end of a socket happens soon."""
    for _ in range(500):
        if is_so():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen")


def keeping(answer: bytes = TAKEN) -> Any:
    async def behave(reader, writer, raw):
        await read_on(reader, writer, answer)

    return behave


# --- what is written -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "host", "origin"),
    [
        ("http://a.example/x", "a.example", Origin("a.example", 80, False)),
        ("http://a.example:80/x", "a.example", Origin("a.example", 80, False)),
        ("http://a.example:443/x", "a.example:443", Origin("a.example", 443, False)),
        ("https://a.example:443/x", "a.example", Origin("a.example", 443, True)),
        ("https://a.example:8443/x", "a.example:8443", Origin("a.example", 8443, True)),
        ("http://[::1]:8080/x", "[::1]:8080", Origin("::1", 8080, False)),
        ("https://[2001:db8::1]/x", "[2001:db8::1]", Origin("2001:db8::1", 443, True)),
        ("http://blåbær.example/x", "xn--blbr-roah.example", Origin("xn--blbr-roah.example", 80, False)),
    ],
)
def test_host_is_written_without_the_schemes_own_port(url, host, origin):
    target = target_of(on_the_wire(url))
    assert target == Target(origin=origin, start=f"POST /x HTTP/1.1\r\nHost: {host}\r\n")


async def test_request_is_written_in_one_piece_and_to_the_letter(peer, post):
    seen = []

    async def keep(reader, writer, raw):
        seen.append(await read_request(reader))
        writer.write(TAKEN)

    async with peer(keep) as one:
        await post(one.url, body=b'{"a":1}', headers=[("Content-Type", "application/fhir+json"), ("ce-id", "1")])
        port = one.url.split(":")[2].split("/")[0]
    assert seen == [
        b"POST /fhir/$process-message HTTP/1.1\r\nHost: 127.0.0.1:" + port.encode() + b"\r\n"
        b'Content-Type: application/fhir+json\r\nce-id: 1\r\nContent-Length: 7\r\n\r\n{"a":1}'
    ]


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\nX: y", "a\rX: y", "a\0b", "\r\n", "a\n\rb", "\n", "a\r\n\r\nGET /"])
async def test_value_that_would_begin_another_header_is_refused(peer, post, value):
    async with peer(keeping()) as one:
        with pytest.raises(ValueError, match="line break"):
            await post(one.url, headers=[("X-A", value), ("X-B", "b")])
        with pytest.raises(ValueError, match="line break"):
            await post(one.url, headers=[("X-A", value)])
        assert one.connections == 0


async def test_environment_sends_nobody_over_a_proxy(peer, post, monkeypatch, unused_port):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{unused_port}")
    async with peer(keeping()) as one:
        assert (await post(one.url)).status == 202


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


# --- what is an answer -----------------------------------------------------------------------------------------------

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/fhir+json\r\n"
VALID = {
    "length": HEAD + b"Content-Length: 5\r\n\r\nhello",
    "empty": HEAD + b"Content-Length: 0\r\n\r\n",
    "nothing to say": b"HTTP/1.1 204 No Content\r\n\r\n",
    "chunked": HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;x=y\r\n!\r\n0\r\n\r\n",
    "trailers": HEAD + b"Transfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n",
    "interim": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    + HEAD
    + b"Content-Length: 2\r\n\r\nok",
    "no phrase": b"HTTP/1.1 200\r\nContent-Length: 1\r\n\r\nx",
    "bare line feeds": b"HTTP/1.1 200 OK\nX-A:  b  \nContent-Length: 1\n\nx",
    "upgrade offered": HEAD + b"Upgrade: h2\r\nConnection: Upgrade, Keep-Alive\r\nContent-Length: 1\r\n\r\nx",
    "old and kept": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx",
    "said twice": b"HTTP/1.1 200 OK\r\nX-A: 1\r\nx-a: 2\r\nX-B: \xff\r\nContent-Length: 0\r\n\r\n",
}
ENDED = {
    "until close": HEAD + b"\r\nall of this",
    "old until close": b"HTTP/1.0 200 OK\r\n\r\nall of this",
    "closing": HEAD + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello",
    "cut": HEAD + b"Content-Length: 9\r\n\r\nhello",
    "cut chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n9\r\nhello",
    "cut chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "bad chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n\r\n",
    "switched": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
    "half a head": b"HTTP/1.1 200 OK\r\nX-A: ",
    "no HTTP": b"220 smtp.example ready\r\n\r\n",
    "no status": b"HTTP/1.1 012 What\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxy",
    "length and chunks": HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "other coding": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "nothing": b"",
}


class Wire(asyncio.Transport):
    """A transport that writes nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.aborted = False

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        self.aborted = True

    close = abort


def taken(packets: list[bytes]) -> tuple[Response | tuple[Trouble, bool], bool]:
    """What a connection makes of these packets and the close after them, and whether it would have been kept."""

    async def run() -> tuple[Response | tuple[Trouble, bool], bool]:
        kept: list[Connection] = []
        connection = Connection(kept.append, lambda _: None)
        connection.connection_made(Wire())
        answer = connection.send(b"", b"", lambda status: 1000, 60)
        for packet in packets:
            if not answer.done():
                connection.data_received(packet)
        connection.eof_received()
        connection.connection_lost(None)
        try:
            return await answer, bool(kept)
        except NoAnswer as no:
            return (no.trouble, no.untouched), bool(kept)

    return asyncio.run(run())


def cuts(data: bytes, at: list[int]) -> list[bytes]:
    places = [0, *sorted({place % (len(data) + 1) for place in at}), len(data)]
    return [data[start:end] for start, end in pairwise(places) if start < end]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(VALID) + sorted(ENDED)), st.lists(st.integers(0, 200), max_size=12))
def test_any_split_into_packets_gives_the_same_answer(name, at):
    data = (VALID | ENDED)[name]
    assert taken(cuts(data, at)) == taken([data] if data else [])


@pytest.mark.parametrize("name", sorted(VALID | ENDED))
def test_byte_by_byte_gives_the_same_answer(name):
    data = (VALID | ENDED)[name]
    assert taken([data[at : at + 1] for at in range(len(data))]) == taken([data] if data else [])


@pytest.mark.parametrize("name", sorted(VALID))
def test_whole_answer_leaves_its_connection_to_the_next(name):
    response, kept = taken([VALID[name]])
    assert isinstance(response, Response)
    assert response.flaw is None
    assert kept


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("until close", (200, b"all of this", None)),
        ("old until close", (200, b"all of this", None)),
        ("closing", (200, b"hello", None)),
        ("cut", (200, b"hello", Flaw.CUT)),
        ("cut chunk", (200, b"hello", Flaw.CUT)),
        ("cut chunks", (200, b"hello", Flaw.CUT)),
        ("bad chunks", (200, b"hello", Flaw.UNREADABLE)),
        ("switched", (101, b"", None)),
        ("half a head", Trouble.CLOSED),
        ("no HTTP", Trouble.UNREADABLE),
        ("no status", Trouble.UNREADABLE),
        ("two lengths", Trouble.UNREADABLE),
        ("length and chunks", Trouble.UNREADABLE),
        ("nothing", Trouble.CLOSED),
    ],
)
def test_answer_that_ends_its_connection(name, end):
    response, kept = taken([ENDED[name]])
    assert not kept
    if isinstance(response, Response):
        assert (response.status, response.body, response.flaw) == end
    else:
        assert response == (end, name == "nothing")  # only then may it be sent again


def test_bodies_and_headers_are_read_as_they_are():
    assert taken([VALID["chunked"]])[0].body == b"hello!"
    assert taken([VALID["interim"]])[0].body == b"ok"
    assert taken([VALID["bare line feeds"]])[0].first(b"x-a") == "b"
    twice = taken([VALID["said twice"]])[0]
    assert (twice.first(b"x-a"), twice.all(b"x-a"), twice.all(b"x-c")) == ("1", "1,2", "")
    assert twice.first(b"x-b") == "\udcff"
    assert taken([VALID["trailers"]])[0].first(b"x-sum") is None


@pytest.mark.parametrize("after", [b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"\x00", b"{}"])
@pytest.mark.parametrize("name", ["length", "nothing to say", "chunked", "trailers", "interim"])
def test_bytes_after_the_answer_cost_the_connection(name, after):
    response, kept = taken([VALID[name] + after])
    assert response == taken([VALID[name]])[0]
    assert not kept


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=4))
@example(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", [])
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_an_answer_or_a_trouble_with_a_name(data, at):
    taken(cuts(data, at))
    taken(cuts(b"HTTP/1.1 200 OK\r\n" + data, at))
    taken(cuts(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + data, at))


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 1001\r\n\r\n",
        b"\r\n" + b"x" * 1001,
        b"Transfer-Encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n",
    ],
)
def test_body_beyond_what_is_allowed_is_not_read(body):
    response, kept = taken([HEAD + body])
    assert (response.status, response.flaw, len(response.body)) == (200, Flaw.TOO_LARGE, 0)
    assert not kept


@pytest.mark.parametrize("size", [1000, 100_000])  # packets
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 10 * LARGEST_HEAD,
        b"HTTP/1.1 200 OK\r\n" + b"a" * 10 * LARGEST_HEAD,
        b"HTTP/1.1 200 " + b"a" * 10 * LARGEST_HEAD,
        b"HTTP/1.1 200 OK\r\n" + b"X-Many: 1\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n" * LARGEST_HEAD,
        b"HTTP/1.1 100 Continue\r\n\r\n" * LARGEST_HEAD,
        b"\r\n" * 10 * LARGEST_HEAD,
    ],
    ids=["value", "name", "phrase", "many", "interims", "bare interims", "blank lines"],
)
def test_endless_head_is_cut_short(answer, size):
    """Memory and time of one attempt are bounded, whatever a peer sends."""
    packets = [answer[start : start + size] for start in range(0, len(answer), size)]
    assert taken(packets) == ((Trouble.UNREADABLE, False), False)


@pytest.mark.parametrize("size", [1000, 100_000])
@pytest.mark.parametrize(
    "after",
    [b"0\r\nX-Trailer: " + b"a" * 10 * LARGEST_HEAD, b"5;" + b"a" * 10 * LARGEST_HEAD, b"0" * 10 * LARGEST_HEAD],
)
def test_endless_framing_is_cut_short(after, size):
    answer = HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n" + after
    packets = [answer[start : start + size] for start in range(0, len(answer), size)]
    response, kept = taken(packets)
    assert (response.flaw, kept) == (Flaw.UNREADABLE, False)


async def test_answer_that_trickles_in_time_is_read(peer, post):
    async def trickle(reader, writer, raw):
        await read_request(reader)
        for at in range(0, len(VALID["interim"]), 8):
            writer.write(VALID["interim"][at : at + 8])
            await writer.drain()
            await asyncio.sleep(0.005)

    async with peer(trickle) as one:
        assert (await post(one.url)).body == b"ok"


HALF_A_HEAD = ENDED["half a head"]


@pytest.mark.parametrize("answer", [HALF_A_HEAD, HEAD + b"Content-Length: 1000\r\n\r\n"], ids=["head", "body"])
async def test_answer_that_trickles_beyond_its_time_is_given_up(peer, post, answer):
    async def trickle(reader, writer, raw):
        await read_request(reader)
        writer.write(answer)
        while True:
            writer.write(b"a")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with peer(trickle) as one:
        began = time.monotonic()
        if answer is HALF_A_HEAD:
            with pytest.raises(NoAnswer) as no:
                await post(one.url, answer=0.3)
            assert no.value.trouble is Trouble.LATE
        else:
            response = await post(one.url, answer=0.3)
            assert (response.status, response.flaw) == (200, Flaw.LATE)
        assert 0.25 < time.monotonic() - began < 3


class Hand:
    """The loop of one connection, whose clock is in our hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: dict[int, tuple[float, Callable[[], None]]] = {}
        self.set = 0

    def time(self) -> float:
        return self.now

    def create_future(self) -> asyncio.Future[Response]:
        return asyncio.get_running_loop().create_future()

    def call_at(self, at: float, callback: Callable[[], None]) -> Any:
        self.set += 1
        number = self.set
        self.timers[number] = (at, callback)

        class Handle:
            def cancel(_self) -> None:
                self.timers.pop(number, None)

        return Handle()

    def turn_to(self, now: float) -> None:
        self.now = now
        for number, (at, callback) in sorted(self.timers.items()):
            if at <= now:
                del self.timers[number]
                callback()


@pytest.fixture
async def timed() -> tuple[Connection, Hand]:
    connection, hand = Connection(lambda _: None, lambda _: None), Hand()
    connection._loop = hand  # type: ignore[assignment]
    connection.connection_made(Wire())
    return connection, hand


def asks(connection: Connection, seconds: float) -> asyncio.Future[Response]:
    return connection.send(b"", b"", lambda status: 1000, seconds)


async def test_one_timer_serves_requests_that_are_answered(timed):
    connection, hand = timed
    for _ in range(1000):
        answer = asks(connection, 60)
        connection.data_received(TAKEN)
        assert (await answer).status == 202
        hand.turn_to(hand.now + 0.05)
    assert hand.set == 1
    hand.turn_to(1060)
    assert hand.timers == {}  # nobody asks: none is left


async def test_timer_of_an_earlier_request_does_not_end_a_later_one(timed):
    connection, hand = timed
    asks(connection, 60)
    connection.data_received(TAKEN)
    hand.turn_to(1050)
    answer = asks(connection, 60)
    for now in (1060, 1109.9):
        hand.turn_to(now)
        assert not answer.done()
    hand.turn_to(1110)
    with pytest.raises(NoAnswer) as no:
        await answer
    assert no.value.trouble is Trouble.LATE
    assert hand.timers == {}


async def test_shorter_limit_goes_before_the_timer_of_a_longer_one(timed):
    connection, hand = timed
    asks(connection, 60)
    connection.data_received(TAKEN)
    answer = asks(connection, 5)
    assert len(hand.timers) == 1
    hand.turn_to(1004.9)
    assert not answer.done()
    hand.turn_to(1005)
    with pytest.raises(NoAnswer, match="in time"):
        await answer


async def test_lost_connection_leaves_no_timer(timed):
    connection, hand = timed
    answer = asks(connection, 60)
    connection.connection_lost(None)
    with pytest.raises(NoAnswer):
        await answer
    assert hand.timers == {}


# --- connections -----------------------------------------------------------------------------------------------------


async def test_connection_is_used_again_and_the_last_one_first(peer, post, client):
    async with peer(keeping()) as one:
        await asyncio.gather(*[post(one.url) for _ in range(5)])
        assert one.connections == 5
        [kept] = client._kept.values()
        newest = kept[-1]
        for _ in range(10):
            await post(one.url)
        assert one.connections == 5
        assert kept[-1] is newest


async def test_origins_do_not_share_connections(peer, post):
    async with peer(keeping()) as one, peer(keeping()) as other:
        for _ in range(2):
            await post(one.url)
            await post(other.url)
            await post(one.url.replace("127.0.0.1", "localhost"))
        assert (one.connections, other.connections) == (2, 1)


async def test_two_hundred_attempts_at_once(peer, post):
    all_there = asyncio.Event()

    async def slow(reader, writer, raw):
        while True:
            body = (await read_request(reader)).partition(b"\r\n\r\n")[2]
            raw.requests += 1
            if raw.requests == 200:
                all_there.set()
            await all_there.wait()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    async with peer(slow, backlog=256) as one:
        bodies = [b"%d" % number for number in range(200)]
        answers = await asyncio.gather(*[post(one.url, body=body, answer=30) for body in bodies])
        assert [answer.body for answer in answers] == bodies
        assert one.connections == 200
        answers = await asyncio.gather(*[post(one.url, body=body, answer=30) for body in bodies])
        assert [answer.body for answer in answers] == bodies
        assert one.connections == 200


@pytest.mark.parametrize("answer", [TAKEN + b"junk", TAKEN + TAKEN, TAKEN.replace(b"1.1", b"1.0"), ENDED["closing"]])
async def test_connection_that_may_not_be_used_again_is_closed(peer, post, answer):
    closed = asyncio.Queue()

    async def behave(reader, writer, raw):
        await read_request(reader)
        writer.write(answer)
        closed.put_nowait(await reader.read())

    async with peer(behave) as one:
        for _ in range(2):
            await post(one.url)
            assert await closed.get() == b""
        assert one.connections == 2


async def test_idle_connection_that_speaks_unasked_is_closed(peer, post):
    gone = asyncio.Event()

    async def behave(reader, writer, raw):
        await read_request(reader)
        writer.write(TAKEN)
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nnot you")
        await reader.read()
        gone.set()

    async with peer(behave) as one:
        await post(one.url)
        await gone.wait()
        assert (await post(one.url)).body == b""
        assert one.connections == 2


async def test_idle_connections_are_closed_in_their_time(peer):
    client = Client(idle=0.5)
    async with peer(keeping()) as one:
        await asyncio.gather(*[posted(client, one.url) for _ in range(3)])
        for _ in range(4):  # two grow idle beside the one that is used
            await asyncio.sleep(0.2)
            await posted(client, one.url)
        assert len(client._all) == 1
        await until(lambda: not client._all)
        assert client._kept == {}
        assert client._sweeper is None
        await posted(client, one.url)
        assert one.connections >= 4
    await client.stop()


async def test_stop_closes_all(peer):
    client = Client()
    under_way = asyncio.Event()
    closed = []

    async def behave(reader, writer, raw):
        while b"stay" not in await read_request(reader):
            writer.write(TAKEN)
        under_way.set()
        closed.append(await reader.read())

    async with peer(behave) as one:
        busy = asyncio.create_task(posted(client, one.url, b"stay"))
        await under_way.wait()
        await posted(client, one.url)
        assert len(client._all) == 2
        await client.stop()
        assert client._all == set()
        with pytest.raises(NoAnswer, match="closed"):
            await busy
        with pytest.raises(NoAnswer, match="stopping"):
            await posted(client, one.url)
        assert one.connections == 2
        await until(lambda: closed == [b""])


async def test_cancelled_attempt_closes_its_connection(peer, post, client):
    there, gone = asyncio.Event(), asyncio.Event()

    async def silent(reader, writer, raw):
        await read_request(reader)
        there.set()
        await reader.read()
        gone.set()

    async with peer(silent) as one:
        task = asyncio.create_task(post(one.url))
        await there.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await gone.wait()
    await until(lambda: not client._all)
    assert not any(client._kept.values())


async def test_attempt_cancelled_after_its_answer_leaves_the_connection_to_the_next():
    """The answer is there, the connection is free and already another's; only then the first attempt is cancelled."""
    client, wires = Client(), []

    def build(origin: Origin) -> Connection:
        connection = Connection(lambda one: client._keep(origin, one), lambda _: None)
        wires.append(Wire())
        connection.connection_made(wires[-1])
        return connection

    origin = Origin("a.example", 80, False)
    connection = build(origin)
    client._keep(origin, connection)
    first = asyncio.create_task(posted(client, "http://a.example/"))
    await asyncio.sleep(0)
    connection.data_received(TAKEN)
    second = client._take(origin).send(b"", b"", lambda status: 10, 60)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert not wires[0].aborted
    connection.data_received(VALID["length"])
    assert (await second).body == b"hello"

    third = asyncio.create_task(posted(client, "http://a.example/"))
    await asyncio.sleep(0)
    third.cancel()  # now the cancellation is first, and the answer comes before the task hears of it
    connection.data_received(TAKEN)
    with pytest.raises(asyncio.CancelledError):
        await third
    assert wires[0].aborted
    assert client._take(origin) is None
    client._sweeper.cancel()


# --- a connection that dies ------------------------------------------------------------------------------------------


def dying(first: bytes, *, reset: bool = False) -> Any:
    """Answers once, then reads another request, writes these bytes and dies; later connections live."""

    async def behave(reader, writer, raw):
        raw.requests += 1
        await read_request(reader)
        writer.write(TAKEN)
        if raw.connections > 1:
            return await read_on(reader, writer)
        await read_request(reader)
        raw.requests += 1
        writer.write(first)
        await writer.drain()
        if reset:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        return None

    return behave


@pytest.mark.parametrize("reset", [False, True])
async def test_kept_connection_that_dies_without_a_byte_is_replaced(peer, post, reset):
    async with peer(dying(b"", reset=reset)) as one:
        await post(one.url)
        assert (await post(one.url)).status == 202
        assert one.connections == 2


async def test_request_that_a_peer_read_before_it_died_may_have_left(peer, post):
    """A killed broker refuses the second connection, and may have kept what came over the first: nobody may say no."""

    async def behave(reader, writer, raw):
        await read_request(reader)
        writer.write(TAKEN)
        await read_request(reader)
        raw.stop_listening()

    async with peer(behave) as one:
        await post(one.url)
        with pytest.raises(NoAnswer) as no:
            await post(one.url)
        assert no.value.trouble is Trouble.CLOSED
        assert one.connections == 1


async def test_kept_connection_that_dies_within_its_answer_is_not_replaced(peer, post):
    async with peer(dying(b"H")) as one:
        await post(one.url)
        with pytest.raises(NoAnswer) as no:
            await post(one.url)
        assert (no.value.trouble, no.value.untouched) == (Trouble.CLOSED, False)
        assert one.connections == 1


async def test_kept_connection_that_was_closed_meanwhile_is_not_even_tried(peer, post, client):
    async def behave(reader, writer, raw):
        await read_request(reader)
        raw.requests += 1
        writer.write(TAKEN)

    async with peer(behave) as one:
        await post(one.url)
        await until(lambda: not client._all)
        await post(one.url)
        assert (one.connections, one.requests) == (2, 2)


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize(
    ("answer", "end"),
    [(b"", Trouble.CLOSED), (b"HTTP/1.1 2", Trouble.CLOSED), (ENDED["cut"], 200)],
    ids=["nothing", "half a head", "half a body"],
)
async def test_new_connection_that_dies(peer, post, answer, end, reset):
    async def behave(reader, writer, raw):
        await read_request(reader)
        writer.write(answer)
        await writer.drain()
        await asyncio.sleep(0.05)
        if reset:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()

    async with peer(behave) as one:
        if end == 200:
            response = await post(one.url)
            assert (response.body, response.flaw) == (b"hello", Flaw.BROKEN if reset else Flaw.CUT)
        else:
            with pytest.raises(NoAnswer) as no:
                await post(one.url)
            assert no.value.trouble is end
        assert one.connections == 1


@pytest.mark.parametrize("greeting", [b"", b"220 smtp.example ready\r\n"])
async def test_peer_that_does_not_wait_for_the_request(peer, post, client, greeting):
    async def behave(reader, writer, raw):
        writer.write(greeting)

    async with peer(behave) as one:
        for _ in range(20):
            with pytest.raises(NoAnswer) as no:
                await post(one.url)
            assert no.value.trouble in (Trouble.CLOSED, Trouble.UNREADABLE)
            assert not no.value.untouched or not greeting
        await until(lambda: not client._all)


def test_connection_that_was_lost_while_it_was_made_is_no_connection(monkeypatch):
    """Its loss is told before anybody holds it; to wait for an answer on it would be to wait for the time limit."""

    async def lost(origin, build, context, seconds, **more):
        connection = build()
        connection.connection_made(Wire())
        connection.connection_lost(None)
        return connection

    async def run():
        client = Client()
        with pytest.raises(NoAnswer, match="closed"):
            await posted(client, "http://a.example/")
        assert client._all == set()

    monkeypatch.setattr(client_module, "dial", lost)
    asyncio.run(run())


async def test_peer_that_half_closes_before_its_answer_has_none(peer, post):
    async def behave(reader, writer, raw):
        await read_request(reader)
        writer.write_eof()
        await reader.read()

    async with peer(behave) as one:
        with pytest.raises(NoAnswer) as no:
            await post(one.url)
        assert no.value.trouble is Trouble.CLOSED


async def test_peer_that_half_closes_after_its_answer_is_read(peer, post):
    async def behave(reader, writer, raw):
        await read_request(reader)
        writer.write(HEAD + b"\r\nto the end")
        writer.write_eof()
        await reader.read()

    async with peer(behave) as one:
        for _ in range(2):
            response = await post(one.url)
            assert (response.body, response.flaw) == (b"to the end", None)
        assert one.connections == 2


# --- large bodies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("secure", [False, True])
async def test_twenty_mebibytes_there_and_back(peer, certificate, secure):
    async def echo(reader, writer, raw):
        while True:
            body = (await read_request(reader)).partition(b"\r\n\r\n")[2]
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for start in range(0, len(body), 1_000_000):
                piece = body[start : start + 1_000_000]
                writer.write(b"%x\r\n" % len(piece) + piece + b"\r\n")
                await writer.drain()
            writer.write(b"0\r\n\r\n")

    client = Client(client_ca=certificate[0])
    body = os.urandom(1024) * 20 * 1024
    async with peer(echo, **({"ssl": server_context(certificate)} if secure else {})) as one:
        for _ in range(2):
            assert (await posted(client, one.url, body, answer=60)).body == body
        assert one.connections == 1
    await client.stop()


async def test_large_body_waits_until_the_peer_reads(peer, post, client):
    go_on = asyncio.Event()

    async def behave(reader, writer, raw):
        await go_on.wait()
        await read_on(reader, writer)

    async with peer(behave) as one:
        task = asyncio.create_task(post(one.url, body=bytes(20 * 1024 * 1024), answer=30))
        await asyncio.sleep(0.3)
        [connection] = client._all
        assert connection._transport.get_write_buffer_size() < 1024 * 1024
        assert len(connection._rest) > 1024 * 1024
        go_on.set()
        assert (await task).status == 202


async def test_answer_before_all_is_sent_ends_the_sending_and_the_connection(peer, post):
    read = []

    async def behave(reader, writer, raw):
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno")
        await writer.drain()
        await asyncio.sleep(0.2)
        try:
            read.append(len(head) + len(await reader.read(-1)))
        except ConnectionError:
            read.append(0)

    async with peer(behave) as one:
        for _ in range(2):
            response = await post(one.url, body=bytes(20 * 1024 * 1024))
            assert (response.status, response.body) == (413, b"no")
        assert one.connections == 2
        await until(lambda: len(read) == 2)
    assert max(read) < 15 * 1024 * 1024


# --- names, addresses, TLS -------------------------------------------------------------------------------------------


def resolving(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> list[tuple[Any, ...]]:
    """Names resolve to these addresses; a list of who asked."""
    asked: list[tuple[Any, ...]] = []

    async def found(host: str, port: int, **more: Any) -> list[Any]:
        asked.append((host, port))
        return [
            (socket.AF_INET6, 1, 6, "", (one, port, 0, 0)) if ":" in one else (socket.AF_INET, 1, 6, "", (one, port))
            for one in hosts
        ]

    class Loop:
        getaddrinfo = staticmethod(found)

        def __getattr__(self, name: str) -> Any:
            return getattr(asyncio.get_running_loop(), name)

    class Asyncio:
        get_running_loop = staticmethod(Loop)

        def __getattr__(self, name: str) -> Any:
            return getattr(asyncio, name)

    monkeypatch.setattr(dial_module, "asyncio", Asyncio())
    return asked


async def test_name_is_looked_up_once_a_connection_and_the_next_address_tried(peer, post, monkeypatch):
    asked = resolving(monkeypatch, "127.0.0.2", "127.0.0.3", "127.0.0.1")  # the peer is at the last only
    async with peer(keeping()) as one:
        url = one.url.replace("127.0.0.1", "two.example")
        for _ in range(3):
            assert (await post(url)).status == 202
        assert len(asked) == 1
        assert one.connections == 1


async def test_silent_address_does_not_take_all_the_time(peer, post, monkeypatch):
    """RFC 8305: the second is tried beside the first."""
    with socket.socket() as full:
        full.bind(("127.0.0.2", 0))
        full.listen(0)
        port = full.getsockname()[1]
        crowd = [socket.socket() for _ in range(4)]
        for one in crowd:
            one.setblocking(False)
            one.connect_ex(("127.0.0.2", port))
        resolving(monkeypatch, "127.0.0.2", "127.0.0.1")
        async with serving_on(port):
            began = time.monotonic()
            assert (await post(f"http://two.example:{port}/", connect=5)).status == 202
            assert time.monotonic() - began < 2
        for one in crowd:
            one.close()


@asynccontextmanager
async def serving_on(port: int) -> AsyncIterator[None]:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await read_on(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", port)
    try:
        yield
    finally:
        server.close()
        await server.wait_closed()


async def test_no_address_that_answers_is_no_connection(post, monkeypatch, unused_port):
    resolving(monkeypatch, "127.0.0.2", "127.0.0.1")
    with pytest.raises(NoAnswer, match="no connection: connection refused"):
        await post(f"http://two.example:{unused_port}/")


async def test_families_take_turns(monkeypatch):
    resolving(monkeypatch, "::1", "::2", "::1", "127.0.0.1")
    assert await dial_module._places(Origin("a.example", 80, False)) == [("::1", 80), ("127.0.0.1", 80), ("::2", 80)]


async def test_address_is_looked_up_nowhere(monkeypatch):
    asked = resolving(monkeypatch, "127.0.0.9")
    assert await dial_module._places(Origin("::1", 80, False)) == [("::1", 80)]
    assert await dial_module._places(Origin("127.0.0.1", 80, False)) == [("127.0.0.1", 80)]
    assert asked == []


def server_context(certificate: tuple[str, str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


async def test_tls_asks_for_the_name_and_checks_it(peer, certificate):
    names = []
    context = server_context(certificate)
    context.sni_callback = lambda _, name, __: names.append(name)
    client = Client(client_ca=certificate[0])
    async with peer(keeping(), ssl=context) as one:
        for _ in range(2):
            assert (await posted(client, one.url.replace("127.0.0.1", "localhost"))).status == 202
            assert (await posted(client, one.url)).status == 202
        assert one.connections == 2
    await client.stop()
    assert client._all == set()
    assert names == ["localhost", None]  # an address is not a name (RFC 6066, section 3)


async def test_certificate_for_another_name_is_refused(peer, certificate, monkeypatch):
    resolving(monkeypatch, "127.0.0.1")
    client = Client(client_ca=certificate[0])
    async with peer(keeping(), ssl=server_context(certificate)) as one:
        with pytest.raises(NoAnswer) as no:
            await posted(client, one.url.replace("127.0.0.1", "other.example"))
    assert no.value.trouble is Trouble.CERTIFICATE
    await client.stop()


async def test_certificate_nobody_vouches_for_is_refused(peer, post, certificate):
    async with peer(keeping(), ssl=server_context(certificate)) as one:
        with pytest.raises(NoAnswer) as no:
            await post(one.url)
    assert no.value.trouble is Trouble.CERTIFICATE


def test_old_tls_is_not_spoken(certificate):
    """X-1."""
    context = Client(client_ca=certificate[0])._tls()
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


async def test_ca_bundle_that_is_not_there_is_said_to_be(peer):
    client = Client(client_ca="/nowhere/ca.pem")
    with pytest.raises(NoAnswer, match="client_ca cannot be read"):
        await posted(client, "https://127.0.0.1:1/")
    await client.stop()


async def test_peer_that_never_shakes_hands_is_given_up_in_the_time_to_connect(peer, post):
    async def silent(reader, writer, raw):
        await reader.read()

    async with peer(silent) as one:
        began = time.monotonic()
        with pytest.raises(NoAnswer) as no:
            await post(one.url.replace("http:", "https:"), connect=0.3, answer=30)
        assert no.value.trouble is Trouble.NO_CONNECTION_IN_TIME
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("cut", [False, True])
async def test_answer_until_close_over_tls(peer, certificate, cut):
    async def behave(reader, writer, raw):
        await read_request(reader)
        writer.write(ENDED["cut" if cut else "until close"])
        await writer.drain()

    client = Client(client_ca=certificate[0])
    async with peer(behave, ssl=server_context(certificate)) as one:
        response = await posted(client, one.url)
        assert (response.body, response.flaw) == ((b"hello", Flaw.CUT) if cut else (b"all of this", None))
    await client.stop()
