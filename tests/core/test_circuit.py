"""Who is left alone after troubles, and until when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.circuit import (
    ALL_WELL,
    LONGEST_ASKED,
    MANY,
    WELL,
    Health,
    PeerHealth,
    Sign,
    destination_after,
    peer_after,
)

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
PROBE = timedelta(seconds=30)
SECOND = timedelta(seconds=1)
ANSWERED, TROUBLE, NO_CONNECTION = Sign.ANSWERED, Sign.TROUBLE, Sign.NO_CONNECTION


def destination(was: Health, *signs: Sign, now: datetime = NOW, asked: timedelta | None = None) -> Health:
    for sign in signs:
        was = destination_after(was, sign, now=now, open_after=3, probe=PROBE, asked=asked)
    return was


def peer(was: PeerHealth, *signs: tuple[Sign, str], now: datetime = NOW) -> PeerHealth:
    for sign, key in signs:
        was = peer_after(was, sign, [key], now=now, open_after=3, probe=PROBE)
    return was


# -- a destination


def test_destination_is_left_alone_after_troubles_in_a_row() -> None:
    assert destination(WELL, TROUBLE, TROUBLE) == Health(troubles=2)
    assert destination(WELL, TROUBLE, TROUBLE, TROUBLE) == Health(troubles=3, until=NOW + PROBE)
    assert destination(WELL, TROUBLE, TROUBLE, ANSWERED, TROUBLE) == Health(troubles=1)


def test_probe_that_fails_leaves_it_alone_again_and_one_that_is_answered_does_not() -> None:
    left = destination(WELL, TROUBLE, TROUBLE, TROUBLE)
    later = NOW + PROBE
    assert destination(left, TROUBLE, now=later).until == later + PROBE
    assert destination(left, ANSWERED, now=later) is WELL


def test_want_of_a_connection_is_no_news_of_a_destination() -> None:
    once = destination(WELL, TROUBLE)
    assert destination(once, NO_CONNECTION, NO_CONNECTION, NO_CONNECTION) is once


@pytest.mark.parametrize(
    ("troubles", "asked", "rest"),
    [
        (1, 5 * SECOND, 5 * SECOND),
        (1, timedelta(), None),
        (1, timedelta(days=1), LONGEST_ASKED),
        (3, 5 * SECOND, PROBE),
        (3, timedelta(minutes=2), timedelta(minutes=2)),
    ],
)
def test_peers_own_word_on_when_to_come_again_is_kept(troubles: int, asked: timedelta, rest: timedelta | None) -> None:
    after = destination(Health(troubles=troubles - 1), TROUBLE, asked=asked)
    assert after.until == (None if rest is None else NOW + rest)


def test_later_word_never_shortens_an_earlier_one() -> None:
    long = destination(WELL, TROUBLE, asked=timedelta(minutes=5))
    assert destination(long, TROUBLE, asked=SECOND).until == long.until


# -- a peer


def test_peer_that_cannot_be_connected_to_is_left_alone_by_everybody() -> None:
    closed = peer(ALL_WELL, (NO_CONNECTION, "a"), (NO_CONNECTION, "a"), (NO_CONNECTION, "a"))
    assert closed.until == NOW + PROBE
    assert not closed.may_be_tried("b")


def test_any_answer_between_them_makes_failures_to_connect_start_anew() -> None:
    for sign in (ANSWERED, TROUBLE):
        assert peer(ALL_WELL, *[(NO_CONNECTION, "a")] * 2, (sign, "a"), *[(NO_CONNECTION, "a")] * 2).until is None


def test_troubles_of_one_destination_never_close_its_peer() -> None:
    assert peer(ALL_WELL, *[(TROUBLE, "a")] * 100).until is None


def test_troubles_of_all_that_were_tried_close_it_but_to_a_destination_that_was_not() -> None:
    closed = peer(ALL_WELL, (TROUBLE, "a"), (TROUBLE, "a"), (TROUBLE, "b"))
    assert closed.until == NOW + PROBE
    assert [closed.may_be_tried(key) for key in "abc"] == [False, False, True]
    assert peer(closed, (ANSWERED, "c")) is ALL_WELL


def test_one_answer_between_them_keeps_it_open() -> None:
    assert peer(ALL_WELL, (TROUBLE, "a"), (TROUBLE, "b"), (ANSWERED, "c"), (TROUBLE, "a"), (TROUBLE, "b")).until is None


def test_what_fails_out_of_turn_does_not_put_the_probe_off() -> None:
    closed = peer(ALL_WELL, (TROUBLE, "a"), (TROUBLE, "a"), (TROUBLE, "b"))
    assert peer(closed, (TROUBLE, "c"), now=NOW + SECOND).until == NOW + PROBE
    assert peer(closed, (TROUBLE, "b"), now=NOW + PROBE).until == NOW + 2 * PROBE


def test_so_many_destinations_in_trouble_are_no_coincidence() -> None:
    closed = peer(ALL_WELL, *((TROUBLE, f"{n}") for n in range(MANY + 10)))
    assert len(closed.tried) == MANY
    assert not closed.may_be_tried("another")


@given(st.lists(st.tuples(st.sampled_from(Sign), st.sampled_from("abc")), max_size=60))
def test_an_answer_heals_whatever_came_before(signs: list[tuple[Sign, str]]) -> None:
    assert peer(ALL_WELL, *signs, (ANSWERED, "a")) is ALL_WELL
    assert destination(WELL, *(sign for sign, _ in signs), ANSWERED) is WELL


@given(st.lists(st.tuples(st.sampled_from(Sign), st.sampled_from("abc")), max_size=60))
def test_nobody_is_left_alone_for_longer_than_a_probe_from_now(signs: list[tuple[Sign, str]]) -> None:
    after = peer(ALL_WELL, *signs)
    assert after.until is None or after.until <= NOW + PROBE
