"""What goes out: the mail itself, and what each answer of a smarthost comes to."""

from __future__ import annotations

import asyncio
import base64
import email
import email.policy
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from email_desk import MESSAGE, MESSAGE_ID, ScriptedHost, serving, settings, transmission

from broker.channel import Deferred, Delivered, Refused
from broker.core.envelope import Envelope
from broker.core.tls import Tls
from plugins.email import CHANNEL, smarthost
from plugins.email.compose import compose
from plugins.email.sender import EmailSender

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FULL = Envelope(
    id="b-1",
    source="urn:oid:1.2.3",
    type="org.example.x",
    time=AT,
    destination=("urn:oid:4.5", "http://x.example/Id|1 2"),
    correlationid='blå æ%41 "q"',
    expirytime=AT,
    via=tuple(f"urn:oid:2.16.578.1.12.4.1.2.{n}" for n in range(40)),
    priority=-3,
    digest="sha-256=" + "A" * 43 + "=",
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    tracestate="a=1,b=2",
    more=(("partnerid", "x y"), ("z" * 60, "long " * 40)),
)


@dataclass
class Script:
    """A smarthost that answers as told: to a command by its first word, to the mail as MAIL_ITSELF."""

    answers: dict[str, Any] = field(default_factory=dict)
    offers: tuple[str, ...] = ("SIZE 1000000", "DSN", "SMTPUTF8")
    said: list[str] = field(default_factory=list)
    mails: list[bytes] = field(default_factory=list)
    connections: int = 0
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self._talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not await self._answer(writer, "GREETING", "220 scripted"):
            return
        while line := await reader.readline():
            text = line.decode().rstrip()
            self.said.append(text)
            word = text.split(" ")[0].upper()
            default = {"EHLO": "250-scripted\r\n" + "".join(f"250-{one}\r\n" for one in self.offers) + "250 OK",
                       "DATA": "354 go on", "QUIT": "221 bye"}.get(word, "250 2.0.0 OK")  # fmt: skip
            if not await self._answer(writer, word, default):
                return
            if word == "DATA" and "DATA" not in self.answers:
                mail = await reader.readuntil(b"\r\n.\r\n")
                self.mails.append(mail[:-3])
                if not await self._answer(writer, "MAIL_ITSELF", "250 2.0.0 queued as 1"):
                    return

    async def _answer(self, writer: asyncio.StreamWriter, what: str, default: str) -> bool:
        answer = self.answers.get(what, default)
        if callable(answer):
            answer = answer()
        if answer is None:
            return False  # the connection ends
        if answer:
            writer.write(f"{answer}\r\n".encode())
        return True


@asynccontextmanager
async def scripted(**script: Any) -> AsyncIterator[Script]:
    one = Script(**script)
    server = await asyncio.start_server(one.serve, "127.0.0.1", one.port)
    one.port = server.sockets[0].getsockname()[1]
    try:
        yield one
    finally:
        server.close()


@asynccontextmanager
async def sending(port: int, **changes: Any) -> AsyncIterator[EmailSender]:
    assert CHANNEL.sender is not None
    sender = EmailSender(settings(**{"smarthost": f"smtp://127.0.0.1:{port}", **changes}), ScriptedHost())
    yield sender
    await sender.stop()
    await asyncio.sleep(0)


# --- the mail --------------------------------------------------------------------------------------------------------


def test_the_mail_is_one_attachment_and_a_line_without_data() -> None:
    """A-36, read by somebody else's parser."""
    sent = transmission(in_reply_to="<asked-1@south.example>", envelope=FULL)
    mail = email.message_from_bytes(compose(sent, sender="fhir@north.example", at=AT), policy=email.policy.SMTP)
    assert mail["From"] == "fhir@north.example"
    assert mail["To"] == "lab@south.example"
    assert mail["Message-ID"] == f"<{MESSAGE_ID}+lab=south.example@north.example>"
    assert mail["In-Reply-To"] == mail["References"] == "<asked-1@south.example>"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["Date"].datetime == AT
    text, attachment = mail.iter_parts()
    assert text.get_content_type() == "text/plain"
    assert "urn:oid" not in text.get_content() + str(mail["Subject"])
    assert attachment.get_content_type() == "application/fhir+json"
    assert attachment["Content-Type"].params["fhirversion"] == "4.0"
    assert attachment.get_filename() == "message.json"
    assert attachment.get_payload(decode=True) == MESSAGE


