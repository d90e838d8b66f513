"""One attempt over HTTP: what goes out, what an answer means, and peers that misbehave (M-43…M-45, X-62, C-16)."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import ssl
import zlib
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web
from http_desk import MESSAGE, OUTCOME, full_envelope, read_request

from broker.channel import Deferred, Delivered, Refused, Taken
from broker.core.envelope import EMPTY
from broker.core.outcome import Who
from plugins.http import sender as sender_module
from plugins.http.address import is_own

XML_MESSAGE = b'<?xml version="1.0"?><Bundle xmlns="http://hl7.org/fhir"><entry><MessageHeader/></entry></Bundle>'
XML_OUTCOME = b'<!-- no --><OperationOutcome xmlns="http://hl7.org/fhir"><issue/></OperationOutcome>'
JSON = {"Content-Type": "application/fhir+json"}
XML = {"Content-Type": "application/fhir+xml; charset=utf-8"}
OF_RECEIVER = (
    b'{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"timeout","details":{"coding":'
    b'[{"system":"urn:x-fhir-broker:failed","code":"receiver"}]}}]}'
)
OF_DESTINATION = (
    b'{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"timeout",'
    b'"expression":["Bundle.entry[0].resource.destination[1]"]}]}'
)
XML_OF_RECEIVER = (
    b'<OperationOutcome xmlns="http://hl7.org/fhir"><issue><details><coding><system value="urn:x-fhir-broker:failed"/>'
    b'<code value="receiver"/></coding></details></issue></OperationOutcome>'
)


# --- what goes out ---


@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbf" + MESSAGE,
        MESSAGE.replace(b",", b",\r\n\t "),
        MESSAGE.replace(b'"x"', b'"\\ud800 \\u0000"'),
        XML_MESSAGE.replace(b">", b" >\r\n"),
        b"\x00\xff not even text",
        b'{"a":"' + b"0123456789abcdef" * (20 * 65536) + b'"}',
    ],
    ids=["bom", "crlf", "lone surrogate", "xml", "any bytes", "20 MiB"],
)
async def test_bytes_out_equal_bytes_in(partner, send, body):
    end = await send(partner.url + "/in", body=body, answer=timedelta(seconds=30))
    assert end == Delivered(status=202, note="202 Accepted")
    assert partner.seen[0].body == body


async def test_media_type_goes_as_it_came(partner, send):
    await send(partner.url + "/", media_type='Application/FHIR+json ;fhirVersion="4.0"; charset=UTF-8')
    assert partner.seen[0].headers["Content-Type"] == 'Application/FHIR+json ;fhirVersion="4.0"; charset=UTF-8'


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("/fhir/$process-message", "/fhir/$process-message?async=true"),
        ("/fhir/%24process-message", "/fhir/%24process-message?async=true"),
        ("/a%2Fb/%2e%2E/c", "/a%2Fb/%2e%2E/c?async=true"),
        ("/a/../b//c/.", "/a/../b//c/.?async=true"),
        ("/a+b?x=1+2&y=%2B&z", "/a+b?x=1+2&y=%2B&z&async=true"),
        ("/a?", "/a?async=true"),
        ("/a?async=false", "/a?async=false"),
        ("/a?b=1&%61sync=true", "/a?b=1&%61sync=true"),
        ("/a?asynchronous=1", "/a?asynchronous=1&async=true"),
        ("/a#part?async=true", "/a?async=true"),
        ("", "/?async=true"),
        ("?x=y", "/?x=y&async=true"),
        ("/blåbær?ø=1", "/bl%C3%A5b%C3%A6r?%C3%B8=1&async=true"),
        ("/a|b^{c}'(d)*", "/a|b^{c}'(d)*?async=true"),
        ("/50%/x", "/50%/x?async=true"),
    ],
)
async def test_address_is_passed_as_encoded(peer, send, address, target):
    """Read from the wire, since a server's own view of a URL is already someone's opinion."""
    lines = []

    async def keep(reader, writer, raw):
        lines.append((await read_request(reader)).split(b"\r\n")[0])
        writer.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")

    async with peer(keep) as one:
        end = await send(one.url.removesuffix("/fhir/$process-message") + address)
    assert isinstance(end, Delivered)
    assert lines == [f"POST {target} HTTP/1.1".encode()]


async def test_caller_who_waits_is_not_made_asynchronous(partner, send):
    await send(partner.url + "/x", caller_waits=True, listens_on=True, envelope=full_envelope(timeleft=7950))
    [seen] = partner.seen
    assert seen.target == "/x"
    assert seen.headers["Prefer"] == "wait=7"
    assert seen.headers["ce-timeleft"] == "7950"


async def test_caller_who_is_content_with_an_acknowledgement_does_not_ask_to_wait(partner, send):
    """As we were asked: `Prefer: wait` would make the receiver listen on for a response that nobody asked it for."""
    await send(partner.url + "/x", caller_waits=True, envelope=full_envelope(timeleft=7950))
    assert partner.seen[0].headers["ce-timeleft"] == "7950"
    assert "Prefer" not in partner.seen[0].headers


async def test_refusal_of_a_broker_names_who_failed_and_who_speaks(partner, send):
    """M-60: over several hops, the broker that refused is the one that is named."""
    partner.reply = (404, {"X-Refused-By": "sender", "X-Refused-At": "urn:oid:9"}, b"")
    end = await send(partner.url)
    assert (end.problem.who, end.problem.at) == (Who.SENDER, "urn:oid:9")


@pytest.mark.parametrize(("by", "at"), [("nobody", "urn:oid:9"), ("sender", "x" * 301), ("sender", "")])
async def test_what_no_broker_writes_is_not_taken_for_one(partner, send, by, at):
    partner.reply = (404, {"X-Refused-By": by, "X-Refused-At": at}, b"")
    end = await send(partner.url)
    assert (end.problem.who, end.problem.at) == (Who.RECEIVER, None)


async def test_nobody_waits_so_no_time_is_left(partner, send):
    await send(partner.url + "/x", envelope=full_envelope(timeleft=7950))
    assert "ce-timeleft" not in partner.seen[0].headers
    assert "Prefer" not in partner.seen[0].headers


async def test_envelope_goes_in_headers(partner, send):
    envelope = full_envelope(
        source="My Lab|1",
        time=datetime(2026, 1, 2, 3, 4, 5, 670000, tzinfo=UTC),
        destination=("urn:oid:1.2", "https://x.example/a%20b"),
        via=("urn:oid:8", "urn:oid:9"),
        correlationid="c-1",
        priority=-3,
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        tracestate="a=1",
        more=(("subject", "Søk 100%"),),
    )
    await send(partner.url + "/x", envelope=envelope)
    headers = partner.seen[0].headers
    assert headers["ce-specversion"] == "1.0"
    assert headers["ce-source"] == "My%2520Lab%257C1"
    assert headers["ce-time"] == "2026-01-02T03:04:05.670000Z"
    assert headers["ce-destination"] == "urn:oid:1.2%20https://x.example/a%2520b"
    assert headers["ce-via"] == "urn:oid:8%20urn:oid:9"
    assert headers["ce-priority"] == "-3"
    assert headers["ce-subject"] == "S%C3%B8k%20100%25"
    assert headers["traceparent"] == envelope.traceparent
    assert headers["tracestate"] == "a=1"
    assert headers["Event-Id"] == "b-1"
    assert headers["Correlation-Id"] == "c-1"
    assert "ce-datacontenttype" not in headers  # C-16
    digest = base64.b64encode(hashlib.sha256(MESSAGE).digest()).decode()
    assert headers["Content-Digest"] == f"sha-256=:{digest}:"
    assert headers["ce-digest"] == f"sha-256={digest}"


async def test_formats_are_asked_for_in_the_order_of_the_message(partner, send):
    await send(partner.url + "/x")
    await send(partner.url + "/x", media_type="text/xml")
    accepted = [seen.headers["Accept"] for seen in partner.seen]
    assert accepted == [
        "application/fhir+json, application/fhir+xml;q=0.9",
        "application/fhir+xml, application/fhir+json;q=0.9",
    ]


async def test_cookies_are_not_kept(partner, send):
    partner.reply = (202, {"Set-Cookie": "a=b"}, b"")
    await send(partner.url + "/x")
    await send(partner.url + "/x")
    assert "Cookie" not in partner.seen[1].headers


async def test_user_agent_tells_no_version(partner, send):
    await send(partner.url + "/x")
    assert partner.seen[0].headers["User-Agent"] == "fhir-broker"


@pytest.mark.parametrize(
    "address",
    [
        "http://broker.example/fhir/$process-message",
        "http://BROKER.example.:80/fhir",
        "http://broker.example/x/../%66hir/R5/$process-message?async=true",
        "http://broker.example/in/lab/$process-message",
        "https://broker.example:80//fhir/Bundle",
        "http://localhost:8080/fhir/$process-message",  # where we listen
        "http://127.1.2.3:8080/in/lab/$process-message",
    ],
)
async def test_own_address_is_never_connected_to(send, address):
    end = await send(address)
    assert isinstance(end, Refused)
    assert end.problem.id == "own-address"
    assert end.problem.who is Who.BROKER


@pytest.mark.parametrize(
    "address", ["http://", "ftp://x/", "http://a b/", "http://u:p@x/", "http://x:0/", "http://x:99999/"]
)
async def test_address_that_cannot_be_used_is_refused(send, address):
    end = await send(address)
    assert isinstance(end, Refused)
    assert end.problem.id == "unusable-address"


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "x..example", "exa_mple..", "[::1%25x]"])
async def test_host_that_is_no_name_ends_the_attempt(send, host):
    assert isinstance(await send(f"http://{host}:1/x"), Refused | Deferred)


async def test_media_type_that_no_header_can_carry_is_refused(partner, send):
    end = await send(partner.url + "/x", media_type="application/fhir+json\r\nX: y")
    assert isinstance(end, Refused)
    assert partner.seen == []


def test_neighbour_on_the_same_host_is_not_our_own():
    """A reverse proxy may have us and the receiver side by side."""
    assert not is_own("https://hospital.example/ehr/fhir", "https://hospital.example/broker/fhir")
    assert not is_own("https://hospital.example/broker/fhirs", "https://hospital.example/broker/fhir")
    assert is_own("https://hospital.example/broker/fhir/R5/$process-message", "https://hospital.example/broker/fhir")


# --- what an answer means ---


@pytest.mark.parametrize(
    ("status", "headers", "body", "taken"),
    [
        (200, {}, b"", Taken.CUSTODY),
        (200, JSON, OUTCOME, Taken.CUSTODY),
        (200, XML, XML_OUTCOME, Taken.CUSTODY),
        (200, {"Content-Type": "text/html"}, b"<html>ok</html>", Taken.CUSTODY),
        (200, JSON, b'{"resourceType":"Bundle","type":"collection"}', Taken.CUSTODY),
        (200, JSON, b"{ not json", Taken.CUSTODY),
        (201, {"Location": "/Bundle/1"}, b"", Taken.CUSTODY),
        (202, {}, b"", Taken.CUSTODY),
        (202, JSON, OUTCOME, Taken.CUSTODY),
        (206, {}, b"abc", Taken.CUSTODY),
        (299, {}, b"", Taken.CUSTODY),
        (204, {}, b"", Taken.NOTHING_TO_SAY),
    ],
)
async def test_2xx_is_custody(partner, send, status, headers, body, taken):
    """M-43, M-44."""
    partner.reply = (status, headers, body)
    end = await send(partner.url + "/x")
    assert isinstance(end, Delivered)
    assert (end.taken, end.body, end.status) == (taken, None, status)


@pytest.mark.parametrize("status", [200, 201, 202])
@pytest.mark.parametrize(
    ("headers", "body", "media_type"),
    [
        ({"Content-Type": "application/fhir+json;fhirVersion=4.0"}, MESSAGE, "application/fhir+json;fhirVersion=4.0"),
        (XML, XML_MESSAGE, XML["Content-Type"]),
        ({"Content-Type": "text/xml"}, b"\xef\xbb\xbf" + XML_MESSAGE, "text/xml"),
        ({"Content-Type": "text/plain"}, b" \r\n" + MESSAGE, "application/fhir+json"),
        ({"Content-Type": "application/octet-stream"}, XML_MESSAGE, "application/fhir+xml"),
    ],
)
async def test_message_in_any_2xx_is_the_response(partner, send, status, headers, body, media_type):
    partner.reply = (status, headers, body)
    end = await send(partner.url + "/x")
    assert isinstance(end, Delivered)
    assert (end.body, end.media_type, end.status) == (body, media_type, status)


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
async def test_redirects_are_not_followed(partner, send, status):
    partner.reply = (status, {"Location": "http://elsewhere.example/x?patient=1#y"}, b"")
    end = await send(partner.url + "/x")
    assert isinstance(end, Refused)
    assert end.status == status
    assert "http://elsewhere.example/x" in end.note
    assert "patient" not in end.note + end.problem.text
    assert len(partner.seen) == 1


@pytest.mark.parametrize(
    ("status", "body", "of_peer"),
    [
        (401, OUTCOME, False),
        (408, b"", False),
        (425, b"", False),
        (429, b"", True),
        (429, OUTCOME, True),
        (429, OF_RECEIVER, False),
        (500, b"", False),
        (501, b"", False),
        (502, OUTCOME, False),
        (503, b"", True),
        (503, OUTCOME, True),
        (503, OF_RECEIVER, False),
        (503, OF_DESTINATION, False),
        (503, XML_OF_RECEIVER, False),
        (503, XML_OUTCOME, True),
        (503, b"<html>down for maintenance</html>", True),
        (504, b"", False),
        (599, b"", False),
        (999, b"", False),
    ],
)
async def test_later(partner, send, status, body, of_peer):
    """M-45, X-62; 429 and 503 close the lane unless the outcome speaks of the destination (design: deliver)."""
    partner.reply = (status, XML if body.startswith(b"<Op") or body == XML_OUTCOME else JSON, body)
    end = await send(partner.url + "/x")
    assert isinstance(end, Deferred)
    assert (end.status, end.of_peer, end.left) == (status, of_peer, True)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("17", 17), ("0", 0), ("999999999999", 7 * 86400), ("soon", None), ("-5", None), ("", None)],
)
async def test_retry_after_in_seconds(partner, send, text, seconds):
    partner.reply = (503, {"Retry-After": text}, b"")
    end = await send(partner.url + "/x")
    assert end.retry_after == (None if seconds is None else timedelta(seconds=seconds))


async def test_retry_after_as_a_date(partner, send):
    at = datetime.now(UTC) + timedelta(minutes=10)
    partner.reply = (429, {"Retry-After": at.strftime("%a, %d %b %Y %H:%M:%S GMT")}, b"")
    end = await send(partner.url + "/x")
    assert timedelta(minutes=9) < end.retry_after <= timedelta(minutes=10)
    partner.reply = (429, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, b"")
    assert (await send(partner.url + "/x")).retry_after == timedelta()


@pytest.mark.parametrize(
    "status", [400, 402, 403, 404, 405, 406, 407, 409, 410, 411, 412, 413, 414, 415, 417, 421, 422, 451]
)
async def test_other_4xx_is_final(partner, send, status):
    """M-43: do not resubmit unaltered."""
    partner.reply = (status, JSON, OUTCOME)
    end = await send(partner.url + "/x")
    assert isinstance(end, Refused)
    assert (end.status, end.body, end.media_type) == (status, OUTCOME, "application/fhir+json")
    assert end.problem.who is Who.RECEIVER
    assert end.problem.id == "refused-by-receiver"


@pytest.mark.parametrize(
    ("headers", "body", "kept"),
    [
        (XML, XML_OUTCOME, True),
        ({"Content-Type": "text/plain"}, OUTCOME, True),
        (JSON, b"\xef\xbb\xbf" + OUTCOME, True),
        (JSON, b"{", False),
        (JSON, MESSAGE, False),
        (JSON, b'{"resourceType":"Patient","x":"OperationOutcome"}', False),
        ({"Content-Type": "text/html"}, b"<html><body>Anna Hansen</body></html>", False),
        (XML, b"<Bundle><OperationOutcome/></Bundle>", False),
    ],
)
async def test_body_of_a_refusal_is_kept_only_if_it_is_an_outcome(partner, send, headers, body, kept):
    partner.reply = (422, headers, body)
    end = await send(partner.url + "/x")
    assert end.body == (body if kept else None)
    assert "Hansen" not in end.note + end.problem.text


# --- peers that misbehave ---


async def test_refused_connection_is_trouble_of_the_peer(unused_tcp_port, send):
    end = await send(f"http://127.0.0.1:{unused_tcp_port}/x")
    assert (end.of_peer, end.left, end.status) == (True, False, None)
    assert "no connection" in end.note


@pytest.fixture
def unused_tcp_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


async def test_unknown_host_is_trouble_of_the_peer(send):
    end = await send("http://nowhere.invalid/x", connect=timedelta(seconds=10))
    assert isinstance(end, Deferred)
    assert (end.of_peer, end.left) == (True, False)


async def test_peer_that_speaks_no_tls(peer, send):
    async def mail_server(reader, writer, raw):
        writer.write(b"220 smtp ready\r\n")
        await writer.drain()
        await reader.read()

    async with peer(mail_server) as one:
        end = await send(one.url.replace("http:", "https:"))
    assert (end.of_peer, end.left) == (True, False)
    assert end.note.startswith("TLS")


async def test_certificate_of_a_stranger_is_not_believed(peer, send, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    async with peer(b"HTTP/1.1 202 Accepted\r\n\r\n", ssl=context) as one:
        end = await send(one.url)
    assert (end.of_peer, end.left) == (True, False)
    assert "certificate" in end.note


GARBAGE = [
    b"garbage\r\n\r\n",
    b"\x00\x01\x02\x03",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"HTTP/1.1 two-hundred OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 100_000 + b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"X-Many: 1\r\n" * 5000 + b"\r\n",
    b"HTTP/1.1 200 OK\r\nX-Half: ",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
    b"",
]


@pytest.mark.parametrize("answer", GARBAGE, ids=range(len(GARBAGE)))
async def test_what_is_no_answer_is_trouble_of_the_peer(peer, send, answer):
    async with peer(answer) as one:
        end = await send(one.url)
    assert isinstance(end, Deferred)
    assert (end.of_peer, end.left, end.status) == (True, True, None)
    assert "garbage" not in end.note
    assert "SSH" not in end.note
    assert one.requests == 1  # not a kept connection, so nothing is sent twice


CUT = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
    b"HTTP/1.1 202 Accepted\r\nContent-Length: 1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 20\r\n\r\n" + gzip.compress(b"x" * 50)[:20],
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 3\r\n\r\nabc",
    b"HTTP/1.1 200 OK\r\nContent-Digest: sha-256=:AAAA:\r\nContent-Length: 3\r\n\r\nabc",
]


@pytest.mark.parametrize("answer", CUT, ids=range(len(CUT)))
async def test_2xx_that_cannot_be_read_to_its_end_is_no_delivery(peer, send, answer):
    async with peer(answer) as one:
        end = await send(one.url)
    assert isinstance(end, Deferred), end
    assert (end.of_peer, end.left) == (False, True)


async def test_4xx_is_final_even_if_its_body_is_cut(peer, send):
    async with peer(b"HTTP/1.1 422 No\r\nContent-Length: 100\r\n\r\nshort") as one:
        end = await send(one.url)
    assert isinstance(end, Refused)
    assert (end.status, end.body) == (422, None)


async def test_answer_without_length_ends_with_the_connection(peer, send):
    async with peer(b"HTTP/1.1 200 OK\r\nContent-Type: application/fhir+json\r\n\r\n" + MESSAGE) as one:
        end = await send(one.url)
    assert end.body == MESSAGE


async def test_answer_after_early_hints_is_read(peer, send):
    async with peer(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n") as one:
        end = await send(one.url)
    assert end.taken is Taken.NOTHING_TO_SAY


@pytest.mark.parametrize("coding", ["gzip", "deflate", "raw deflate", "x-gzip"])
async def test_packed_answer_is_unpacked(partner, send, coding):
    raw = zlib.compressobj(wbits=-15)
    packed = {
        "gzip": gzip.compress(MESSAGE),
        "x-gzip": gzip.compress(MESSAGE[:9]) + gzip.compress(MESSAGE[9:]),
        "deflate": zlib.compress(MESSAGE),
        "raw deflate": raw.compress(MESSAGE) + raw.flush(),
    }[coding]
    partner.reply = (200, {**JSON, "Content-Encoding": coding.split()[-1]}, packed)
    assert (await send(partner.url + "/x")).body == MESSAGE


async def test_bomb_in_an_answer_is_not_unpacked(partner, send):
    bomb = gzip.compress(b"0" * 64_000_000)
    partner.reply = (200, {**JSON, "Content-Encoding": "gzip"}, bomb)
    end = await send(partner.url + "/x")
    assert isinstance(end, Delivered)
    assert end.body is None
    partner.reply = (500, {**JSON, "Content-Encoding": "gzip"}, bomb)
    assert (await send(partner.url + "/x")).status == 500


async def test_huge_answer_is_not_read_and_not_asked_for_again(partner, send, monkeypatch):
    """It would be as large again, and the receiver would do its work each time."""
    monkeypatch.setattr(sender_module, "LARGEST_ANSWER", 100_000)
    partner.reply = (200, JSON, MESSAGE + b" " * 200_000)
    end = await send(partner.url + "/x")
    assert isinstance(end, Delivered)
    assert end.body is None
    assert "more than 100000 bytes" in end.note


async def test_answer_digest_that_agrees_is_fine(partner, send):
    digest = base64.b64encode(hashlib.sha256(MESSAGE).digest()).decode()
    partner.reply = (200, {**JSON, "Content-Digest": f"sha-256=:{digest}:, unknown=:AA==:"}, MESSAGE)
    assert (await send(partner.url + "/x")).body == MESSAGE


async def test_silent_peer_is_given_up_in_time(peer, send):
    async def silent(reader, writer, raw):
        await reader.read()

    async with peer(silent) as one:
        end = await send(one.url, connect=timedelta(seconds=0.1), answer=timedelta(seconds=0.2))
    assert (end.note, end.of_peer, end.left) == ("no answer in time", True, True)


async def test_answer_that_trickles_is_given_up_in_time(peer, send):
    async def trickle(reader, writer, raw):
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with peer(trickle) as one:
        end = await send(one.url, connect=timedelta(seconds=0.1), answer=timedelta(seconds=0.3))
    assert isinstance(end, Deferred)
    assert (end.left, end.status) == (True, 200)


async def test_connection_nobody_accepts_is_given_up_in_time(send):
    import socket

    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        crowd = [socket.socket() for _ in range(4)]
        for one in crowd:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        end = await send(f"http://127.0.0.1:{port}/x", connect=timedelta(seconds=0.3))
        for one in crowd:
            one.close()
    assert (end.note, end.of_peer, end.left) == ("no connection in time", True, False)


async def test_kept_connection_that_was_closed_is_tried_once_more_on_a_new_one(peer, send):
    """RFC 9112, section 9.3.1; the same bytes and ids, so at worst the receiver sees a copy."""
    bodies = []

    async def forgetful(reader, writer, raw):
        bodies.append(await read_request(reader))
        writer.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        if raw.connections == 1:
            bodies.append(await read_request(reader))  # and closes without a word

    async with peer(forgetful) as one:
        assert isinstance(await send(one.url), Delivered)
        assert isinstance(await send(one.url), Delivered)
        assert one.connections == 2
    assert bodies[1].partition(b"\r\n\r\n")[2] == bodies[2].partition(b"\r\n\r\n")[2] == MESSAGE


async def test_new_connection_that_is_closed_as_well_ends_the_attempt(peer, send):
    async def worse_and_worse(reader, writer, raw):
        await read_request(reader)
        if raw.connections == 1:
            writer.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            await read_request(reader)

    async with peer(worse_and_worse) as one:
        assert isinstance(await send(one.url), Delivered)
        end = await send(one.url)
        assert one.connections == 2
    assert (end.of_peer, end.left) == (True, True)


async def test_connections_are_kept(partner, send):
    ports = []

    async def note_port(request):
        ports.append(request.transport.get_extra_info("peername")[1])
        return web.Response(status=202)

    partner.reply = note_port
    for _ in range(3):
        await send(partner.url + "/x", envelope=EMPTY)
    assert len(set(ports)) == 1


async def test_cancelled_attempt_is_cancelled(peer, send):
    there = asyncio.Event()

    async def silent(reader, writer, raw):
        there.set()
        await reader.read()

    async with peer(silent) as one:
        task = asyncio.create_task(send(one.url))
        await there.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
