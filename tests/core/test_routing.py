"""Where a message goes: the rule, the addresses, or why it is refused; one decision per destination."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.fhir.header import Destination, Event, Format, Header, Identifier, Release, ResponseLink
from broker.core.outcome import NoRoute, NotKnownYet, RefusedByRule, Who
from broker.core.policy import DEFAULT, Match, Policy, Rule
from broker.core.resolution import How, Lookup, Resolution, State
from broker.core.routing import Decision, Question, Route, RuleSet, decide
from broker.core.rules import match_text, problems_of

NOW = datetime(2026, 11, 21, tzinfo=UTC)
HER = "urn:oid:2.16.578.1.12.4.1.2"
STRICT = Policy(answer_within=timedelta(hours=1))
LAX = Policy(bounce="never")


class Places:
    """A directory of exact names, with the rest unknown; it remembers what it was asked."""

    version = "v1"

    def __init__(self, known: Mapping[str, Resolution | str] | None = None, nearest: tuple[str, ...] = ()) -> None:
        self.known, self.near = dict(known or {}), nearest
        self.asked: list[tuple[str, Release | None, Format | None]] = []
        self.hints = 0

    def resolve(
        self,
        name: str,
        *,
        release: Release | None,
        format: Format | None,
        now: datetime,
        lookups: list[Lookup] | None = None,
    ) -> Resolution:
        assert now == NOW
        self.asked.append((name, release, format))
        if lookups is not None:
            lookups.append(Lookup(how=How.EXACT, tried=name, found=name if name in self.known else None))
        found = self.known.get(name)
        if found is None:
            return Resolution(reason="no entry has this name")
        if isinstance(found, str):
            return Resolution(addresses=(found,), how=How.EXACT, matched=name, state=State.USE, origin="f:1")
        return found

    def nearest(self, name: str) -> tuple[str, ...]:
        self.hints += 1
        return self.near


NORTH = Places({f"{HER}.1": "https://1.example", f"{HER}.2": "https://2.example"})


def header(*destinations: str | None, **more: Any) -> Header:
    values: dict[str, Any] = {
        "release": Release.R4,
        "format": Format.JSON,
        "event": Event("http://fhir.nav.no/event", "sick-leave"),
        "source": f"{HER}.100",
        "destinations": tuple(Destination(endpoint=one, receivers=(f"r|{one}",)) for one in destinations),
    }
    return Header(**values | more)


def question(*destinations: str, **more: Any) -> Question:
    values: dict[str, Any] = {
        "header": header(*destinations),
        "destinations": destinations,
        "source": f"{HER}.100",
        "party": "north",
        "channel": "http",
        "way_in": "lab",
        "transport_headers": (("x-tenant", "blue-1"), ("x-tenant", "second")),
        "event_type": "org.example.sick-leave",
        "now": NOW,
    }
    return Question(**values | more)


def route(asked: Question, *rules: Rule, directory: Places = NORTH) -> Route:
    return decide(asked, RuleSet(rules), directory, DEFAULT)


def only(asked: Question, *rules: Rule, directory: Places = NORTH) -> Decision:
    (decision,) = route(asked, *rules, directory=directory).decisions
    return decision


def rule(name: str = "r", **more: Any) -> Rule:
    return Rule(name=name, where="broker.yaml:7", **more)


# --- destinations


def test_without_rules_the_directory_and_the_defaults_decide() -> None:
    decision = only(question(f"{HER}.1"))
    assert decision.addresses == ("https://1.example",)
    assert (decision.rule, decision.policy, decision.problem) == (None, DEFAULT, None)
    assert decision.resolution is not None
    assert decision.resolution.matched == f"{HER}.1"


def test_each_destination_is_decided_for_itself() -> None:
    two = rule(match=Match(destination=(f"{HER}.2",)), policy=STRICT)
    first, second = route(question(f"{HER}.1", f"{HER}.2"), two).decisions
    assert (first.policy, second.policy) == (DEFAULT, STRICT)
    assert (first.addresses, second.addresses) == (("https://1.example",), ("https://2.example",))


def test_a_destination_named_twice_is_one_in_whatever_form() -> None:
    directory = Places({f"{HER}|1": "https://1.example"})
    decision = only(question(f"{HER}|1", f"{HER}.1", f"URN:OID:{HER[8:]}.1"), directory=directory)
    assert decision.destination == f"{HER}|1"


def test_the_directory_hears_the_release_and_format_of_the_message() -> None:
    directory = Places({"a": "https://a"})
    only(question("a"), directory=directory)
    only(question("a", header=None), directory=directory)
    assert directory.asked == [("a", Release.R4, Format.JSON), ("a", None, None)]


PENDING = Resolution(pending=True, reason="one source could not be read yet")


def test_what_may_be_known_later_is_refused_for_now() -> None:
    none = route(question("unknown", "perhaps"), directory=Places({"perhaps": PENDING}))
    refusal = none.refusal()
    assert isinstance(refusal, NotKnownYet)
    assert refusal.retry_after is not None
    assert [problem.id for problem in refusal.problems] == ["directory-not-known-yet", "unknown-destination"]
    assert (refusal.problem.code, refusal.problem.who) == ("transient", Who.BROKER)
    assert refusal.problem.expression == ("Bundle.entry[0].resource.destination[1].endpoint",)


def test_an_accepted_message_waits_where_nobody_can_say_anything_yet() -> None:
    places = Places({"a": "https://a.example", "perhaps": PENDING})
    a, perhaps, unknown = route(question("a", "perhaps", "unknown"), directory=places).decisions
    assert (perhaps.problem, perhaps.hold, perhaps.addresses) == (None, True, ())
    assert (a.hold, unknown.problem is not None and unknown.problem.id) == (False, "unknown-destination")


def test_a_message_is_refused_only_if_no_destination_can_be_reached() -> None:
    some = route(question(f"{HER}.1", "unknown"))
    assert not some.is_refused
    assert [problem.id for problem in some.problems] == ["unknown-destination"]
    assert len(some.accepted) == 1
    none = route(question("unknown", "another"))
    assert none.is_refused
    refusal = none.refusal()
    assert isinstance(refusal, NoRoute)
    assert [problem.id for problem in refusal.problems] == ["unknown-destination"] * 2
    assert [problem.expression for problem in refusal.problems] == [
        ("Bundle.entry[0].resource.destination[0].endpoint",),
        ("Bundle.entry[0].resource.destination[1].endpoint",),
    ]


def test_an_unknown_destination_says_which_element_what_is_missing_and_what_is_near() -> None:
    directory = Places(nearest=("urn:oid:2.16.1", "urn:oid:2.16.2"))
    problem = only(question("urn:oid:2.16F578"), directory=directory).problem
    assert problem is not None
    assert (problem.code, problem.id, problem.who) == ("not-found", "unknown-destination", Who.SENDER)
    assert problem.expression == ("Bundle.entry[0].resource.destination[0].endpoint",)
    assert "'urn:oid:2.16F578' is not in the directory: no entry has this name." in problem.text
    assert "Nearest known: urn:oid:2.16.1, urn:oid:2.16.2." in problem.text


def test_a_destination_that_only_the_envelope_names_has_no_element() -> None:
    problem = only(question("unknown", header=header(None, "other"))).problem
    assert problem is not None
    assert problem.expression == ()


def test_a_destination_of_an_event_is_its_attribute() -> None:
    """C-63: there is no header that could name it."""
    problem = only(question("unknown", header=None)).problem
    assert problem is not None
    assert problem.expression == ("destination",)
    problem = only(question(header=None)).problem
    assert problem is not None
    assert (problem.id, problem.expression) == ("no-destination", ("destination",))
    assert problem.text.startswith("the event names no destination")


def test_a_known_destination_without_address_is_told_apart_from_an_unknown_one() -> None:
    off = Resolution(how=How.EXACT, matched="a", state=State.NONE, origin="f: Endpoint/a", reason="it is off")
    decision = only(question("a"), directory=Places({"a": off}))
    assert decision.problem is not None
    assert (decision.problem.code, decision.problem.id) == ("not-found", "no-usable-address")
    assert "it is off" in decision.problem.text
    assert decision.problem.diagnostics == "f: Endpoint/a"
    assert decision.addresses == ()


def test_a_suspended_destination_is_accepted_and_held() -> None:
    """A-22."""
    held = Resolution(addresses=("https://a",), how=How.EXACT, state=State.HOLD, first=True)
    decision = only(question("a"), directory=Places({"a": held}))
    assert (decision.hold, decision.problem, decision.first) == (True, None, True)


def test_hints_are_looked_for_a_few_times_only() -> None:
    directory = Places()
    decided = route(question(*(f"x{number}" for number in range(50))), directory=directory)
    assert len(decided.problems) == 50
    assert directory.hints == 3


def test_a_text_never_carries_what_a_stranger_wrote_as_it_is() -> None:
    problem = only(question("urn:x:\nforged" + "y" * 5000)).problem
    assert problem is not None
    assert "\n" not in problem.text
    assert len(problem.text) < 600


def test_many_destinations_cost_no_more_than_their_number() -> None:
    names = tuple(f"{HER}.{number}" for number in range(5000))
    asked = question(*names)
    began = time.perf_counter()
    route(asked, rule(match=Match(receiver=("r|7",)), refuse="no"))
    assert time.perf_counter() - began < 2


# --- what rules say


def test_the_first_rule_that_matches_decides_and_no_other_adds_to_it() -> None:
    decision = only(question(f"{HER}.1"), rule("a", policy=STRICT), rule("b", policy=LAX, refuse="never reached"))
    assert decision.rule is not None
    assert (decision.rule.name, decision.policy) == ("a", STRICT)


def test_a_rule_may_refuse_with_its_own_words() -> None:
    decided = route(question(f"{HER}.1"), rule(refuse="not on Sundays"))
    refusal = decided.refusal()
    assert isinstance(refusal, RefusedByRule)
    assert refusal.problem.text == "not on Sundays"
    assert refusal.problem.expression == ("Bundle.entry[0].resource.destination[0].endpoint",)
    assert (refusal.problem.code, refusal.problem.id) == ("business-rule", "refused-by-rule")
    assert refusal.problem.diagnostics == "rule 'r'"
    undirected = only(question(), rule(refuse="")).problem
    assert undirected is not None
    assert undirected.text
    assert undirected.expression == ()


def test_a_rule_may_keep_a_message_and_send_it_nowhere() -> None:
    for asked in (question("unknown"), question()):
        decision = only(asked, rule(log=True, policy=LAX))
        assert (decision.log, decision.addresses, decision.problem, decision.policy) == (True, (), None, LAX)


def test_a_rule_may_say_the_address_and_then_the_directory_is_not_asked() -> None:
    directory = Places()
    decision = only(question("unknown"), rule(address="amqp:?exchange=x"), directory=directory)
    assert (decision.destination, decision.addresses) == ("unknown", ("amqp:?exchange=x",))
    decision = only(question(), rule(address="amqp:?exchange=x"), directory=directory)
    assert (decision.destination, decision.addresses, decision.problem) == (None, ("amqp:?exchange=x",), None)
    assert directory.asked == []


def test_to_is_for_messages_that_name_no_destination() -> None:
    says = rule(to=(f"{HER}.1", f"{HER}|1", f"{HER}.2"), policy=STRICT)
    decided = route(question(), says).decisions
    assert [(one.destination, one.addresses) for one in decided] == [
        (f"{HER}.1", ("https://1.example",)),
        (f"{HER}.2", ("https://2.example",)),
    ]
    assert all(one.rule is says and one.policy is STRICT for one in decided)
    named = only(question(f"{HER}.2"), says)
    assert (named.destination, named.policy) == (f"{HER}.2", STRICT)


def test_to_with_an_address_names_the_destinations_of_that_address() -> None:
    decided = route(question(), rule(to=("a", "b"), address="mailbox:")).decisions
    assert [(one.destination, one.addresses) for one in decided] == [("a", ("mailbox:",)), ("b", ("mailbox:",))]


def test_an_unknown_name_in_to_is_the_brokers_fault() -> None:
    problem = only(question(), rule(to=("nowhere",))).problem
    assert problem is not None
    assert (problem.id, problem.who, problem.expression) == ("unknown-destination", Who.BROKER, ())
    assert "to which rule 'r' sends this message" in problem.text


@pytest.mark.parametrize(("rules", "says"), [((), "no rule"), ((rule(),), "neither `to` nor `address`")])
def test_a_message_that_names_nobody_needs_a_rule(rules: tuple[Rule, ...], says: str) -> None:
    decided = route(question(), *rules)
    problem = decided.refusal().problem
    assert (problem.id, problem.code) == ("no-destination", "not-found")
    assert problem.expression == ("Bundle.entry[0].resource.destination",)
    assert says in problem.text
    assert decided.decisions[0].destination is None


# --- the keys of match


YES, NO = True, False


@pytest.mark.parametrize(
    ("match", "fits"),
    [
        (Match(), YES),
        (Match(event=("sick-leave",)), YES),
        (Match(event=("http://fhir.nav.no/event|sick-leave",)), YES),
        (Match(event=("http://fhir.nav.no/event|*",)), YES),
        (Match(event=("*leave*",)), YES),
        (Match(event=("x", "*-leave")), YES),
        (Match(event=("sick",)), NO),
        (Match(event=("http://other|sick-leave",)), NO),
        (Match(source=(f"{HER}.100",)), YES),
        (Match(source=(f"{HER}|*",)), YES),
        (Match(source=("urn:oid:2.16.578.*",)), YES),
        (Match(source=("urn:oid:2.16.57.*",)), NO),
        (Match(source=("*",)), YES),
        (Match(destination=(f"{HER}.1",)), YES),
        (Match(destination=(f"{HER}|1",)), YES),
        (Match(destination=("*",)), YES),
        (Match(destination=(f"{HER}.2",)), NO),
        (Match(receiver=(f"r|{HER}.1",)), YES),
        (Match(receiver=("r|*",)), YES),
        (Match(receiver=("s|*",)), NO),
        (Match(sender=("org|7",)), YES),
        (Match(sender=("org|8",)), NO),
        (Match(party=("north",)), YES),
        (Match(party=("south",)), NO),
        (Match(channel=("http", "amqp")), YES),
        (Match(channel=("amqp",)), NO),
        (Match(path=("lab",)), YES),
        (Match(path=("labs",)), NO),
        (Match(header=(("X-Tenant", ("blue-*",)),)), YES),
        (Match(header=(("x-tenant", ("red", "second")),)), YES),
        (Match(header=(("x-tenant", ("red",)),)), NO),
        (Match(header=(("x-other", ("*",)),)), NO),
        (Match(header=(("x-tenant", ("blue-1",)), ("x-other", ("*",)))), NO),
        (Match(profile=("http://p.example/a",)), YES),
        (Match(profile=("http://p.example/a|2.0",)), YES),
        (Match(profile=("http://p.example/*",)), YES),
        (Match(profile=("http://p.example/b",)), NO),
        (Match(fhir=("4.0",)), YES),
        (Match(fhir=("5.0",)), NO),
        (Match(type=("org.example.*",)), YES),
        (Match(type=("sick-leave",)), NO),
        (Match(response=False), YES),
        (Match(response=True), NO),
        (Match(event=("sick-leave",), party=("north",)), YES),
        (Match(event=("sick-leave",), party=("south",)), NO),
        (Match(negated=Match(party=("south",))), YES),
        (Match(negated=Match(party=("north",))), NO),
        (Match(negated=Match(party=("north",), event=("x",))), YES),
        (Match(negated=Match()), NO),
        (Match(negated=Match(party=("north",), negated=Match(event=("sick-*",)))), YES),
        (Match(event=("x",), negated=Match(party=("south",))), NO),
    ],
)
def test_a_rule_fits_if_all_its_keys_do(match: Match, fits: bool) -> None:
    asked = question(
        f"{HER}.1",
        header=header(f"{HER}.1", f"{HER}.2", senders=("org|7",), profiles=("http://p.example/a|2.0",)),
    )
    matched = only(asked, rule(match=match)).rule is not None
    assert matched is fits, match_text(match)


def test_receivers_are_those_of_the_destination_and_of_all_where_none_is_named() -> None:
    """A-6."""
    second = rule(match=Match(receiver=("r|b",)), log=True)
    first, other = route(question("a", "b"), second, directory=Places({"a": "https://a"})).decisions
    assert (first.log, other.log) == (False, True)
    unnamed = Header(
        release=Release.R4,
        format=Format.JSON,
        event=Event(),
        destinations=(Destination(receivers=("r|a",)), Destination(receivers=("r|b",))),
    )
    assert only(question(header=unnamed), second).log
    assert only(question("envelope only"), second).problem is not None
    nobody = header(destinations=(Destination(endpoint="a"),))
    assert not only(question("a", header=nobody), second, directory=Places({"a": "https://a"})).log


def test_what_a_message_does_not_have_fits_no_key_but_an_absent_one() -> None:
    bare = Question(destinations=("a",), now=NOW)
    directory = Places({"a": "https://a"})
    for match in (
        Match(event=("*",)),
        Match(source=("*",)),
        Match(party=("north",)),
        Match(channel=("http",)),
        Match(path=("lab",)),
        Match(type=("*",)),
        Match(fhir=("4.0",)),
        Match(receiver=("*",)),
        Match(sender=("*",)),
        Match(profile=("*",)),
        Match(header=(("x", ("*",)),)),
        Match(response=True),
    ):
        assert only(bare, rule(match=match), directory=directory).rule is None
        assert only(bare, rule(match=Match(negated=match)), directory=directory).rule is not None
    assert only(bare, rule(match=Match(response=False)), directory=directory).rule is not None
    nobody = rule(match=Match(destination=("*",)), log=True)
    assert only(question(), nobody).problem is not None


def test_a_response_is_told_by_its_response_element() -> None:
    """M-7."""
    link = ResponseLink(identifier=Identifier("", "1"), code="ok")
    asked = question("a", header=header("a", response=link))
    assert only(asked, rule(match=Match(response=True), log=True)).log


def test_an_event_without_system_is_compared_by_its_code() -> None:
    asked = question(header=header(event=Event("", "urn:x:event")))
    assert only(asked, rule(match=Match(event=("urn:x:*",)), log=True)).log


@pytest.mark.parametrize(
    ("match", "key"),
    [
        (Match(destination=("urn:*:x",)), "destination"),
        (Match(source=("urn:oid:1*",)), "source"),
        (Match(negated=Match(negated=Match(profile=("",)))), "not.not.profile"),
        (Match(header=(("x", ("a*b",)),)), "header.x"),
    ],
)
def test_a_pattern_that_is_none_is_refused_when_rules_are_read(match: Match, key: str) -> None:
    ((where, _),) = problems_of(match)
    assert where == key
    with pytest.raises(ValueError, match=r"rule 'r' \(broker.yaml:7\): match\." + key.replace(".", r"\.")):
        RuleSet([rule(match=match)])


def test_a_match_is_told_on_one_line() -> None:
    match = Match(event=("a", "b"), header=(("x", ("y",)),), response=True, negated=Match(response=False))
    assert match_text(match) == "event: any of a, b, header x: y, response: yes, not: {response: no}"
    assert match_text(Match()) == "anything"


def test_values_that_never_come_again_do_not_fill_memory() -> None:
    rules = RuleSet([rule(match=Match(event=("a*",)), log=True)])
    for number in range(5000):
        for code in (f"b{number}", "a" * 300 + str(number)):
            asked = question(header=header(event=Event("", code)))
            assert (decide(asked, rules, NORTH, DEFAULT).decisions[0].log) is code.startswith("a")


# --- laws

names = st.sampled_from([f"{HER}.1", f"{HER}.2", "urn:oid:2.16.9", "test_one", f"{HER}|1"])
patterns = st.sampled_from([f"{HER}.*", "urn:oid:2.16.*", "*", f"{HER}|*", f"{HER}.1", "test_one"])
few = st.lists(patterns, max_size=2).map(tuple)
plain_matches = st.builds(
    Match,
    event=st.lists(st.sampled_from(["a", "b", "*a", "s|*"]), max_size=2).map(tuple),
    source=few,
    destination=few,
    party=st.lists(st.sampled_from(["north", "south"]), max_size=1).map(tuple),
    response=st.sampled_from([None, None, False, True]),
)
matches = st.builds(
    lambda match, negated: Match(
        event=match.event,
        source=match.source,
        destination=match.destination,
        party=match.party,
        response=match.response,
        negated=negated,
    ),
    plain_matches,
    st.none() | plain_matches,
)
rules_of_all_kinds = st.lists(
    st.builds(
        Rule,
        name=st.text("abc", min_size=1, max_size=3),
        match=matches,
        to=st.lists(names, max_size=2).map(tuple),
        address=st.sampled_from([None, None, "mailbox:"]),
        refuse=st.sampled_from([None, None, None, "no"]),
        log=st.sampled_from([False, False, False, True]),
        policy=st.sampled_from([DEFAULT, STRICT]),
    ),
    max_size=6,
)
questions = st.builds(
    lambda destinations, source, party, code: question(
        *destinations, source=source, party=party, header=header(*destinations, event=Event("s", code))
    ),
    st.lists(names, max_size=3).map(tuple),
    st.none() | names,
    st.sampled_from([None, "north"]),
    st.sampled_from(["a", "b", "ca"]),
)


@given(questions, rules_of_all_kinds)
def test_a_route_depends_only_on_what_is_asked(asked: Question, rules: list[Rule]) -> None:
    compiled = RuleSet(rules)
    once = decide(asked, compiled, NORTH, DEFAULT)
    assert decide(asked, compiled, NORTH, DEFAULT) == once
    assert decide(asked, RuleSet(rules), Places(NORTH.known), DEFAULT) == once


@given(questions, rules_of_all_kinds)
def test_rules_all_together_say_what_they_say_one_by_one(asked: Question, rules: list[Rule]) -> None:
    together = decide(asked, RuleSet(rules), NORTH, DEFAULT)
    for one in rules:
        alone = decide(asked, RuleSet([one]), NORTH, DEFAULT)
        if any(decision.rule for decision in alone.decisions):
            break
    for decision in together.decisions:
        destination = () if decision.destination is None or not asked.destinations else (decision.destination,)
        asked_once = question(
            *destination, header=asked.header, source=asked.source, party=asked.party, event_type=asked.event_type
        )
        expected = next(
            (one for one in rules if decide(asked_once, RuleSet([one]), NORTH, DEFAULT).decisions[0].rule), None
        )
        assert decision.rule == expected


@given(questions, rules_of_all_kinds)
def test_every_decision_ends_in_exactly_one_way(asked: Question, rules: list[Rule]) -> None:
    for decision in decide(asked, RuleSet(rules), NORTH, DEFAULT).decisions:
        assert [bool(decision.addresses), decision.log, decision.problem is not None].count(True) == 1


def test_a_thousand_rules_cost_about_what_ten_do() -> None:
    kinds: list[Callable[[int], Match]] = [
        lambda n: Match(event=(f"event-{n}",)),
        lambda n: Match(event=(f"*leaves-{n}*",)),
        lambda n: Match(destination=(f"{HER}.9{n}",)),
        lambda n: Match(source=(f"urn:oid:1.2.{n}.*",)),
        lambda n: Match(party=(f"p{n}",), negated=Match(event=("x",))),
        lambda n: Match(header=(("x-tenant", (f"t{n}*",)),)),
    ]

    def cost(count: int) -> float:
        rules = RuleSet(rule(match=kinds[n % len(kinds)](n)) for n in range(count))
        asked = question(f"{HER}.1")
        decide(asked, rules, NORTH, DEFAULT)
        best = 1.0
        for _ in range(7):
            began = time.perf_counter()
            for _ in range(300):
                decide(asked, rules, NORTH, DEFAULT)
            best = min(best, time.perf_counter() - began)
        return best

    assert cost(1000) < 3 * cost(10)


def test_a_rule_set_knows_how_many_rules_it_has() -> None:
    assert len(RuleSet([rule(), rule()])) == 2
