"""By what an earlier message is found, and what a cancel message means."""

from __future__ import annotations

import json

from broker.core.cancellation import called_off, keys_of
from broker.core.fhir.header import Event, Format, Header, Release


def header(*focus: str) -> Header:
    return Header(release=Release.R4, format=Format.JSON, event=Event(code="x"), focus=focus)


def test_message_is_found_by_what_it_is_about() -> None:
    assert keys_of(header("Task/1", "urn:uuid:2", "Task/1")) == ("focus:Task/1", "focus:urn:uuid:2")
    assert keys_of(header()) == ()


def test_cancel_message_means_what_it_is_about_and_what_that_refers_to() -> None:
    task = {"resourceType": "Task", "id": "7", "basedOn": [{"reference": "ServiceRequest/1"}]}
    body = json.dumps({"entry": [{"fullUrl": "urn:uuid:t", "resource": task}]}).encode()
    assert called_off(header("urn:uuid:t"), body) == (
        "focus:urn:uuid:t", "focus:Task/7", "focus:ServiceRequest/1", "t",
    )  # fmt: skip


def test_cancel_message_may_name_the_message_itself() -> None:
    assert called_off(header("MessageHeader/m", "Bundle/b", "urn:uuid:u"), b"{}")[3:] == ("m", "b", "u")
