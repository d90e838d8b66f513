from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from subscribed import MINUTE, NOW, subscription

from broker.core.subscription.life import NEXT, Happening, Life, Policy, after, due, heartbeat_sent
from broker.core.subscription.subscription import Model, Status

POLICY = Policy(error_after=3, off_after=timedelta(hours=1))
# What is told from outside; the others follow from what was counted.
TOLD = sorted(set(Happening) - {Happening.FAILED_OFTEN, Happening.DELIVERED_WITH_A_GAP}, key=lambda one: one.value)


def lived(*happenings: Happening, model: Model = Model.NATIVE, life: Life | None = None) -> Life:
    life = life or Life()
    for number, happening in enumerate(happenings):
        life = after(life, happening, now=NOW + number * MINUTE, model=model, policy=POLICY, error="no answer")
    return life


ACTIVE = lived(Happening.GREETED)


def test_every_status_has_a_row_and_leads_to_one() -> None:
    assert set(NEXT) == set(Status)
    assert {status for row in NEXT.values() for status in row.values()} == set(Status)


def test_handshake_that_is_taken_makes_it_active() -> None:
    """S-15."""
    assert (ACTIVE.status, ACTIVE.counts, ACTIVE.sends) == (Status.ACTIVE, True, True)
    assert ACTIVE.last_sent == NOW


def test_handshake_that_is_not_taken_makes_it_an_error_that_counts_nothing() -> None:
    """S-15: it has never been active, and there is nothing to number."""
    life = lived(Happening.NOT_GREETED)
    assert (life.status, life.counts, life.sends, life.error) == (Status.ERROR, False, False, "no answer")


def test_failures_become_an_error_when_they_are_many_and_counting_goes_on() -> None:
    """S-16, S-17."""
    life = lived(Happening.FAILED, Happening.FAILED, life=ACTIVE)
    assert life.status is Status.ACTIVE
    life = lived(Happening.FAILED, life=life)
    assert (life.status, life.counts, life.sends, life.error) == (Status.ERROR, True, True, "no answer")


def test_success_within_the_window_makes_it_active_again() -> None:
    """S-16, S-17: nothing was skipped."""
    life = lived(*[Happening.FAILED] * 5, Happening.DELIVERED, life=ACTIVE)
    assert (life.status, life.failures, life.error) == (Status.ACTIVE, 0, "")


def test_success_in_between_starts_the_count_anew() -> None:
    failing = [Happening.FAILED, Happening.FAILED, Happening.DELIVERED]
    assert lived(*failing * 4, life=ACTIVE).status is Status.ACTIVE


def test_after_a_gap_success_does_not_hide_it() -> None:
    """S-17: an event was given up, so the client has to decide how to catch up."""
    life = lived(Happening.GAVE_UP, Happening.DELIVERED, life=ACTIVE)
    assert (life.status, life.has_gap) == (Status.ERROR, True)
    life = lived(Happening.ASKED, Happening.GREETED, Happening.DELIVERED, life=life)
    assert (life.status, life.has_gap) == (Status.ACTIVE, False)


def test_classic_model_knows_no_gaps() -> None:
    """S-17: S-16 only."""
    life = lived(Happening.GAVE_UP, Happening.DELIVERED, life=ACTIVE, model=Model.CLASSIC)
    assert life.status is Status.ACTIVE


def test_error_that_stays_turns_off() -> None:
    life = lived(*[Happening.FAILED] * 3, Happening.ERROR_TOO_LONG, life=ACTIVE)
    assert (life.status, life.counts) == (Status.OFF, False)


def test_events_are_counted_while_a_client_activates_again() -> None:
    life = lived(Happening.GAVE_UP, Happening.ASKED, life=ACTIVE)
    assert (life.status, life.counts, life.sends) == (Status.REQUESTED, True, False)


@pytest.mark.parametrize("happening", [Happening.ENDED, Happening.SWITCHED_OFF, Happening.REVOKED])
def test_what_ends_it_turns_it_off_wherever_it_is(happening: Happening) -> None:
    """S-10."""
    for status in (Status.REQUESTED, Status.ACTIVE, Status.ERROR, Status.OFF):
        assert lived(happening, life=Life(status=status)).status is Status.OFF


def test_late_word_of_what_is_off_changes_nothing() -> None:
    life = Life(status=Status.OFF, was_active=True)
    for happening in (Happening.DELIVERED, Happening.FAILED, Happening.GREETED, Happening.GAVE_UP):
        assert lived(happening, life=life) is life


def test_entered_in_error_is_final() -> None:
    life = lived(Happening.WITHDRAWN, life=ACTIVE)
    assert {lived(happening, life=life).status for happening in TOLD} == {Status.ENTERED_IN_ERROR}


@given(st.lists(st.sampled_from(TOLD), max_size=30))
def test_active_means_that_nothing_was_skipped_since_the_client_asked(happenings: list[Happening]) -> None:
    """The law of S-17, over any story."""
    life = Life()
    for happening in happenings:
        before = life.status
        life = after(life, happening, now=NOW, model=Model.NATIVE, policy=POLICY)
        if before is Status.ERROR and life.status is Status.ACTIVE:
            assert not life.has_gap
        assert not life.sends or life.counts


# --- what time brings ---


def test_heartbeat_is_due_a_period_after_the_last_word() -> None:
    """S-22: an event resets the need."""
    beating = subscription(heartbeat=MINUTE)
    assert due(beating, ACTIVE, policy=POLICY) == (NOW + MINUTE, None)
    later = lived(Happening.FAILED, Happening.DELIVERED, life=ACTIVE)
    assert due(beating, later, policy=POLICY) == (NOW + 2 * MINUTE, None)
    assert due(beating, heartbeat_sent(later, now=NOW + 5 * MINUTE), policy=POLICY) == (NOW + 6 * MINUTE, None)


def test_error_goes_on_beating_and_says_when_it_ends() -> None:
    """S-17."""
    life = lived(*[Happening.FAILED] * 3, life=ACTIVE)
    assert due(subscription(heartbeat=MINUTE), life, policy=POLICY) == (NOW + 3 * MINUTE, None)
    assert life.since is not None
    assert due(subscription(), life, policy=POLICY) == (life.since + timedelta(hours=1), Happening.ERROR_TOO_LONG)


def test_nothing_is_due_where_nothing_is_asked_for() -> None:
    assert due(subscription(), ACTIVE, policy=POLICY) is None
    assert due(subscription(heartbeat=MINUTE), Life(), policy=POLICY) is None
    assert due(subscription(heartbeat=MINUTE), Life(status=Status.ACTIVE), policy=POLICY) is None


def test_end_comes_while_it_is_not_off() -> None:
    """S-10."""
    ending = subscription(end=NOW + MINUTE)
    assert due(ending, Life(), policy=POLICY) == (NOW + MINUTE, Happening.ENDED)
    assert due(ending, Life(status=Status.OFF), policy=POLICY) is None


def test_policy_has_defaults() -> None:
    assert after(Life(), Happening.GREETED, now=NOW, model=Model.NATIVE).status is Status.ACTIVE