@pytest.mark.parametrize("body", [b"", b"\xef\xbb\xbf{}\r\n\n.\r\n.\r\nFrom x", bytes(range(256)) * 300, b"\x00" * 57])
def test_no_line_of_a_mail_begins_with_a_dot_or_is_too_long(body: bytes) -> None:
    mail = compose(transmission(body=body, envelope=FULL), sender="fhir@north.example", at=AT)
    assert mail.endswith(b"\r\n")
    lines = mail.split(b"\r\n")
    assert max(map(len, lines)) <= 240
    assert not any(line.startswith(b".") for line in lines)
    assert b"\n" not in b"".join(lines)
    parsed = email.message_from_bytes(mail)
    assert parsed.get_payload()[1].get_payload(decode=True) == body


def test_the_message_id_is_the_same_in_each_attempt_and_another_for_each_address() -> None:
    def of(address: str, attempt: int) -> str:
        mail = compose(transmission(address, attempt=attempt), sender="fhir@north.example", at=AT)
        return str(email.message_from_bytes(mail)["Message-ID"])

    assert of("mailto:a@b.example", 1) == of("mailto:a@b.example", 2) != of("mailto:c@b.example", 1)


@pytest.mark.parametrize(
    "reference", ["m1", "<a@b>\r\nBcc: x@y", "<a b@c>", "<blå@c>", "<😀@c>", "", f"<{'x' * 1000}@y>"]
)
def test_what_is_no_message_id_is_not_written_as_one(reference: str) -> None:
    mail = email.message_from_bytes(compose(transmission(in_reply_to=reference), sender="f@n.example", at=AT))
    assert mail["In-Reply-To"] is None
    assert mail["Bcc"] is None


async def test_every_attribute_and_byte_arrives_as_it_left() -> None:
    """Out by our sender, in by our receiver."""
    body = bytes(range(256)) + b"\r\n.\r\n\r\n..\n" + "æ\u2028".encode()
    async with serving(recipients=("lab@south.example",)) as served, sending(served.port) as sender:
        end = await sender.attempt(transmission(body=body, envelope=FULL))
        assert isinstance(end, Delivered), end
        [arrival] = served.host.arrivals
        assert arrival.envelope == FULL
        assert arrival.body == body
        assert arrival.media_type == "application/fhir+json; fhirVersion=4.0"
        assert arrival.reference == f"<{MESSAGE_ID}+lab=south.example@north.example>"


async def test_a_large_message_goes_through() -> None:
    body = b'{"x":"' + b"\xc3\xa6" * 10 * 2**20 + b'"}'
    async with serving(ScriptedHost(max_message=32 * 2**20), recipients=("lab@south.example",)) as served:
        async with sending(served.port) as sender:
            assert isinstance(await sender.attempt(transmission(body=body)), Delivered)
        assert served.host.arrivals[0].body == body
        assert served.host.room.held == 0


# --- the session -----------------------------------------------------------------------------------------------------


async def test_what_the_server_offers_is_used() -> None:
    async with scripted() as server, sending(server.port) as sender:
        end = await sender.attempt(transmission("mailto:lab%2Bfast@south.example"))
        assert end == Delivered(status=250, note="250 2.0.0 queued as 1")
        size = len(server.mails[0])
        assert server.said == [
            "EHLO north.example",
            f"MAIL FROM:<fhir@north.example> SIZE={size} RET=HDRS ENVID={MESSAGE_ID}",
            "RCPT TO:<lab+fast@south.example> NOTIFY=FAILURE,DELAY ORCPT=rfc822;lab+2Bfast@south.example",
            "DATA",
        ]


async def test_what_it_does_not_offer_is_not() -> None:
    async with scripted(offers=()) as server, sending(server.port) as sender:
        assert isinstance(await sender.attempt(transmission()), Delivered)
        assert server.said[1:3] == ["MAIL FROM:<fhir@north.example>", "RCPT TO:<lab@south.example>"]


async def test_a_connection_is_kept_for_the_next_mail() -> None:
    async with scripted() as server, sending(server.port) as sender:
        for _ in range(3):
            assert isinstance(await sender.attempt(transmission()), Delivered)
        server.answers["RCPT"] = "450 4.2.1 later"
        assert isinstance(await sender.attempt(transmission()), Deferred)
        del server.answers["RCPT"]
        assert isinstance(await sender.attempt(transmission()), Delivered)
        assert server.connections == 1
        assert server.said.count("RSET") == 1


async def test_a_kept_connection_that_has_ended_costs_the_attempt_nothing() -> None:
    async with scripted() as server, sending(server.port) as sender:
        assert isinstance(await sender.attempt(transmission()), Delivered)
        answers: list[str | None] = ["421 4.4.2 idle too long", "250 OK"]
        server.answers["MAIL"] = lambda: answers.pop(0)
        assert isinstance(await sender.attempt(transmission()), Delivered)
        answers[:] = [None, "250 OK"]
        assert isinstance(await sender.attempt(transmission()), Delivered)
        assert server.connections == 3


