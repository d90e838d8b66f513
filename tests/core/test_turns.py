"""Whose turn it is among priorities."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.turns import HIGHEST, PATIENCE, next_level, share, within


def turns(levels: list[int], count: int) -> list[int]:
    passed: dict[int, int] = {}
    return [next_level(levels, passed) for _ in range(count)]


def test_higher_goes_first_and_after_so_many_one_of_lower() -> None:
    assert turns([0, 5], 10) == [5, 5, 5, 5, 0, 5, 5, 5, 5, 0]


def test_one_priority_alone_always_goes() -> None:
    assert turns([0], 5) == [0] * 5


@given(st.sets(st.integers(0, 9), min_size=1))
def test_no_priority_waits_for_ever(levels: set[int]) -> None:
    gone = turns(list(levels), 20 * len(levels))
    for level in levels:
        places = [-1] + [place for place, one in enumerate(gone) if one == level]
        assert max(after - before for before, after in itertools.pairwise(places)) <= PATIENCE + len(levels)


@given(st.sets(st.integers(0, 9), min_size=2))
def test_highest_has_the_most(levels: set[int]) -> None:
    gone = turns(list(levels), 300)
    assert all(gone.count(max(levels)) >= gone.count(level) for level in levels)


@pytest.mark.parametrize(("room", "lower", "most"), [(10, True, 8), (10, False, 10), (1, True, 1), (5, True, 4)])
def test_room_is_left_to_a_lower_priority_that_waits(room: int, lower: bool, most: int) -> None:
    assert share(room, lower=lower) == most


@pytest.mark.parametrize(("written", "ours"), [(-3, 0), (0, 0), (4, 4), (255, HIGHEST)])
def test_others_priority_is_cut_to_ours(written: int, ours: int) -> None:
    assert within(written) == ours
