"""Which request a response answers, decided from plain values (design section 2, respond)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.correlation import Candidate, Match, Verdict, match

ASKED = Candidate(
    position=7, number=1, request_source="asker", destination="asked", address="test://asked", open=True,
    answered=False, carried=True,
)  # fmt: skip


def but(**more: Any) -> Candidate:
    return msgspec.structs.replace(ASKED, **more)


def found(
    *candidates: Candidate,
    source: str = "asked",
    destinations: tuple[str, ...] = ("asker",),
    is_at: str | None = None,
    lives_at: str | None = None,
    hop_at: str | None = None,
) -> Match:
    return match(
        candidates, source=source, destinations=destinations, is_at=lambda address: address == is_at,
        lives_at=lambda address: address == lives_at, hop_at=lambda address: address == hop_at,
    )  # fmt: skip


def test_response_of_who_was_asked_to_who_asked_answers() -> None:
    assert found(ASKED) == Match(verdict=Verdict.ANSWERS, position=7, number=1)


@pytest.mark.parametrize(
    "candidate",
    [but(request_source="other"), but(destination="other"), but(carried=False)],
    ids=["asked by another", "asked of another", "never carried"],
)
def test_right_id_alone_proves_nothing(candidate: Candidate) -> None:
    assert found(candidate).verdict is Verdict.UNMATCHED


def test_no_candidate_is_no_match() -> None:
    assert found().verdict is Verdict.UNMATCHED


def test_response_that_names_no_destination_may_be_for_anybody() -> None:
    assert found(but(request_source="other"), destinations=()).verdict is Verdict.ANSWERS


def test_request_without_a_source_may_be_answered_to_anybody() -> None:
    assert found(but(request_source=""), destinations=("elsewhere",)).verdict is Verdict.ANSWERS


def test_receiver_may_call_itself_by_its_address() -> None:
    assert found(ASKED, source="test://asked", is_at="test://asked").verdict is Verdict.ANSWERS


def test_word_of_the_hop_to_which_it_was_carried_is_believed() -> None:
    assert found(ASKED, source="hop", hop_at="test://asked").verdict is Verdict.ANSWERS
    assert found(ASKED, source="hop", hop_at="test://elsewhere").verdict is Verdict.UNMATCHED


def test_where_the_request_named_nobody_the_directory_says_who_lives_there() -> None:
    nameless = but(destination="")
    assert found(nameless, source="x", lives_at="test://asked").verdict is Verdict.ANSWERS
    assert found(nameless, source="x").verdict is Verdict.UNMATCHED
    assert found(ASKED, source="x", lives_at="test://asked").verdict is Verdict.UNMATCHED, "neighbours are strangers"


def test_of_several_the_newest_open_one_is_answered() -> None:
    newer = but(position=9)
    assert found(newer, ASKED).position == 9
    assert found(but(position=9, open=False, answered=True), ASKED).position == 7


@pytest.mark.parametrize(("answered", "verdict"), [(True, Verdict.DOUBLE), (False, Verdict.LATE)])
def test_closed_request_makes_a_response_double_or_late(answered: bool, verdict: Verdict) -> None:
    closed = but(open=False, answered=answered)
    assert found(closed) == Match(verdict=verdict, position=7, number=1)


CANDIDATES = st.builds(
    Candidate, position=st.integers(1, 9), number=st.integers(1, 3), request_source=st.sampled_from(["asker", "x", ""]),
    destination=st.sampled_from(["asked", "y", ""]), address=st.sampled_from(["test://asked", "test://y"]),
    open=st.booleans(), answered=st.booleans(), carried=st.booleans(),
)  # fmt: skip


@given(st.lists(CANDIDATES, max_size=6))
def test_only_an_open_delivery_that_was_carried_is_ever_answered(candidates: list[Candidate]) -> None:
    result = found(*candidates)
    if result.verdict is Verdict.ANSWERS:
        chosen = [c for c in candidates if (c.position, c.number) == (result.position, result.number)]
        assert any(c.open and c.carried and c.request_source in ("asker", "") for c in chosen)
        assert any(c.destination == "asked" for c in chosen)
