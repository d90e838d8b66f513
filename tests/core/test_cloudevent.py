"""Structured CloudEvents: the message in one is the bytes that its sender wrote."""

import base64
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core import cloudevent
from broker.core.cloudevent import read_event, write_event
from broker.core.envelope import Envelope
from broker.core.outcome import BadRequest

WHOLE = Envelope(
    id="a-1",
    source="urn:oid:1.2|x y",
    type="org.example.sick-leave",
    time=datetime(2026, 11, 21, 12, tzinfo=UTC),
    destination=("urn:oid:2.1", "with space"),
    correlationid="c 1",
    expirytime=datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=UTC),
    timeleft=1500,
    via=("urn:oid:9.1", "urn:oid:9.2"),
    priority=-3,
    digest="sha-256=" + base64.b64encode(b"x" * 32).decode(),
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    tracestate="a=b",
    more=(("partitionkey", "p"), ("sequence", "0012")),
)
REQUIRED = {"specversion": "1.0", "id": "1", "source": "urn:x", "type": "t"}


def event(**members: object) -> bytes:
    return json.dumps({**REQUIRED, **members}).encode()


@given(st.binary(max_size=200))
def test_any_bytes_come_back_from_what_is_written(body: bytes) -> None:
    read = read_event(write_event(WHOLE, body, "application/fhir+xml; charset=utf-8"))
    assert (read.envelope, read.body, read.media_type) == (WHOLE, body, "application/fhir+xml; charset=utf-8")


def test_integers_are_written_as_numbers() -> None:
    """C-2, C-3: a JSON Integer is a number; timestamps and lists are strings."""
    members = json.loads(write_event(WHOLE, b"{}", "application/fhir+json"))
    assert (members["timeleft"], members["priority"]) == (1500, -3)
    assert members["destination"] == "urn:oid:2.1 with%20space"


@pytest.mark.parametrize(
    "text", ['{ "resourceType" :\t"Bundle", "n": 1.50, "e":"\\ud83d\\ude00"}', '{"a":"\\ud800", "a":2}', "[ ]"]
)
def test_data_that_is_json_is_taken_as_it_stood(text: str) -> None:
    """C-4: re-serialising it would lose the bytes of its sender."""
    raw = b'{"data": ' + text.encode() + b', "datacontenttype":"application/fhir+json",' + event()[1:]
    assert read_event(raw).body == text.encode()


@given(st.dictionaries(st.text(max_size=5), st.recursive(st.text(), st.lists)), st.sampled_from([None, 1, "\t\r"]))
def test_both_readers_of_members_find_the_same(members: dict[str, object], indent: int | str | None) -> None:
    """The second is there for what the first cannot read: halves of surrogate pairs."""
    text = json.dumps(members, indent=indent, ensure_ascii=False).encode("utf-8", "replace")
    assert cloudevent._members(text) == dict(cloudevent._read_members(text.decode()))


@given(st.sampled_from(["", "application/json", "text/plain"]))
def test_an_event_without_data_stays_without_it(media_type: str) -> None:
    """C-50: a thin event; what its data would be is said all the same, where its sender said it."""
    written = write_event(WHOLE, b"", media_type)
    assert not {"data", "data_base64"} & json.loads(written).keys()
    read = read_event(written)
    assert (read.envelope, read.body, read.media_type) == (WHOLE, b"", media_type)


def test_null_is_data_where_data_is_json_and_elsewhere_none() -> None:
    """C-5, C-3."""
    read = read_event(event(data=None))
    assert (read.body, read.media_type) == (b"null", "application/json")
    read = read_event(event(data=None, datacontenttype="text/plain"))
    assert (read.body, read.media_type) == (b"", "text/plain")
    read = read_event(event(data_base64=None))
    assert (read.body, read.media_type) == (b"", "")


@given(st.lists(st.dictionaries(st.text(max_size=5), st.text()), max_size=5), st.sampled_from([None, 1, "\t\r"]))
def test_a_batch_is_cut_into_its_events(events: list[dict[str, str]], indent: int | str | None) -> None:
    """C-19: it may be empty; each event is the bytes that stood there, whichever reader found it."""
    text = json.dumps(events, indent=indent, ensure_ascii=False).encode("utf-8", "replace")
    found = cloudevent.read_batch(text)
    assert [json.loads(one) for one in found] == json.loads(text)
    assert list(cloudevent._read_items(text.decode())) == found
    assert all(one in text for one in found)


def test_a_batch_with_half_a_surrogate_pair_is_cut_all_the_same() -> None:
    assert cloudevent.read_batch(b'[{"a":"\\ud800"} , 1 ]') == [b'{"a":"\\ud800"}', b"1"]


@pytest.mark.parametrize("text", [b"", b"{}", b"[", b'["\\ud800",]', b'{"a":"\\ud800"}', b'["\\ud800"] x', b"\xff"])
def test_what_is_no_array_is_no_batch(text: bytes) -> None:
    with pytest.raises(BadRequest) as refused:
        cloudevent.read_batch(text)
    assert refused.value.problem.id == "bad-event"


def test_data_of_another_kind_is_the_text_of_its_string() -> None:
    read = read_event(event(data="<Bundle>\u00e6\r\n</Bundle>", datacontenttype="application/fhir+xml"))
    assert read.body == "<Bundle>æ\r\n</Bundle>".encode()


def test_an_event_that_does_not_say_what_its_data_is_has_json() -> None:
    assert read_event(event(data={"a": 1})).media_type == "application/json"


def test_attributes_may_be_booleans_and_numbers_and_null_is_none() -> None:
    """C-3."""
    read = read_event(event(data={}, flag=True, number=7, nothing=None, priority=2))
    assert read.envelope.more == (("flag", "true"), ("number", "7"))
    assert read.envelope.priority == 2


@pytest.mark.parametrize(
    ("text", "element"),
    [
        (b"no json", "$"),
        (b"[]", "$"),
        (b'{"id": "\xff"}', "id"),
        (b'{"a":"\\ud800",}', "$"),
        (b'{"a":"\\ud800"', "$"),
        (b'{"a":"\\ud800"} x', "$"),
        (b'{"a" "\\ud800"}', "$"),
        (b'{7:"\\ud800"}', "$"),
        (b'["\\ud800"]', "$"),
        (b'{ }', "specversion"),
        (event(data={}, data_base64="e30="), "data_base64"),
        (event(data_base64="e3*0="), "data_base64"),
        (event(data_base64=7), "data_base64"),
        (event(data={"a": 1}, datacontenttype="text/plain"), "data"),
        (event(data="\ud800", datacontenttype="text/plain"), "data"),
        (event(data={}, id=""), "id"),
        (event(data={}, type=None), "type"),
        (event(data={}, specversion="0.3"), "specversion"),
        (event(data={}, subject={"a": 1}), "subject"),
        (event(data={}, priority="high"), "priority"),
        (event(data={}, subject="a\u0007b"), "subject"),
    ],
)  # fmt: skip
def test_what_is_no_event_is_refused_by_the_name_of_the_member(text: bytes, element: str) -> None:
    with pytest.raises(BadRequest) as refused:
        read_event(text)
    assert refused.value.problem.expression == (element,)
    assert refused.value.problem.id == "bad-event"
