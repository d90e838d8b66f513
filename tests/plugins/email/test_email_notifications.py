"""Notifications as mails for people (S-45): in the subscriber's own form, with nothing of ours around it."""

from __future__ import annotations

import email
import email.policy
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import Any

import pytest
from email_desk import MESSAGE, MESSAGE_ID, ScriptedHost, serving, transmission
from email_notices import notification
from test_email_sender import scripted, sending

from broker.channel import Delivered, Late, Manner, Refused
from broker.core.envelope import Envelope
from plugins.email.compose import compose

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
WORDS = "Something happened that you have subscribed to.\r\n.\r\nBlåbær " + "x" * 2000 + "\r\n"
PARTS = (
    b"--=1\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<p>.</p>\r\n.\r\n"
    b"--=1\r\nContent-Type: application/fhir+json\r\nContent-Transfer-Encoding: base64\r\n"
    b'Content-Disposition: attachment; filename="notification.json"\r\n\r\ne30=\r\n--=1--\r\n'
)


def told(media_type: str, body: bytes, *, subject: str = "Subscription 7: event-notification 3", **more: Any) -> Any:
    manner = Manner(subject=subject)
    envelope = Envelope(id="n-1", source="urn:x", type="t", via=("urn:oid:1",))
    return transmission(media_type=media_type, body=body, manner=manner, envelope=envelope, **more)


def parsed(mail: bytes) -> EmailMessage:
    """As the receiver of the SMTP session has it: without the dots that the protocol doubles."""
    found = email.message_from_bytes(mail.replace(b"\r\n..", b"\r\n."), policy=email.policy.SMTP)
    assert isinstance(found, EmailMessage)
    return found


def written(media_type: str, body: bytes, **more: Any) -> EmailMessage:
    return parsed(compose(told(media_type, body, **more), sender="fhir@north.example", at=AT))


@pytest.mark.parametrize("media_type", ["text/plain", "text/html; charset=utf-8", "TEXT/PLAIN"])
def test_a_text_is_the_whole_mail(media_type: str) -> None:
    mail = written(media_type, WORDS.encode())
    assert mail.get_content_type() == media_type.lower().partition(";")[0]
    assert mail.get_payload(decode=True) == WORDS.encode()
    assert mail.get_content_charset() == "utf-8"
    assert not mail.is_multipart()
    assert mail["Subject"] == "Subscription 7: event-notification 3"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["Message-ID"] == f"<{MESSAGE_ID}+lab=south.example@north.example>"
    assert [name for name in mail if name.lower().startswith("ce-")] == []


def test_parts_are_the_subscribers_and_no_others() -> None:
    mail = written('multipart/mixed; boundary="=1"', PARTS)
    words, attachment = mail.iter_parts()
    assert words.get_content().splitlines() == ["<p>.</p>", "."]
    assert attachment.get_filename() == "notification.json"
    assert attachment.get_payload(decode=True) == b"{}"


@pytest.mark.parametrize(
    "body", [PARTS, PARTS.replace(b"\r\n", b"\n"), PARTS.rstrip(), PARTS.replace(b"<p>", "<p>å".encode())]
)
def test_lines_end_and_dots_are_stuffed_as_the_protocol_wants_it(body: bytes) -> None:
    mail = compose(told('multipart/mixed; boundary="=1"', body), sender="f@n.example", at=AT)
    assert mail.endswith(b"--=1--\r\n")
    assert b"\n" not in mail.replace(b"\r\n", b"")
    assert [line for line in mail.split(b"\r\n") if line.startswith(b".")] == [b".."]
    assert (b"Transfer-Encoding: 8bit" in mail) is not mail.isascii()


@pytest.mark.parametrize(
    ("subject", "shown"),
    [
        ("", "FHIR notification"),
        ("Innleggelse på avdeling å", "Innleggelse på avdeling å"),
        ("one\r\nBcc: x@y.example", "one Bcc: x@y.example"),
        ("long " * 200, ("long " * 60).strip()),
    ],
)
def test_a_subject_is_one_field_whatever_is_in_it(subject: str, shown: str) -> None:
    mail = written("text/plain", b"x", subject=subject)
    assert str(mail["Subject"]) == shown
    assert mail["Bcc"] is None
    assert mail.get_payload(decode=True) == b"x"


def test_each_attempt_is_the_same_mail() -> None:
    """S-33: a retry repeats the bytes."""
    one, two = (compose(told("text/plain", b"x", attempt=n), sender="f@n.example", at=AT) for n in (1, 2))
    assert one == two


def test_what_is_not_for_people_is_attached_as_ever() -> None:
    """A message of text/plain that no subscriber asked for, and a Bundle that one did."""
    for sent in (transmission(media_type="text/plain"), told("application/fhir+json", MESSAGE)):
        mail = parsed(compose(sent, sender="f@n.example", at=AT))
        _, attachment = mail.iter_parts()
        assert attachment.get_payload(decode=True) == MESSAGE


async def test_a_server_takes_it_and_a_report_of_its_failure_finds_it() -> None:
    """A bounce is matched as that of any other mail: what was done is dead, and no mail is written about it."""
    async with scripted(offers=("SIZE 1000000", "DSN", "8BITMIME")) as server, sending(server.port) as sender:
        assert isinstance(await sender.attempt(told("text/plain; charset=utf-8", WORDS.encode())), Delivered)
        assert parsed(server.mails[0]).get_payload(decode=True) == WORDS.encode()
        assert f"ENVID={MESSAGE_ID}" in server.said[1]
        assert "BODY" not in server.said[1]
        eight = PARTS.replace(b"<p>", "<p>å".encode())
        assert isinstance(await sender.attempt(told('multipart/mixed; boundary="=1"', eight)), Delivered)
        assert server.said[4].endswith(" BODY=8BITMIME")
    async with serving() as served:
        answer = await served.send(notification(), sender="", to=("fhir@north.example",))
        assert answer.startswith("250")
        [report] = served.host.reports
        assert (report.message_id, report.what) == (MESSAGE_ID, Late.FAILED)
        assert served.host.arrivals == []


@pytest.mark.parametrize("address", ["mailto:fhir@north.example", "mailto:FHIR@North.example", "mailto:any@in.example"])
async def test_nobody_is_told_by_mail_what_would_come_back_as_a_message(address: str) -> None:
    async with scripted() as server, sending(server.port, recipients=("*@in.example",)) as sender:
        end = await sender.attempt(told("text/plain", b"x", address=address))
        assert isinstance(end, Refused)
        assert "own mailbox" in end.note
        assert isinstance(await sender.attempt(transmission(address)), Delivered)
        assert len(server.mails) == 1


async def test_a_broker_that_is_told_by_mail_takes_the_notification_out_of_it() -> None:
    """The attachment is a message to whoever reads mails as we do."""
    boundary = 'multipart/mixed; boundary="=1"'
    async with serving(ScriptedHost(), recipients=("lab@south.example",)) as served, sending(served.port) as sender:
        assert isinstance(await sender.attempt(told(boundary, PARTS)), Delivered)
        [arrival] = served.host.arrivals
        assert arrival.body == b"{}"
