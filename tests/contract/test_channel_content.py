"""What goes in comes out, on every channel: the bytes of a message, and each attribute of its envelope (promise 3)."""

from __future__ import annotations

import string
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import msgspec
import pytest
from channel_office import HERE, Office, message
from desks.desk import JSON, XML, How
from e2e_messages import SOUTH
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.channel import Delivered
from broker.core.attributes import OWN
from broker.core.envelope import EMPTY, Envelope

XML_MESSAGE = """<?xml version='1.0' encoding = 'utf-8' standalone='yes' ?>\r
<!-- before --><?of nobody's business?>
<Bundle xmlns='http://hl7.org/fhir' ><id value = "odd"/><type value='message'/>\r
<timestamp value="2026-03-01T12:00:00Z"/><entry><fullUrl value="urn:uuid:5f2e7d0c-5a35-4f35-9d4e-111111111111"/>
<resource><MessageHeader><id value="odd-h"/><eventCoding><system value="urn:x"/><code value="é&#x2028;"/></eventCoding>
<destination><endpoint value="SOUTH"/></destination><source><endpoint value="urn:oid:2.999.2.1"/></source>
</MessageHeader></resource></entry></Bundle><!-- after, in lines that SMTP would touch
.
..
From here on \t
-->

""".replace("SOUTH", SOUTH).encode()


def indented(end: str) -> bytes:
    return msgspec.json.format(message("lines", text="a\nb"), indent=2).replace(b"\n", end.encode())


BODIES = {
    "byte order mark": b"\xef\xbb\xbf" + message("bom"),
    "CRLF": indented("\r\n"),
    "CR": indented("\r"),
    "newlines at the end": message("newlines") + b"\n\r\n\n",
    "space in front": b" \r\n\t" + message("space"),
    "lone surrogates": message("halves", text="HALF").replace(b"HALF", rb"\ud800 \u0000 \uDFFF \/"),
    "keys written twice": message("twice", text="T").replace(b'{"text":"T"}', b'{"text":"a","text":"b","":1,"":2}'),
    "numbers as written": message("numbers", text="T").replace(b'"T"', b'[1.0,1e2,-0,12345678901234567890]'),
    "lines that end in blanks": indented(" \t\n"),
    "one long line": message("long", text="é🎈" * 30_000),
    "20 MiB": message("large", text="0123456789abcdef" * (20 * 65536)),
}  # fmt: skip


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
async def test_bytes_out_equal_bytes_in(office: Office, body: bytes) -> None:
    assert (await office.desk.hand_in(body)).how is How.TAKEN
    (got,) = await office.peer.until_got(1)
    same = got.body == body  # a difference within 20 MiB is nothing to be shown
    assert same, (len(got.body), len(body), got.body[:300], got.body[-100:])


@pytest.mark.parametrize("media_type", [XML, f"{XML}; fhirVersion=4.0; charset=utf-8"])
async def test_xml_keeps_its_bytes_and_its_media_type(office: Office, media_type: str) -> None:
    assert (await office.desk.hand_in(XML_MESSAGE, media_type=media_type)).how is How.TAKEN
    (got,) = await office.peer.until_got(1)
    assert (got.body, got.media_type) == (XML_MESSAGE, media_type)


async def test_media_type_of_json_keeps_its_parameters(office: Office) -> None:
    media_type = f"{JSON}; fhirVersion=5.0"
    body = message("five").replace(b'"endpoint"', b'"endpointUrl"')
    assert (await office.desk.hand_in(body, media_type=media_type)).how is How.TAKEN
    (got,) = await office.peer.until_got(1)
    assert (got.body, got.media_type) == (body, media_type)


# -- the envelope

