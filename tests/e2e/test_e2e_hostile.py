"""Bytes that no honest client sends: answered or cut off, never stored, and the daemon stays as it is."""

from __future__ import annotations

import asyncio
import gzip
import io
import re
from collections.abc import AsyncIterator

import aiohttp
import orjson
import pytest
from e2e_daemon import Daemon, StartDaemon
from e2e_messages import FHIR_JSON, SOUTH, Said, ask, message, problem_ids, send
from e2e_receiver import HttpReceiver, OpenReceiver

GROWTH = 64 << 20  # bytes that the process may keep of all this: what an allocator holds back, not what was sent
PATH = "/fhir/$process-message"


@pytest.fixture
async def south(receiver: OpenReceiver) -> HttpReceiver:
    return await receiver()


@pytest.fixture
async def broker(daemon: StartDaemon, south: HttpReceiver, http: aiohttp.ClientSession) -> AsyncIterator[Daemon]:
    """A daemon that is, after each of these tests, as well as it was before."""
    broker = await daemon({"directory": {"endpoints": {SOUTH: south.url}}})
    assert (await send(http, broker.base, message())).status == 200
    before, accepted = broker.memory(), len(south.got)
    yield broker
    ready = await ask(http, "GET", f"{broker.admin}/health/ready")
    assert ready.status == 200, ready
    status = (await ask(http, "GET", f"{broker.admin}/admin/v1/status")).json
    assert status["counts"]["positions"] == len(south.got), "something was stored that did not leave"
    assert (await send(http, broker.base, message())).status == 200
    assert len(south.got) > accepted
    assert broker.memory() - before < GROWTH
    assert not [line for line in broker.log_lines if line["level"] in ("error", "critical")], broker.output


def head(*, path: str = PATH, method: str = "POST", version: str = "1.1", **headers: str) -> bytes:
    fields = {"Host": "x", "Content-Type": FHIR_JSON, **{k.replace("_", "-"): v for k, v in headers.items()}}
    return f"{method} {path} HTTP/{version}\r\n".encode() + b"".join(
        f"{name}: {value}\r\n".encode() for name, value in fields.items() if value
    ) + b"\r\n"  # fmt: skip


async def raw(broker: Daemon, data: bytes, *, ends: bool = False, within: float = 15.0) -> bytes:
    """What the daemon says to these bytes until it closes, or has said nothing more for half a second."""
    reader, writer = await asyncio.open_connection("127.0.0.1", broker.port)
    said = b""
    try:
        writer.write(data)
        await writer.drain()
        if ends:
            writer.write_eof()
        async with asyncio.timeout(within):
            while chunk := await _read(reader, patience=within if not said else 0.5):
                said += chunk
    except (ConnectionError, TimeoutError):
        pass  # cut off, or left alone: both are answers here
    finally:
        writer.close()
    return said


async def _read(reader: asyncio.StreamReader, *, patience: float) -> bytes:
    async with asyncio.timeout(patience):
        return await reader.read(1 << 20)


def statuses(said: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"HTTP/1\.[01] (\d{3}) ", said)]


def outcome_in(said: bytes) -> bool:
    return b'"resourceType":"OperationOutcome"' in said.replace(b" ", b"")


# -- framing


