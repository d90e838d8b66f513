"""Decides where a message goes: for each destination the rule, the addresses, or why it is refused.

A route depends on the question, the rules and one snapshot of the directory, and on nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

import msgspec

from broker.core.addressing import name_key, shown
from broker.core.fhir.header import Header
from broker.core.outcome import NoRoute, NotKnownYet, Problem, Refusal, RefusedByRule, Who
from broker.core.policy import Policy, Rule
from broker.core.resolution import Lookup, Resolution, State, Whereabouts
from broker.core.rules import Facts, RuleSet

__all__ = ["Decision", "Facts", "Question", "Route", "RuleSet", "Witness", "decide"]

# Who sends is told which file says so, and not where on our disk it lies.
_FOLDER = re.compile(r"^(?:https?://\S+: |.*/(?=[^/:]+\.(?:json|ya?ml)\b))")  # nor which server we ask
_HEADER = "Bundle.entry[0].resource"
_NOT_KNOWN_AGAIN = 15.0  # seconds: the longest that passes between two looks at a source that nothing is known of
_HINTS = 3  # searches for a similar name per message: they cost a hundred times a lookup


class Question(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A message as routing sees it."""

    header: Header | None = None  # None: the data of a CloudEvent that is no FHIR message
    destinations: tuple[str, ...] = ()  # those asked for, as written; empty: none named
    source: str | None = None
    party: str | None = None
    channel: str | None = None
    way_in: str | None = None
    transport_headers: tuple[tuple[str, str], ...] = ()
    event_type: str | None = None  # CloudEvents type
    now: datetime


