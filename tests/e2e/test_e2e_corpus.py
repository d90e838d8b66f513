"""Real messages of other people through the real daemon: byte for byte to a receiver and into mailboxes, or refused."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from e2e_daemon import StartDaemon
from e2e_messages import CORPUS, FHIR_JSON, FHIR_XML, SOUTH, Said, ask, problem_ids, send
from e2e_receiver import OpenReceiver

MESSAGES = sorted(path for path in (CORPUS / "messages").rglob("*") if path.is_file())
INVALID = sorted(path for path in (CORPUS / "invalid").rglob("*") if path.is_file())

# file: status, error id, and why a person agrees. The files go in by name, into one store.
SAME_IDS = "its Bundle.id and source are those of a message that was taken before, and the content is another"
REFUSED = {
    "NHSDigital__electronic-prescription-service-api/Process-Request-Dispense-eRD.json": (
        409, "reused-id", f"{SAME_IDS}: 1-Prepare-Request-200_OK.json, one prescription told twice",
    ),
    "google__fhir/1.0.2__package__Bundle-10bb101f-a121-4264-a920-67be9cb82c74.json": (
        409, "reused-id", f"{SAME_IDS}: the specification's example in its DSTU2 dress (the R5 one came first)",
    ),
    "google__fhir/Bundle-10bb101f-a121-4264-a920-67be9cb82c74.json": (
        409, "reused-id", f"{SAME_IDS}: the specification's example in its R4 dress",
    ),
    "google__fhir/package__Bundle-10bb101f-a121-4264-a920-67be9cb82c74.json": (
        409, "reused-id", f"{SAME_IDS}: the specification's example in its STU3 dress",
    ),
    "microsoft__FHIR-Converter/ADT04-251-expected.json": (
        422, "not-a-message", "a MessageHeader comes first in it, but Bundle.type is batch",
    ),
}  # fmt: skip
# Nobody can say of a batch that it is a message; reused ids a rule can allow.
NEVER = {name: row for name, row in REFUSED.items() if row[0] != 409}

# With reused ids allowed, the specification's request is taken under the id that its example response quotes: so that
# is an answer, and goes to who asked (whose name leads nowhere, so into its mailbox), not to where it says itself.
ANSWER = "google__fhir/Bundle-3a0707d3-549e-4467-b8b8-5a2ab3800efe.json"
ASKER = "http://example.org/clients/ehr-lite"

# What the refused ones of corpus/invalid are refused for.
INVALID_FOR = {
    "FHIR__fhir-test-cases/bad-json-close-1.json": (400, "malformed-json"),
    "FHIR__fhir-test-cases/bundle-bad-empty.json": (422, "not-a-message"),
    "FHIR__fhir-test-cases/bundle-duplicate-id.json": (422, "not-a-message"),
    "FHIR__fhir-test-cases/empty-array.json": (422, "not-a-bundle"),
    "FHIR__fhir-test-cases/fhirpath-null.json": (422, "not-a-bundle"),
    "FHIR__fhir-test-cases/json-comma-bad-1.json": (400, "malformed-json"),
    "FHIR__fhir-test-cases/json-comments-1.json": (400, "malformed-json"),
    "FHIR__fhir-test-cases/json-good.json": (422, "not-a-bundle"),  # good JSON, and a Patient
    "FHIR__fhir-test-cases/json-no-quotes-1.json": (400, "malformed-json"),
    "FHIR__fhir-test-cases/json-prop-key.json": (422, "not-a-bundle"),
    "FHIR__fhir-test-cases/list-bad-syntax.json": (400, "malformed-json"),
    "FHIR__fhir-test-cases/list-wrong-ns.xml": (400, "wrong-namespace"),
    "FHIR__fhir-test-cases/mcode-pat-bad.json": (400, "malformed-json"),
    "FHIR__fhir-test-cases/med-dispense.json": (400, "malformed-json"),
    "FHIR__fhir-test-cases/observation-with-trailing-dot.json": (400, "malformed-json"),
    "NHSDigital__booking-and-referral-fhir-api/GET-success.json": (400, "malformed-json"),
    "nst__JSONTestSuite/i_number_huge_exp.json": (400, "wrong-type"),
    "nst__JSONTestSuite/i_number_too_big_pos_int.json": (400, "wrong-type"),
    "nst__JSONTestSuite/i_string_1st_surrogate_but_2nd_missing.json": (400, "wrong-type"),
    "nst__JSONTestSuite/i_string_invalid_utf-8.json": (400, "not-utf-8"),
    "nst__JSONTestSuite/i_structure_UTF-8_BOM_empty_object.json": (422, "not-a-bundle"),
    "nst__JSONTestSuite/n_number_NaN.json": (400, "malformed-json"),
    "nst__JSONTestSuite/n_object_trailing_comma.json": (400, "malformed-json"),
    "nst__JSONTestSuite/n_structure_100000_opening_arrays.json": (400, "too-deep"),
    "nst__JSONTestSuite/y_object_duplicated_key.json": (422, "not-a-bundle"),
}


def name_of(path: Path) -> str:
    return "/".join(path.parts[-2:])


def media_of(body: bytes) -> str:
    return FHIR_XML if body.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<" else FHIR_JSON


def everywhere(address: str, **policy: Any) -> dict[str, Any]:
    """Everything to one address, whatever the message calls its destination; and a name for those without one."""
    rule = {"name": "no destination", "match": {}, "to": [SOUTH], **policy}
    return {"directory": {"endpoints": {"*": address}}, "routes": [rule]}


@contextmanager
def named(path: Path) -> Iterator[None]:
    """A failure says which file it is about."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{name_of(path)}: {error}") from error


