"""The envelope in HTTP headers and back, for every attribute (C-1, C-2, C-16…C-18, C-52)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from http_desk import full_envelope
from hypothesis import example, given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from broker.core.attributes import (
    LONGEST_REMEMBERED,
    MOST_REMEMBERED,
    OWN,
    Remembered,
    escape_name,
    unescape_name,
)
from broker.core.envelope import EMPTY, Envelope
from broker.core.outcome import BadRequest
from plugins.http.binding import decode, encode, read_envelope, told, write_envelope

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40)
ENDPOINTS = st.one_of(
    TEXT, st.sampled_from(["urn:oid:1.2", "urn:x|1", "https://x/a%20b", "a%20b", "%41", "100%", "My Lab", "%", '"q"'])
)
INSTANTS = st.datetimes(
    min_value=datetime(1900, 1, 1),  # noqa: DTZ001 - hypothesis wants naive bounds
    max_value=datetime(2999, 1, 1),  # noqa: DTZ001
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=45)), timezone(timedelta(hours=-3))]),
)
OURS = {
    "destination": st.lists(ENDPOINTS, max_size=4).map(tuple),
    "via": st.lists(ENDPOINTS, max_size=4).map(tuple),
    "correlationid": st.none() | TEXT,
    "expirytime": st.none() | INSTANTS,
    "timeleft": st.none() | st.integers(0, 2**31 - 1),
    "priority": st.none() | st.integers(-(2**31), 2**31 - 1),
    "digest": st.none() | st.just("sha-256=" + "A" * 43 + "="),
    "traceparent": st.none() | st.just("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
}
NAMES = st.from_regex(r"\A[a-z0-9]{1,20}\Z").filter(lambda name: name not in OWN)
EVENTS = st.fixed_dictionaries(
    {
        "id": TEXT,
        "source": ENDPOINTS,
        "type": TEXT,
        "time": st.none() | INSTANTS,
        "more": st.lists(st.tuples(NAMES, TEXT | st.just("")), max_size=3, unique_by=lambda pair: pair[0]).map(tuple),
        **OURS,
    }
)


def through_headers(envelope: Envelope) -> Envelope:
    text = write_envelope(envelope)
    assert not text or text.endswith("\r\n")
    headers = CIMultiDict(line.split(": ", 1) for line in text.split("\r\n")[:-1])
    assert all(value.isascii() and value.isprintable() for value in headers.values())
    return read_envelope(CIMultiDictProxy(headers))


def read(**headers: str) -> Envelope:
    return read_envelope(CIMultiDictProxy(CIMultiDict({name.replace("_", "-"): v for name, v in headers.items()})))


@given(EVENTS)
def test_event_survives_the_headers(values):
    envelope = Envelope(**values)
    assert through_headers(envelope) == envelope


@given(st.fixed_dictionaries(OURS))
def test_our_attributes_survive_without_an_event(values):
    envelope = Envelope(**values)
    assert through_headers(envelope) == envelope


def test_tracestate_survives_beside_its_parent():
    envelope = Envelope(traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", tracestate="a=1,b=2")
    assert through_headers(envelope) == envelope


@given(TEXT)
@example('"')
@example("%22")
@example(" a ")
def test_every_value_survives_percent_encoding(value):
    assert decode(encode(value)) == value


@given(ENDPOINTS)
def test_every_endpoint_survives_as_a_reference(name):
    written = escape_name(name)
    assert unescape_name(written) == name
    assert " " not in written


def test_uri_is_written_as_it_stands():
    for name in ("urn:oid:2.16.578.1.12.4.1.2.1001", "https://x.example/a%20b?c=d#e", "urn:uuid:1", "lab-7"):
        assert escape_name(name) == name


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),  # the example of C-17's text
        ("%e2%82%ac", "€"),
        ("%41", "A"),
        ('"quoted \\"x\\" %20"', 'quoted "x"  '),
        ('"', '"'),
        ("100%", "100%"),
        ("%2541", "%41"),
        ("bl\u00e5", "blå"),
    ],
)
def test_reading_a_value(written, meant):
    assert decode(written) == meant


def test_needless_words_are_not_encoded():
    assert encode("urn:oid:1.2/~{}|^`'") == "urn:oid:1.2/~{}|^`'"
    assert encode('a "b" 5%') == "a%20%22b%22%205%25"


@pytest.mark.parametrize("value", ["%C0%A0", "%ff", "%ED%A0%80"])
def test_value_that_is_not_utf8_is_refused(value):
    with pytest.raises(BadRequest, match="ce-correlationid") as refused:
        read(ce_correlationid=value)
    assert refused.value.problem.expression == ("http.ce-correlationid",)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("time", "2026-01-02T03:04:05"),
        ("time", "yesterday"),
        ("time", "2026-13-02T03:04:05Z"),
        ("expirytime", "2026-01-02"),
        ("timeleft", "-1"),
        ("timeleft", "1.5"),
        ("timeleft", "２"),
        ("priority", "high"),
        ("priority", "2147483648"),
        ("digest", "md5=AAAA"),
        ("digest", "sha-256=AAAA"),
        ("destination", ""),
        ("via", "%20"),
        ("correlationid", ""),
        ("correlationid", "a%0Ab"),
        ("specversion", "0.3"),
        ("id", ""),
        ("source", ""),
        ("type", "a%00"),
    ],
)
def test_malformed_attribute_is_refused_by_the_name_of_its_header(name, value):
    headers = {"ce_specversion": "1.0", "ce_id": "1", "ce_source": "s", "ce_type": "t", f"ce_{name}": value}
    with pytest.raises(BadRequest, match=f"ce-{name}") as refused:
        read(**headers)
    assert refused.value.problem.id == "bad-envelope"
    assert value == "" or value not in refused.value.problem.text


def test_attribute_that_is_there_twice_is_refused():
    headers = CIMultiDict([("ce-via", "urn:1"), ("Ce-Via", "urn:2")])
    with pytest.raises(BadRequest, match="more than once"):
        read_envelope(CIMultiDictProxy(headers))


def test_what_lacks_one_of_the_four_is_no_event_but_ours_are_read():
    """C-18."""
    envelope = read(ce_id="1", ce_source="s", ce_specversion="1.0", ce_subject="x", ce_via="urn:8", ce_time="nonsense")
    assert envelope == Envelope(via=("urn:8",))


def test_unknown_extensions_are_carried_in_their_order():
    """C-1; what has no legal name is not an attribute, and datacontenttype is Content-Type (C-16)."""
    headers = {"ce_specversion": "1.0", "ce_id": "1", "ce_source": "s", "ce_type": "t", "ce_zz": "1", "ce_aa": "2"}
    envelope = read(**headers, ce_a_b="3", ce_datacontenttype="text/plain")
    assert envelope.more == (("zz", "1"), ("aa", "2"))


def test_plain_request_has_no_envelope():
    assert read(Content_Type="application/fhir+json", Authorization="Bearer x") is EMPTY


def test_headers_of_the_trade_fill_what_the_envelope_lacks():
    """C-52."""
    assert read(Event_Id="e-1", X_Correlation_Id="c-2") == Envelope(id="e-1", correlationid="c-2")
    assert read(Event_Id="e-1", Correlation_Id="c-1", X_Correlation_Id="c-2").correlationid == "c-1"
    assert read(Correlation_Id="c-1", ce_correlationid="c-0").correlationid == "c-0"
    event = {"ce_specversion": "1.0", "ce_id": "1", "ce_source": "s", "ce_type": "t"}
    assert read(Event_Id="e-1", **event).id == "1"


@pytest.mark.parametrize(
    "parent", ["", "junk", "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-" + "0" * 32]
)
def test_trace_that_cannot_be_read_is_left_out(parent):
    assert read(traceparent=parent, tracestate="a=1") == EMPTY


def test_trace_header_goes_before_the_attribute():
    ours, theirs = ("00-" + digit * 32 + "-b7ad6b7169203331-01" for digit in "12")
    assert read(traceparent=ours, ce_traceparent=theirs).traceparent == ours
    assert read(ce_traceparent=theirs).traceparent == theirs


@pytest.mark.parametrize("end", ["\r\nX-A: 1", "-\r", "-a\nb", "-\x7f", "-\xff"])
def test_trace_context_that_would_begin_another_header_is_not_written(end):
    parent = "01-" + "1" * 32 + "-b7ad6b7169203331-01"
    assert write_envelope(Envelope(traceparent=parent + "-new")) == f"traceparent: {parent}-new\r\n"
    assert write_envelope(Envelope(traceparent=parent + end)) == ""


@given(st.text(st.characters(exclude_categories=("Cs",))))
@example("\r\nX-A: 1")
def test_no_value_begins_another_header(text):
    envelope = Envelope(
        id=text, source=text, type=text, destination=(text,), via=(text, text), correlationid=text, digest=text,
        more=(("extra", text),),
    )  # fmt: skip
    lines = write_envelope(envelope).split("\r\n")
    assert lines.pop() == ""
    assert all(line.partition(": ")[0] in NAMES_WRITTEN and line.isascii() and line.isprintable() for line in lines)


NAMES_WRITTEN = {
    *("ce-specversion", "ce-id", "ce-source", "ce-type", "ce-destination", "ce-via", "ce-digest", "ce-correlationid"),
    *("ce-extra", "Event-Id", "Correlation-Id", "Content-Digest"),
}


def test_what_is_remembered_is_bounded():
    calls = []
    known = Remembered[str](lambda name: calls.append(name) or name.upper())
    assert [known["a"], known["a"], known["b"]] == ["A", "A", "B"]
    assert calls == ["a", "b"]
    for number in range(3 * MOST_REMEMBERED):
        assert known[str(number)] == str(number)
        assert len(known) <= MOST_REMEMBERED
    long = "x" * (LONGEST_REMEMBERED + 1)
    assert known[long] == long.upper()
    assert long not in known


def test_leap_second_and_nanoseconds_are_read():
    assert read(ce_expirytime="2016-12-31t23:59:60.123456789z").expirytime == datetime(
        2016, 12, 31, 23, 59, 59, 123456, tzinfo=UTC
    )


def test_event_without_one_of_the_four_keeps_its_id_in_event_id():
    assert through_headers(full_envelope(type=None)).id == "b-1"


def test_secrets_are_not_told():
    headers = CIMultiDict(
        {"Authorization": "x", "COOKIE": "x", "Proxy-Authorization": "x", "X-Api-Key": "x", "X-A": "1"}
    )
    assert told(CIMultiDictProxy(headers)) == (("x-a", "1"),)


def test_header_that_is_not_unicode_is_told_as_far_as_it_goes():
    assert told(CIMultiDictProxy(CIMultiDict({"X-A": "a\udcffb"}))) == (("x-a", "a\ufffdb"),)
