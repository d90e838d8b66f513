from __future__ import annotations

import pytest
from subscribed import subscription

from broker.core.subscription.consent import callback, consent_token, consents_to, is_consent

KEY = b"k" * 32
ONE = subscription(id="one")


def test_callback_leads_back_to_its_subscription() -> None:
    """C-30."""
    url = callback("https://broker.example/fhir", KEY, ONE)
    token = url.removeprefix("https://broker.example/fhir/consent/")
    assert consents_to(token) == "one"
    assert is_consent(KEY, ONE, token)


def test_token_cannot_be_made_without_the_key_nor_used_for_another() -> None:
    token = consent_token(KEY, ONE)
    assert len(token) > 40
    assert not is_consent(b"other" * 6, ONE, token)
    assert not is_consent(KEY, subscription(id="two"), token)
    assert not is_consent(KEY, subscription(id="one", endpoint="https://example.org/other"), token)


@pytest.mark.parametrize("token", ["", "one", "one.", "one.ä", "one." + "0" * 40])
def test_anything_else_is_no_consent(token: str) -> None:
    assert not is_consent(KEY, ONE, token)
