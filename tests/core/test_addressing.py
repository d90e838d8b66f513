"""Names: when two are the same endpoint, and what patterns mean (A-1 … A-5)."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.addressing import (
    NamePatterns,
    PrefixTable,
    check_name_pattern,
    compile_glob,
    matches_glob,
    name_key,
    name_matches,
    pair_key,
    shown,
)

HER = "urn:oid:2.16.578.1.12.4.1.2"

names = st.one_of(
    st.text(max_size=30),
    st.from_regex(r"(?i)urn:(oid|uuid|nhs-uk|ietf:rfc:3986\|urn:oid):[0-9a-f.|\-%7C]{0,20}", fullmatch=True),
)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (f"{HER}.102287", "URN:OID:2.16.578.1.12.4.1.2.102287"),
        (
            "urn:uuid:4d1def34-68a7-4a37-8152-65f0e90329ee",
            "URN:UUID:4D1DEF34-68A7-4A37-8152-65F0E90329EE",
        ),
        ("https://fhir.nhs.uk/Id/x|1", "https://fhir.nhs.uk/Id/x%7C1"),
        ("https://fhir.nhs.uk/Id/x|1", "https://fhir.nhs.uk/Id/x%7c1"),
        (f"{HER}|102287", f"{HER}.102287"),
        ("URN:oid:2.16.578.1.12.4.1.2%7C102287", f"{HER}.102287"),
        (f"urn:ietf:rfc:3986|{HER}.102287", f"{HER}.102287"),
        ("URN:nhs-uk:addressing:ods:X", "urn:nhs-uk:addressing:ods:X"),
        (f"{HER}|0", f"{HER}.0"),
    ],
)
def test_forms_of_one_name_have_one_key(one: str, other: str) -> None:
    assert name_key(one) == name_key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (f"{HER}.0102287", f"{HER}.102287"),  # no trimming of leading zeros
        (f"{HER}|0102287", f"{HER}.0102287"),  # and such a value is no arc
        (f"{HER}|Y05868", f"{HER}.Y05868"),
        (f"{HER}|１", f"{HER}.１"),  # a digit of another script is no arc
        ("urn:oid:2.016|1", "urn:oid:2.016.1"),
        (f"{HER}|1.2", f"{HER}.1.2"),  # a pair whose value is two arcs is not said to be the longer OID
        (f"{HER} ", HER),
        ("HTTP://NCHS.CDC.GOV/VRDR_SUBMISSION", "http://nchs.cdc.gov/VRDR_SUBMISSION"),
        ("urn:NHS-UK:x", "urn:nhs-uk:x"),
        ("https://sor2.sum.dsdn.dk/#id=1", "https://sor2.sum.dsdn.dk/#id=2"),
        ("https://x.example/%41", "https://x.example/A"),
        ("http://fhir.nhs.uk/Id/x|1", "https://fhir.nhs.uk/Id/x|1"),
        ("urn:uuid:ABC", "urn:uuid:abc"),  # not a UUID, so not its hex
    ],
)
def test_nothing_else_is_the_same(one: str, other: str) -> None:
    assert name_key(one) != name_key(other)


@given(names)
def test_a_key_is_its_own_key(name: str) -> None:
    assert name_key(name_key(name)) == name_key(name)


@given(names.filter(lambda s: s != ""), names)
def test_a_pair_has_the_key_of_its_two_halves_joined(system: str, value: str) -> None:
    assert pair_key(system, value) == name_key(f"{system}|{value}")


def test_an_identifier_without_system_is_its_value() -> None:
    assert pair_key("", "test_one") == "test_one"


def test_a_hostile_name_costs_no_more_than_its_length() -> None:
    began = time.perf_counter()
    name_key("urn:ietf:rfc:3986|" * 100_000)
    name_key("urn:oid:" + "1." * 1_000_000 + "|1")
    NamePatterns([f"{HER}.*", f"{HER}|*"]).match("urn:oid:" + "1." * 1_000_000 + "1")
    assert time.perf_counter() - began < 2


def test_the_system_of_uris_alone_stays_as_it_is() -> None:
    assert name_key("urn:ietf:rfc:3986|") == "urn:ietf:rfc:3986|"
    assert name_key("urn:ietf:rfc:3987|x") == "urn:ietf:rfc:3987|x"
    assert name_key("urn:ietf:rfc:3986|https://a.example") == "https://a.example"


# --- patterns of names


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        (f"{HER}.*", f"{HER}.102287", True),
        (f"{HER}.*", "urn:oid:2.16.578.1.12.4.1.23.1", False),
        (f"{HER}.*", HER, False),
        (f"{HER}.*", f"{HER}.", False),
        (f"{HER}.*", f"{HER}.1.2.3", True),
        (f"{HER}.*", f"{HER}|102287", True),
        (f"{HER}.*", f"{HER}|Y05868", False),
        (f"{HER}|*", f"{HER}|Y05868", True),
        (f"{HER}|*", f"{HER}.102287", True),
        (f"{HER}|*", f"{HER}.1.2", False),
        (f"{HER}|*", f"{HER}.0102", False),
        (f"{HER}|*", f"{HER}3.1", False),
        (f"{HER}|*", "https://a.example/x", False),
        ("URN:OID:2.16.*", "urn:oid:2.16.1", True),
        ("https://ehr.example/*", "https://ehr.example/fhir", True),
        ("https://ehr.example/*", "https://ehr.example.evil/fhir", False),
        ("https://fhir.nhs.uk/Id/dos|*", "https://fhir.nhs.uk/Id/dos%7C7", True),
        ("https://fhir.nhs.uk/Id/dos%7C*", "https://fhir.nhs.uk/Id/dos|7", True),
        ("https://sor2.sum.dsdn.dk/#*", "https://sor2.sum.dsdn.dk/#id=1", True),
        ("urn:nhs-uk:addressing:ods:*", "urn:nhs-uk:addressing:ods:FCW64", True),
        ("*", "anything", True),
        ("test_one", "test_one", True),
        ("test_one", "test_two", False),
    ],
)
def test_a_pattern_means_whole_arcs_and_segments(pattern: str, name: str, fits: bool) -> None:
    assert name_matches(pattern, name) is fits


@given(st.lists(st.integers(0, 300), min_size=1, max_size=6), st.lists(st.integers(0, 300), min_size=1, max_size=6))
def test_a_prefix_of_arcs_fits_exactly_what_begins_with_these_arcs(prefix: list[int], arcs: list[int]) -> None:
    pattern = "urn:oid:" + ".".join(map(str, prefix)) + ".*"
    name = "urn:oid:" + ".".join(map(str, arcs))
    assert name_matches(pattern, name) == (len(arcs) > len(prefix) and arcs[: len(prefix)] == prefix)


def test_prefixes_are_found_longest_first_and_the_narrower_of_one_length_before() -> None:
    table = PrefixTable({"urn:oid:1.": 1, "urn:oid:1.2.": 2, "urn:oid:1.2|": 3, "urn:oid:1.2.3.4.": 4})
    assert [value for _, value in table.above("urn:oid:1.2.3")] == [3, 2, 1]
    assert sorted(table) == ["urn:oid:1.", "urn:oid:1.2.", "urn:oid:1.2.3.4.", "urn:oid:1.2|"]
    assert table
    assert not PrefixTable({})


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("", "empty name"),
        ("urn:*:x", "only at the end"),
        ("*.example", "only at the end"),
        (f"{HER}*", "whole arc"),
        ("urn:*", "no namespace"),
        ("urn:ietf:rfc:3986|*", "no namespace"),
    ],
)
def test_what_is_no_pattern_is_refused_with_a_reason(pattern: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        check_name_pattern(pattern)
    with pytest.raises(ValueError):
        NamePatterns([pattern])


# --- globs, for events


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [
        ("*sick-leave*", "no-sick-leave-1", True),
        ("*sick-leave*", "sick-leav", False),
        ("admin-notify", "admin-notify", True),
        ("admin-notify", "admin-notify2", False),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("ab*bc", "abc", False),
        ("a*b*c", "a--b--c", True),
        ("a*b*c", "a--c--b", False),
        ("a*bb*b", "abb", False),
        ("ab*x*bc", "abc", False),
        ("*", "", True),
        ("**", "x", True),
        ("*\n*", "a\nb", True),
    ],
)
def test_a_star_stands_for_anything(pattern: str, text: str, fits: bool) -> None:
    assert matches_glob(pattern, text) is fits


@given(st.text("ab*", max_size=8), st.text("ab", max_size=12))
def test_a_glob_says_what_the_regular_expression_says(pattern: str, text: str) -> None:
    expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text, re.DOTALL) is not None
    assert compile_glob(pattern)(text) is expected


def test_many_stars_stay_quick() -> None:
    began = time.perf_counter()
    assert not matches_glob("*a" * 30 + "*b", "a" * 100_000)
    assert time.perf_counter() - began < 1


# --- names in texts


def test_a_name_in_a_text_is_one_line_of_bounded_length() -> None:
    assert shown("urn:x:\nINFO forged\x1b[31m") == "urn:x:\ufffdINFO forged\ufffd[31m"
    assert len(shown("x" * 5000)) == 201
    assert shown("test_one") == "test_one"


@pytest.mark.parametrize(
    "name", ["urn:oid:2.16.578.1.12.4.1.4.1.01019012345", "URN:oid:2.16.578.1.12.4.1.4.2|41019012345"]
)
def test_a_persons_number_is_never_shown(name: str) -> None:
    """A-14."""
    assert "19012345" not in shown(name)
    assert shown("urn:oid:2.16.578.1.12.4.1.4.101.974000000").endswith(".974000000")