def check_refused(said: Said, status: int, error: str) -> None:
    assert said.status == status, said
    if said.headers["Content-Type"].startswith(FHIR_XML):
        assert b"<OperationOutcome" in said.body, said
        assert f'value="{error}"'.encode() in said.body, said
    else:
        assert problem_ids(said.body) == [error], said


@pytest.mark.parametrize(
    ("policy", "refused"), [({}, REFUSED), ({"reused_id": "accept"}, NEVER)], ids=["as-it-is", "reused-ids-allowed"]
)
async def test_every_message_arrives_byte_for_byte_at_a_receiver_or_is_refused_for_a_good_reason(
    daemon: StartDaemon,
    receiver: OpenReceiver,
    http: aiohttp.ClientSession,
    policy: dict[str, Any],
    refused: dict[str, tuple[int, str, str]],
) -> None:
    south = await receiver()
    broker = await daemon(everywhere(south.url, **policy))
    for path in MESSAGES:
        body = path.read_bytes()
        before = len(south.got)
        said = await send(http, broker.base, body, media=media_of(body))
        with named(path):
            if row := refused.get(name_of(path)):
                check_refused(said, row[0], row[1])
                continue
            assert said.status in (200, 202), said
            if policy and name_of(path) == ANSWER:
                await check_answer(http, broker.base, body)
                continue
            await south.until_count(before + 1)
            got = south.got[before:]  # one, also where a message names two destinations that live there
            assert [one.sha256 for one in got] == [hashlib.sha256(body).hexdigest()]
            assert got[0].headers["content-type"] == media_of(body)
    assert len(south.got) == len(MESSAGES) - len(refused) - bool(policy)


async def check_answer(http: aiohttp.ClientSession, base: str, body: bytes) -> None:
    page = await ask(http, "GET", f"{base}/Bundle?message.destination-uri={quote(ASKER, safe='')}&_offset=0")
    (entry,) = page.json["entry"]
    read = await ask(http, "GET", next(link["url"] for link in entry["link"] if link["relation"] == "original"))
    assert read.body == body


async def test_every_message_lies_byte_for_byte_in_a_mailbox_or_is_refused_for_a_good_reason(
    daemon: StartDaemon, http: aiohttp.ClientSession
) -> None:
    broker = await daemon(everywhere("mailbox:"))
    kept: set[str] = set()
    for path in MESSAGES:
        body = path.read_bytes()
        said = await ask(http, "POST", f"{broker.base}/Bundle", data=body, headers={"Content-Type": media_of(body)})
        with named(path):
            if row := REFUSED.get(name_of(path)):
                check_refused(said, row[0], row[1])
                continue
            assert said.status == 201, said
            read = await ask(http, "GET", said.headers["Location"])
            assert read.status == 200, read
            assert hashlib.sha256(read.body).digest() == hashlib.sha256(body).digest()
            assert read.headers["Content-Type"].startswith(media_of(body)), read.headers
            kept.add(said.headers["Location"].rpartition("/")[2])
    assert await mailed(http, broker.admin, broker.base) == kept


async def mailed(http: aiohttp.ClientSession, admin: str, base: str) -> set[str]:
    """Our ids of what all mailboxes together show, page by page."""
    found: set[str] = set()
    mailboxes = (await ask(http, "GET", f"{admin}/admin/v1/mailboxes")).json["mailboxes"]
    for mailbox in mailboxes:
        url = f"{base}/Bundle?message.destination-uri={quote(mailbox['endpoint'], safe='')}&_offset=0&_count=5"
        while True:
            page = (await ask(http, "GET", url)).json
            if not page.get("entry"):
                break
            found |= {entry["fullUrl"].removeprefix("urn:uuid:") for entry in page["entry"]}
            url = next(link["url"] for link in page["link"] if link["relation"] == "next")
    return found


async def test_every_invalid_file_is_answered_with_an_outcome_and_nothing_is_stored(
    daemon: StartDaemon, receiver: OpenReceiver, http: aiohttp.ClientSession
) -> None:
    south = await receiver()
    broker = await daemon(everywhere(south.url))
    for path in INVALID:
        body = path.read_bytes()
        for way in ("$process-message", "Bundle"):
            headers = {"Content-Type": media_of(body)}
            said = await ask(http, "POST", f"{broker.base}/{way}", data=body, headers=headers)
            with named(path):
                check_refused(said, *INVALID_FOR[name_of(path)])
    status = (await ask(http, "GET", f"{broker.admin}/admin/v1/status")).json
    assert status["ready"] is True
    assert status["counts"]["positions"] == 0
    assert not south.got
    assert not [line for line in broker.log_lines if line["level"] not in ("info",)]
