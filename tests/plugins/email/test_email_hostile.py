"""Any bytes after DATA: 250 or a documented refusal, never a crash, and nothing that stays in memory."""

from __future__ import annotations

import asyncio
import re

from email_desk import Client, ScriptedHost, attachment, serving
from email_notices import notification
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from broker.core.outcome import Refusal
from plugins.email.receiver import _opened
from plugins.email.replies import reply_of

DOCUMENTED = re.compile(
    r"250 2\.0\.0 (?:accepted|noted|not kept)|550 5\.6\.0|554 5\.6\.[01]|554 5\.4\.6|550 5\.7\.1|552 5\.3\.4"
)
LINES = st.sampled_from(
    [
        b"Content-Type: multipart/mixed; boundary=b", b"Content-Type: multipart/report; report-type=delivery-status",
        b'Content-Type: multipart/mixed; boundary="', b"Content-Type: application/fhir+json; fhirVersion=",
        b"Content-Type: application/fhir+xml; name*0*=utf-8''%FF; name*1=x", b"content-type:", b"Content-Type: ;;=;",
        b"Content-Type: application/cloudevents+json",
        b"Content-Transfer-Encoding: base64", b"Content-Transfer-Encoding: quoted-printable",
        b"Content-Transfer-Encoding: \xff", b"Content-Disposition: attachment; filename*=bogus'x'%zz.json",
        b"Content-Disposition: attachment; filename=x.json; filename*99999999999999=x", b"CE-id: \xff%", b"CE-: x",
        b"Message-ID: <", b"--b", b"--b--", b"--", b"", b"", b".", b"..", b" folded", b"\x00", b"=?utf-8?q?=FF?=",
        b'{"resourceType":"Bundle"}', b"e30=", b"Action: failed", b"Status:", b"Original-Envelope-Id: +",
        b"From nobody",
    ]
)  # fmt: skip
MAILS = st.one_of(
    st.binary(max_size=400),
    st.lists(st.one_of(LINES, st.binary(max_size=20)), max_size=30).map(b"\r\n".join),
)


def mutated(base: bytes, edits: list[tuple[int, bytes]]) -> bytes:
    for at, put in edits:
        place = at % (len(base) + 1)
        base = base[:place] + put + base[place + len(put) // 2 :]
    return base


EDITS = st.lists(st.tuples(st.integers(0, 5000), st.one_of(LINES, st.binary(max_size=6))), max_size=6)


def check(data: bytes) -> None:
    for null_sender in (True, False):
        try:
            _opened(data, null_sender=null_sender)
        except Refusal as refusal:
            said = reply_of(refusal)
        else:
            said = "250 2.0.0 noted"
        assert DOCUMENTED.match(said), said


@settings(max_examples=400, deadline=None)
@given(MAILS)
def test_any_bytes_are_a_mail_or_refused(data: bytes) -> None:
    check(data)


@settings(max_examples=400, deadline=None)
@given(EDITS, st.booleans())
def test_a_mail_damaged_anywhere_is_a_mail_or_refused(edits: list[tuple[int, bytes]], whole: bool) -> None:
    check(mutated(attachment() if whole else notification(), edits))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(MAILS, min_size=1, max_size=5))
@example([b"\r\n.\r\n.\r\n", b".", b"\n.\n", b"\r.\r"])
def test_over_a_connection_every_mail_has_one_documented_answer(mails: list[bytes]) -> None:
    async def talk() -> None:
        host = ScriptedHost()
        async with serving(host) as served:
            client: Client = await served.dial()
            for mail in mails:
                answer = await client.send(mail.replace(b"\r\n.\r\n", b"\r\n"), sender="")
                assert DOCUMENTED.match(answer), answer
            assert (await client.say(b"NOOP")).startswith("250"), "answers and mails are out of step"
            assert host.room.held == 0
            client.close()

    asyncio.run(talk())
