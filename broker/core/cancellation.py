"""What a cancel message calls off: earlier messages of its source that are about the same (W-12, W-30, W-31)."""

from __future__ import annotations

from broker.core.delivery import Outcome
from broker.core.fhir.focus import focused
from broker.core.fhir.header import Header
from broker.core.outcome import Problem, Severity, Who

_ABOUT = "focus:"  # before a reference, so that it is no id of a message
_OF_MESSAGES = ("MessageHeader/", "Bundle/", "urn:uuid:")  # how a focus names a message itself

CANCELLED = Problem(
    code="processing",
    id="cancelled",
    who=Who.SENDER,
    severity=Severity.WARNING,
    text="the message was cancelled by its sender before it left: its receiver never had it",
)
OUTCOME = Outcome(problem=CANCELLED)
NOTHING_TO_CANCEL = Problem(
    code="informational",
    id="cancelled",
    severity=Severity.INFORMATION,
    text="What this message calls off had not left and was withdrawn: there is nothing to cancel at the receiver, and"
    " this message is kept and carried nowhere.",
)


def keys_of(header: Header) -> tuple[str, ...]:
    """By which a message is found by those that call it off, beside the ids by which it is quoted."""
    return tuple(dict.fromkeys(_ABOUT + reference for reference in header.focus))


def called_off(header: Header, body: bytes) -> tuple[str, ...]:
    """The ids and keys of what a cancel message means: by what it is about, and by what that refers to in turn."""
    names = list(header.focus)
    for one in focused(body, header):
        names += (*one.names, *one.refers_to)
    ids = [name.rpartition("/")[2].removeprefix("urn:uuid:") for name in names if name.startswith(_OF_MESSAGES)]
    return tuple(dict.fromkeys([*(_ABOUT + name for name in names), *ids]))