_UNICODE = st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="\x7f")
TEXTS = st.text(_UNICODE, min_size=1, max_size=60) | st.sampled_from(
    [
        " ",
        "two  spaces ",
        "100% \"quoted\" 'and' \\back",
        "æøå 患者 🎈",
        "a=b;c,d",
        "x" * 1000,
        "=?utf-8?q?no?=",
        "ends in %41",
    ]
)
URIS = st.sampled_from(
    [
        "urn:oid:2.999.7",
        "https://a.example/fhir?x=1&y=%20#z",
        "system|value",
        "Ærø kommune",
        "%C3%A6",
        "a b",
        "urn:x:🎈",
    ]
)
BEGIN, SOON, END = (datetime(year, 1, 1) for year in (2020, 2035, 2040))  # noqa: DTZ001  (hypothesis adds the zone)
INSTANTS = st.datetimes(BEGIN, END, timezones=st.just(UTC))
NAMES = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=20).filter(lambda name: name not in OWN)
ENVELOPES = st.builds(
    Envelope,
    id=TEXTS,
    source=URIS,
    type=TEXTS,
    time=INSTANTS,
    correlationid=st.none() | TEXTS,
    expirytime=st.none() | st.datetimes(SOON, END, timezones=st.just(UTC)),
    via=st.lists(URIS, max_size=4, unique=True).map(tuple),
    priority=st.none() | st.integers(-(2**31), 2**31 - 1),
    traceparent=st.none() | st.just("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    tracestate=st.none() | st.just("vendor=a b;c, other=1"),
    more=st.dictionaries(NAMES, TEXTS, max_size=5).map(lambda found: tuple(found.items())),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(envelope=ENVELOPES)
async def test_every_attribute_and_extension_of_the_envelope_comes_through(office: Office, envelope: Envelope) -> None:
    body = message(str(uuid4()))
    before = len(office.peer.got)
    ended = await office.desk.hand_in(body, envelope)
    assert ended.how is How.TAKEN, ended
    got = (await office.peer.until_got(before + 1, within=5))[before]
    assert got.body == body
    assert got.envelope.digest is not None
    expected = msgspec.structs.replace(
        envelope,
        via=(*envelope.via, HERE),
        destination=(SOUTH,),
        digest=got.envelope.digest,
        tracestate=envelope.tracestate if envelope.traceparent else None,
        more=(),
    )
    assert msgspec.structs.replace(got.envelope, more=()) == expected
    assert dict(got.envelope.more) == dict(envelope.more)  # no protocol promises an order of its headers


async def test_message_without_an_envelope_leaves_with_one(office: Office) -> None:
    """C-60: what is missing is filled in from the header."""
    await office.desk.hand_in(message("plain", event="letter"))
    (got,) = await office.peer.until_got(1)
    assert (got.envelope.type, got.envelope.source, got.envelope.via) == (
        "org.example.letter",
        "urn:oid:2.999.2.1",
        (HERE,),
    )
    assert got.envelope.id
    assert got.envelope.time == datetime(2026, 3, 1, 11, tzinfo=UTC)
    assert got.envelope.destination == (SOUTH,)


async def test_destination_of_the_envelope_steers_a_message_that_names_none(office: Office) -> None:
    ended = await office.desk.hand_in(message("steered", to=None), Envelope(destination=(SOUTH,)))
    assert ended.how is How.TAKEN, ended
    (got,) = await office.peer.until_got(1)
    assert got.envelope.destination == (SOUTH,)


async def test_message_that_was_here_before_is_refused_as_a_loop(office: Office) -> None:
    ended = await office.desk.hand_in(message("loop"), Envelope(via=("urn:oid:2.999.8", HERE)))
    assert (ended.how, ended.problem) == (How.REFUSED, "loop")
    assert await office.accepted() == 0


async def test_message_whose_time_is_over_is_refused_and_never_sent(office: Office) -> None:
    late = Envelope(expirytime=datetime.now(UTC) - timedelta(hours=1))
    ended = await office.desk.hand_in(message("late"), late)
    assert (ended.how, ended.problem) == (How.REFUSED, "expired-on-arrival")
    assert await office.accepted() == 0


async def test_bytes_that_their_digest_does_not_fit_are_not_taken(office: Office) -> None:
    wrong = Envelope(digest="sha-256=" + "A" * 43 + "=")
    ended = await office.desk.hand_in(message("damaged"), wrong)
    assert (ended.how, ended.problem) in [(How.REFUSED, "digest-mismatch"), (How.LATER, "digest-mismatch")]
    assert await office.accepted() == 0


async def test_digest_of_the_bytes_goes_with_them(office: Office) -> None:
    await office.desk.hand_in(message("first"), EMPTY)
    (got,) = await office.peer.until_got(1)
    again = Envelope(digest=got.envelope.digest)
    assert (await office.desk.hand_in(got.body, again)).how is How.TAKEN


# -- events whose data is no FHIR message (C-63)

ADMISSION = Envelope(
    id="e-1",
    source="/wards/7",
    type="hospital_admission",
    destination=(SOUTH,),
    more=(("subject", "NHI 123"), ("dataschema", "https://a.example/s"), ("dataref", "https://a.example/x")),
)
EVENTS = [
    (b'{ "url": "https://his.example/Encounter/1" }', "application/json"),
    (b"\x89PNG\r\n\x1a\n\x00\xff", "image/png"),
    ("blåbær 🎈\r\n".encode(), "text/plain; charset=utf-8"),
]


@pytest.mark.parametrize(("body", "media_type"), EVENTS, ids=["JSON", "bytes", "text"])
async def test_any_data_of_an_event_leaves_as_it_is(office: Office, body: bytes, media_type: str) -> None:
    """C-8: on every channel, with all that its sender said of it."""
    sent = office.transmission(body, media_type=media_type, envelope=ADMISSION, event=True)
    assert isinstance(await office.sender.attempt(sent), Delivered)
    (got,) = await office.peer.until_got(1)
    assert (got.body, got.media_type) == (body, media_type)
    assert set(ADMISSION.more) <= set(got.envelope.more)
    assert (got.envelope.id, got.envelope.source, got.envelope.type) == ("e-1", "/wards/7", "hospital_admission")


@pytest.mark.parametrize(
    ("body", "media_type"), [*EVENTS, (b"", "application/json")], ids=["JSON", "bytes", "text", "thin"]
)
async def test_any_data_of_an_event_comes_in_and_goes_on(office: Office, body: bytes, media_type: str) -> None:
    """Where the channel's binding says that something is an event; where not, only messages are taken."""
    ended = await office.desk.hand_in(body, ADMISSION, media_type=media_type)
    if not office.desk.takes_events:
        assert ended.how is How.REFUSED
        assert await office.accepted() == 0
        return
    assert ended.how is How.TAKEN, ended
    (got,) = await office.peer.until_got(1)
    assert (got.body, got.media_type) == (body, media_type)
    assert set(ADMISSION.more) <= set(got.envelope.more)
