"""The receipt ledger: what became of the receipt that a delivery's source waits for."""

from __future__ import annotations

from enum import StrEnum

from broker.core.delivery import AnswerState, State

NEGATIVE = frozenset({"transient-error", "fatal-error"})  # response.code (M-32)
ASTRAY = "not-found"  # FHIR issue code of what went to a name or an address where nobody is


class Mark(StrEnum):
    """How a delivery stands in the ledger."""

    ANSWERED = "answered"
    NEGATIVE = "negative"  # its response says transient-error or fatal-error
    OPEN = "open"  # the answer time is not over
    MISSING = "missing"  # it is, and no response has come
    SILENT = "silent"  # the receiver took it, and said that there is nothing to say
    UNDELIVERED = "undelivered"  # given up, whether an answer was expected or not
    WITHDRAWN = "withdrawn"
    CARRIED = "carried"  # no answer is expected


def mark(state: State, answer: AnswerState, *, expects: bool, overdue: bool, negative: bool) -> Mark:
    """`expects`: it has an answer time; `overdue`: that is over; `negative`: the response that closed it says so."""
    if answer is AnswerState.ANSWERED:
        return Mark.NEGATIVE if negative else Mark.ANSWERED
    if state is State.DEAD:
        return Mark.UNDELIVERED
    if state is State.WITHDRAWN:
        return Mark.WITHDRAWN
    if not expects:
        return Mark.CARRIED
    if answer is AnswerState.OPEN:
        return Mark.MISSING if overdue else Mark.OPEN
    return Mark.MISSING if answer is AnswerState.MISSING else Mark.SILENT


def is_astray(code: str) -> bool:
    """Whether a problem of this FHIR issue code means that the message was wrongly addressed."""
    return code == ASTRAY
