"""What the broker answers to a status-check message: the state of each delivery, as an issue and as a Task.

Delivery state only: what the receiver makes of the message is the receiver's to say (W-36).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from broker.core.delivery import AnswerState, State
from broker.core.fhir.bounce import response_bundle
from broker.core.fhir.header import Format, Header, Release
from broker.core.fhir.outcomes import MESSAGE, issue
from broker.core.fhir.write import Resource, instant, shapes, write
from broker.core.outcome import Problem, Severity, Who

TASK = "urn:x-fhir-broker:task"  # Task.code: delivery
DELIVERY = "urn:x-fhir-broker:delivery"  # Task.businessStatus: waiting, taken, answered, …


class Fate(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one delivery."""

    destination: str
    state: State
    answer: AnswerState
    attempts: int
    at: datetime  # when it came to this
    problem: Problem | None = None


_ENDED = {
    State.DEAD: ("failed", "dead"),
    State.WITHDRAWN: ("cancelled", "withdrawn"),
    State.LOGGED: ("rejected", "kept"),
}
_TEXTS = {
    "waiting": "on its way, {attempts} so far",
    "taken": "taken over, its response is looked for",
    "unanswered": "taken over, and no response came in the time given for it",
    "answered": "delivered and answered",
    "delivered": "delivered",
    "dead": "not delivered: {why}",
    "withdrawn": "withdrawn, it is not delivered any more",
    "kept": "kept, and carried nowhere",
}


def task_status(fate: Fate) -> tuple[str, str]:
    """Task.status (W-37), and our own word for it."""
    if fate.state is State.WAITING:
        return "requested", "waiting"
    if fate.state in _ENDED:
        return _ENDED[fate.state]
    if fate.answer is AnswerState.OPEN:
        return "received", "taken"
    if fate.answer is AnswerState.MISSING:
        return "received", "unanswered"
    return "completed", "answered" if fate.answer is AnswerState.ANSWERED else "delivered"


def status_response(
    *,
    request: Header,
    about: Header,
    message_id: str,
    fates: Sequence[Fate],
    broker_endpoint: str,
    ids: Sequence[str],
    at: datetime,
) -> bytes:
    """The response message. `about` is the message that is asked for, `message_id` ours of it; `ids` are fresh UUIDs:
    three, and one for each of `fates`."""
    release, format = request.release, request.format
    ours: list[Resource] = [{"system": MESSAGE, "code": message_id}]
    outcome: Resource = {
        "resourceType": "OperationOutcome",
        "id": ids[2],
        "issue": [issue(_told(fate), release=release, more=ours) for fate in fates],
    }
    tasks = []
    if release is not Release.DSTU2:  # which has no Task
        tasks = [
            {"fullUrl": f"urn:uuid:{id}", "resource": _task(fate, id, about, release)}
            for fate, id in zip(fates, ids[3:], strict=True)
        ]
    bundle = response_bundle(
        request=request, release=release, code="ok", text="The state of the message's deliveries.",
        broker_endpoint=broker_endpoint, ids=(ids[0], ids[1]), at=at, outcome=outcome, others=tasks,
    )  # fmt: skip
    return write(bundle, format)


def media_type_of(format: Format, release: Release) -> str:
    return f"application/fhir+{format.value}; fhirVersion={release.value}"


def _told(fate: Fate) -> Problem:
    word = task_status(fate)[1]
    why = fate.problem.text if fate.problem is not None else "it was given up"
    attempts = f"{fate.attempts} attempt{'s' if fate.attempts != 1 else ''}"
    text = f"{fate.destination or 'the receiver'}: {_TEXTS[word].format(attempts=attempts, why=why)}"
    return Problem(code="informational", id=word, text=text, severity=Severity.INFORMATION, who=Who.BROKER)


def _task(fate: Fate, id: str, about: Header, release: Release) -> Resource:
    """The order of elements is that of the resource, for XML."""
    status, word = task_status(fate)
    asked = about.message_id or about.bundle_id or str(about.bundle_identifier or "")
    written: Resource = {"resourceType": "Task", "id": id, "status": status}
    if fate.problem is not None:
        reason: Resource = {"text": fate.problem.text}
        written["statusReason"] = {"concept": reason} if shapes(release) is Release.R5 else reason
    written["businessStatus"] = {"coding": [{"system": DELIVERY, "code": word}]}
    written["intent"] = "order"
    written["code"] = {"coding": [{"system": TASK, "code": "delivery"}]}
    if asked:
        written["focus"] = {"identifier": {"value": asked}}
    written["lastModified"] = instant(fate.at)
    if fate.destination:
        written["owner"] = {"identifier": {"system": "urn:ietf:rfc:3986", "value": fate.destination}}
    return written
