"""A message costs no more among 100,000 endpoints and 1,000 rules than among ten of each.

Counted are the calls, of Python and of C, that a decision makes: a time would tell more of the machine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from types import FrameType

import pytest

from broker.core.fhir.header import Destination, Event, Format, Header, Release
from broker.core.policy import DEFAULT, Match, Rule
from broker.core.routing import Question, decide
from broker.core.rules import RuleSet
from broker.directory import Snapshot
from broker.directory.written import read_file

NOW = datetime(2026, 11, 21, tzinfo=UTC)
HER, OTHER, ODS = "urn:oid:2.16.578.1.12.4.1.2", "urn:oid:2.999", "https://fhir.nhs.uk/Id/ods-organization-code"
FEW, MANY = (10, 10), (100_000, 1_000)
MOST = 1.5  # times the calls

Kind = Callable[[int], Match]
KINDS: dict[str, Kind] = {
    "event": lambda n: Match(event=(f"event-{n}",)),
    "event with stars": lambda n: Match(event=(f"*-{n}-*",)),
    "source": lambda n: Match(source=(f"{OTHER}.7.{n}",)),
    "source by prefix": lambda n: Match(source=(f"{OTHER}.7.{n}.*",)),
    "destination": lambda n: Match(destination=(f"{OTHER}.8.{n}",)),
    "receiver": lambda n: Match(receiver=(f"{ODS}|R{n}",)),
    "sender": lambda n: Match(sender=(f"{ODS}|S{n}",)),
    "party": lambda n: Match(party=(f"party-{n}",)),
    "channel": lambda n: Match(channel=(f"channel-{n}",)),
    "path": lambda n: Match(path=(f"in-{n}",)),
    "header": lambda n: Match(header=(("x-tenant", (f"tenant-{n}-*",)),)),
    "profile": lambda n: Match(profile=(f"https://p.example/{n}",)),
    "fhir": lambda n: Match(fhir=("5.0",), source=(f"{OTHER}.7.{n}",)),
    "type": lambda n: Match(type=(f"org.example.{n}.*",)),
    "response": lambda n: Match(response=True, source=(f"{OTHER}.7.{n}",)),
    "not": lambda n: Match(party=("north",), negated=Match(event=("*",), source=(f"{HER}.*",))),
}


@lru_cache
def snapshot(count: int) -> Snapshot:
    lines = "".join(f'"{HER}.{n}": "https://h{n % 500}.example/in",\n' for n in range(count - 5))
    prefixes = "".join(f'"{OTHER}.{n}.*": "https://p{n}.example/in",\n' for n in range(4))
    text = f'{{"endpoints": {{{lines}{prefixes}"https://*.d.example/*": "direct"}}, "aliases": {{"{HER}.3": ["three"],'
    content = read_file(text + f' "{HER}.*": ["urn:oid:2.998.*"]}}}}', file="x.json")
    assert not content.problems
    return Snapshot(content.listed, dict(content.aliases))


@lru_cache
def rules(count: int, kind: str | None) -> RuleSet:
    kinds = list(KINDS.values())[: FEW[1]] if kind is None else [KINDS[kind]]  # the same kinds among few and many
    return RuleSet([Rule(name=f"r{n}", match=kinds[n % len(kinds)](n)) for n in range(count)])


def question(name: str, tenant: tuple[str, str] = ("x-tenant", "blue")) -> Question:
    header = Header(
        release=Release.R4, format=Format.JSON, event=Event(code="sick-leave", system="urn:x"), source=f"{HER}.5",
        destinations=(Destination(endpoint=name, receivers=(f"{ODS}|A1",)),), senders=(f"{ODS}|B1",),
        profiles=("https://p.example/x|1",),
    )  # fmt: skip
    return Question(
        header=header, destinations=(name,), source=f"{HER}.5", party="north", channel="http", way_in="lab",
        transport_headers=(tenant,), event_type="org.example.sick-leave", now=NOW,
    )  # fmt: skip


def calls(work: Callable[[], object]) -> int:
    """How many calls, of Python and of C, it makes."""
    work()  # what is remembered is remembered
    count = 0

    def counted(_frame: FrameType, event: str, _arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(counted)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def cost(size: tuple[int, int], name: str, kind: str | None) -> int:
    entries, count = size
    asked, known, matched = question(name), snapshot(entries), rules(count, kind)
    return calls(lambda: decide(asked, matched, known, DEFAULT))


NAMES = {
    "exact": f"{HER}.4",
    "prefix": f"{OTHER}.3.7.7",
    "alias": "three",
    "alias of a system": "urn:oid:2.998.4",
    "direct": "https://a.d.example/in",
    "unknown": "urn:x:nobody",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_name_is_found_among_many_as_among_few(name: str) -> None:
    few, many = cost(FEW, name, None), cost(MANY, name, None)
    assert many <= MOST * few, f"{many} calls instead of {few}"


@pytest.mark.parametrize("kind", KINDS)
def test_rules_of_every_kind_are_asked_at_once(kind: str) -> None:
    few, many = cost(FEW, NAMES["exact"], kind), cost(MANY, NAMES["exact"], kind)
    assert many <= MOST * few, f"{many} calls instead of {few}"


def test_values_that_no_rule_has_seen_cost_no_more_among_many_rules() -> None:
    """A header may be another one in each message, so that nothing that is remembered helps."""

    def fresh(size: int) -> int:
        known, matched = snapshot(10), rules(size, "header")
        values = iter(f"fresh-{size}-{n}" for n in range(10))

        def work() -> None:
            asked = question(NAMES["exact"], ("x-tenant", next(values)))
            decide(asked, matched, known, DEFAULT)

        return calls(work)

    few, many = fresh(10), fresh(1_000)
    assert many <= MOST * few, f"{many} calls instead of {few}"
