"""AMQP 0-9-1 on the wire: read and written as pamqp, an independent codec, does; any bytes are read or refused."""

from __future__ import annotations

import struct
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands, frame, header

from plugins.amqp import wire
from plugins.amqp.wire import Malformed, Properties

ALL = Properties(
    content_type="application/fhir+json; fhirVersion=4.0",
    content_encoding="utf-8",
    table=wire.write_entry("ce-id", "æ" * 300),
    delivery_mode=2,
    priority=9,
    correlation_id="c",
    reply_to="q",
    expiration="60000",
    message_id="m",
    timestamp=1_772_366_400,
    type="t",
    user_id="guest",
    app_id="a",
    cluster_id="x",
)


def header_payload(properties: Properties, size: int = 0) -> bytes:
    return struct.pack(">HHQ", 60, 0, size) + wire.write_properties(properties)


def test_properties_are_written_as_another_codec_reads_them() -> None:
    read = header.ContentHeader()
    read.unmarshal(header_payload(ALL, 12))
    theirs = read.properties
    assert read.body_size == 12
    assert theirs.headers == {"ce-id": "æ" * 300}
    assert theirs.timestamp == datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
    for name in ("content_type", "delivery_mode", "priority", "correlation_id", "reply_to", "expiration", "cluster_id"):
        assert getattr(theirs, name) == getattr(ALL, name)


def test_properties_are_read_as_another_codec_writes_them() -> None:
    theirs = commands.Basic.Properties(
        content_type="x/y", headers={"n": 5, "yes": True, "t": datetime(2026, 3, 1, tzinfo=UTC), "in": {"a": ["b"]}},
        message_id="m", timestamp=datetime(2026, 3, 1, tzinfo=UTC), app_id="z",
    )  # fmt: skip
    payload = header.ContentHeader(0, 7, theirs).marshal()
    read = wire.read_properties(payload)
    assert (read.content_type, read.message_id, read.app_id, wire.body_size(payload)) == ("x/y", "m", "z", 7)
    assert dict(wire.read_table(read.table or b"")) == theirs.headers


def test_what_was_read_is_written_again_byte_for_byte() -> None:
    """Also names and values that are no UTF-8: a dead letter has the properties of what came."""
    payload = header_payload(ALL).replace(b"utf-8", b"\xff\xfetf8")
    assert wire.write_properties(wire.read_properties(payload)) == payload[12:]


@given(st.binary(max_size=300))
def test_any_bytes_are_properties_or_malformed(data: bytes) -> None:
    try:
        read = wire.read_properties(b"\0" * 12 + data)
        list(wire.read_table(read.table or b""))
    except Malformed:
        pass


@given(st.binary(max_size=100))
def test_any_bytes_are_a_method_or_malformed(data: bytes) -> None:
    for index in (0x000A000A, 0x000A001E, 0x003C0032, 0x00140028):
        with suppress(Malformed):
            wire.read_method(struct.pack(">I", index) + data)


def test_properties_that_break_off_are_malformed() -> None:
    whole = header_payload(ALL)
    for length in range(12, len(whole)):
        with pytest.raises(Malformed):
            wire.read_properties(whole[:length])


def test_id_that_is_too_long_for_a_short_string_is_not_cut() -> None:
    with pytest.raises(ValueError, match="message_id is longer than 255 bytes"):
        wire.write_properties(Properties(message_id="æ" * 128))
    assert not wire.fits("æ" * 128)
    assert wire.fits("æ" * 127)


@pytest.mark.parametrize("size", [0, 1, 4088, 4089, 20_000])
def test_message_is_written_in_frames_that_another_codec_reads(size: int) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    data = wire.write_publish(3, b"ex", b"key", True, wire.write_properties(ALL), body[:size], 4096)
    frames = []
    while data:
        used, number, one = frame.unmarshal(data)
        assert number == 3
        assert used <= 4096
        frames.append(one)
        data = data[used:]
    publish, head, *bodies = frames
    assert isinstance(publish, commands.Basic.Publish)
    assert (publish.exchange, publish.routing_key, publish.mandatory) == ("ex", "key", True)
    assert isinstance(head, header.ContentHeader)
    assert head.body_size == size
    assert b"".join(one.value for one in bodies) == body[:size]


def test_acknowledgements_are_as_another_codec_reads_them() -> None:
    _, number, ack = frame.unmarshal(wire.write_ack(5, 2**40, multiple=True))
    assert isinstance(ack, commands.Basic.Ack)
    assert (number, ack.delivery_tag, ack.multiple) == (5, 2**40, True)
    _, _, nack = frame.unmarshal(wire.write_requeue(5, 9, multiple=False))
    assert isinstance(nack, commands.Basic.Nack)
    assert (nack.delivery_tag, nack.multiple, nack.requeue) == (9, False, True)


def test_deliver_and_confirm_are_read() -> None:
    deliver = commands.Basic.Deliver("tag", 77, True, "ex", "a.b")
    assert wire.read_deliver(struct.pack(">I", deliver.index) + deliver.marshal()) == wire.Delivered(
        77, True, "ex", "a.b"
    )
    ack = commands.Basic.Ack(12, True)
    assert wire.read_confirm(struct.pack(">I", ack.index) + ack.marshal()) == (12, True)
