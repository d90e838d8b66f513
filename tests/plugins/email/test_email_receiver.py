"""What comes in by SMTP and LMTP, and what is said to it: protocol, limits, refusals."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import pytest
from email_desk import MESSAGE, MESSAGE_ID, OURS, ScriptedHost, Served, attachment, serving, stuffed

from broker.core.cloudevent import write_event
from broker.core.envelope import Envelope
from broker.core.outcome import (
    Busy,
    Conflict,
    Expired,
    LoopDetected,
    MessageInvalid,
    NoRoute,
    NotAllowed,
    NotKnownYet,
    Refusal,
    RefusedByRule,
    StoreUnavailable,
    TooLarge,
    Unsupported,
)
from plugins.email import session
from plugins.email.receiver import MARGIN

NOTHING_BUT_MULTIPARTS = (
    b"Content-Type: multipart/mixed; boundary=a\r\n\r\n"
    + b"--a\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b--\r\n" * 120
    + b"--a--\r\n"
)


async def test_a_mail_with_a_message_is_an_arrival_and_its_id_is_the_answer(served: Served) -> None:
    mail = attachment(type="application/fhir+json; fhirVersion=4.0", fields="X-Clinic: north\r\n")
    assert await served.send(mail, to=("FHIR@North.example",)) == f"250 2.0.0 accepted as {MESSAGE_ID}"
    [arrival] = served.host.arrivals
    assert (arrival.channel, arrival.body) == ("email", MESSAGE)
    assert arrival.media_type == "application/fhir+json; fhirVersion=4.0"
    assert arrival.reference == "<m1@b.example>"
    assert arrival.way_in == "FHIR"
    assert arrival.asked.asynchronous
    assert ("x-clinic", "north") in arrival.headers
    assert arrival.peer.address.startswith("127.0.0.1:")
    assert served.host.room.held == 0


async def test_a_mail_that_is_nothing_but_the_message_comes_in_too(served: Served) -> None:
    mail = b"Content-Type: application/fhir+json\r\n\r\n" + MESSAGE + b"\r\n"
    assert (await served.send(mail)).startswith("250 ")
    assert served.host.arrivals[0].body == MESSAGE + b"\r\n"  # the line's end is the mail's own: docs/email.md


@pytest.mark.parametrize(
    ("encoding", "written", "read"),
    [
        (
            "base64",
            base64.encodebytes(b"\xef\xbb\xbf{\r\n\n\r\x00}").replace(b"\n", b"\r\n"),
            b"\xef\xbb\xbf{\r\n\n\r\x00}",
        ),
        ("quoted-printable", b"{=22a=22:=\r\n 1}", b'{"a": 1}'),
        ("8bit", "{\r\n.dot\r\n..two\r\næ}".encode(), "{\r\n.dot\r\n..two\r\næ}".encode()),
        ("7bit", b"{}", b"{}"),
    ],
)
async def test_the_bytes_are_those_that_were_encoded(
    served: Served, encoding: str, written: bytes, read: bytes
) -> None:
    mail = (
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: application/fhir+json\r\n"
        b"Content-Transfer-Encoding: %s\r\n\r\n" % encoding.encode() + written + b"\r\n--b--\r\n"
    )
    assert (await served.send(mail)).startswith("250 ")
    assert served.host.arrivals[0].body == read


@pytest.mark.parametrize(
    ("type", "name", "media_type"),
    [
        ("application/octet-stream", "m.JSON", "application/fhir+json"),
        ("application/octet-stream", "m.xml", "application/fhir+xml"),
        ("application/json", "", "application/json"),
        ("text/xml; charset=utf-8", "whatever", "text/xml; charset=utf-8"),
        ("application/fhir+xml; fhirVersion=5.0", "", "application/fhir+xml; fhirVersion=5.0"),
    ],
)
async def test_a_message_is_known_by_its_type_or_its_name(
    served: Served, type: str, name: str, media_type: str
) -> None:
    body = b'<Bundle xmlns="http://hl7.org/fhir"/>' if "xml" in media_type else MESSAGE
    assert (await served.send(attachment(body, type=type, name=name))).startswith("250 ")
    assert served.host.arrivals[0].media_type == media_type


async def test_an_event_in_structured_mode_is_its_data_and_its_envelope(served: Served) -> None:
    """C-19…C-22; the fields of the mail say nothing beside it."""
    envelope = Envelope(id="e-1", source="urn:oid:1.2.3", type="org.example.x", priority=3, via=("urn:oid:7",))
    body = b"\xef\xbb\xbf" + MESSAGE + b"\r\n"
    event = write_event(envelope, body, "application/fhir+json; fhirVersion=4.0")
    mail = attachment(event, type="application/cloudevents+json", name="event.json", fields="CE-priority: 9\r\n")
    assert (await served.send(mail)).startswith("250 ")
    [arrival] = served.host.arrivals
    assert (arrival.body, arrival.envelope) == (body, envelope)
    assert arrival.media_type == "application/fhir+json; fhirVersion=4.0"
    broken = attachment(b'{"specversion":"1.0"}', type="application/cloudevents+json")
    assert (await served.send(broken)).startswith("550 5.6.0")


@pytest.mark.parametrize(
    ("mail", "answer", "id"),
    [
        (b"Subject: hello\r\n\r\nDear broker\r\n", "550 5.6.0", "no-message-in-mail"),
        (attachment(b'{"a":1}', type="application/json"), "550 5.6.0", "no-message-in-mail"),
        (attachment(b"%PDF", type="application/pdf", name="letter.pdf"), "550 5.6.0", "no-message-in-mail"),
        (
            attachment().replace(b"Content-Type: text/plain\r\n", b"Content-Type: application/fhir+json\r\n"),
            "550 5.6.0",
            "several-messages-in-mail",
        ),
        (attachment().replace(b"--=b=--", b""), "550 5.6.0", "damaged-mail"),
        (attachment().replace(b"\r\n--=b=--", b"\r\nSent from my phone\r\n--=b=--"), "550 5.6.0", "damaged-mail"),
        (attachment().replace(b"base64", b"x-uuencode"), "554 5.6.1", "unsupported-transfer-encoding"),
        (attachment(fields="CE-priority: high\r\n"), "550 5.6.0", "bad-envelope"),
        (attachment(fields="CE-id: a\r\nce-ID: b\r\n"), "550 5.6.0", "bad-envelope"),
        (attachment(fields="CE-via: %FF\r\n"), "550 5.6.0", "bad-envelope"),
        (attachment(fields="Received: x\r\n" * 60), "554 5.4.6", "loop"),
        (attachment(fields=f"X-Long: {'x' * 70_000}\r\n"), "550 5.6.0", "damaged-mail"),
        (b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(20)),
         "550 5.6.0", "damaged-mail"),
        (b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\nx\r\n" * 200 + b"--b--", "550 5.6.0",
         "damaged-mail"),
        (NOTHING_BUT_MULTIPARTS, "550 5.6.0", "damaged-mail"),
        (b"Content-Type: multipart/mixed\r\n\r\n--\r\n\r\n", "550 5.6.0", "damaged-mail"),
        (b"", "550 5.6.0", "no-message-in-mail"),
        (attachment().replace(b"\r\n", b"\n"), "550 5.6.0", "damaged-mail"),
    ],
)  # fmt: skip
async def test_a_mail_without_one_readable_message_is_refused_for_good(
    served: Served, mail: bytes, answer: str, id: str
) -> None:
    said = await served.send(mail)
    assert said.startswith(answer), said
    assert said.endswith(f"[{id}]")
    assert served.host.arrivals == []
    assert served.host.room.held == 0


@pytest.mark.parametrize(
    ("refusal", "answer"),
    [
        (NoRoute("x"), "550 5.1.1"),
        (NotKnownYet("x"), "451 4.3.0"),
        (Refusal("x", code="not-found", id="no-usable-address"), "550 5.4.4"),
        (LoopDetected("x"), "554 5.4.6"),
        (LoopDetected("x", id="too-many-hops"), "554 5.4.6"),
        (TooLarge("x"), "552 5.3.4"),
        (Unsupported("x"), "554 5.6.1"),
        (NotAllowed("x"), "550 5.7.1"),
        (RefusedByRule("x"), "550 5.7.1"),
        (MessageInvalid("x"), "550 5.6.0"),
        (Conflict("x"), "554 5.5.0"),
        (Expired("x"), "554 5.4.7"),
        (Busy("x"), "451 4.4.5"),
        (StoreUnavailable("x"), "452 4.3.1"),
        (Refusal("x", code="transient", id="digest-mismatch"), "554 5.6.0"),
        (Refusal("two\r\nlines, æ and " + "x" * 600), "554 5.5.0 two lines, and xxx"),
    ],
)
async def test_each_refusal_has_its_status(served: Served, refusal: Refusal, answer: str) -> None:
    """A-43."""
    served.host.answer = refusal
    said = await served.send(attachment())
    assert said.startswith(answer)
    assert said.isascii()
    assert len(said) < 510
    assert "\n" not in said


async def test_a_bug_of_ours_is_a_later_that_tells_nothing(served: Served) -> None:
    served.host.answer = RuntimeError("secret")
    assert await served.send(attachment()) == "451 4.3.0 the broker failed; send the mail again later"


@pytest.mark.parametrize(
    "recipient", ["else@north.example", "fhir@elsewhere.example", "a%b@north.example", "postmaster"]
)
async def test_it_is_no_relay(served: Served, recipient: str) -> None:
    assert (await served.send(attachment(), to=(recipient,))).startswith("550 5.1.1")
    assert served.host.arrivals == []


async def test_recipients_are_addresses_or_all_of_a_domain_and_reports_come_to_our_own() -> None:
    async with serving(recipients=("lab@x.example", "*@in.north.example")) as served:
        for one in ("Lab@x.example", "ward-7@IN.north.example", OURS):
            assert (await served.send(attachment(), to=(one,))).startswith("250 "), one
        assert [arrival.way_in for arrival in served.host.arrivals] == ["Lab", "ward-7", "fhir"]
        for one in ("other@x.example", "a@sub.in.north.example"):
            assert (await served.send(attachment(), to=(one,))).startswith("550 5.1.1"), one


async def test_what_is_offered_is_what_is_spoken(served: Served) -> None:
    client = await served.dial()
    said = await client.say(b"EHLO client.example")
    offered = {line[4:] for line in said.split("\n")[1:]}
    limit = served.host.max_message * 78 // 57 + MARGIN
    assert offered == {f"SIZE {limit}", "8BITMIME", "SMTPUTF8", "PIPELINING", "HELP"}
    assert (await client.say(b"AUTH PLAIN AGEAYg==")).startswith("502")
    assert (await client.say(b"STARTTLS")).startswith("503")
    assert (await client.say("MAIL FROM:<blåbær@b.example> SMTPUTF8 BODY=8BITMIME".encode())).startswith("250")
    assert (await client.say(f"RCPT TO:<{OURS}> NOTIFY=NEVER".encode())).startswith("555")
    assert (await client.say(f"RCPT TO:<@relay.example:{OURS}>".encode())).startswith("250")
    assert (await client.say(b"QUIT")).startswith("221")
    client.close()


async def test_commands_and_mails_may_come_in_one_piece(served: Served) -> None:
    """PIPELINING: what follows the dot is the next command."""
    client = await served.dial()
    once = f"MAIL FROM:<a@b.example>\r\nRCPT TO:<{OURS}>\r\nDATA\r\n".encode() + stuffed(attachment())
    client.write(b"EHLO client.example\r\n" + once + once + b"QUIT\r\n")
    answers = [await client.answer() for _ in range(10)]
    assert [answer[:3] for answer in answers] == ["250", *["250", "250", "354", "250"] * 2, "221"]
    assert len(served.host.arrivals) == 2
    client.close()


async def test_a_dot_of_bare_line_feeds_ends_no_mail(served: Served) -> None:
    """What ends a mail for one server and not for the next smuggles a second one in."""
    hidden = b"\n.\nMAIL FROM:<evil@x.example>\nRCPT TO:<fhir@north.example>\nDATA\n"
    mail = attachment().replace(b"See the attachment.", b"x" + hidden + b"\n.\r\n" + hidden + b"\r.\r")
    assert (await served.send(mail)).startswith("250 ")
    assert len(served.host.arrivals) == 1


async def test_a_mail_may_come_octet_by_octet_and_its_end_in_pieces(served: Served) -> None:
    client = await served.dial()
    assert (await client.begin()).startswith("354")
    for octet in stuffed(b"Content-Type: application/fhir+json\r\n\r\n" + MESSAGE[:40]):
        client.write(bytes([octet]))
        await client.writer.drain()
        await asyncio.sleep(0)
    assert (await client.answer()).startswith("250 ")
    assert served.host.arrivals[0].body == MESSAGE[:40] + b"\r\n"
    client.close()


async def test_an_empty_mail_ends_with_its_first_line(served: Served) -> None:
    client = await served.dial()
    assert (await client.begin()).startswith("354")
    client.write(b".\r\n")
    assert (await client.answer()).startswith("550 5.6.0")
    assert (await client.say(b"NOOP")).startswith("250")
    client.close()


async def test_lmtp_answers_for_each_recipient() -> None:
    async with serving(lmtp="127.0.0.1:0", recipients=("*@north.example",)) as served:
        client = await served.dial(served.lmtp)
        assert (await client.say(b"EHLO client.example")).startswith("500")
        to = ("one@north.example", "two@north.example")
        assert (await client.send(attachment(), to=to, hello="LHLO")).startswith("250 2.0.0 accepted")
        assert (await client.answer()).startswith("250 2.0.0 accepted")
        assert len(served.host.arrivals) == 1
        assert served.host.arrivals[0].way_in == "one"
        client.close()


async def test_a_unix_socket_listens_too(tmp_path: Path) -> None:
    path = tmp_path / "lmtp.sock"
    async with serving(lmtp=f"unix:{path}") as served:
        reader, writer = await asyncio.open_unix_connection(str(path))
        assert (await reader.readline()).startswith(b"220 ")
        writer.close()
    async with serving(lmtp=f"unix:{path}"):  # what the first one left is no hindrance
        assert path.is_socket()
    assert served.receiver.open is False


# --- limits ----------------------------------------------------------------------------------------------------------


async def test_a_mail_that_is_too_large_is_refused_before_it_comes(served: Served) -> None:
    client = await served.dial()
    await client.say(b"EHLO client.example")
    assert (await client.say(b"MAIL FROM:<a@b.example> SIZE=99999999")).startswith("552")
    client.close()


async def test_a_mail_that_is_too_large_after_all_is_refused_at_its_end_and_holds_nothing() -> None:
    async with serving(ScriptedHost(max_message=10_000)) as served:
        client = await served.dial()
        await client.begin()
        client.write(stuffed(b"x" * 76 + b"\r\n" + b"y" * served.receiver.longest))
        assert (await client.answer()).startswith("552 5.3.4")
        assert served.host.room.held == 0
        assert served.host.room.peak <= served.receiver.longest + 2 * session.PIECE
        assert (await client.send(attachment())).startswith("250 ")  # the connection is as good as new
        client.close()


async def test_a_mail_without_an_end_is_cut_off() -> None:
    async with serving(ScriptedHost(max_message=10_000)) as served:
        client = await served.dial()
        await client.begin()
        client.write(b"z" * (4 * served.receiver.longest))
        assert (await client.answer()).startswith("552 5.3.4")
        assert await client.answer() == ""
        client.close()


async def test_no_room_is_said_before_the_mail_and_while_it_comes(served: Served) -> None:
    room = served.host.room
    room.refuses = Busy("no room")
    client = await served.dial()
    await client.say(b"EHLO client.example")
    assert (await client.say(b"MAIL FROM:<a@b.example> SIZE=1000")).startswith("451 4.4.5")
    room.refuses = None
    assert (await client.say(b"MAIL FROM:<a@b.example>")).startswith("250")
    await client.say(f"RCPT TO:<{OURS}>".encode())
    room.refuses = StoreUnavailable("the disk is full")
    assert (await client.say(b"DATA")).startswith("452 4.3.1 the disk is full")
    room.refuses, room.most = None, 100
    assert (await client.send(attachment())).startswith("451 4.4.5")
    assert room.held == 0
    assert served.host.arrivals == []
    client.close()


async def test_connections_beyond_the_limit_hear_why() -> None:
    async with serving(connections=2) as served:
        first, second = await served.dial(), await served.dial()
        third_reader, third_writer = await asyncio.open_connection("127.0.0.1", served.port)
        assert (await third_reader.read()).startswith(b"421 4.3.2 too many connections")
        third_writer.close()
        first.close()
        await asyncio.sleep(0.05)
        fourth = await served.dial()
        assert (await fourth.say(b"NOOP")).startswith("250")
        second.close()
        fourth.close()


async def test_who_says_nothing_or_sends_drop_by_drop_is_parted_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "IDLE", 0.2)
    monkeypatch.setattr(session, "IDLE_WHEN_FULL", 0.2)
    monkeypatch.setattr(session, "SLOW", 0.2)
    async with serving() as served:
        silent, slow = await served.dial(), await served.dial()
        await slow.begin()
        slow.write(b"Subject: ")
        assert (await silent.answer()).startswith("421 4.4.2")
        assert (await slow.answer()).startswith("421 4.4.2 the mail did not come in time")
        assert served.host.room.held == 0
        silent.close()
        slow.close()


async def test_nonsense_is_answered_and_ends_soon(served: Served) -> None:
    client = await served.dial()
    for line in (b"\xff\xfe", b"", b"x" * 5000, b"HELO", b"MAIL FROM:<a@b>", b"RCPT TO:<a>", b"DATA", b"VRFY \xff"):
        assert (await client.say(line))[:1] in "25", line
    await client.say(b"EHLO x")
    for line in (b"MAIL FROM:", b"MAIL FROM:<a b@c>", b'MAIL FROM:<"', b"MAIL FROM:<\xff@b>", b"MAIL FROM:<a@b> SIZE=x",
                 b"MAIL FROM:<" + b"a" * 400 + b"@b>", b"MAIL FROM:<a@b> AUTH=<>"):  # fmt: skip
        assert (await client.say(line))[:1] == "5", line
    answers = [await client.say(b"GET / HTTP/1.1") for _ in range(5)]
    assert "goodbye" in answers[-1]
    assert await client.answer() == ""
    client.close()


async def test_a_stop_lets_a_mail_under_way_end_and_parts_from_the_others() -> None:
    came, gate = asyncio.Event(), asyncio.Event()

    async def slowly(_: object) -> None:
        came.set()
        await gate.wait()

    host = ScriptedHost(answer=slowly)
    async with serving(host) as served:
        idle, busy = await served.dial(), await served.dial()
        sending = asyncio.create_task(busy.send(attachment()))
        await came.wait()
        stopping = asyncio.create_task(served.receiver.stop())
        assert (await idle.answer()).startswith("421 4.3.2")
        gate.set()
        assert (await sending).startswith("250 2.0.0 accepted")
        assert (await busy.answer()).startswith("421 4.3.2")
        await stopping
        idle.close()
        busy.close()
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", served.port)
