from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.outcome import BadRequest, NotAllowed
from broker.core.subscription.binding import LONGEST, How, read_bind
from broker.core.subscription.token import Tokens

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
UNTIL = NOW + timedelta(minutes=30)
TOKENS = Tokens(b"k" * 32)


@given(st.sets(st.integers(1, 2**62), max_size=50))
def test_token_leads_back_to_its_subscriptions_also_after_a_restart(keys: set[int]) -> None:
    """S-43: it is nowhere but in itself."""
    token = TOKENS.seal(keys, UNTIL)
    opened = Tokens(b"k" * 32).open(token, NOW)
    assert (opened.keys, opened.until) == (tuple(sorted(keys)), UNTIL)


def test_token_is_what_a_client_may_say_on_its_socket() -> None:
    token = TOKENS.seal(range(1, 3000), UNTIL)
    bind = read_bind(f"bind-with-token {token}")
    assert bind is not None
    assert (bind.how, bind.value) == (How.TOKEN, token)


def test_expired_token_opens_nothing() -> None:
    token = TOKENS.seal([1], UNTIL)
    assert TOKENS.open(token, UNTIL - timedelta(seconds=1)).keys == (1,)
    with pytest.raises(NotAllowed, match="has expired") as refused:
        TOKENS.open(token, UNTIL)
    assert (refused.value.problem.code, refused.value.problem.id) == ("expired", "expired-token")


@given(st.data())
def test_token_with_any_bit_changed_opens_nothing(data: st.DataObject) -> None:
    whole = bytearray(urlsafe_b64decode(TOKENS.seal([1, 7], UNTIL) + "=="))
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    whole[bit // 8] ^= 1 << bit % 8
    with pytest.raises(NotAllowed) as refused:
        TOKENS.open(urlsafe_b64encode(whole).rstrip(b"=").decode(), NOW)
    assert refused.value.problem.id == "bad-token"


@given(st.text())
def test_any_other_text_opens_nothing(text: str) -> None:
    with pytest.raises(NotAllowed):
        TOKENS.open(text, NOW)


def test_token_of_another_store_opens_nothing() -> None:
    with pytest.raises(NotAllowed, match="no token of this broker"):
        TOKENS.open(Tokens(b"other").seal([1], UNTIL), NOW)


def test_refusal_does_not_quote_the_token() -> None:
    """S-60."""
    token = TOKENS.seal([1], UNTIL)
    with pytest.raises(NotAllowed) as refused:
        TOKENS.open(token, UNTIL)
    assert token not in str(refused.value)


def test_more_subscriptions_than_a_token_holds_are_refused_with_what_to_do() -> None:
    """It could not be said on a socket, whose texts are bounded."""
    assert len(TOKENS.seal(range(1, 3001), UNTIL)) <= LONGEST
    with pytest.raises(BadRequest, match="several tokens"):
        TOKENS.seal(range(1, 4000), UNTIL)
