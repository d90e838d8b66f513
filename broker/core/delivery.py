"""The life of a delivery: one message on its way to one destination."""

from __future__ import annotations

from datetime import datetime
from enum import Enum, IntEnum

import msgspec

from broker.core.answer import Taken
from broker.core.outcome import Problem


class State(IntEnum):
    """What the store knows of a delivery. Under way is not a state: it is memory's alone."""

    WAITING = 0
    DONE = 1
    DEAD = 2
    WITHDRAWN = 3
    LOGGED = 4  # kept by a rule that says `log`, or a response with nowhere to go: it goes nowhere


class Event(Enum):
    """What happens to a delivery."""

    DELIVERED = "delivered"
    DEFERRED = "deferred"
    REFUSED = "refused"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    ANSWERED = "answered"  # its response came before the attempt was seen to end
    FAILED_LATER = "failed-later"  # a report that came after custody was taken (DSN)
    REDRIVEN = "redriven"


NEXT: dict[State, dict[Event, State]] = {
    State.WAITING: {
        Event.DELIVERED: State.DONE,
        Event.ANSWERED: State.DONE,
        Event.DEFERRED: State.WAITING,
        Event.REFUSED: State.DEAD,
        Event.EXPIRED: State.DEAD,
        Event.CANCELLED: State.WITHDRAWN,
    },
    State.DONE: {Event.FAILED_LATER: State.DEAD},
    State.DEAD: {Event.REDRIVEN: State.WAITING},
    State.WITHDRAWN: {Event.REDRIVEN: State.WAITING},  # a copy asks for it again
    State.LOGGED: {},
}


class AnswerState(IntEnum):
    """Whether a response is still looked for."""

    NONE = 0  # none is expected
    OPEN = 1
    ANSWERED = 2
    MISSING = 3  # answer time is over, and the source was told
    CLOSED = 4  # dead, withdrawn, or the receiver said that there is nothing to say


class Outcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a delivery ended, as a caller is told: custody taken, or refused and why."""

    taken: Taken | None = None
    status: int | None = None  # of the receiver's answer, where its protocol has such numbers
    body: bytes | None = None  # the receiver's own OperationOutcome
    media_type: str | None = None
    problem: Problem | None = None  # refused, expired, withdrawn: why


class Step(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a delivery's story: an attempt and how it ended, or what else happened to it."""

    at: datetime
    what: str  # an Event's value, or "lane", "address"
    note: str = ""
    status: int | None = None
    took: float | None = None  # seconds, for an attempt
    address: str | None = None  # where it differs from the delivery's
    left: bool = True  # False where the bytes surely did not reach the other side


GIVEN_UP = "given-up"  # id of the problem of a delivery whose time is over
STEPS_FIRST, STEPS_LAST = (
    10,
    40,
)  # of a long story the beginning and the end are kept, so that a row stays small


def story(steps: tuple[Step, ...], step: Step) -> tuple[Step, ...]:
    """The steps with one more, the middle left out once they are many."""
    steps = (*steps, step)
    if len(steps) > STEPS_FIRST + STEPS_LAST:
        steps = steps[:STEPS_FIRST] + steps[-STEPS_LAST:]
    return steps
