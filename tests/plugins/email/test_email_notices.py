"""What servers report of mails that we sent, and mails that nobody may answer (A-40, A-41)."""

from __future__ import annotations

import pytest
from email_desk import MESSAGE_ID, OURS, Served, attachment
from email_notices import ADDRESS, NAMED, notification

from broker.channel import Late, LateReport
from broker.core.outcome import StoreUnavailable
from plugins.email.address import message_id_of, read_message_id

READ_RECEIPT = (
    b"Content-Type: multipart/report; report-type=disposition-notification; boundary=b\r\n\r\n--b\r\n"
    b"Content-Type: message/disposition-notification\r\n\r\nDisposition: manual; displayed\r\n\r\n--b--\r\n"
)


async def test_a_failure_is_reported_with_its_reason(served: Served) -> None:
    assert await served.send(notification(), sender="") == "250 2.0.0 noted"
    [report] = served.host.reports
    note = "failed 5.1.1; smtp; 550 5.1.1 <lab@south.example>: no such user here"
    assert (report.message_id, report.address, report.what) == (MESSAGE_ID, ADDRESS, Late.FAILED)
    assert report.note == note
    assert report.problem is not None
    assert report.problem.code == "not-found"
    assert served.host.arrivals == []


@pytest.mark.parametrize(
    ("action", "status", "what"),
    [
        ("delayed", "4.4.1", Late.DELAYED),
        ("delivered", "2.0.0", Late.DELIVERED),
        ("relayed", "2.0.0", Late.DELIVERED),
        ("expanded (to a list)", "2.0.0", Late.DELIVERED),
    ],
)
async def test_what_is_no_failure_is_a_note(served: Served, action: str, status: str, what: Late) -> None:
    assert (await served.send(notification(action=action, status=status), sender="")).startswith("250 2.0.0 noted")
    [report] = served.host.reports
    assert (report.what, report.problem) == (what, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"envid": "", "final": "alias@elsewhere.example", "original": "x@y.example"},  # by the Message-ID alone
        {"named": "<another@north.example>"},  # by the ENVID, and the recipient that we named
        {"named": "", "final": "alias@elsewhere.example"},
        {"envid": "QQ314159"},
        {"named": NAMED.replace("+", "\r\n +", 1)},
    ],
)
async def test_a_report_is_known_by_envelope_id_or_message_id(served: Served, changes: dict[str, str]) -> None:
    assert (await served.send(notification(**changes), sender="")).startswith("250")
    assert (served.host.reports[0].message_id, served.host.reports[0].address) == (MESSAGE_ID, ADDRESS)


async def test_an_address_that_no_message_id_can_hold_is_told_by_the_recipient(served: Served) -> None:
    strange = "mailto:blå@south.example"
    named = message_id_of(MESSAGE_ID, strange, "north.example")
    found = read_message_id(named)
    assert found is not None
    assert found.matches(strange)
    assert not found.matches(ADDRESS)
    mail = notification(named=named, original="bl+C3+A5@south.example", final="other@south.example")
    assert (await served.send(mail, sender="")).startswith("250")
    assert [report.address for report in served.host.reports] == [strange]


async def test_a_report_about_nothing_of_ours_is_taken_and_never_answered(served: Served) -> None:
    served.host.knows = False
    for mail in (
        notification(),
        notification(envid="", named="<x@y.example>"),
        notification(action="nonsense"),
        notification().replace(b"message/delivery-status", b"text/plain"),
    ):
        assert (await served.send(mail, sender="")).startswith("250 2.0.0 not kept")


async def test_a_second_address_is_tried_where_the_first_is_unknown(served: Served) -> None:
    def knows(report: LateReport) -> bool:
        return report.address == ADDRESS

    served.host.knows = knows
    mail = notification(named="", original="forwarded@x.example", final="lab@south.example")
    assert await served.send(mail, sender="") == "250 2.0.0 noted"


async def test_a_report_that_cannot_be_kept_comes_again(served: Served) -> None:
    served.host.knows = StoreUnavailable("the report cannot be kept now")
    assert (await served.send(notification(), sender="")).startswith("452 4.3.1")


async def test_a_report_that_does_not_come_from_nobody_is_refused(served: Served) -> None:
    assert (await served.send(notification(), sender="lab@south.example")).startswith("550 5.7.1")
    assert served.host.reports == []


async def test_a_report_that_cannot_be_read_is_refused_and_ends_there(served: Served) -> None:
    """The server that sent it may not answer either: it came from <>."""
    torn = notification()[:-60]
    assert (await served.send(torn, sender="")).startswith("550 5.6.0")


@pytest.mark.parametrize(
    ("mail", "sender"),
    [
        (b"Auto-Submitted: auto-replied (vacation)\r\n\r\nI am away.\r\n", "lab@south.example"),
        (b"Subject: I am away\r\n\r\nuntil Monday\r\n", ""),
        (READ_RECEIPT, "lab@south.example"),
    ],
)  # fmt: skip
async def test_an_automatic_answer_is_taken_and_thrown_away(served: Served, mail: bytes, sender: str) -> None:
    assert (await served.send(mail, sender=sender)).startswith("250 2.0.0 not kept")
    assert served.host.arrivals == []
    assert served.host.reports == []


async def test_a_broker_whose_attachment_was_taken_away_hears_of_it(served: Served) -> None:
    """It writes auto-generated: a filter on the way must not make a message vanish without a word."""
    mail = b"Auto-Submitted: auto-generated\r\n\r\nThe attachment was removed.\r\n"
    assert (await served.send(mail)).startswith("550 5.6.0")


async def test_a_message_from_nobody_is_a_message(served: Served) -> None:
    assert (await served.send(attachment(), sender="")).startswith("250 2.0.0 accepted")


async def test_a_message_that_comes_back_within_a_report_is_not_taken_for_a_new_one(served: Served) -> None:
    whole = attachment().replace(b"=b=", b"=inner=").replace(b"<m1@b.example>", NAMED.encode())
    headers = b"Content-Type: text/rfc822-headers\r\n\r\nFrom: fhir@north.example\r\nMessage-ID: " + NAMED.encode()
    mail = notification(envid="").replace(headers, b"Content-Type: message/rfc822\r\n\r\n" + whole)
    assert whole in mail
    assert await served.send(mail, sender="", to=(OURS,)) == "250 2.0.0 noted"
    assert served.host.arrivals == []
