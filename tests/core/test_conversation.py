"""Which response is the last one."""

from __future__ import annotations

import msgspec
import pytest

from broker.core.conversation import is_final
from broker.core.fhir.header import Event, Format, Header, Identifier, Release, ResponseLink
from broker.core.policy import DEFAULT, Policy, Responses

TASK = b'{"entry":[{"resource":{"resourceType":"Task","id":"1","status":"completed"}}]}'
SEVERAL = msgspec.structs.replace(DEFAULT, responses=Responses.SEVERAL)


def response(code: str = "ok", *, event: Event = Event(code="progress"), focus: tuple[str, ...] = ()) -> Header:
    link = ResponseLink(identifier=Identifier(value="m"), code=code)
    return Header(release=Release.R4, format=Format.JSON, event=event, response=link, focus=focus)


def test_where_one_is_expected_the_first_is_the_last() -> None:
    assert is_final(DEFAULT, response(), b"")


@pytest.mark.parametrize(("code", "final"), [("ok", False), ("transient-error", True), ("fatal-error", True)])
def test_failure_is_final(code: str, final: bool) -> None:
    assert is_final(SEVERAL, response(code), b"") is final


@pytest.mark.parametrize("patterns", [("progress",), ("urn:e|progress",), ("*gress",), ("x", "urn:e|*")])
def test_event_that_the_rule_names_is_final(patterns: tuple[str, ...]) -> None:
    policy: Policy = msgspec.structs.replace(SEVERAL, final=patterns)
    assert is_final(policy, response(event=Event(system="urn:e", code="progress")), b"")
    assert not is_final(policy, response(event=Event(code="other")), b"")


def test_task_at_its_end_is_final() -> None:
    assert is_final(SEVERAL, response(focus=("Task/1",)), TASK)
    assert not is_final(SEVERAL, response(), TASK), "it is not what the message is about"
