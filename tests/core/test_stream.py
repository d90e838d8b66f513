"""Which deliveries must follow each other (design promise 4)."""

from __future__ import annotations

from typing import Any

import pytest

from broker.core.envelope import Envelope
from broker.core.fhir.header import Event, Format, Header, Release
from broker.core.policy import Order
from broker.core.stream import Key, key_of

SOURCE = "urn:oid:1.2"


def key(order: Order, *, source: str | None = SOURCE, focus: tuple[str, ...] = (), **envelope: Any) -> Key | None:
    header = Header(release=Release.R4, format=Format.JSON, event=Event("", "e"), focus=focus)
    return key_of(order, source=source, header=header, envelope=Envelope(**envelope))


def test_no_order_is_no_stream() -> None:
    assert key(Order.NONE) is None


@pytest.mark.parametrize(
    ("order", "given", "value"),
    [
        (Order.SOURCE, {}, SOURCE),
        (Order.SUBJECT, {"more": (("other", "x"), ("subject", "Patient/7"))}, "Patient/7"),
        (Order.CORRELATION, {"correlationid": "c-1"}, "c-1"),
        (Order.FOCUS, {"focus": ("https://ehr.example/Patient/7", "Encounter/1")}, "https://ehr.example/Patient/7"),
        (Order.FOCUS, {"focus": ("Patient/7",)}, f"{SOURCE} Patient/7"),
    ],
)
def test_messages_with_the_same_value_are_ordered(order: Order, given: dict[str, Any], value: str) -> None:
    assert key(order, **given) == Key(kind=order, value=value)


def test_relative_focus_is_another_with_another_source() -> None:
    assert key(Order.FOCUS, focus=("Patient/7",)) != key(Order.FOCUS, focus=("Patient/7",), source="urn:oid:9")


@pytest.mark.parametrize("order", [Order.SUBJECT, Order.FOCUS, Order.CORRELATION])
def test_message_without_the_value_is_ordered_by_its_source_or_else_by_nothing(order: Order) -> None:
    assert key(order) == key(Order.SOURCE) == Key(kind=Order.SOURCE, value=SOURCE)
    assert key(order, source=None) == Key(kind=Order.NONE, value="")


def test_source_is_the_same_however_its_name_is_written() -> None:
    assert key(Order.SOURCE, source="URN:OID:1.2") == key(Order.SOURCE)


def test_data_that_is_not_fhir_has_no_focus() -> None:
    found = key_of(Order.FOCUS, source=SOURCE, header=None, envelope=Envelope())
    assert found == Key(kind=Order.SOURCE, value=SOURCE)


def test_stream_is_the_destinations_the_kinds_and_the_values_own() -> None:
    streams = {
        Key(kind=kind, value=value).stream(destination)
        for kind in (Order.SOURCE, Order.SUBJECT)
        for value in ("a", "b")
        for destination in ("x", "y")
    }
    assert len(streams) == 8
    assert {len(stream) for stream in streams} == {16}
