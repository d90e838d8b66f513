"""Our own message ids."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.ids import MOST_REMEMBERED, MessageIds

IDS = MessageIds(b"k" * 32)
POSITIONS = st.integers(0, 2**48 - 1)


@given(POSITIONS)
def test_id_leads_back_to_its_position(position: int) -> None:
    id = IDS.of(position)
    assert IDS.position(id) == position
    assert IDS.position(f"urn:uuid:{id}") == position
    assert IDS.position(id.upper()) == position


@given(POSITIONS)
def test_id_is_a_version_8_uuid(position: int) -> None:
    parsed = uuid.UUID(IDS.of(position))
    assert (parsed.version, parsed.variant, str(parsed)) == (8, uuid.RFC_4122, IDS.of(position))


@given(POSITIONS, POSITIONS)
def test_ids_sort_as_positions_do(one: int, other: int) -> None:
    assert (IDS.of(one) < IDS.of(other)) == (one < other)


@given(POSITIONS)
def test_id_of_another_store_is_not_ours(position: int) -> None:
    assert IDS.position(MessageIds(b"other").of(position)) is None


@given(POSITIONS, st.integers(13, 35), st.sampled_from("0123456789abcdef"))
def test_guessed_id_is_not_ours(position: int, place: int, digit: str) -> None:
    id = IDS.of(position)
    guessed = id[:place] + digit + id[place + 1 :]
    assert IDS.position(guessed) == (position if guessed == id else None)


@given(st.text(max_size=60))
def test_any_other_text_is_none_of_ours(text: str) -> None:
    assert IDS.position(text) is None


@pytest.mark.parametrize("text", ["", "0", "-1", "0x", "1_0", "urn:uuid:", "00000000-0001", " 00000000-0001", "٣" * 36])
def test_text_that_looks_like_a_number_is_none_of_ours(text: str) -> None:
    assert IDS.position(text) is None


def test_ids_that_were_given_out_stay_what_they_are() -> None:
    for _ in range(2):  # the second from memory
        assert (IDS.of(1), IDS.of(2**48 - 1)) == (
            "00000000-0001-87c2-9469-b47ee15b6f41",
            "ffffffff-ffff-88eb-8790-064be4e3fa0d",
        )


def test_memory_of_ids_is_bounded() -> None:
    ids = MessageIds(b"k" * 32)
    first = [ids.of(position) for position in range(3 * MOST_REMEMBERED)]
    assert ids.of.cache_info().currsize == MOST_REMEMBERED
    assert [ids.of(position) for position in range(3 * MOST_REMEMBERED)] == first
    assert len(set(first)) == 3 * MOST_REMEMBERED
