"""What the sender is told of a message that is kept: an OperationOutcome (M-44). Written once for every message."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from broker.core.fhir.header import Format, Release
from broker.core.fhir.outcomes import MESSAGE, issue
from broker.core.fhir.write import Resource, write
from broker.core.outcome import Problem, Severity, Who


class Kind(StrEnum):
    """The value is the stable id in `details.coding`."""

    ACCEPTED = "accepted"  # 202, 201, and 200 where nobody waits
    DUPLICATE = "duplicate"
    TAKEN = "taken"  # the receiver itself took custody and said no more
    KEPT = "kept"  # the wait ended; 202
    CANCELLED = "cancelled"  # the sender withdrew it (DELETE of the status URL); 202
    WITHDRAWN = "withdrawn"  # the wait ended under `on_timeout: refuse`, nothing had left; 504
    WITHDRAWN_AFTER_LEAVING = "withdrawn-after-leaving"  # the same, but something had left; 504


_TEXTS = {
    Kind.ACCEPTED: "Accepted: the message is kept as {id} and will be carried on. Do not send it again.",
    Kind.DUPLICATE: "Duplicate of {id}, which is kept: nothing is done twice.",
    Kind.TAKEN: "The receiver took the message over, which is kept as {id}; an answer, if any, comes on its own.",
    Kind.KEPT: (
        "No answer came within the wait. The message is kept as {id} and goes on to its receiver; "
        "do not resend it under new ids."
    ),
    Kind.CANCELLED: "Withdrawn: what had not left of message {id} is not delivered any more.",
    Kind.WITHDRAWN: (
        "No answer came within the wait, and message {id} was withdrawn. Nothing had left: no receiver has it."
    ),
    Kind.WITHDRAWN_AFTER_LEAVING: (
        "No answer came within the wait, and what had not left of message {id} was withdrawn. Something had left and "
        "may have been processed: ask the receiver before you send it again."
    ),
}

_REFUSALS = {Kind.WITHDRAWN, Kind.WITHDRAWN_AFTER_LEAVING}


def receipt_problem(kind: Kind, message_id: str) -> Problem:
    """The receipt as the issue that says it."""
    refused = kind in _REFUSALS
    return Problem(
        code="timeout" if refused else "informational",
        id=kind.value,
        text=_TEXTS[kind].format(id=message_id),
        severity=Severity.ERROR if refused else Severity.INFORMATION,
        who=Who.RECEIVER if refused else Who.BROKER,
    )


def receipt(kind: Kind, message_id: str, *, release: Release, notes: Sequence[Problem] = ()) -> Resource:
    """The receipt as an OperationOutcome: first what became of the message, then the notes."""
    ours = [{"system": MESSAGE, "code": message_id}]
    return {
        "resourceType": "OperationOutcome",
        "issue": [
            issue(receipt_problem(kind, message_id), release=release, more=ours),
            *(issue(note, release=release) for note in notes),
        ],
    }


_HERE = "00000000-0000-0000-0000-000000000000"

# Without notes only the id differs, and the shape is the same in every release.
_TEMPLATES = {
    (format, kind): write(receipt(kind, _HERE, release=Release.R4), format).split(_HERE.encode())
    for format in Format
    for kind in Kind
}


def receipt_bytes(
    kind: Kind,
    message_id: str,
    format: Format = Format.JSON,
    *,
    release: Release = Release.R4,
    notes: Sequence[Problem] = (),
) -> bytes:
    """The receipt in bytes; `message_id` is a UUID of ours."""
    if notes:
        return write(receipt(kind, message_id, release=release, notes=notes), format)
    return message_id.encode().join(_TEMPLATES[format, kind])
