"""The envelope in AMQP (C-36, C-38, C-39): what is written is read back; properties beside headers; what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from amqp_desk import AT, MESSAGE, full_envelope, transmission
from pamqp import decode, header
from pamqp.commands import Basic

from broker.core.envelope import EMPTY, Envelope
from broker.core.outcome import BadRequest, Refusal, Unsupported
from plugins.amqp.binding import Read, Writing, read
from plugins.amqp.lenient import be_lenient
from plugins.amqp.settings import Mode, Prefix


def written(
    envelope: Envelope,
    *,
    mode: Mode = Mode.BINARY,
    prefix: Prefix = Prefix.CE,
    reply_queue: str | None = None,
    **more: Any,
) -> tuple[Basic.Properties, bytes]:
    """Properties as they come off the wire, and body."""
    writing = Writing(mode=mode, prefix=prefix, reply_queue=reply_queue)
    properties, body = writing.write(transmission("amqp:?exchange=x", envelope=envelope, **more), AT)
    return over_the_wire(properties), body


def over_the_wire(properties: Basic.Properties) -> Basic.Properties:
    found = header.ContentHeader()
    found.unmarshal(header.ContentHeader(0, 0, properties).marshal())
    return found.properties


def theirs(**properties: Any) -> Basic.Properties:
    """As another client writes it."""
    return over_the_wire(Basic.Properties(**properties))


def taken(headers: dict[str, Any], body: bytes = MESSAGE, **properties: Any) -> Read:
    return read(theirs(headers=headers, **properties), body, AT)


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("prefix", list(Prefix))
def test_every_attribute_comes_back_as_it_left(mode: Mode, prefix: Prefix) -> None:
    properties, body = written(full_envelope(), mode=mode, prefix=prefix)
    found = read(properties, body, AT)
    assert found.envelope == full_envelope()
    assert (found.body, found.media_type) == (MESSAGE, "application/fhir+json")


def test_envelope_that_is_no_event_comes_back_with_its_id() -> None:
    envelope = Envelope(id="b-1", destination=("urn:x",), via=("urn:y",), correlationid="c-9")
    properties, body = written(envelope)
    assert read(properties, body, AT).envelope == envelope


def test_attributes_are_mirrored_into_the_properties() -> None:
    found, _ = written(full_envelope(expirytime=AT + timedelta(minutes=1)), reply_queue="fhir.replies")
    assert (found.message_id, found.message_type) == ("b-1", "org.example.discharge-letter")
    assert (found.correlation_id, found.reply_to, found.delivery_mode) == ("c-1", "fhir.replies", 2)
    assert (found.expiration, found.priority) == ("60000", 7)
    assert found.timestamp == AT.replace(microsecond=0)
    assert found.headers is not None
    assert found.headers["ce-time"] == "2026-03-01T12:00:00.250000Z"  # the property loses the fraction
    assert found.headers["traceparent"] == full_envelope().traceparent


def test_response_quotes_the_reference_of_its_request_and_asks_for_no_answer() -> None:
    found, _ = written(full_envelope(), in_reply_to="theirs-7", reply_queue="fhir.replies")
    assert (found.correlation_id, found.reply_to) == ("theirs-7", None)


def test_what_does_not_fit_a_property_stands_in_the_header_alone() -> None:
    """An id of more than 255 bytes, a time further than RabbitMQ counts, a priority below nought."""
    envelope = full_envelope(id="æ" * 200, type="t" * 300, correlationid="c" * 300, priority=-1)
    found, body = written(envelope)
    assert (found.message_type, found.correlation_id) == (None, None)
    assert found.message_id is not None
    assert len(found.message_id) == 36
    assert (found.expiration, found.priority) == (None, None)
    assert read(found, body, AT).envelope == envelope


def test_time_that_is_over_expires_at_once_and_not_never() -> None:
    found, _ = written(full_envelope(expirytime=AT - timedelta(seconds=1)))
    assert found.expiration == "1"


def test_values_of_other_types_are_read_as_canonical_strings() -> None:
    """C-36: what a broker makes of AMQP 1.0 application properties."""
    found = taken(
        {
            "cloudEvents:specversion": "1.0", "cloudEvents:id": "1", "cloudEvents:source": "urn:x",
            "cloudEvents:type": "t", "cloudEvents:time": datetime(2026, 3, 1, tzinfo=UTC), "cloudEvents:priority": 3,
            "cloudEvents:flag": True, "cloudEvents:raw": bytearray(b"abc"), "cloudEvents:none": None, "X-Other": 5,
        }
    )  # fmt: skip
    envelope = found.envelope
    assert (envelope.time, envelope.priority) == (datetime(2026, 3, 1, tzinfo=UTC), 3)
    assert dict(envelope.more) == {"flag": "true", "raw": "abc"}
    assert found.headers == (("x-other", "5"),)


def test_names_of_headers_are_case_sensitive() -> None:
    found = taken({"CE-priority": "5", "cloudevents_priority": "6"})
    assert found.envelope.priority is None
    assert dict(found.headers) == {"ce-priority": "5", "cloudevents_priority": "6"}


def test_properties_say_what_headers_leave_out() -> None:
    found = taken({}, message_id="m-1", correlation_id="k-1", priority=4, expiration="1500", message_type="ignored")
    assert found.envelope == Envelope(
        id="m-1", correlationid="k-1", priority=4, expirytime=AT + timedelta(milliseconds=1500)
    )


def test_headers_go_before_properties() -> None:
    headers = {
        "ce-specversion": "1.0", "ce-id": "h", "ce-source": "urn:x", "ce-type": "t", "ce-priority": "1",
        "ce-expirytime": "2030-01-01T00:00:00Z", "ce-correlationid": "hc",
    }  # fmt: skip
    found = taken(headers, message_id="m", correlation_id="k", priority=4, expiration="1500", message_type="p").envelope
    assert (found.id, found.type, found.priority, found.correlationid) == ("h", "t", 1, "hc")
    assert found.expirytime == datetime(2030, 1, 1, tzinfo=UTC)


def test_correlation_id_that_repeats_the_message_id_says_nothing() -> None:
    assert taken({}, message_id="m", correlation_id="m").envelope == Envelope(id="m")


def test_message_without_a_content_type_is_read_by_its_first_character() -> None:
    assert read(theirs(), b"\xef\xbb\xbf  <Bundle/>", AT).media_type == "application/fhir+xml"
    assert read(theirs(), MESSAGE, AT) == Read(
        properties=read(theirs(), MESSAGE, AT).properties, envelope=EMPTY, body=MESSAGE,
        media_type="application/fhir+json", headers=(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("headers", "properties", "body", "said"),
    [
        ({"ce-priority": "1", "cloudEvents:priority": "1"}, {}, MESSAGE, "one of the prefixes"),
        ({"ce-expirytime": "tomorrow"}, {}, MESSAGE, "ce-expirytime is not an RFC 3339 instant"),
        ({"ce-destination": {"a": "b"}}, {}, MESSAGE, "neither text nor number"),
        ({"ce-destination": "urn:x\x07"}, {}, MESSAGE, "control character"),
        ({}, {"content_encoding": "gzip"}, MESSAGE, "packed"),
        ({}, {"content_type": "application/cloudevents-batch+json"}, b"[]", "a batch"),
        ({}, {"content_type": "application/cloudevents+json"}, b"{}", "is required"),
        ({}, {"content_type": "application/cloudevents+json; charset=utf-8"}, b"[1", "not a JSON object"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_reason(
    headers: dict[str, Any], properties: dict[str, Any], body: bytes, said: str
) -> None:
    with pytest.raises((BadRequest, Unsupported), match=said):
        taken(headers, body, **properties)


@pytest.fixture
def lenient() -> Iterator[None]:
    methods, times = dict(decode.METHODS), decode.TABLE_MAPPING[b"T"]
    be_lenient()
    yield
    decode.METHODS.update(methods)
    decode.TABLE_MAPPING[b"T"] = times


def damaged(*, instead: bytes = b"\xff\xfe", **properties: Any) -> Basic.Properties:
    """As they come off the wire with other bytes where `??` stood."""
    found = header.ContentHeader()
    found.unmarshal(header.ContentHeader(0, 0, Basic.Properties(**properties)).marshal().replace(b"??", instead))
    return found.properties


def test_header_that_is_no_utf8_is_refused_by_name() -> None:
    with pytest.raises(Refusal, match="ce-via has a control character or is not Unicode"):
        read(damaged(headers={"ce-id": "x", "ce-via": "??"}), MESSAGE, AT)


@pytest.mark.parametrize(
    ("properties", "said"),
    [
        ({"correlation_id": "k??"}, "correlation_id is no UTF-8"),
        ({"reply_to": "??"}, "reply_to is no UTF-8"),
        ({"headers": {"X-??": "1"}}, "the name of a header is no UTF-8"),
    ],
)
@pytest.mark.usefixtures("lenient")
def test_properties_that_are_no_utf8_are_refused_with_their_message_alone(
    properties: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadRequest, match=said) as refused:
        read(damaged(**properties), MESSAGE, AT)
    assert refused.value.problem.id == "bad-properties"


@pytest.mark.usefixtures("lenient")
def test_time_that_is_none_says_nothing() -> None:
    far = header.ContentHeader(0, 0, Basic.Properties(timestamp=AT, headers={"n": AT})).marshal()
    seconds = int(AT.timestamp()).to_bytes(8)
    assert far.count(seconds) == 2
    found = header.ContentHeader()
    found.unmarshal(far.replace(seconds, b"\x7f" * 8))
    assert (found.properties.timestamp, found.properties.headers) == (None, {"n": None})
    assert read(found.properties, MESSAGE, AT).envelope == EMPTY
