"""The broker's clock beside a wall clock that is set."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.clock import NEAR, STAYS, TURN, Course, begin, shown, steered

START, HOUR = 1_800_000_000.0, 3600.0


def run(course: Course, *, seconds: int, ahead: float, start: float) -> tuple[Course, float]:
    """A look each second, with the wall so far ahead of where it would be had it never been set."""
    for _ in range(seconds):
        start += 1
        course = steered(course, wall=START + start + ahead, steady=start)
    return course, start


@pytest.mark.parametrize("ahead", [HOUR, -HOUR])
def test_wall_that_is_set_an_hour_off_and_back_again_is_not_followed(ahead: float) -> None:
    course, at = run(begin(wall=START, steady=0.0), seconds=5, ahead=0, start=0.0)
    course, at = run(course, seconds=int(STAYS) - 1, ahead=ahead, start=at)
    assert shown(course, at) - START == pytest.approx(at, abs=0.001)
    course, at = run(course, seconds=100, ahead=0, start=at)
    assert shown(course, at) - START == pytest.approx(at, abs=0.001)
    assert course.set_at is None


@pytest.mark.parametrize("ahead", [HOUR, -HOUR])
def test_wall_that_stays_where_it_was_set_is_followed_slowly_to_the_end(ahead: float) -> None:
    course, at = run(begin(wall=START, steady=0.0), seconds=int(STAYS + HOUR), ahead=ahead, start=0.0)
    moved = shown(course, at) - START - at
    assert moved == pytest.approx(TURN * HOUR * (1 if ahead > 0 else -1), rel=0.02)
    course, at = run(course, seconds=int(HOUR / TURN), ahead=ahead, start=at)
    assert shown(course, at) - START - at == pytest.approx(ahead, abs=0.01)
    assert course.set_at is None


def test_wall_that_is_set_again_and_again_is_not_followed() -> None:
    course, at = begin(wall=START, steady=0.0), 0.0
    for number in range(10):
        course, at = run(course, seconds=int(STAYS / 2), ahead=HOUR * (-1) ** number, start=at)
    assert shown(course, at) - START == pytest.approx(at, abs=0.001)


def test_drift_is_made_good_within_minutes() -> None:
    course, at = run(begin(wall=START, steady=0.0), seconds=600, ahead=1.0, start=0.0)
    assert shown(course, at) - START - at == pytest.approx(1.0, abs=0.001)


@given(looks=st.lists(st.tuples(st.floats(0.01, 2000), st.floats(-1e6, 1e6)), max_size=40))
def test_whatever_the_wall_shows_time_neither_leaps_nor_runs_backwards(looks: list[tuple[float, float]]) -> None:
    course, at = begin(wall=START, steady=0.0), 0.0
    for passed, ahead in looks:
        before, at = shown(course, at), at + passed
        here = shown(course, at)
        assert (1 - TURN) * passed - 1e-3 <= here - before <= (1 + TURN) * passed + 1e-3
        course = steered(course, wall=START + at + ahead, steady=at)
        assert shown(course, at) == pytest.approx(here, abs=1e-6)
        assert (course.set_at is None) == (abs(START + at + ahead - here) <= NEAR)
