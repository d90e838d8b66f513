"""How a delivery stands in the receipt ledger."""

from __future__ import annotations

from itertools import product

import pytest

from broker.core.delivery import AnswerState, State
from broker.core.ledger import Mark, is_astray, mark

DONE, DEAD, WAITING = State.DONE, State.DEAD, State.WAITING


@pytest.mark.parametrize(
    ("state", "answer", "expects", "overdue", "negative", "found"),
    [
        (DONE, AnswerState.ANSWERED, True, False, False, Mark.ANSWERED),
        (DONE, AnswerState.ANSWERED, True, True, True, Mark.NEGATIVE),
        (DEAD, AnswerState.ANSWERED, True, False, False, Mark.ANSWERED),
        (DEAD, AnswerState.CLOSED, True, True, False, Mark.UNDELIVERED),
        (DEAD, AnswerState.NONE, False, False, False, Mark.UNDELIVERED),
        (State.WITHDRAWN, AnswerState.CLOSED, True, False, False, Mark.WITHDRAWN),
        (DONE, AnswerState.OPEN, True, False, False, Mark.OPEN),
        (WAITING, AnswerState.OPEN, True, True, False, Mark.MISSING),
        (DONE, AnswerState.MISSING, True, True, False, Mark.MISSING),
        (DONE, AnswerState.CLOSED, True, False, False, Mark.SILENT),
        (DONE, AnswerState.NONE, False, False, False, Mark.CARRIED),
    ],
)
def test_delivery_has_its_mark(
    state: State, answer: AnswerState, expects: bool, overdue: bool, negative: bool, found: Mark
) -> None:
    assert mark(state, answer, expects=expects, overdue=overdue, negative=negative) is found


def test_every_state_has_a_mark() -> None:
    for state, answer, expects, overdue, negative in product(State, AnswerState, *[(False, True)] * 3):
        assert mark(state, answer, expects=expects, overdue=overdue, negative=negative) in Mark


def test_what_was_wrongly_addressed_is_known_by_its_issue_code() -> None:
    assert is_astray("not-found")
    assert not is_astray("processing")
