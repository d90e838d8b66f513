from __future__ import annotations

import itertools
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st
from subscribed import NOW

from broker.core.subscription.pace import Pace, offset

MINUTE = timedelta(minutes=1)


def test_places_are_even_and_each_subscription_keeps_its_own() -> None:
    """S-57a: no thundering herd, and no two words about when."""
    found = [offset(f"subscription-{n}", MINUTE) for n in range(6_000)]
    assert found == [offset(f"subscription-{n}", MINUTE) for n in range(6_000)]
    each_second = [sum(second <= one.total_seconds() < second + 1 for one in found) for second in range(60)]
    assert all(60 < count < 150 for count in each_second), each_second


@given(st.text(), st.timedeltas(min_value=timedelta(), max_value=timedelta(hours=1)))
def test_no_place_is_beyond_the_spread(id: str, spread: timedelta) -> None:
    assert timedelta() <= offset(id, spread) <= spread


@given(st.lists(st.integers(0, 100), max_size=30), st.sampled_from([0.5, 1.0, 50.0]))
def test_starts_keep_their_distance_and_come_as_soon_as_they_may(wanted: list[int], rate: float) -> None:
    pace, starts = Pace(rate), []
    for seconds in sorted(wanted):
        asked = NOW + timedelta(seconds=seconds)
        at, pace = pace.start(asked)
        assert at >= asked
        assert at == asked or at - starts[-1] <= timedelta(seconds=1 / rate) + timedelta(microseconds=1)
        starts.append(at)
    assert all(b - a >= timedelta(seconds=1 / rate) for a, b in itertools.pairwise(starts))


def test_no_rate_is_no_limit() -> None:
    pace = Pace(0.0)
    assert [pace.start(NOW) for _ in range(2)] == [(NOW, pace)] * 2
