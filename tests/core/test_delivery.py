"""The life of a delivery, as a table."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from broker.core.delivery import NEXT, STEPS_FIRST, STEPS_LAST, Event, State, Step, story

NOW = datetime(2026, 11, 21, tzinfo=UTC)


def test_every_state_has_a_row() -> None:
    assert set(NEXT) == set(State)


def test_every_event_happens_to_some_state() -> None:
    assert {event for row in NEXT.values() for event in row} == set(Event)


def test_only_what_waits_is_delivered_or_dies() -> None:
    for state, row in NEXT.items():
        assert (Event.DELIVERED in row) == (Event.REFUSED in row) == (state is State.WAITING)


def test_dead_and_withdrawn_can_wait_again_and_nothing_else_comes_back() -> None:
    back = {state for state, row in NEXT.items() if State.WAITING in row.values()}
    assert back == {State.WAITING, State.DEAD, State.WITHDRAWN}


@given(st.integers(0, 200))
def test_story_keeps_its_beginning_and_its_end(count: int) -> None:
    steps: tuple[Step, ...] = ()
    for number in range(count):
        steps = story(steps, Step(at=NOW, what="deferred", note=str(number)))
    notes = [int(step.note) for step in steps]
    assert len(notes) == min(count, STEPS_FIRST + STEPS_LAST)
    assert notes[:STEPS_FIRST] == list(range(min(count, STEPS_FIRST)))
    assert notes[STEPS_FIRST:] == list(range(max(count - STEPS_LAST, STEPS_FIRST), count))