class Decision(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What becomes of a message at one destination."""

    destination: str | None  # as written; None where the message and the rule name none
    rule: Rule | None
    policy: Policy
    addresses: tuple[str, ...] = ()
    first: bool = False  # the first address that works; otherwise all of them
    resolution: Resolution | None = None  # None where the rule gives the address, or nothing was looked up
    hold: bool = False  # known, and not to be tried now: it waits
    log: bool = False  # kept, goes nowhere
    problem: Problem | None = None  # this destination is refused


class Route(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The decision for one message."""

    decisions: tuple[Decision, ...]
    accepted: tuple[Decision, ...]  # those of them that are no refusal

    @classmethod
    def of(cls, decisions: tuple[Decision, ...]) -> Route:
        accepted = tuple([decision for decision in decisions if decision.problem is None])
        return cls(decisions=decisions, accepted=accepted)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Of the destinations that are refused."""
        return tuple(decision.problem for decision in self.decisions if decision.problem is not None)

    @property
    def is_refused(self) -> bool:
        """A message is refused only if none of its destinations can be reached."""
        return not self.accepted

    def refusal(self) -> Refusal:
        """What the sender of a refused message is told: the first problem, and the others beside it.

        What may succeed later goes before all others: who hears `never` does not come again.
        """
        first, *others = sorted(self.problems, key=lambda problem: problem.id != NotKnownYet.id)
        later = first.id == NotKnownYet.id
        kind = RefusedByRule if first.id == RefusedByRule.id else NotKnownYet if later else NoRoute
        return kind(
            first.text,
            code=first.code,
            id=first.id,
            who=first.who,
            expression=first.expression,
            diagnostics=first.diagnostics,
            retry_after=_NOT_KNOWN_AGAIN if later else None,
            also=tuple(others),
        )


class Witness:
    """Sees what `decide` looks at, for an explanation; it changes nothing."""

    def __init__(self) -> None:
        self.facts: list[Facts] = []  # one per question to the rules
        self.asked: list[int] = []  # for each decision, which of `facts`
        self.lookups: list[list[Lookup]] = []  # for each decision


def decide(
    question: Question,
    rules: RuleSet,
    directory: Whereabouts,
    defaults: Policy,
    *,
    witness: Witness | None = None,
) -> Route:
    """One decision per destination; rules are matched once for each, or once with none where none is named."""
    return _held_where_not_known(Route.of(_Deciding(question, rules, directory, defaults, witness).all()))


def _held_where_not_known(route: Route) -> Route:
    """A message that is taken for its other destinations waits for those that nobody can say anything of yet."""
    if len(route.accepted) in (0, len(route.decisions)):
        return route
    return Route.of(tuple([_hold(one) if _is_pending(one) else one for one in route.decisions]))


def _is_pending(decision: Decision) -> bool:
    return decision.problem is not None and decision.problem.id == NotKnownYet.id


def _hold(decision: Decision) -> Decision:
    return msgspec.structs.replace(decision, problem=None, hold=True)


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    """Each endpoint once, in the spelling that came first (the unit of effect is message and destination)."""
    if len(names) < 2:
        return names
    seen: dict[str, str] = {}
    for name in names:
        seen.setdefault(name_key(name), name)
    return tuple(seen.values())


class _Deciding:
    """One question on its way through rules and directory; its cost grows with the destinations, not faster."""

    __slots__ = ("_defaults", "_directory", "_hints", "_places", "_question", "_rules", "_witness")

    def __init__(
        self,
        question: Question,
        rules: RuleSet,
        directory: Whereabouts,
        defaults: Policy,
        witness: Witness | None,
    ) -> None:
        self._question, self._rules = question, rules
        self._directory, self._defaults, self._witness = directory, defaults, witness
        self._hints = _HINTS
        self._places: dict[str, list[int]] | None = None  # where the header names each destination, once it is asked

    def all(self) -> tuple[Decision, ...]:
        names = _distinct(self._question.destinations)
        if not names:
            return self._undirected()
        return tuple([self._directed(name, self._rule(name), named=True) for name in names])

    def _undirected(self) -> tuple[Decision, ...]:
        """For a message that names no destination: one real message in three."""
        rule = self._rule(None)
        if rule is not None and rule.to and rule.refuse is None and not rule.log:
            return tuple([self._directed(name, rule, named=False) for name in _distinct(rule.to)])
        self._watch()
        done = None if rule is None else self._by_rule_alone(None, rule, named=False)
        if done is not None:
            return (done,)
        policy = rule.policy if rule else self._defaults
        problem = _no_destination(rule, is_event=self._question.header is None)
        return (Decision(destination=None, rule=rule, policy=policy, problem=problem),)

    def _directed(self, name: str, rule: Rule | None, *, named: bool) -> Decision:
        """For one destination; `named` by the message, otherwise by the rule's `to`."""
        lookups = self._watch()
        done = None if rule is None else self._by_rule_alone(name, rule, named=named)
        if done is not None:
            return done
        header = self._question.header
        found = self._directory.resolve(
            name,
            release=header.release if header else None,
            format=header.format if header else None,
            now=self._question.now,
            lookups=lookups,
        )
        problem = None
        if found.state is State.NONE:
            problem = self._problem(name, found, None if named else rule, named=named)
        return Decision(
            destination=name,
            rule=rule,
            policy=rule.policy if rule else self._defaults,
            addresses=found.addresses if problem is None else (),
            first=found.first,
            resolution=found,
            hold=found.state is State.HOLD,
            problem=problem,
        )

    def _rule(self, destination: str | None) -> Rule | None:
        if not self._rules.rules and self._witness is None:
            return None
        question, header = self._question, self._question.header
        facts = Facts(
            header=header,
            destination=destination,
            receivers=self._receivers(header, destination) if header else (),
            source=question.source,
            party=question.party,
            channel=question.channel,
            way_in=question.way_in,
            transport_headers=question.transport_headers,
            event_type=question.event_type,
        )
        if self._witness is not None:
            self._witness.facts.append(facts)
        number = self._rules.first(facts)
        return None if number is None else self._rules.rules[number]

    def _receivers(self, header: Header, destination: str | None) -> tuple[str, ...]:
        """Those of this destination; of all, where no destination is named (A-6)."""
        if len(header.destinations) == 1 and not header.destinations[0].receivers:
            return ()  # as in most messages
        if destination is None:
            return tuple(receiver for one in header.destinations for receiver in one.receivers)
        places = self._named_at(destination)
        return tuple(receiver for place in places for receiver in header.destinations[place].receivers)

    def _named_at(self, name: str) -> Sequence[int]:
        """Which destinations of the header have this name."""
        if self._places is None:
            self._places = {}
            header = self._question.header
            for number, one in enumerate(header.destinations if header else ()):
                if one.endpoint is not None:
                    self._places.setdefault(name_key(one.endpoint), []).append(number)
        return self._places.get(name_key(name), ())

    def _expression(self, name: str | None, *, named: bool) -> tuple[str, ...]:
        """Which destination of the header this is; nothing for one that only the envelope or a rule names."""
        if named and self._question.header is None:
            return ("destination",)  # of the event
        places = self._named_at(name) if named and name is not None else ()
        return (f"{_HEADER}.destination[{places[0]}].endpoint",) if places else ()

    def _by_rule_alone(self, name: str | None, rule: Rule, *, named: bool) -> Decision | None:
        """The decision where the rule says everything and the directory is not asked."""
        if rule.refuse is not None:
            problem = _refused(rule, self._expression(name, named=named))
            return Decision(destination=name, rule=rule, policy=rule.policy, problem=problem)
        if rule.log:
            return Decision(destination=name, rule=rule, policy=rule.policy, log=True)
        if rule.address is not None:
            return Decision(destination=name, rule=rule, policy=rule.policy, addresses=(rule.address,))
        return None

    def _problem(self, name: str, found: Resolution, said_by: Rule | None, *, named: bool) -> Problem:
        where = self._expression(name, named=named)
        if found.known:
            return _unusable(name, found, where, said_by)
        if found.pending:
            return _not_known_yet(name, found, where, said_by)
        nearest: tuple[str, ...] = ()
        if self._hints:
            self._hints -= 1
            nearest = self._directory.nearest(name)
        return _unknown(name, found, where, said_by, nearest)

    def _watch(self) -> list[Lookup] | None:
        """Where to write down the lookups of the decision that begins, if anybody watches."""
        if self._witness is None:
            return None
        self._witness.asked.append(len(self._witness.facts) - 1)
        self._witness.lookups.append([])
        return self._witness.lookups[-1]


def _refused(rule: Rule, expression: tuple[str, ...]) -> Problem:
    return Problem(
        code=RefusedByRule.code,
        id=RefusedByRule.id,
        text=rule.refuse or "refused by a rule of this broker",
        who=Who.SENDER,
        expression=expression,
        diagnostics=f"rule {rule.name!r}",
    )


def _no_destination(rule: Rule | None, *, is_event: bool) -> Problem:
    what, element = ("event", "destination") if is_event else ("message", "MessageHeader.destination.endpoint")
    if rule is None:
        why = f"and no rule of this broker says where such {'an event' if is_event else 'a message'} goes"
    else:
        why = f"and the rule that matches it ({rule.name!r}) says neither `to` nor `address`"
    return Problem(
        code="not-found",
        id="no-destination",
        text=f"the {what} names no destination, {why}; name one in {element}, "
        "or have the operator add a rule with `to`",
        who=Who.SENDER,
        expression=("destination" if is_event else f"{_HEADER}.destination",),
    )


def _unknown(
    name: str, found: Resolution, where: tuple[str, ...], said_by: Rule | None, nearest: tuple[str, ...]
) -> Problem:
    near = f" Nearest known: {', '.join(shown(one) for one in nearest)}." if nearest else ""
    return Problem(
        code="not-found",
        id="unknown-destination",
        text=f"{_subject(name, said_by)} is not in the directory: {found.reason}.{near} "
        "Check how it is written, or have the operator add it.",
        who=Who.BROKER if said_by else Who.SENDER,
        expression=where,
    )


def _not_known_yet(name: str, found: Resolution, where: tuple[str, ...], said_by: Rule | None) -> Problem:
    return Problem(
        code=NotKnownYet.code,
        id=NotKnownYet.id,
        text=f"{_subject(name, said_by)} is not in the directory as far as it is known: {found.reason}. "
        "The directory is not known yet; send the message again in a moment.",
        who=NotKnownYet.who,
        expression=where,
    )


def _unusable(name: str, found: Resolution, where: tuple[str, ...], said_by: Rule | None) -> Problem:
    return Problem(
        code="not-found",
        id="no-usable-address",
        text=f"{_subject(name, said_by)} is known, but has no address that can be used: {found.reason}. "
        "Its operator has to give it a new one.",
        who=Who.BROKER,
        expression=where,
        diagnostics=_FOLDER.sub("", found.origin) or None,
    )


def _subject(name: str, said_by: Rule | None) -> str:
    named = f", to which rule {said_by.name!r} sends this message," if said_by else ""
    return f"the destination {shown(name)!r}{named}"
