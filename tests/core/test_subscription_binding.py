from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.subscription.binding import LONGEST, Bind, How, bound, ping, read_bind


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bind 123", Bind(How.ID, "123")),
        ("  bind\tabc-1.2 \n", Bind(How.ID, "abc-1.2")),
        ("bind-with-token eyJh.x_y", Bind(How.TOKEN, "eyJh.x_y")),
        ("bind-with-token: eyJh.x_y", Bind(How.TOKEN, "eyJh.x_y")),
    ],
)
def test_client_binds(text: str, expected: Bind) -> None:
    """S-42, S-43: the diagram's colon too."""
    assert read_bind(text) == expected


@pytest.mark.parametrize(
    "text", ["", "bind", "bind ", "bind a b", "bind a/b", "Bind 1", "ping 1", "bind-with-token", "bind-with-token a b",
             "bind-with-token " + "x" * (LONGEST + 1), "bind " + "x" * 9000, "bind " + "x" * 65]
)  # fmt: skip
def test_other_words_bind_nothing(text: str) -> None:
    assert read_bind(text) is None


@given(st.text())
def test_any_text_binds_or_does_not(text: str) -> None:
    found = read_bind(text)
    assert found is None or found.value in text


def test_token_is_not_shown() -> None:
    """S-60."""
    assert "eyJh" not in repr(read_bind("bind-with-token eyJh"))
    assert "123" in repr(read_bind("bind 123"))


def test_answers_are_those_of_r4() -> None:
    assert (bound("1"), ping("1")) == ("bound 1", "ping 1")
