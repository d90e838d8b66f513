"""When a delivery is tried again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from broker.core.policy import Retry
from broker.core.retry import next_attempt, wait_before

NOW = datetime(2026, 11, 21, tzinfo=UTC)
SECONDS = st.integers(0, 10**6).map(lambda n: timedelta(seconds=n))
RETRIES = st.builds(
    Retry, first=SECONDS, factor=st.floats(1, 1e9), max=SECONDS, jitter=st.floats(0, 1), give_up=SECONDS
)
MADE = st.integers(1, 10**9)
DICE = st.floats(0, 1)


def test_waits_double_up_to_the_longest() -> None:
    retry = Retry(max=timedelta(seconds=10))
    waits = [wait_before(attempt, retry, dice=0.5).total_seconds() for attempt in range(2, 8)]
    assert waits == [1, 2, 4, 8, 10, 10]


@given(st.integers(2, 10**9), RETRIES, DICE)
def test_wait_is_never_further_from_the_rules_than_its_jitter(attempt: int, retry: Retry, dice: float) -> None:
    wait = wait_before(attempt, retry, dice=dice).total_seconds()
    longest, first = retry.max.total_seconds(), retry.first.total_seconds()
    assert wait <= longest * (1 + retry.jitter) + 1e-5
    assert wait >= min(first, longest) * (1 - retry.jitter) - 1e-5


@given(MADE, RETRIES, DICE, SECONDS, st.none() | SECONDS)
def test_no_attempt_is_due_past_its_expiry(
    made: int, retry: Retry, dice: float, left: timedelta, asked: timedelta | None
) -> None:
    due = next_attempt(made, now=NOW, expiry=NOW + left, retry=retry, dice=dice, asked=asked)
    assert due is None or NOW <= due < NOW + left


@given(MADE, RETRIES, DICE, SECONDS)
def test_peers_wish_is_respected_up_to_four_times_the_longest_wait(
    made: int, retry: Retry, dice: float, asked: timedelta
) -> None:
    due = next_attempt(made, now=NOW, expiry=datetime.max.replace(tzinfo=UTC), retry=retry, dice=dice, asked=asked)
    assert due is not None
    assert due - NOW >= min(asked, retry.max * 4)
    assert due - NOW <= max(asked, retry.max * 2 + timedelta(seconds=1))


def test_attempt_that_would_come_at_the_expiry_is_not_made() -> None:
    assert next_attempt(1, now=NOW, expiry=NOW + timedelta(seconds=1), retry=Retry(jitter=0), dice=0) is None
