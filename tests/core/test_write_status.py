"""The answer to a status check: valid in each release, and a Task for each delivery (W-36, W-37)."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from written import R4_AND_LATER, read, validated

from broker.core.delivery import AnswerState, State
from broker.core.fhir.header import Event, Format, Header, Release
from broker.core.fhir.status import Fate, status_response, task_status
from broker.core.outcome import Problem

AT = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
WHY = Problem(code="forbidden", id="no", text="not to us")


def fate(state: State, answer: AnswerState = AnswerState.NONE, **more: object) -> Fate:
    return Fate(destination="urn:oid:2.1", state=state, answer=answer, attempts=2, at=AT, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "answer", "status", "word"),
    [
        (State.WAITING, AnswerState.OPEN, "requested", "waiting"),
        (State.DONE, AnswerState.OPEN, "received", "taken"),
        (State.DONE, AnswerState.MISSING, "received", "unanswered"),
        (State.DONE, AnswerState.ANSWERED, "completed", "answered"),
        (State.DONE, AnswerState.NONE, "completed", "delivered"),
        (State.DONE, AnswerState.CLOSED, "completed", "delivered"),
        (State.DEAD, AnswerState.CLOSED, "failed", "dead"),
        (State.WITHDRAWN, AnswerState.CLOSED, "cancelled", "withdrawn"),
        (State.LOGGED, AnswerState.NONE, "rejected", "kept"),
    ],
)
def test_every_state_has_its_task_status(state: State, answer: AnswerState, status: str, word: str) -> None:
    """W-37."""
    assert task_status(fate(state, answer)) == (status, word)


@pytest.mark.parametrize("format", Format)
@pytest.mark.parametrize("release", [Release.DSTU2, *R4_AND_LATER])
def test_answer_is_valid_in_each_release(release: Release, format: Format) -> None:
    fates = [fate(State.WAITING), fate(State.DEAD, problem=WHY), fate(State.DEAD), fate(State.LOGGED)]
    request = Header(
        release=release, format=format, event=Event(system="urn:e", code="check"), message_id="c", source="urn:s"
    )
    body = status_response(
        request=request, about=Header(release=release, format=format, event=Event(code="x"), bundle_id="b"),
        message_id="ours", fates=fates, broker_endpoint="urn:broker", ids=[f"id{n}" for n in range(7)], at=AT,
    )  # fmt: skip
    bundle = read(body, format)
    if format is Format.JSON:
        if release is not Release.DSTU2:  # whose shapes are nobody's model here
            validated(bundle, release)
        kinds = [entry["resource"]["resourceType"] for entry in bundle["entry"]]
    else:
        kinds = [resource[0].tag.rpartition("}")[2] for resource in bundle.iter("{http://hl7.org/fhir}resource")]
    assert kinds == ["MessageHeader", "OperationOutcome"] + ["Task"] * (0 if release is Release.DSTU2 else 4)
