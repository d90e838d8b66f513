"""The ways in: what is read, what is refused before the message is taken, and how an answer is said (M-40…M-52)."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import io
import zlib
from datetime import timedelta

import pytest
from http_desk import MESSAGE, MESSAGE_ID, OUTCOME, RECEIPT, ScriptedHost

from broker.channel import Answer, AnswerKind, Asked, Receipt
from broker.core.envelope import Envelope
from broker.core.fhir.header import Release
from broker.core.outcome import Busy, Conflict, MessageInvalid, NoRoute, Problem, Severity, Who
from plugins.http import CHANNEL
from plugins.http.settings import HttpSettings

HEAD = b"POST /fhir/$process-message HTTP/1.1\r\nHost: x\r\nContent-Type: application/fhir+json\r\n"
STATUS_URL = f"http://broker.example/fhir/status/{MESSAGE_ID}"


def answer(kind: AnswerKind, **more) -> Answer:
    return Answer(kind=kind, receipt=RECEIPT, **more)


# --- the arrival ---


@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbf" + MESSAGE,
        MESSAGE.replace(b",", b",\r\n"),
        b"\x00\xff anything",
        b"",
        b'{"a":"\\ud800"}',
    ],
)
async def test_bytes_in_are_the_bytes_handed_on(served, body):
    assert (await served.post(data=body)).status == 202
    assert served.host.arrivals[0].body == body


async def test_twenty_mebibytes_come_in_whole(serve):
    body = b'{"a":"' + b"0123456789abcdef" * (20 * 65536) + b'"}'
    async with serve(ScriptedHost(max_message=32 * 1024 * 1024)) as served:
        assert (await served.post(data=io.BytesIO(body))).status == 202
        assert served.host.arrivals[0].body == body


async def test_arrival_says_how_it_came(served):
    await served.post(
        "/fhir/R5/$process-message?x=1",
        headers={
            "Content-Type": "application/fhir+json; fhirVersion=5.0",
            "Authorization": "Bearer secret",
            "Cookie": "a=b",
            "X-Api-Key": "secret",
            "NHSD-Target-Identifier": "abc",
        },
    )
    [arrival] = served.host.arrivals
    assert arrival.channel == "http"
    assert arrival.media_type == "application/fhir+json; fhirVersion=5.0"
    assert arrival.release is Release.R5
    assert arrival.peer.address.startswith("127.0.0.1:")
    assert arrival.peer.party is None
    assert arrival.envelope == Envelope()
    assert arrival.asked == Asked()
    headers = dict(arrival.headers)
    assert headers["nhsd-target-identifier"] == "abc"
    assert not {"authorization", "cookie", "x-api-key"} & headers.keys()


@pytest.mark.parametrize(
    ("path", "release", "way_in"),
    [
        ("/fhir/$process-message", None, None),
        ("/fhir/%24process-message", None, None),
        ("/fhir/R4/$process-message", Release.R4, None),
        ("/fhir/R4B/$process-message", Release.R4B, None),
        ("/fhir/R5/%24process-message", Release.R5, None),
        ("/fhir/MessageHeader/$process-message", None, None),
        ("/fhir/R5/MessageHeader/$process-message", Release.R5, None),
        ("/in/lab/$process-message", None, "lab"),
        ("/in/lab%20north/%24process-message", None, "lab north"),
    ],
)
async def test_ways_in(served, path, release, way_in):
    from yarl import URL

    async with served.client.post(
        URL(served.url + path, encoded=True), data=MESSAGE, headers={"Content-Type": "application/fhir+json"}
    ) as response:
        assert response.status == 202
    [arrival] = served.host.arrivals
    assert (arrival.release, arrival.way_in) == (release, way_in)


@pytest.mark.parametrize(
    ("query", "headers", "asked"),
    [
        ("", {}, Asked()),
        ("?async=true", {}, Asked(asynchronous=True)),
        ("?async=false", {}, Asked()),
        ("?%61sync=%74rue&unknown=1", {}, Asked(asynchronous=True)),
        (
            "?response-url=https%3A%2F%2Fx.example%2Fa%2520b%3Fc%3D1%2B2",
            {},
            Asked(response_url="https://x.example/a%20b?c=1+2"),
        ),
        ("?response-url=https://x.example/a+b", {}, Asked(response_url="https://x.example/a+b")),
        ("", {"Prefer": "respond-async"}, Asked(asynchronous=True)),
        ("?async=false", {"Prefer": "respond-async"}, Asked()),
        ("", {"Prefer": "wait=5"}, Asked(wait=timedelta(seconds=5))),
        (
            "",
            {"Prefer": 'RESPOND-ASYNC ; foo="a,b;c", Wait = "10" ; x, wait=99'},
            Asked(asynchronous=True, wait=timedelta(seconds=10)),
        ),
        ("", {"Prefer": "wait=soon"}, Asked()),
        ("", {"Prefer": "wait=-1"}, Asked()),
        ("", {"Prefer": ',, ;, "unfinished'}, Asked()),
    ],
)
async def test_what_the_caller_asks(served, query, headers, asked):
    from yarl import URL

    url = URL(served.url + "/fhir/$process-message" + query, encoded=True)
    async with served.client.post(
        url, data=MESSAGE, headers={"Content-Type": "application/fhir+json", **headers}
    ) as response:
        assert response.status == 202, await response.read()
    assert served.host.arrivals[0].asked == asked


async def test_preferences_may_come_in_several_headers(served):
    await served.raw(
        HEAD + b"Connection: close\r\nPrefer: wait=3\r\nPrefer: respond-async\r\nContent-Length: 2\r\n\r\n{}"
    )
    assert served.host.arrivals[0].asked == Asked(asynchronous=True, wait=timedelta(seconds=3))


async def test_envelope_is_read(served):
    await served.post(headers={"ce-destination": "urn:oid:1%20urn:oid:2", "ce-timeleft": "900", "Event-Id": "e"})
    assert served.host.arrivals[0].envelope == Envelope(destination=("urn:oid:1", "urn:oid:2"), timeleft=900, id="e")


# --- refused before the message is taken ---


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("?async=yes", "async"),
        ("?async=", "async"),
        ("?async", "async"),
        ("?async=TRUE", "async"),
        ("?async=true&async=true", "async"),
        ("?response-url=/relative", "response-url"),
        ("?response-url=mailto:a@b", "response-url"),
        ("?response-url=https://", "response-url"),
        ("?response-url=https://x:99999/", "response-url"),
        ("?response-url=https://x/%0d%0aA:b", "response-url"),
        ("?response-url=https://x/&response-url=https://x/", "response-url"),
        ("?async=%ff", "query"),
    ],
)
async def test_bad_query_is_refused_by_the_name_of_its_parameter(served, query, name):
    from yarl import URL

    url = URL(served.url + "/fhir/$process-message" + query, encoded=True)
    async with served.client.post(url, data=MESSAGE, headers={"Content-Type": "application/fhir+json"}) as response:
        body = await response.json(content_type=None)
        assert response.status == 400
    assert body["issue"][0]["code"] == "value"
    assert body["issue"][0]["expression"] == [f"http.{name}"]
    assert served.host.arrivals == []


@pytest.mark.parametrize(
    "content_type",
    ["", "text/plain", "application/pdf", "application/cloudevents+json", "nonsense", "multipart/form-data"],
)
async def test_unknown_media_type_is_415(served, content_type):
    reply = await served.post(headers={"Content-Type": content_type}, data=b"x")
    assert reply.status == 415
    assert reply.issue["code"] == "not-supported"
    assert served.host.arrivals == []


async def test_impossible_accept_is_406_before_the_message_is_taken(served):
    reply = await served.post(headers={"Accept": "text/html"})
    assert reply.status == 406
    assert reply.headers["Content-Type"] == "application/fhir+json"
    assert served.host.arrivals == []


async def test_malformed_envelope_is_refused_by_the_name_of_its_header(served):
    reply = await served.post(headers={"ce-timeleft": "soon"})
    assert reply.status == 400
    assert reply.issue["expression"] == ["http.ce-timeleft"]
    assert served.host.arrivals == []


# --- the body ---


@pytest.mark.parametrize(
    ("coding", "pack"),
    [
        ("gzip", gzip.compress),
        ("X-GZIP", gzip.compress),
        ("gzip", lambda data: gzip.compress(data[:50]) + gzip.compress(data[50:]) + b"\0\0\0"),
        ("deflate", zlib.compress),
        ("deflate", lambda data: zlib.compress(data)[2:-4]),
        ("identity", bytes),
        ("identity, gzip", gzip.compress),
    ],
)
async def test_packed_body_is_unpacked(served, coding, pack):
    assert (await served.post(data=pack(MESSAGE), headers={"Content-Encoding": coding})).status == 202
    assert served.host.arrivals[0].body == MESSAGE


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "compress"])
async def test_unknown_coding_is_415(served, coding):
    reply = await served.post(headers={"Content-Encoding": coding})
    assert reply.status == 415
    assert reply.issue["expression"] == ["http.content-encoding"]


@pytest.mark.parametrize(
    "body", [MESSAGE, gzip.compress(MESSAGE)[:-9], gzip.compress(MESSAGE)[:1], gzip.compress(MESSAGE) + b"junk"]
)
async def test_damaged_packing_is_400(served, body):
    reply = await served.post(data=body, headers={"Content-Encoding": "gzip"})
    assert reply.status == 400
    assert "damaged-encoding" in reply.ids
    assert served.host.arrivals == []


@pytest.mark.parametrize("size", [2_000_000, 500_000_000])
async def test_bomb_is_413_and_nothing_is_kept(served, size):
    packer = zlib.compressobj(wbits=31)
    bomb = b"".join(packer.compress(b"0" * 1_000_000) for _ in range(size // 1_000_000)) + packer.flush()
    reply = await served.post(data=bomb, headers={"Content-Encoding": "gzip"})
    assert reply.status == 413
    assert reply.issue["code"] == "too-long"
    assert served.host.arrivals == []


async def test_ratio_is_bounded_below_the_size(serve):
    async with serve(ScriptedHost(max_message=100_000_000)) as served:
        reply = await served.post(data=gzip.compress(b"0" * 50_000_000), headers={"Content-Encoding": "gzip"})
    assert reply.status == 413
    assert "times its size" in reply.issue["details"]["text"]


async def test_announced_size_over_the_limit_is_refused_unread(served):
    """Not a byte of the body is sent, and the answer is there all the same."""
    answer = await served.raw(
        b"POST /fhir/$process-message HTTP/1.1\r\nHost: x\r\nContent-Type: application/fhir+json\r\n"
        b"Content-Length: 1000001\r\nExpect: 100-continue\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"100 Continue" not in answer


async def test_body_that_grows_over_the_limit_is_refused_while_it_comes(served):
    async def endless():
        while True:
            yield b"0" * 100_000

    try:
        reply = await served.post(data=endless())
    except (ConnectionError, OSError):
        pass  # the server stopped listening, which is what it should do
    else:
        assert reply.status == 413
    assert served.host.arrivals == []


async def test_expect_100_continue_is_answered(served):
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(
        b"POST /fhir/$process-message HTTP/1.1\r\nHost: x\r\nContent-Type: application/fhir+json\r\n"
        b"Content-Length: %d\r\nExpect: 100-Continue\r\nConnection: close\r\n\r\n" % len(MESSAGE)
    )
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(MESSAGE)
    assert (await reader.read()).startswith(b"HTTP/1.1 202 ")
    writer.close()


async def test_other_expectations_are_417(served):
    reply = await served.raw(
        b"POST /fhir/$process-message HTTP/1.1\r\nHost: x\r\nContent-Type: application/fhir+json\r\n"
        b"Content-Length: 2\r\nExpect: the-best\r\nConnection: close\r\n\r\n{}"
    )
    assert reply.startswith(b"HTTP/1.1 417 ")
    assert b"OperationOutcome" in reply


async def test_slow_body_is_408(served):
    served.receiver.body_deadline = 0.3
    reply = await served.raw(
        b"POST /fhir/$process-message HTTP/1.1\r\nHost: x\r\nContent-Type: application/fhir+json\r\n"
        b"Content-Length: 100\r\n\r\n{"
    )
    assert reply.startswith(b"HTTP/1.1 408 ")
    assert b'"slow-body"' in reply
    assert served.host.arrivals == []


@pytest.mark.parametrize("body", [b"5\r\nhello", b"zz\r\nhello\r\n0\r\n\r\n", b"-1\r\n"])
async def test_broken_chunks_are_no_message(served, body):
    await served.raw(
        b"POST /fhir/$process-message HTTP/1.1\r\nHost: x\r\nContent-Type: application/fhir+json\r\n"
        b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + body,
        half_close=True,
    )
    assert served.host.arrivals == []


async def test_caller_that_hangs_up_within_the_body_leaves_nothing(served):
    _, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(HEAD + b"Content-Length: 99\r\n\r\n{")
    await writer.drain()
    writer.transport.abort()
    assert (await served.post()).status == 202
    assert len(served.host.arrivals) == 1


# --- digests ---


def digest(data: bytes, algorithm: str = "sha256") -> str:
    return base64.b64encode(hashlib.new(algorithm, data).digest()).decode()


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Digest": f"sha-256=:{digest(MESSAGE)}:"},
        {"Content-Digest": f"md5=:AAAA:, sha-512=:{digest(MESSAGE, 'sha512')}:;x=1"},
        {"Content-Digest": "crc32c=:AAAA:"},
        {"ce-digest": f"sha-256={digest(MESSAGE)}"},
    ],
)
async def test_digest_that_agrees(served, headers):
    assert (await served.post(headers=headers)).status == 202


async def test_digest_of_a_packed_body_may_be_of_either_form(served):
    packed = gzip.compress(MESSAGE)
    for what in (MESSAGE, packed):
        headers = {"Content-Encoding": "gzip", "Content-Digest": f"sha-256=:{digest(what)}:"}
        assert (await served.post(data=packed, headers=headers)).status == 202
    headers = {"Content-Encoding": "gzip", "Content-Digest": f"sha-256=:{digest(b'x')}:"}
    assert (await served.post(data=packed, headers=headers)).status == 400


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Digest": f"sha-256=:{digest(b'other')}:"},
        {"Content-Digest": f"sha-256=:{digest(MESSAGE)}:, sha-512=:{digest(b'other', 'sha512')}:"},
        {"ce-digest": f"sha-256={digest(b'other')}"},
    ],
)
async def test_digest_that_differs_is_refused_as_transient(served, headers):
    reply = await served.post(headers=headers)
    assert reply.status == 400
    assert reply.issue["code"] == "transient"
    assert "digest-mismatch" in reply.ids
    assert served.host.arrivals == []


@pytest.mark.parametrize("value", ["nonsense", "sha-256=AAAA", "sha-256=:A:", "sha-256=:AAAA:,"])
async def test_digest_that_cannot_be_read_is_400(served, value):
    assert (await served.post(headers={"Content-Digest": value})).status == 400


# --- answers ---


async def test_accepted(served):
    reply = await served.post()
    assert reply.status == 202
    assert reply.headers["Content-Location"] == STATUS_URL
    assert reply.headers["Content-Type"] == "application/fhir+json"
    assert reply.issue["severity"] == "information"
    assert reply.issue["code"] == "informational"
    assert MESSAGE_ID in reply.ids


async def test_duplicate_and_notes_are_told(served):
    note = Problem(code="not-found", id="unknown-destination", text="no such", severity=Severity.WARNING)
    receipt = Receipt(message_id=MESSAGE_ID, position=1, duplicate=True, notes=(note,))
    served.host.answer = Answer(kind=AnswerKind.ACCEPTED, receipt=receipt)
    reply = await served.post()
    assert "duplicate" in reply.ids
    assert reply.json["issue"][1]["code"] == "not-found"


@pytest.mark.parametrize(("status", "said"), [(200, 200), (202, 202), (201, 202), (None, 202)])
async def test_taken_by_the_receiver(served, status, said):
    served.host.answer = answer(AnswerKind.TAKEN, status=status)
    reply = await served.post()
    assert reply.status == said
    assert "taken" in reply.ids


async def test_done_is_204(served):
    served.host.answer = answer(AnswerKind.DONE)
    reply = await served.post()
    assert (reply.status, reply.body) == (204, b"")


async def test_response_is_handed_on_byte_for_byte_whatever_accept_says(served):
    body = b"\xef\xbb\xbf<Bundle xmlns='http://hl7.org/fhir'>\r\n</Bundle>"
    served.host.answer = answer(AnswerKind.RESPONSE, body=body, media_type='application/fhir+xml; fhirVersion="4.0"')
    reply = await served.post(headers={"Accept": "application/fhir+json"})
    assert (reply.status, reply.body) == (200, body)
    assert reply.headers["Content-Type"] == 'application/fhir+xml; fhirVersion="4.0"'
    assert reply.headers["Content-Digest"] == f"sha-256=:{digest(body)}:"


@pytest.mark.parametrize(("status", "said"), [(422, 422), (404, 404), (500, 500), (504, 504)])
async def test_refusal_of_the_receiver_is_handed_on(served, status, said):
    """M-60."""
    served.host.answer = answer(AnswerKind.REFUSED, status=status, body=OUTCOME, media_type="application/json")
    reply = await served.post()
    assert (reply.status, reply.body) == (said, OUTCOME)
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.headers["X-Refused-By"] == "receiver"


@pytest.mark.parametrize("status", [302, 401, 405, 411, 299, 999, 101])
async def test_status_that_is_not_for_the_caller_becomes_502(served, status):
    served.host.answer = answer(AnswerKind.REFUSED, status=status, body=OUTCOME)
    reply = await served.post()
    assert reply.status == 502
    assert {"refused-by-receiver", "receiver"} <= reply.ids


@pytest.mark.parametrize(
    ("code", "who", "status"),
    [("timeout", Who.RECEIVER, 504), ("transient", Who.RECEIVER, 503), ("business-rule", Who.BROKER, 422)],
)
async def test_refusal_without_a_status_has_that_of_its_code(served, code, who, status):
    served.host.answer = answer(AnswerKind.REFUSED, problem=Problem(code=code, id="p", text="t", who=who))
    reply = await served.post()
    assert reply.status == status
    assert {"p", who.value} <= reply.ids
    assert reply.headers["X-Refused-By"] == who.value


async def test_refusal_without_an_outcome_says_who_refused(served):
    served.host.answer = answer(
        AnswerKind.REFUSED, status=422, problem=Problem(code="processing", id="p", text="t", who=Who.RECEIVER)
    )
    reply = await served.post()
    assert reply.status == 422
    assert {"p", "receiver"} <= reply.ids


async def test_end_of_the_wait_is_202_and_says_not_to_resend(served):
    served.host.answer = answer(AnswerKind.KEPT)
    reply = await served.post()
    assert reply.status == 202
    assert reply.headers["Content-Location"] == STATUS_URL
    assert "do not resend" in reply.issue["details"]["text"]


@pytest.mark.parametrize(("left", "id"), [(False, "withdrawn"), (True, "withdrawn-after-leaving")])
async def test_withdrawn_is_504_and_says_whether_it_had_left(served, left, id):
    served.host.answer = answer(AnswerKind.WITHDRAWN, left=left)
    reply = await served.post()
    assert reply.status == 504
    assert id in reply.ids


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (MessageInvalid("not JSON"), 400),
        (MessageInvalid("not a message", code="invariant"), 422),
        (NoRoute("unknown"), 404),
        (Conflict("other bytes"), 409),
    ],
)
async def test_refusal_at_the_door(served, refusal, status):
    served.host.answer = refusal
    reply = await served.post()
    assert reply.status == status
    assert reply.issue["details"]["text"] == str(refusal)


async def test_busy_says_when_to_come_again(served):
    served.host.answer = Busy("full", retry_after=6.6)
    reply = await served.post()
    assert reply.status in (429, 503)
    assert reply.headers["Retry-After"] == "7"
    assert reply.issue["code"] == "throttled"


@pytest.mark.parametrize(
    ("path", "headers", "content_type", "root"),
    [
        ("", {"Accept": "application/fhir+xml"}, "application/fhir+xml", b"<OperationOutcome"),
        ("?_format=xml", {"Accept": "application/fhir+json"}, "application/fhir+xml", b"<OperationOutcome"),
        ("", {"Content-Type": "application/fhir+xml"}, "application/fhir+xml", b"<OperationOutcome"),
        ("", {"Content-Type": "text/xml", "Accept": "*/*"}, "application/fhir+xml", b"<OperationOutcome"),
        ("", {"Content-Type": "application/fhir+xml", "Accept": "application/json"}, "application/fhir+json", b"{"),
    ],
)
async def test_receipt_is_in_the_format_of_the_caller(served, path, headers, content_type, root):
    """X-61, M-51."""
    reply = await served.post("/fhir/$process-message" + path, headers=headers)
    assert reply.status == 202
    assert reply.headers["Content-Type"] == content_type
    assert root in reply.body


async def test_pinned_release_is_named_in_the_answer(served):
    reply = await served.post("/fhir/R5/$process-message")
    assert reply.headers["Content-Type"] == "application/fhir+json; fhirVersion=5.0"


# --- POST /Bundle ---


async def test_published_bundle_is_created(served):
    reply = await served.post("/fhir/Bundle?async=nonsense")
    assert reply.status == 201
    assert reply.headers["Location"] == f"http://broker.example/fhir/Bundle/{MESSAGE_ID}"
    assert reply.issue["code"] == "informational"
    assert served.host.arrivals[0].asked == Asked(asynchronous=True)


@pytest.mark.parametrize(("shape", "body"), [("minimal", b""), ("representation", MESSAGE)])
async def test_published_bundle_comes_back_as_preferred(served, shape, body):
    reply = await served.post("/fhir/R4/Bundle", headers={"Prefer": f"return={shape}"})
    assert (reply.status, reply.body) == (201, body)
    assert reply.headers["Location"].endswith(MESSAGE_ID)
    assert reply.headers["Preference-Applied"] == f"return={shape}"


async def test_published_bundle_that_is_no_message_is_422(served):
    served.host.answer = MessageInvalid("Bundle.type is collection", code="invariant", expression="Bundle.type")
    assert (await served.post("/fhir/Bundle")).status == 422


# --- life ---


async def test_caller_that_hangs_up_ends_the_wait(served):
    waiting, ended = asyncio.Event(), asyncio.Event()

    async def wait(arrival):
        waiting.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.set()
            raise

    served.host.answer = wait
    task = asyncio.create_task(served.post())
    await asyncio.wait_for(waiting.wait(), 5)
    task.cancel()
    await asyncio.wait_for(ended.wait(), 5)


async def test_stopped_receiver_takes_nothing_and_says_later(served):
    await served.receiver.stop()
    reply = await served.post()
    assert reply.status == 503
    assert int(reply.headers["Retry-After"]) > 0
    assert served.host.arrivals == []


async def test_requests_on_one_connection_may_be_many(served):
    one = HEAD + b"Content-Length: 2\r\n"
    answers = await served.raw((one + b"\r\n{}") * 20 + one + b"Connection: close\r\n\r\n{}")
    assert answers.count(b"HTTP/1.1 202 ") == 21


@pytest.mark.parametrize(
    ("proxies", "forwarded", "seen"),
    [
        ((), "203.0.113.9", "127.0.0.1:"),
        (("127.0.0.0/8",), "203.0.113.9", "203.0.113.9"),
        (("127.0.0.0/8",), "6.6.6.6, 203.0.113.9", "203.0.113.9"),
        (("127.0.0.0/8", "10.0.0.0/8"), "203.0.113.9, 10.0.0.1", "203.0.113.9"),
        (("127.0.0.0/8",), "nonsense", "127.0.0.1"),
        (("10.0.0.0/8",), "203.0.113.9", "127.0.0.1:"),
    ],
)
async def test_forwarded_address_is_believed_from_our_proxies_only(serve, proxies, forwarded, seen):
    async with serve(ScriptedHost(), HttpSettings(behind_proxy=proxies)) as served:
        await served.post(headers={"X-Forwarded-For": forwarded})
        assert served.host.arrivals[0].peer.address.startswith(seen)


# --- the manifest ---


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        ("https://EHR.Example/fhir/$process-message", "https://ehr.example:443"),
        ("http://ehr.example:8080", "http://ehr.example:8080"),
        ("HTTP://ehr.example?x=1", "http://ehr.example:80"),
        ("http://[::1]:9/x", "http://[::1]:9"),
        ("https://bücher.example/", "https://xn--bcher-kva.example:443"),
    ],
)
def test_peer_of_an_address(address, peer):
    assert CHANNEL.peer_of(address) == peer


@pytest.mark.parametrize(
    "address", ["", "ehr.example", "amqp://x", "https:///x", "https://u@x/", "https://x:abc/", "https://x y/"]
)
def test_address_that_has_no_peer(address):
    with pytest.raises(ValueError):
        CHANNEL.peer_of(address)


def test_manifest_is_that_of_its_folder():
    assert CHANNEL.name == "http"
    assert CHANNEL.schemes == ("http", "https")


@pytest.mark.parametrize("bad", [{"behind_proxy": ("10.0.0.1/8",)}, {"behind_proxy": ("x",)}, {"user_agent": "a\nb"}])
def test_settings_that_cannot_be_meant(bad):
    with pytest.raises(ValueError):
        HttpSettings(**bad)


async def test_large_body_without_room_is_refused_before_it_is_sent(served):
    """The client waits with its body (RFC 9110, section 10.1.1), and hears 503 instead of 100."""
    served.host.room.refuses = Busy("no room", retry_after=3)
    head = (
        b"POST /fhir/$process-message HTTP/1.1\r\nHost: x\r\nContent-Type: application/fhir+json\r\n"
        b"Expect: 100-continue\r\nContent-Length: 900000\r\nConnection: close\r\n\r\n"
    )
    said = await served.raw(head)
    assert said.startswith(b"HTTP/1.1 503")
    assert b"Retry-After: 3" in said
    assert served.host.arrivals == []


@pytest.mark.parametrize("most", [100_000, 1 << 60])
async def test_room_of_a_body_in_pieces_is_given_back_however_it_ends(served, most):
    room = served.host.room
    room.most = most

    async def pieces():
        for _ in range(8):
            yield b" " * 50_000

    reply = await served.post(data=pieces())
    assert reply.status == (503 if most == 100_000 else 202)
    assert [arrival.hold is not None for arrival in served.host.arrivals] == ([] if most == 100_000 else [True])
    assert room.held == 0
