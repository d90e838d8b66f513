"""The receipt ledger as the store keeps it: its part of the store's contract.

The ledger is no table of its own: the delivery that expects an answer is the row, with its answer time. It is read in
steps of positions, since what a period holds may be a million messages. Only what is refused at the door leaves no
message behind, and is tallied by day.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Mapping
from datetime import date, datetime
from typing import Protocol

import msgspec

from broker.core.delivery import AnswerState, State
from broker.core.ledger import Mark, mark


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """The positions of a period: above `after`, up to `last`."""

    after: int
    last: int


class Sum(msgspec.Struct, frozen=True, kw_only=True):
    """So many deliveries of one source that stand alike."""

    source: str  # comparison key; "" for what named none
    mark: Mark
    expects: bool
    count: int
    kind: str = ""  # of a negative response its code, of what was given up the id of the problem
    astray: bool = False  # it was wrongly addressed


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One delivery that has no good receipt."""

    position: int
    number: int
    accepted: datetime
    source: str
    destination: str
    event: str  # system|code
    mark: Mark
    expects: bool
    answer_by: datetime | None
    answered_by: int | None  # position of the response
    kind: str = ""  # as in a sum
    astray: bool = False
    text: str = ""  # of the problem
    said: bytes | None = None  # the receiver's own OperationOutcome, where it refused


class Page(msgspec.Struct, frozen=True, kw_only=True):
    lines: tuple[Line, ...]
    reached: int  # position: the next page starts after it


class RefusedAs(msgspec.Struct, frozen=True, kw_only=True):
    """What is counted together of what was refused at the door."""

    day: date  # UTC
    source: str  # comparison key; "" where the header could not be read, or names none
    party: str
    error: str  # our stable id
    code: str  # FHIR issue code
    destination: str  # of what was wrongly addressed; "" for the rest


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    what: RefusedAs
    count: int


class Ledger(Protocol):
    # writing
    def refused(self, counts: Mapping[RefusedAs, int]) -> Future[None]: ...

    # reading, each a step that a reader does at once
    async def span(self, begins: datetime, ends: datetime) -> Span: ...
    async def sums(self, span: Span, now: datetime) -> tuple[Sum, ...]: ...
    async def lines(self, span: Span, now: datetime, limit: int) -> Page: ...
    async def refusals(self, first: date, last: date, limit: int) -> tuple[Refused, ...]: ...


def marked(state: int, answer: int, *, expects: bool, overdue: bool, negative: str | None) -> Mark:
    """The mark of a row."""
    return mark(
        State(state), AnswerState(answer), expects=expects, overdue=overdue, negative=negative is not None
    )  # fmt: skip
