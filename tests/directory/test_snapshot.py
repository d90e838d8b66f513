"""Where a name lives: exact, then the longest prefix, direct, default; and which of several Endpoints."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.fhir.header import Format, Release
from broker.directory import Directory, Entry, How, Listed, Lookup, Snapshot, State, changed_names

NOW = datetime(2026, 11, 21, tzinfo=UTC)
HER = "urn:oid:2.16.578.1.12.4.1.2"


def snapshot(**endpoints: object) -> Snapshot:
    return of(endpoints)


def of(endpoints: dict[str, object]) -> Snapshot:
    directory = Directory(endpoints)
    assert directory.problems == ()
    return directory.load()


NORTH = of(
    {
        f"{HER}.1": "https://one.example/fhir",
        f"{HER}.2": ["mailbox:", "https://two.example/fhir"],
        f"{HER}.3": {"first": ["https://a.example", "https://b.example"]},
        f"{HER}.*": "https://national.example/fhir",
        "urn:oid:2.16.578.*": "https://norway.example/fhir",
        "https://*.partner.example/*": "direct",
        "https://own.example/fhir": "direct",
        "*": "amqps://gateway.example/vhost?exchange=fhir",
    }
)


@pytest.mark.parametrize(
    ("name", "how", "addresses"),
    [
        (f"{HER}.1", How.EXACT, ("https://one.example/fhir",)),
        (f"{HER}|1", How.EXACT, ("https://one.example/fhir",)),
        ("URN:OID" + HER[7:] + ".1", How.EXACT, ("https://one.example/fhir",)),
        (f"{HER}.2", How.EXACT, ("mailbox:", "https://two.example/fhir")),
        (f"{HER}.77", How.PREFIX, ("https://national.example/fhir",)),
        ("urn:oid:2.16.578.1.12.4.1.23.1", How.PREFIX, ("https://norway.example/fhir",)),
        ("https://x.partner.example/in", How.DIRECT, ("https://x.partner.example/in",)),
        ("https://own.example/fhir", How.EXACT, ("https://own.example/fhir",)),
        ("https://x.partner.example@evil.example/in", How.DEFAULT, ("amqps://gateway.example/vhost?exchange=fhir",)),
        ("test_one", How.DEFAULT, ("amqps://gateway.example/vhost?exchange=fhir",)),
        ("[ODSCode]:[DoSId]", How.DEFAULT, ("amqps://gateway.example/vhost?exchange=fhir",)),
    ],
)
def test_a_name_is_found_exactly_then_by_prefix_then_directly_then_by_default(
    name: str, how: How, addresses: tuple[str, ...]
) -> None:
    found = NORTH.resolve(name, now=NOW)
    assert (found.how, found.addresses, found.state) == (how, addresses, State.USE)
    assert found.known
    assert found.origin


def test_first_says_that_the_next_is_for_when_one_is_down() -> None:
    assert NORTH.resolve(f"{HER}.3", now=NOW).first
    assert not NORTH.resolve(f"{HER}.2", now=NOW).first


def test_an_unknown_name_is_said_to_be_unknown_and_where_it_was_looked_for() -> None:
    nothing = snapshot().resolve("x", now=NOW)
    assert (nothing.how, nothing.state, nothing.addresses, nothing.known) == (How.NONE, State.NONE, (), False)
    assert nothing.reason == "no entry has this name, and there is no default gateway"
    some = of({"urn:oid:1.*": "mailbox:", "https://*.a.example/*": "direct"}).resolve("x", now=NOW)
    assert "no prefix fits it" in some.reason
    assert "no address that may be used directly" in some.reason


def test_the_lookups_are_told_in_the_order_in_which_they_were_tried() -> None:
    lookups: list[Lookup] = []
    NORTH.resolve("https://x.partner.example/in", now=NOW, lookups=lookups)
    assert [(one.how, one.found) for one in lookups] == [
        (How.EXACT, None),
        (How.PREFIX, None),
        (How.DIRECT, "https://*.partner.example/*"),
    ]
    lookups = []
    NORTH.resolve("x", now=NOW, lookups=lookups)
    assert [one.how for one in lookups] == [How.EXACT, How.PREFIX, How.DIRECT, How.DEFAULT]


arcs = st.lists(st.integers(0, 3), min_size=1, max_size=5).map(lambda ns: "urn:oid:" + ".".join(map(str, ns)))


@given(st.sets(arcs), st.sets(arcs), arcs)
def test_exact_beats_prefix_and_the_longest_prefix_wins(exact: set[str], prefixes: set[str], name: str) -> None:
    lines: dict[str, object] = {f"{prefix}.*": f"https://p.example/{prefix}" for prefix in prefixes}
    lines |= {one: f"https://e.example/{one}" for one in exact}
    found = of(lines).resolve(name, now=NOW)
    above = [prefix for prefix in prefixes if name.startswith(prefix + ".")]
    if name in exact:
        assert found.addresses == (f"https://e.example/{name}",)
    elif above:
        assert found.addresses == (f"https://p.example/{max(above, key=len)}",)
    else:
        assert not found.known


def test_other_forms_lead_to_the_same_line_also_for_a_whole_system() -> None:
    """A-18."""
    one = Directory({"https://s.example/id|7": "https://a.example", "https://s.example/id|*": "https://b.example"})
    lines = tuple(one.load().names())
    aliases = {"http://old.example/id|*": "https://s.example/id|*", "seven": "https://s.example/id|7"}
    found = Snapshot(lines, aliases)
    assert found.aliases == aliases
    assert found.resolve("seven", now=NOW).addresses == ("https://a.example",)
    assert found.resolve("http://old.example/id|7", now=NOW).addresses == ("https://a.example",)
    assert found.resolve("http://old.example/id%7C8", now=NOW).addresses == ("https://b.example",)
    assert not found.resolve("http://older.example/id|8", now=NOW).known


def test_an_answer_that_holds_at_any_time_is_made_once_and_is_the_one_that_was_watched() -> None:
    named = [f"{HER}.1", f"{HER}|1", f"{HER}.2", f"{HER}.3", f"{HER}.77", "https://x.partner.example/in", "test_one"]
    for name in named:
        asked = [NORTH.resolve(name, now=NOW) for _ in range(3)]
        assert asked == [NORTH.resolve(name, now=NOW, lookups=[])] * 3
    assert NORTH.resolve(f"{HER}.1", now=NOW) is NORTH.resolve(f"{HER}|1", release=Release.R5, now=NOW)


def test_an_answer_that_time_or_release_may_change_is_made_each_time() -> None:
    """A-22, A-23."""
    ends = Snapshot([Listed(name="n", how=How.EXACT, entries=(entry("a", end=NOW),))])
    assert ends.resolve("n", now=NOW - timedelta(seconds=1)).state is State.USE
    assert ends.resolve("n", now=NOW).state is State.NONE
    begins = Snapshot([Listed(name="n", how=How.EXACT, entries=(entry("a", start=NOW),))])
    assert begins.resolve("n", now=NOW - timedelta(seconds=1)).state is State.NONE
    assert begins.resolve("n", now=NOW).state is State.USE
    two = (entry("a", releases=(Release.R4,)), entry("b", releases=(Release.R5,)))
    either = Snapshot([Listed(name="n", how=How.EXACT, entries=two)])
    assert either.resolve("n", release=Release.R5, now=NOW).origin == "b"
    assert either.resolve("n", release=Release.R4, now=NOW).origin == "a"


# --- several Endpoints of one name


def entry(id: str, **more: object) -> Entry:
    return Entry(names=("n",), addresses=(f"https://{id}.example",), id=id, origin=id, **more)  # type: ignore[arg-type]


def chosen(*entries: Entry, release: Release | None = Release.R4, format: Format | None = Format.JSON) -> str:
    for order in (entries, entries[::-1]):
        listed = Listed(name="n", how=How.EXACT, entries=tuple(order))
        found = Snapshot([listed]).resolve("n", release=release, format=format, now=NOW)
        last = found.origin
    first = Snapshot([Listed(name="n", how=How.EXACT, entries=entries)]).resolve(
        "n", release=release, format=format, now=NOW
    )
    assert first.origin == last, "the order of the lines must not matter"
    return last


def test_the_fhir_version_of_the_message_counts_first() -> None:
    old, new = entry("a", releases=(Release.R4,), connection=2), entry("b", releases=(Release.R5,))
    assert chosen(old, new) == "a"
    assert chosen(old, new, release=Release.R5) == "b"
    assert chosen(old, new, release=Release.R4B) == "a"  # a message of R4B is one of R4
    assert chosen(entry("a", releases=(Release.R5,)), entry("b")) == "b"  # silent is better than another


def test_then_the_format_then_the_payload_then_the_connection() -> None:
    assert chosen(entry("a", formats=(Format.XML,)), entry("b", formats=(Format.JSON,), payload=2)) == "b"
    assert chosen(entry("a", payload=2), entry("b", payload=1, connection=2), entry("c", payload=2)) == "b"
    assert chosen(entry("a", connection=1), entry("b", connection=0)) == "b"


def test_then_the_newest_then_the_id() -> None:
    day = timedelta(days=1)
    assert chosen(entry("a"), entry("b", start=NOW - day)) == "b"
    assert chosen(entry("a", start=NOW - 2 * day), entry("b", start=NOW - day)) == "b"
    assert chosen(entry("b"), entry("a"), release=None, format=None) == "a"


def test_one_that_may_be_used_goes_before_one_that_is_suspended_and_off_is_no_candidate() -> None:
    assert chosen(entry("a", state=State.HOLD), entry("b", payload=2)) == "b"
    assert chosen(entry("a", state=State.NONE), entry("b", state=State.HOLD)) == "b"
    assert chosen(entry("a", end=NOW), entry("b")) == "b"
    assert chosen(entry("a", start=NOW + timedelta(seconds=1)), entry("b")) == "b"


def test_its_own_endpoint_goes_before_its_parents_unless_it_is_off() -> None:
    """A-25."""
    assert chosen(entry("a", distance=1), entry("b", state=State.HOLD)) == "b"
    assert chosen(entry("a", distance=1), entry("b", state=State.NONE)) == "a"


def test_suspended_waits_and_off_has_no_address() -> None:
    """A-22."""
    held = Snapshot([Listed(name="n", how=How.EXACT, entries=(entry("a", state=State.HOLD, reason="suspended"),))])
    found = held.resolve("n", now=NOW)
    assert (found.state, found.addresses, found.reason) == (State.HOLD, ("https://a.example",), "suspended")
    off = Snapshot([Listed(name="n", how=How.EXACT, entries=(entry("b", end=NOW), entry("a", state=State.NONE)))])
    found = off.resolve("n", now=NOW)
    assert (found.state, found.addresses, found.known) == (State.NONE, (), True)
    past = Snapshot([Listed(name="n", how=How.EXACT, entries=(entry("b", end=NOW),))]).resolve("n", now=NOW)
    assert past.reason == "its period is … to 2026-11-21T00:00:00+00:00"


# --- hints


def test_a_mistyped_name_is_told_its_neighbours() -> None:
    many = of({f"{HER}.{number}": "mailbox:" for number in range(100_000, 100_400)})
    assert f"{HER}.100200" in many.nearest(f"{HER}.100200x")
    assert f"{HER}.100200" in many.nearest("urn:oid:2.16F578.1.12.4.1.2.100200")  # one sender wrote just this
    assert many.nearest("mailto:somebody@example.org") == ()
    assert many.nearest("x" * 1000) == ()
    assert Snapshot().nearest("x") == ()


# --- versions and changes


def test_the_version_is_that_of_the_content() -> None:
    assert snapshot(a="mailbox:").version == snapshot(a="mailbox:").version
    assert snapshot(a="mailbox:").version != snapshot(a="mailbox:", b="mailbox:").version
    assert len(NORTH) == 8


def test_changes_name_what_is_found_otherwise() -> None:
    old = of({"a": "https://1.example", "b": "https://2.example", "urn:oid:1.*": "https://3.example"})
    new = of({"a": "https://9.example", "c": "https://2.example", "urn:oid:1.*": "https://3.example"})
    changed = changed_names(old, new)
    assert changed
    assert changed.names == {"a", "b", "c"}
    assert not changed.patterns
    assert [name for name in ("a", "b", "c", "d", "urn:oid:1.1") if changed.concerns(name)] == ["a", "b", "c"]


def test_a_changed_prefix_concerns_what_it_means_and_nothing_else() -> None:
    old = of({"urn:oid:1.*": "https://3.example", "urn:oid:1.5": "mailbox:"})
    new = of({"urn:oid:1.*": "https://4.example", "urn:oid:1.5": "mailbox:"})
    changed = changed_names(old, new)
    assert changed.patterns
    assert [changed.concerns(name) for name in ("urn:oid:1.1", "urn:oid:1.5", "urn:oid:2.1")] == [True, False, False]


def test_a_name_that_has_another_form_is_woken_by_either() -> None:
    aliases = {"old": "a"}
    old = Snapshot(of({"a": "https://1.example"}).names(), aliases)
    new = Snapshot(of({"a": "https://2.example"}).names(), aliases)
    assert changed_names(old, new).concerns("old")


def test_the_same_content_is_no_change() -> None:
    assert not changed_names(NORTH, NORTH)
    assert not changed_names(NORTH, NORTH).concerns(f"{HER}.1")


def test_a_lookup_costs_as_much_among_a_hundred_thousand_as_among_ten() -> None:
    def cost(count: int) -> float:
        found = of({f"{HER}.{number}": "mailbox:" for number in range(count)} | {"urn:oid:2.*": "mailbox:"})
        names = [f"{HER}.{number * 7919 % (2 * count)}" for number in range(2000)]
        best = 1.0
        for _ in range(5):
            began = time.perf_counter()
            for name in names:
                found.resolve(name, now=NOW)
            best = min(best, time.perf_counter() - began)
        return best

    assert cost(100_000) < 5 * cost(10)