async def test_a_body_that_breaks_off_is_not_stored(broker: Daemon, south: HttpReceiver) -> None:
    body = message()
    for cut in (0, 1, len(body) // 2, len(body) - 1):
        said = await raw(broker, head(Content_Length=str(len(body))) + body[:cut], ends=True)
        assert said == b"", "who went away in the middle hears nothing"
    assert len(south.got) == 1


async def test_a_length_that_is_none_is_answered_with_an_outcome(broker: Daemon) -> None:
    lengths = ("-1", "abc", "1e3", "0x10", "99999999999999999999", "+5", "5, 6", "5 6")
    answers = await asyncio.gather(*(raw(broker, head(Content_Length=length) + b"{}") for length in lengths))
    for length, said in zip(lengths, answers, strict=True):
        assert statuses(said) in ([400], [413]), (length, said)
        assert outcome_in(said), (length, said)


async def test_a_length_that_is_too_short_cuts_the_message_and_the_rest_is_no_request(broker: Daemon) -> None:
    body = message()
    said = await raw(broker, head(Content_Length=str(len(body) - 20)) + body)
    assert statuses(said)[0] == 400
    assert set(statuses(said)) == {400}
    assert b"malformed-json" in said or b"not-http" in said


async def test_two_lengths_or_a_length_beside_chunks_are_no_request(broker: Daemon, south: HttpReceiver) -> None:
    body = message()
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    twice = head(Content_Length=str(len(body)), content_length=str(len(body) + 5))
    both = head(Content_Length=str(len(body)), Transfer_Encoding="chunked")
    for data in (twice + body, both + chunked):
        said = await raw(broker, data, within=5)
        assert statuses(said) == [400], said
        assert outcome_in(said), said
    assert len(south.got) == 1


async def test_garbage_for_chunks_is_refused(broker: Daemon) -> None:
    garbage = (
        b"zz\r\nrubbish\r\n",
        b"fffffffffffffffff\r\n{}",
        b"-2\r\n{}\r\n0\r\n\r\n",
        b"2;\x00\r\n{}\r\n\r\n\r\n",
        b"\r\n",
    )
    for chunks in garbage:
        said = await raw(broker, head(Transfer_Encoding="chunked") + chunks)
        assert statuses(said) == [400], (chunks, said)
        assert outcome_in(said), (chunks, said)
    unfinished = head(Transfer_Encoding="chunked") + b"5\r\n{}"
    assert await raw(broker, unfinished, ends=True) == b"", "who went away in the middle hears nothing"


async def test_a_chunked_message_is_a_message(broker: Daemon, south: HttpReceiver) -> None:
    body = message()
    pieces = [body[at : at + 7] for at in range(0, len(body), 7)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    said = await raw(broker, head(Transfer_Encoding="chunked") + chunks)
    assert statuses(said) == [200], said
    assert south.got[-1].body == body


async def test_what_is_not_http_is_told_so(broker: Daemon) -> None:
    strange = {
        "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500,
        "nulls": b"\x00" * 4096,
        "half": b"GET\r\n\r\n",
        "smtp": b"EHLO mail.example\r\n",
        "version": b"POST /fhir/$process-message HTTP/9.9\r\nHost: x\r\n\r\n",
        "http2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "mllp": b"\x0bMSH|^~\\&|A|B\r\x1c\r",
    }
    for name, data in strange.items():
        said = await raw(broker, data)
        assert statuses(said) == [400], (name, said)
        assert outcome_in(said), (name, said)


async def test_headers_without_end_are_cut_off(broker: Daemon) -> None:
    long = head(X_Long="x" * 200_000, Content_Length="2") + b"{}"
    many = b"POST " + PATH.encode() + b" HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(50_000))
    for data in (long, many + b"\r\n", head(path="/fhir/" + "a" * 100_000)):
        said = await raw(broker, data)
        assert statuses(said) == [400], said


async def test_what_comes_in_one_go_is_answered_one_after_the_other(broker: Daemon, south: HttpReceiver) -> None:
    bodies = [message(f"pipelined-{n}") for n in range(5)]
    said = await raw(broker, b"".join(head(Content_Length=str(len(body))) + body for body in bodies))
    assert statuses(said) == [200] * 5, said
    assert [got.body for got in south.got[-5:]] == bodies


async def test_http_1_0_is_answered_and_closed(broker: Daemon, south: HttpReceiver) -> None:
    body = message()
    said = await raw(broker, head(version="1.0", Content_Length=str(len(body))) + body)
    assert statuses(said) == [200], said
    assert said.startswith(b"HTTP/1.0 200"), said
    assert south.got[-1].body == body


async def test_slow_senders_cost_the_others_nothing(
    broker: Daemon, south: HttpReceiver, http: aiohttp.ClientSession
) -> None:
    slow = [await asyncio.open_connection("127.0.0.1", broker.port) for _ in range(200)]
    for number, (_, writer) in enumerate(slow):
        writer.write(head(Content_Length="5000")[: 20 + number] if number % 2 else head(Content_Length="5000") + b"{")
    started = asyncio.get_running_loop().time()
    answers = await asyncio.gather(*(send(http, broker.base, message()) for _ in range(20)))
    assert {said.status for said in answers} == {200}
    assert asyncio.get_running_loop().time() - started < 5
    for _, writer in slow:
        writer.transport.abort()
    assert len(south.got) == 21


# -- content


async def post(http: aiohttp.ClientSession, broker: Daemon, body: bytes, **headers: str) -> Said:
    fields = {"Content-Type": FHIR_JSON, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return await ask(http, "POST", f"{broker.base}/$process-message", data=io.BytesIO(body), headers=fields)


async def test_a_compressed_bomb_is_too_large(broker: Daemon, http: aiohttp.ClientSession) -> None:
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=9) as bomb:
        bomb.write(message()[:-1])
        for _ in range(1024):
            bomb.write(b" " * (1 << 20))
    before = broker.memory()
    for _ in range(3):
        said = await post(http, broker, packed.getvalue(), Content_Encoding="gzip")
        assert said.status == 413, said
        assert problem_ids(said.body) == ["too-large"]
    assert broker.memory() - before < GROWTH


async def test_a_packed_message_is_a_message_and_damaged_packing_is_not(
    broker: Daemon, south: HttpReceiver, http: aiohttp.ClientSession
) -> None:
    body = message()
    packed = gzip.compress(body)
    assert (await post(http, broker, packed, Content_Encoding="gzip")).status == 200
    assert south.got[-1].body == body
    for damaged in (packed[:-4], packed[:10], body, packed[:20] + b"\x00\xff" * 20):
        said = await post(http, broker, damaged, Content_Encoding="gzip")
        assert said.status == 400, said
        assert problem_ids(said.body) == ["damaged-encoding"]
    said = await post(http, broker, packed, Content_Encoding="br")
    assert (said.status, problem_ids(said.body)) == (415, ["unsupported-encoding"])


async def test_33_mebibytes_are_too_large_and_31_are_not(
    broker: Daemon, south: HttpReceiver, http: aiohttp.ClientSession
) -> None:
    too_large = message(text="x" * (33 << 20))
    said = await post(http, broker, too_large)
    assert (said.status, problem_ids(said.body)) == (413, ["too-large"]), said
    chunked = await raw_chunks(broker, too_large)
    assert statuses(chunked) in ([413], []), chunked  # or the connection went before we had written it all
    large = message(text="x" * (31 << 20))
    assert (await post(http, broker, large)).status == 200
    assert south.got[-1].body == large


async def raw_chunks(broker: Daemon, body: bytes) -> bytes:
    chunks = b"".join(
        b"100000\r\n%s\r\n" % body[at : at + (1 << 20)].ljust(1 << 20) for at in range(0, len(body), 1 << 20)
    )
    return await raw(broker, head(Transfer_Encoding="chunked") + chunks + b"0\r\n\r\n")


def twice(body: bytes, name: bytes) -> bytes:
    return body.replace(b'"%s":' % name, b'"%s":"x","%s":' % (name, name), 1)


GOOD = message("hostile")
CONTENT = {
    "deep arrays": (b"[" * 100_000, 400, "too-deep"),
    "deep objects": (b'{"a":' * 100_000, 400, "too-deep"),
    "deep inside": (GOOD[:-2] + b',{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}]}", 400, "too-deep"),
    "id twice": (twice(GOOD, b"id"), 400, "duplicate-key"),
    "type twice": (twice(GOOD, b"type"), 400, "duplicate-key"),
    "not UTF-8": (GOOD.replace(b"hostile", b"hostil\xe9"), 400, "not-utf-8"),
    "UTF-16": (GOOD.decode().encode("utf-16"), 400, "not-utf-8"),
    "surrogates": (GOOD.replace(b"hostile", b"\xed\xa0\x80"), 400, "not-utf-8"),
    "nothing": (b"", 422, "empty-body"),
    "white space": (b" \n" * 1000, 422, "empty-body"),
    "cut": (GOOD[:-1], 400, "malformed-json"),
    "more behind it": (GOOD + GOOD, 400, "malformed-json"),
    "a huge number": (GOOD.replace(b'"hostile"', b"9" * 100_000), 400, "wrong-type"),
    "null": (b"null", 400, "wrong-type"),
    "entry is no list": (b'{"resourceType":"Bundle","type":"message","entry":{}}', 400, "wrong-type"),
    "no entry": (b'{"resourceType":"Bundle","type":"message"}', 422, "missing-element"),
    "header is null": (b'{"resourceType":"Bundle","type":"message","entry":[null]}', 400, "wrong-type"),
    "XML as JSON": (b'<Bundle xmlns="http://hl7.org/fhir"/>', 400, "malformed-json"),
}


async def test_content_that_is_no_message_is_refused_for_what_is_wrong_with_it(
    broker: Daemon, south: HttpReceiver, http: aiohttp.ClientSession
) -> None:
    found = {}
    for name, (body, _, _) in CONTENT.items():
        said = await post(http, broker, body)
        found[name] = (said.status, problem_ids(said.body)[0])
    assert found == {name: (status, error) for name, (_, status, error) in CONTENT.items()}
    assert len(south.got) == 1


XML = b'<?xml version="1.0"?>%s<Bundle xmlns="http://hl7.org/fhir"><id value="%s"/><type value="message"/></Bundle>'


async def test_xml_that_wants_to_expand_or_to_fetch_is_refused(broker: Daemon, http: aiohttp.ClientSession) -> None:
    laughs = b"<!DOCTYPE l [" + b'<!ENTITY a "ha">' + b"".join(
        b'<!ENTITY a%d "%s">' % (n, (b"&a%d;" % (n - 1) if n else b"&a;") * 10) for n in range(12)
    ) + b"]>"  # fmt: skip
    outside = b'<!DOCTYPE l [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    for body in (XML % (laughs, b"&a11;"), XML % (outside, b"&x;"), b"<a>" * 100_000, XML % (b"", b"1") + b"<a/>"):
        said = await post(http, broker, body, Content_Type="application/fhir+xml", Accept=FHIR_JSON)
        assert said.status == 400, said
        assert problem_ids(said.body)


# -- the request around it


async def test_a_wrong_method_is_told_the_right_ones(broker: Daemon, http: aiohttp.ClientSession) -> None:
    for method, path, allowed in (
        ("GET", "/$process-message", {"POST"}),
        ("PUT", "/Bundle", {"GET", "HEAD", "POST"}),
        ("DELETE", "/metadata", {"GET", "HEAD"}),
        ("PATCH", "/Bundle", {"GET", "HEAD", "POST"}),
    ):
        said = await ask(http, method, broker.base + path)
        assert said.status == 405, (method, path, said)
        assert problem_ids(said.body) == ["method-not-allowed"]
        assert set(said.headers["Allow"].split(", ")) == allowed


async def test_formats_that_cannot_be_given_or_read_are_refused_before_anything_is_stored(
    broker: Daemon, south: HttpReceiver, http: aiohttp.ClientSession
) -> None:
    said = await post(http, broker, message(), Accept="text/html")
    assert (said.status, problem_ids(said.body)) == (406, ["not-acceptable"]), said
    said = await post(http, broker, message(), Accept=f"{FHIR_JSON}; fhirVersion=9.9")
    assert said.status == 406, said
    for media in ("text/plain", "application/pdf", f"{FHIR_JSON}; fhirVersion=9.9", "", "rubbish"):
        said = await post(http, broker, message(), Content_Type=media)
        assert said.status == 415, (media, said)
        assert problem_ids(said.body)
    for query in ("?_format=pdf", "?async=perhaps", "?response-url=javascript:alert(1)", "?async=%ff"):
        said = await send(http, broker.base, message(), query=query)
        assert said.status in (400, 406), (query, said)
        assert orjson.loads(said.body)["resourceType"] == "OperationOutcome"
    assert len(south.got) == 1


async def test_paths_that_are_nobodys_are_not_found(broker: Daemon, http: aiohttp.ClientSession) -> None:
    for path in ("/", "/fhir/../etc/passwd", "/fhir/Patient/1", "/admin/v1/status", "/metrics", "/fhir/Bundle/..%2f.."):
        said = await ask(http, "GET", broker.origin + path)
        assert said.status == 404, (path, said)
        assert problem_ids(said.body)
