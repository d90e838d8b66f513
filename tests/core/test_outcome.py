"""Which refusals pass, and which stay (STYLE of errors: FHIR's own split)."""

from __future__ import annotations

import pytest

from broker.core.outcome import (
    Busy,
    Conflict,
    Expired,
    MessageInvalid,
    NoRoute,
    NotAllowed,
    NotKnownYet,
    Refusal,
    StoreUnavailable,
    TooLarge,
)


@pytest.mark.parametrize("kind", [Busy, StoreUnavailable, NotKnownYet])
def test_what_is_the_brokers_trouble_passes(kind: type[Refusal]) -> None:
    assert kind("later").passes


@pytest.mark.parametrize("kind", [MessageInvalid, TooLarge, NotAllowed, NoRoute, Conflict])
def test_what_is_wrong_with_the_content_stays(kind: type[Refusal]) -> None:
    assert not kind("never").passes


def test_one_refusal_may_pass_though_its_kind_does_not() -> None:
    assert Refusal("changed on the way", code="transient").passes


def test_what_came_too_late_stays_late() -> None:
    assert not Expired("over", id="expired-on-arrival").passes
