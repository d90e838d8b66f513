"""The explanation says what `decide` decides, and why; it is never another opinion."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_routing import (  # the same questions as those of the decision itself
    HER,
    NORTH,
    NOW,
    STRICT,
    Places,
    header,
    question,
    questions,
    rule,
    rules_of_all_kinds,
)

from broker.core.explain import duration_text, explain, plain, render_explanation, verdict
from broker.core.policy import DEFAULT, Match, Order, Rule
from broker.core.resolution import How, Resolution, State
from broker.core.routing import Question, decide
from broker.core.rules import RuleSet


def told(asked: Question, *rules: Rule, directory: Places = NORTH) -> dict[str, Any]:
    explanation = explain(asked, RuleSet(rules), directory, DEFAULT)
    assert json.loads(json.dumps(explanation)) == explanation
    assert render_explanation(explanation).endswith("\n")
    return explanation


@given(questions, rules_of_all_kinds)
def test_the_explanation_and_the_decision_agree(asked: Question, rules: list[Rule]) -> None:
    route = decide(asked, RuleSet(rules), NORTH, DEFAULT)
    explanation = told(asked, *rules)
    assert explanation["verdict"] == ("refused" if route.is_refused else "accepted")
    assert len(explanation["destinations"]) == len(route.decisions)
    for one, decision in zip(explanation["destinations"], route.decisions, strict=True):
        assert one["verdict"] == verdict(decision)
        assert one["addresses"] == list(decision.addresses)
        assert one["policy"] == plain(decision.policy)
        assert one["problem"] == (plain(decision.problem) if decision.problem else None)
        tried = one["rules"]
        assert [line["rule"] for line in tried] == [line.name for line in rules[: len(tried)]]
        if decision.rule is None:
            assert len(tried) == len(rules)
            assert not any(line["matched"] for line in tried)
        else:
            assert [line["matched"] for line in tried] == [False] * (len(tried) - 1) + [True]
            assert rules[len(tried) - 1] == decision.rule
        for line in tried:
            assert (line["failed"] is None) is line["matched"]


def test_each_rule_tells_the_first_key_that_failed_with_wanted_and_got() -> None:
    explanation = told(
        question(f"{HER}.1"),
        rule("event", match=Match(event=("x", "y"))),
        rule("party", match=Match(event=("sick-leave",), party=("south",))),
        rule("header", match=Match(header=(("x-tenant", ("red",)),))),
        rule("response", match=Match(response=True)),
        rule("not", match=Match(negated=Match(channel=("http",)))),
        rule("fits", policy=STRICT),
        rule("never asked"),
    )
    (one,) = explanation["destinations"]
    assert [(line["rule"], line["failed"] and line["failed"]["key"]) for line in one["rules"]] == [
        ("event", "event"),
        ("party", "party"),
        ("header", "header x-tenant"),
        ("response", "response"),
        ("not", "not"),
        ("fits", None),
    ]
    assert one["rules"][0]["failed"] == {
        "key": "event",
        "wanted": ["x", "y"],
        "got": ["sick-leave", "http://fhir.nav.no/event|sick-leave"],
    }
    assert one["rules"][4]["failed"]["wanted"] == ["channel: http"]
    assert (one["rule"], one["policy_from"]) == ("fits", "fits")
    assert one["policy"]["answer_within"] == "1h"


def test_the_lookups_and_the_result_are_told() -> None:
    (one,) = told(question(f"{HER}.1"))["destinations"]
    assert one["lookups"] == [{"how": "exact", "tried": f"{HER}.1", "found": f"{HER}.1"}]
    assert one["resolution"] == {
        "how": "exact",
        "matched": f"{HER}.1",
        "state": "use",
        "origin": "f:1",
        "reason": "",
    }
    assert (one["addresses_from"], one["verdict"]) == ("directory", "deliver")


@pytest.mark.parametrize(
    ("order", "on_refused", "by", "line"),
    [
        (Order.SOURCE, "skip", "source", "in order with what has the same source, "),
        (Order.SUBJECT, "hold", "source", " (it has no subject); what is refused holds the rest"),
    ],
)
def test_what_it_would_wait_for_is_told(order: Order, on_refused: str, by: str, line: str) -> None:
    ordered = msgspec.structs.replace(DEFAULT, order=order, on_refused=on_refused)
    asked = msgspec.structs.replace(question(f"{HER}.1"), source="urn:oid:1.2")
    explanation = told(asked, rule("in order", policy=ordered))
    (one,) = explanation["destinations"]
    assert one["stream"] == {"by": by, "value": "urn:oid:1.2", "on_refused": on_refused}
    assert line in render_explanation(explanation)
    (other,) = told(asked)["destinations"]
    assert other["stream"] is None


def test_order_by_the_destination_alone_is_told() -> None:
    asked = msgspec.structs.replace(question(f"{HER}.1"), source=None)
    explanation = told(asked, rule("in order", policy=msgspec.structs.replace(DEFAULT, order=Order.SOURCE)))
    assert "in order with what goes to this destination (it has no source)" in render_explanation(explanation)


def test_every_end_has_its_word() -> None:
    held = Places(
        {"a": Resolution(addresses=("x:1", "x:2"), how=How.EXACT, state=State.HOLD, first=True, reason="suspended")}
    )
    both = Places({"a": Resolution(addresses=("x:1", "x:2"), how=How.EXACT, state=State.USE)})
    for asked, rules, directory, word, text in (
        (question("a"), (), held, "hold", "the first that works of 2"),
        (question("a"), (), both, "deliver", "all of 2"),
        (question("a"), (rule(log=True),), NORTH, "log", "kept, goes nowhere"),
        (question("a"), (rule(refuse="no"),), NORTH, "refuse", "refused (refused-by-rule): no"),
        (question("a"), (rule(address="mailbox:"),), NORTH, "deliver", "=> mailbox:"),
        (question(), (), NORTH, "refuse", "(no destination named)"),
        (question(), (rule(to=(f"{HER}.1",)),), NORTH, "deliver", "https://1.example"),
    ):
        explanation = told(asked, *rules, directory=directory)
        assert explanation["destinations"][0]["verdict"] == word
        assert text in render_explanation(explanation)


def test_an_event_that_is_not_fhir_is_explained_too() -> None:
    explanation = told(Question(destinations=("a",), event_type="org.example.x", now=NOW))
    assert explanation["message"]["event"] is None
    assert render_explanation(explanation).startswith("message org.example.x\n")
    assert render_explanation(told(Question(now=NOW))).startswith("message (no event)\n")


def test_long_lists_are_cut_and_persons_are_not_shown() -> None:
    """A-14."""
    person = "urn:oid:2.16.578.1.12.4.1.4.1|01019012345"
    asked = question(header=header(senders=(person, *(f"s|{number}" for number in range(100)))))
    explanation = told(asked, rule(match=Match(sender=("x",))))
    got = explanation["destinations"][0]["rules"][0]["failed"]["got"]
    assert len(got) == 21
    assert got[-1] == "… 81 more"
    assert "01019012345" not in json.dumps(explanation)


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(0), "0s"),
        (timedelta(seconds=10), "10s"),
        (timedelta(seconds=90), "90s"),
        (timedelta(minutes=15), "15m"),
        (timedelta(hours=24), "24h"),
        (timedelta(days=90), "90d"),
        (timedelta(milliseconds=250), "250ms"),
        (timedelta(microseconds=1500), "1.5ms"),
    ],
)
def test_durations_are_told_as_a_configuration_writes_them(duration: timedelta, text: str) -> None:
    assert duration_text(duration) == text


@given(st.timedeltas(min_value=timedelta(0)).map(lambda d: timedelta(seconds=d // timedelta(seconds=1))))
def test_a_duration_told_is_the_duration(duration: timedelta) -> None:
    units = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
    text = duration_text(duration)
    assert timedelta(**{units[text[-1]]: int(text[:-1])}) == duration
