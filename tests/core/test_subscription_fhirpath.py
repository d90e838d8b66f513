from __future__ import annotations

import pytest

from broker.core.subscription.fhirpath import LONGEST, Path, path_of
from broker.core.subscription.query import NotEvaluable

ENCOUNTER = {"resourceType": "Encounter", "status": "completed", "class": [{"coding": [{"code": "AMB"}]}]}
# Of fhir-candle's example topics.
CANDLE = "(%previous.empty() | (%previous.status != 'completed')) and (%current.status = 'completed')"


@pytest.mark.parametrize(
    "text",
    [
        "status = 'completed'",
        "%current.status = 'completed'",
        "%resource.class.coding.code contains 'AMB'",
        "Encounter.class.coding.where(code = 'AMB').exists()",
        "status in ('a' | 'completed')",
        "status.startsWith('comp') and period.empty()",
        "%previous.empty() or status = 'never'",
        "status = 'completed' // now() is only a comment",
        "status != 'now()'",
        CANDLE,
    ],
)
def test_rule_holds(text: str) -> None:
    assert path_of(text, "Encounter").holds(ENCOUNTER)


@pytest.mark.parametrize(
    "text",
    [
        "status = 'planned'",
        "status",  # no truth value
        "class.coding.code",
        "{}",
        "period.start > @2026",
        "status > 5",  # cannot be compared, which is no reason to fail
        "Patient.name.exists()",
    ],
)
def test_rule_does_not_hold(text: str) -> None:
    assert not path_of(text).holds(ENCOUNTER)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("period.start < now()", "time of asking"),
        ("today() > @2026-01-01", "time of asking"),
        ("subject.resolve().active", "more than the message"),
        ("code.memberOf('http://vs')", "more than the message"),
        ("%encounter.status = 'a'", "%encounter"),
        ("%`ext-x`.empty()", "%ext-x"),
        ("status =", "no FHIRPath"),
        ("nosuch()", "no FHIRPath"),
        ("(((", "no FHIRPath"),
        ("a" * (LONGEST + 1), "longer"),
    ],
)
def test_rule_that_no_message_can_answer_is_refused(text: str, why: str) -> None:
    """S-57."""
    with pytest.raises(NotEvaluable, match=why):
        path_of(text, "Encounter")


def test_rule_over_the_state_before_says_so() -> None:
    assert path_of(CANDLE).needs_previous
    assert not path_of("status = '%previous'").needs_previous


def test_rule_leaves_what_it_looks_at_as_it_was() -> None:
    before = repr(ENCOUNTER)
    path_of("descendants().count() > 0").holds(ENCOUNTER)
    assert repr(ENCOUNTER) == before


def test_rule_that_fails_on_odd_content_is_not_true_of_it() -> None:
    assert not Path("status.single() = 'a'").holds({"resourceType": "Encounter", "status": ["a", "b"]})
