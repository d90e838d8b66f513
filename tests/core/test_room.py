"""When a sender that finds no room should come again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker.core.room import (
    LONGEST_QUEUE,
    LONGEST_TROUBLE,
    WINDOW,
    Bounds,
    Limit,
    Pace,
    Short,
    Trouble,
    again,
    does_not_fit,
    store_short,
    wait_for_queue,
    wait_in_trouble,
)

BOUNDS = Bounds(in_flight=1000, min_free=100, max_wal=50)
DICE = st.floats(min_value=0, max_value=1, exclude_max=True)


def test_disk_below_its_reserve_is_named_with_both_figures() -> None:
    assert store_short(BOUNDS, free=99, wal=0) == Short(limit=Limit.FREE, found=99, allowed=100)
    assert store_short(BOUNDS, free=100, wal=50) is None


def test_log_above_its_limit_is_named_with_both_figures() -> None:
    assert store_short(BOUNDS, free=100, wal=51) == Short(limit=Limit.LOG, found=51, allowed=50)


def test_one_message_fits_however_small_the_limit_and_a_second_only_within_it() -> None:
    assert not does_not_fit(500, in_flight=0, allowed=100)
    assert not does_not_fit(40, in_flight=60, allowed=100)
    assert does_not_fit(41, in_flight=60, allowed=100)


def test_wait_is_what_is_queued_over_the_rate_rounded_up() -> None:
    assert wait_for_queue(10_000_000, 2_000_000.0, dice=0) == 5
    assert wait_for_queue(10_000_001, 2_000_000.0, dice=0) == 6
    assert wait_for_queue(1, 2_000_000.0, dice=0) == 1


def test_queue_that_does_not_move_is_waited_for_longest_and_an_unmeasured_one_shortly() -> None:
    assert wait_for_queue(10, 0.0, dice=0) == 40
    assert wait_for_queue(10, 0.0, dice=0.999) == LONGEST_QUEUE
    assert wait_for_queue(10, None, dice=0) == 2


def test_senders_that_are_refused_together_do_not_come_back_together() -> None:
    for wait in (lambda dice: wait_for_queue(20, 1.0, dice=dice), lambda dice: wait_in_trouble(10_000, dice=dice)):
        assert len({wait(step / 20) for step in range(20)}) > 5


def test_wait_for_what_does_not_move_grows_with_how_long_it_lasts() -> None:
    assert [wait_in_trouble(lasted, dice=0) for lasted in (0, 10, 60, 200, 100_000)] == [5, 5, 30, 100, 200]


@given(waiting=st.integers(0, 1 << 40), rate=st.none() | st.floats(0, 1e12), dice=DICE)
def test_wait_for_a_queue_is_between_a_second_and_a_minute(waiting: int, rate: float | None, dice: float) -> None:
    assert 1 <= wait_for_queue(waiting, rate, dice=dice) <= LONGEST_QUEUE


@given(lasted=st.floats(0, 1e9), dice=DICE)
def test_wait_in_trouble_is_never_over_five_minutes(lasted: float, dice: float) -> None:
    assert 1 <= wait_in_trouble(lasted, dice=dice) <= LONGEST_TROUBLE


def test_trouble_goes_on_while_senders_keep_being_refused_and_is_a_new_one_after_silence() -> None:
    first = again(None, 100.0)
    assert first.since == 100.0
    later = again(first, 500.0)
    assert later.since == 100.0
    assert again(later, later.until + 1) == Trouble(since=later.until + 1, until=later.until + 1 + 2 * LONGEST_TROUBLE)


def test_rate_is_that_of_late_and_unknown_without_a_sample() -> None:
    pace = Pace()
    assert pace.rate(10.0, 100) is None
    for second in range(20):
        pace = pace.sampled(float(second), 1000 * max(0, second - 10))  # nothing for ten seconds, then 1000 a second
    assert pace.rate(20.0, 10_000) == 1000.0
    assert len(pace.samples) <= WINDOW + 2


def test_rate_at_the_very_moment_of_the_only_sample_is_unknown() -> None:
    assert Pace().sampled(5.0, 10).rate(5.0, 10) is None