async def test_idle_connections_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smarthost, "IDLE", 0.05)
    async with scripted() as server, sending(server.port) as sender:
        assert isinstance(await sender.attempt(transmission()), Delivered)
        [line] = sender._lines._kept
        async with asyncio.timeout(10):
            while sender._lines._kept:  # noqa: ASYNC110 - a timer of the loop, which tells nobody
                await asyncio.sleep(0.02)
        assert not line.is_open


@pytest.mark.parametrize(
    ("answers", "kind", "status", "of_peer", "left"),
    [
        ({"GREETING": "554 go away"}, Deferred, None, True, False),
        ({"GREETING": "421 4.3.2 full"}, Deferred, None, True, False),
        ({"GREETING": None}, Deferred, None, True, False),
        ({"EHLO": "550 no"}, Deferred, None, True, False),
        ({"MAIL": "451 4.3.0 no memory"}, Deferred, 451, True, False),
        ({"MAIL": "450 4.1.8 sender unknown now"}, Deferred, 450, False, False),
        ({"MAIL": "530 5.7.0 log in"}, Deferred, 530, True, False),
        ({"MAIL": "552 too big"}, Refused, 552, "too-long", None),
        ({"RCPT": "450 4.2.0 greylisted"}, Deferred, 450, False, False),
        ({"RCPT": "452 4.3.1 disk full"}, Deferred, 452, True, False),
        ({"RCPT": "421 4.3.2 stopping"}, Deferred, 421, True, False),
        ({"RCPT": "550 no such user"}, Refused, 550, "not-found", None),
        ({"RCPT": "550 5.7.1 relaying denied"}, Refused, 550, "forbidden", None),
        ({"RCPT": "550 5.4.6 loop"}, Refused, 550, "business-rule", None),
        ({"RCPT": None}, Deferred, None, True, False),
        ({"DATA": "451 4.3.5 later"}, Deferred, 451, True, False),
        ({"DATA": "554 5.6.1 no attachments"}, Refused, 554, "not-supported", None),
        ({"DATA": None}, Deferred, None, True, False),
        ({"MAIL_ITSELF": "451 4.7.1 spam?"}, Deferred, 451, False, True),
        ({"MAIL_ITSELF": "452 4.3.1 full"}, Deferred, 452, True, True),
        ({"MAIL_ITSELF": "554 5.7.1 virus"}, Refused, 554, "forbidden", None),
        ({"MAIL_ITSELF": "554 no"}, Refused, 554, "processing", None),
        ({"MAIL_ITSELF": "666 what"}, Deferred, 666, True, True),
        ({"MAIL_ITSELF": None}, Deferred, None, True, True),
        ({"MAIL_ITSELF": ""}, Deferred, None, True, True),
        ({"RCPT": "nonsense"}, Deferred, None, True, False),
        ({"RCPT": "550 5.1.1 no such user", "RSET": None}, Refused, 550, "not-found", None),
    ],
)  # fmt: skip
async def test_each_answer_has_its_end(
    answers: dict[str, Any], kind: type, status: int | None, of_peer: bool | str, left: bool | None
) -> None:
    async with scripted(answers=answers) as server, sending(server.port) as sender:
        end = await sender.attempt(transmission(answer=timedelta(seconds=0.5), connect=timedelta(seconds=1)))
        assert type(end) is kind, end
        if not isinstance(end, Deferred):
            assert isinstance(end, Refused)
            assert (end.status, end.problem.code) == (status, of_peer)
            return
        assert (end.of_peer, end.left) == (of_peer, left), end
        assert status is None or end.status == status


async def test_nobody_there_is_the_peers_trouble() -> None:
    async with scripted() as server:
        port = server.port
    async with sending(port) as sender:
        end = await sender.attempt(transmission())
        assert isinstance(end, Deferred)
        assert (end.of_peer, end.left) == (True, False)


async def test_a_mail_larger_than_the_server_takes_is_refused_without_a_word() -> None:
    async with scripted(offers=("SIZE 500",)) as server, sending(server.port) as sender:
        end = await sender.attempt(transmission())
        assert isinstance(end, Refused)
        assert (end.problem.code, end.problem.id) == ("too-long", "too-large")
        assert server.said == ["EHLO north.example"]


async def test_a_recipient_in_other_letters_needs_a_server_that_knows_them() -> None:
    address = "mailto:bl%C3%A5b%C3%A6r@s%C3%B8r.example"
    async with scripted() as server, sending(server.port) as sender:
        assert isinstance(await sender.attempt(transmission(address)), Delivered)
        assert server.said[1].endswith("SMTPUTF8 RET=HDRS ENVID=" + MESSAGE_ID)
        assert server.said[2].startswith("RCPT TO:<blåbær@xn--sr-lka.example>")
    async with scripted(offers=()) as server, sending(server.port) as sender:
        assert isinstance(await sender.attempt(transmission(address)), Refused)


@pytest.mark.parametrize(
    "address",
    ["mailto:a", "mailto:@b", "mailto:a@b?subject=x", "mailto:a@b,c@d", "mailto:a@b%0d%0aRCPT", "mailto:%FF@b",
     "mailto:a b@c", "mailto:<a@b>", "mailto:" + "a" * 65 + "@b", "MAILTO:a@b", "mailto:a@-b",
     "mailto:a@" + "b" * 200 + "!"],
)  # fmt: skip
async def test_an_address_that_is_none_is_refused_and_has_no_lane(address: str) -> None:
    with pytest.raises(ValueError):
        CHANNEL.peer_of(address)
    async with scripted() as server, sending(server.port) as sender:
        end = await sender.attempt(transmission(address))
        assert isinstance(end, Refused)
        assert end.problem.id == "unusable-address"
        assert server.connections == 0


def test_all_addresses_share_the_lane_of_the_smarthost() -> None:
    assert CHANNEL.peer_of("mailto:a@b.example") == CHANNEL.peer_of("mailto:c@d.example") == "mailto:smarthost"


# --- TLS and login ---------------------------------------------------------------------------------------------------


async def test_starttls_is_used_where_it_is_asked_for_and_its_certificate_checked(
    certificate: tuple[str, str],
) -> None:
    cert, key = map(Path, certificate)
    to = {"recipients": ("lab@south.example",), "tls": Tls(cert=cert, key=key), "require_tls": True}
    async with serving(**to) as served:
        async with sending(served.port, starttls="required", smarthost_ca=cert) as sender:
            assert isinstance(await sender.attempt(transmission()), Delivered)
        async with sending(served.port, starttls="required") as sender:
            end = await sender.attempt(transmission())
            assert isinstance(end, Deferred)
            assert (end.of_peer, end.left) == (True, False)
            assert "certificate" in end.note
        async with sending(served.port) as sender:  # auto, on this machine: not asked for
            assert isinstance(await sender.attempt(transmission()), Deferred)


async def test_a_server_without_starttls_gets_nothing_where_it_is_required() -> None:
    async with scripted() as server, sending(server.port, starttls="required") as sender:
        end = await sender.attempt(transmission())
        assert isinstance(end, Deferred)
        assert "no STARTTLS" in end.note
        assert server.said == ["EHLO north.example"]


async def test_a_smtps_smarthost_is_spoken_to_in_tls_from_the_first_byte(certificate: tuple[str, str]) -> None:
    cert, key = certificate
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    script = Script()
    server = await asyncio.start_server(script.serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    async with sending(port, smarthost=f"smtps://localhost:{port}", smarthost_ca=Path(cert)) as sender:
        assert isinstance(await sender.attempt(transmission()), Delivered)
    server.close()


async def test_a_login_goes_first_and_its_refusal_shows_no_password() -> None:
    offers = ("AUTH PLAIN",)
    async with scripted(offers=offers, answers={"AUTH": "235 2.7.0 welcome"}) as server:
        url = f"smtp://me:s%40crEt@127.0.0.1:{server.port}"
        async with sending(server.port, smarthost=url) as sender:
            assert isinstance(await sender.attempt(transmission()), Delivered)
        login = base64.b64encode(b"\0me\0s@crEt").decode()
        assert server.said[:2] == ["EHLO north.example", f"AUTH PLAIN {login}"]
        server.answers["AUTH"] = "535 5.7.8 s@crEt is wrong"
        server.answers["AUTH"] = "535 5.7.8 no"
        async with sending(server.port, smarthost=url) as sender:
            end = await sender.attempt(transmission())
            assert isinstance(end, Deferred)
            assert end.of_peer
            assert "crEt" not in end.note
            assert "crEt" not in repr(settings(smarthost=url))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"from_": "nobody"}, "from: an e-mail address is local@domain"),
        ({"from_": "blå@b.example"}, "from: our own address is written in ASCII"),
        ({"recipients": ("*@",)}, "recipients: "),
        ({"recipients": ("*",)}, "recipients: "),
        ({"smarthost": "http://x"}, "smarthost: smtp://host:port"),
        ({"smarthost": "smtp://x:y"}, "smarthost: the URL cannot be read"),
        ({"smarthost": "smtp://u@x"}, "smarthost: a user comes with a password"),
        ({"smarthost": "smtp://x/path"}, "smarthost: nothing follows the port"),
        ({"smarthost": "smtp://u:p@relay.example", "starttls": "off"}, "starttls: off would send the password"),
        ({"require_tls": True}, "require_tls needs tls"),
        ({"connections": 0}, "connections: at least 1"),
        ({"hostname": "a b"}, "hostname: "),
    ],
)
def test_settings_that_cannot_work_say_why(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match="^" + said.replace("(", r"\(")):
        settings(**changes)
