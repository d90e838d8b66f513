"""What a search asks, read purely."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.api.instants import bounds
from broker.api.parameters import split, url
from broker.api.search import BUNDLE_PARAMS, KNOWN, MailboxSearch, read_search
from broker.core.outcome import BadRequest

DAY = datetime(2026, 11, 21, tzinfo=UTC)
MICRO = timedelta(microseconds=1)


def search(*pairs: tuple[str, str], **more: Any) -> MailboxSearch:
    return read_search(pairs, **more)


def refused(*pairs: tuple[str, str], **more: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        search(*pairs, **more)
    return caught.value


def test_nothing_asked_means_all_mailboxes_from_the_beginning() -> None:
    asked = search()
    assert (asked.mailbox, asked.after, asked.count, asked.newest_first) == (None, 0, 50, False)
    assert (asked.count_only, asked.nothing, asked.total, asked.warnings) == (False, False, False, ())


@pytest.mark.parametrize(
    ("written", "key"),
    [
        ("urn:oid:1.2.3", "urn:oid:1.2.3"),
        ("urn:ietf:rfc:3986|urn:oid:1.2.3", "urn:oid:1.2.3"),
        ("urn:oid:1.2|3", "urn:oid:1.2.3"),
        ("https://a.example/x\\,y", "https://a.example/x,y"),
    ],
)
def test_mailbox_is_found_under_every_form_of_its_name(written: str, key: str) -> None:
    """A-3, A-4."""
    assert search(("message.destination-uri", written)).mailbox == key
    assert search(("message:MessageHeader.destination-uri", written)).mailbox == key


@pytest.mark.parametrize("pairs", [[("urn:a",), ("urn:b",)], [("urn:a,urn:b",)]])
def test_two_mailboxes_at_once_are_refused(pairs: list[tuple[str]]) -> None:
    refusal = refused(*(("message.destination-uri", value) for (value,) in pairs))
    assert "one mailbox" in refusal.problem.text
    assert refusal.problem.expression == ("http.message.destination-uri",)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("_offset", "-1"),
        ("_offset", "x"),
        ("_offset", "٣"),
        ("_offset", str(1 << 48)),
        ("_offset", "9" * 400),
        ("_count", "1.5"),
        ("_count", ""),
        ("_sort", "date"),
        ("_summary", "maybe"),
        ("_total", "roughly"),
        ("_lastUpdated", "yesterday"),
        ("_lastUpdated", "ne2026"),
        ("_lastUpdated", "2026-13"),
        ("_lastUpdated", "2026-11-21T25:00Z"),
        ("_lastUpdated", "2026,2027"),
        ("message.event", "|admit"),
        ("message.event", "http://example.org|"),
        ("message.event", "a,,b"),
        ("message.code", "fine"),
        ("message.destination-uri", ""),
        ("message.response-id:missing", "perhaps"),
        ("identifier", ",".join(map(str, range(101)))),
    ],
)
def test_malformed_values_are_refused_by_the_name_of_their_parameter(name: str, value: str) -> None:
    refusal = refused((name, value))
    assert refusal.problem.code == "value"
    assert refusal.problem.expression == (f"http.{name}",)
    assert name in refusal.problem.text


def test_a_parameter_that_is_there_twice_is_refused() -> None:
    assert "2 times" in refused(("_count", "1"), ("_count", "2")).problem.text


def test_unknown_modifier_is_refused_and_not_taken_for_nothing() -> None:
    refusal = refused(("message.event:not", "admit"))
    assert refusal.problem.id == "unknown-modifier"


def test_page_is_cut_down_to_what_the_broker_gives_at_most() -> None:
    """M-67."""
    assert search(("_count", "5000")).count == 1000


@pytest.mark.parametrize("pair", [("_count", "0"), ("_summary", "count")])
def test_count_zero_asks_for_the_number_only(pair: tuple[str, str]) -> None:
    """M-67."""
    assert search(pair).count_only


def test_order_may_be_turned_round() -> None:
    """M-68."""
    assert not search(("_sort", "_lastUpdated")).newest_first
    assert search(("_sort", "-_lastUpdated")).newest_first


def test_unknown_parameter_is_told_with_what_may_be_meant() -> None:
    asked = search(("message.destination-url", "urn:x"), ("_foo", "1"))
    assert [warning.id for warning in asked.warnings] == ["unknown-parameter"] * 2
    assert "did you mean message.destination-uri?" in asked.warnings[0].text
    assert asked.kept == ()


def test_unknown_parameter_is_refused_where_the_caller_is_strict() -> None:
    refusal = refused(("_foo", "1"), ("_bar", "1"), strict=True)
    assert [problem.id for problem in refusal.problems] == ["unknown-parameter"] * 2
    assert refusal.problem.expression == ("http._foo",)


def test_many_or_long_unknown_names_make_no_long_answer() -> None:
    asked = search(*((f"{'x' * 5000}{number}", "") for number in range(50)))
    assert sum(len(warning.text) for warning in asked.warnings) < 5000


def test_other_types_than_message_fit_nothing() -> None:
    assert not search(("type", "message")).nothing
    assert not search(("type", "http://hl7.org/fhir/bundle-type|message,document")).nothing
    assert search(("type", "document")).nothing


def test_response_id_is_looked_for_in_every_form_that_senders_write() -> None:
    """M-31."""
    id = "9D0F3B0E-6f4a-4c55-8a5f-1f7f5f0e1a01"
    forms = search(("message.response-id", f"urn:uuid:{id}")).wanted.response_id
    assert {id, id.lower(), f"urn:uuid:{id}", f"urn:ietf:rfc:3986|urn:uuid:{id}"} <= set(forms)
    assert search(("message.response-id", "m1")).wanted.response_id == ("m1",)
    assert search(("message.response-id", "s|m1")).wanted.response_id == ("s|m1",)


def test_answers_are_told_from_requests() -> None:
    """M-63."""
    assert search(("message.response-id:missing", "false")).wanted.response_missing is False
    codes = search(("message.code", "ok,http://hl7.org/fhir/response-code|fatal-error")).wanted.response_code
    assert codes == ("ok", "fatal-error")


def test_source_is_compared_by_its_key() -> None:
    assert search(("message.source-uri", "URN:OID:1.2")).wanted.source == ("urn:oid:1.2",)


# --- time ---


@pytest.mark.parametrize(
    ("text", "since", "until"),
    [
        ("2026-11-21", DAY, DAY + timedelta(days=1)),
        ("eq2026-11-21", DAY, DAY + timedelta(days=1)),
        ("2026-11", DAY.replace(day=1), datetime(2026, 12, 1, tzinfo=UTC)),
        ("2026-12", datetime(2026, 12, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)),
        ("2026", datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)),
        ("9999", datetime(9999, 1, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC)),
        ("gt2026-11-20", DAY, None),
        ("ge2026-11-21", DAY, None),
        ("lt2026-11-21", None, DAY),
        ("le2026-11-20", None, DAY),
        ("2026-11-21T00:00Z", DAY, DAY + timedelta(minutes=1)),
        ("ge2026-11-21T00:00:00", DAY, None),
        ("le2026-11-21T00:00:00Z", None, DAY + timedelta(seconds=1)),
        ("2026-11-21T00:00:00.1Z", DAY + MICRO * 100_000, DAY + MICRO * 200_000),
        ("2026-11-21T00:00:00.000001999Z", DAY + MICRO, DAY + MICRO * 2),
        ("gt2026-11-21T01:00:00+01:00", DAY + MICRO, None),
        (">2026-11-21T01:00:00 01:00", DAY + MICRO, None),
        (">=2026-11-21T01:00:00+01:00", DAY, None),
        ("<=2026-11-20", None, DAY),
        ("<2026-11-20T19:00:00-05:00", None, DAY),
    ],
)
def test_last_updated_is_read_with_its_precision_and_a_lost_plus(
    text: str, since: datetime | None, until: datetime | None
) -> None:
    """M-63, M-64."""
    assert bounds([text]) == (since, until)


def test_several_bounds_must_all_hold() -> None:
    assert bounds(["gt2026-11-01", "ge2026-11-21", "lt2026-12", "le2026-11-30"]) == (
        DAY,
        datetime(2026, 12, 1, tzinfo=UTC),
    )


def test_a_year_that_time_does_not_have_is_refused() -> None:
    for text in ("0000", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"):
        with pytest.raises(BadRequest):
            bounds([text])


@given(st.text())
def test_any_text_is_a_time_or_refused(text: str) -> None:
    try:
        since, until = bounds([text])
    except BadRequest:
        return
    assert since is None or until is None or since < until


@given(st.integers(0, 200 * 365 * 86400 * 10**6))
def test_who_goes_on_after_an_instant_misses_nothing_after_it(micros: int) -> None:
    """M-69: whatever the precision of the instant that a reader remembers."""
    known = datetime(1970, 1, 1, tzinfo=UTC) + MICRO * micros
    for remembered in (
        known.isoformat(),
        known.isoformat(timespec="milliseconds"),
        known.isoformat(timespec="seconds"),
    ):
        since, _ = bounds([f"gt{remembered}"])
        assert since is not None
        assert since <= known + MICRO


# --- links ---


def test_links_repeat_what_was_asked_and_say_where_to_go_on() -> None:
    asked = search(("message.destination-uri", "urn:oid:1.2"), ("_offset", "3"), ("_foo", "1"), ("_count", "2"))
    link = asked.url("https://broker.example/fhir/R5", 7)
    assert link == ("https://broker.example/fhir/R5/Bundle?message.destination-uri=urn:oid:1.2&_count=2&_offset=7")


printable = st.text(st.characters(blacklist_categories=["Cs"]))


@given(st.lists(st.tuples(printable.filter(bool), printable.filter(bool))))
def test_query_of_a_link_says_exactly_the_values(pairs: list[tuple[str, str]]) -> None:
    """A raw `+`, `&` or `|` would say something else (M-63)."""
    query = urlsplit(url("https://b.example/fhir", "Bundle", pairs)).query
    assert parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)) == pairs
    assert not set(query) & set('+|<>" ')


@given(st.lists(st.text(st.characters(blacklist_characters="\\,"))).filter(bool))
def test_commas_part_values_unless_escaped(values: list[str]) -> None:
    assert split(",".join(values)) == values
    assert split("\\,".join(values)) == ["\\,".join(values)]


@given(printable, printable)
def test_any_parameter_is_read_or_refused(name: str, value: str) -> None:
    for one in (name, "identifier", "message.event", "message.destination-uri", "_offset", "_id"):
        try:
            search((one, value))
        except BadRequest:
            continue


def test_statement_lists_exactly_what_is_read() -> None:
    """M-62, M-75."""
    listed = {param.name for param in BUNDLE_PARAMS}
    assert KNOWN - listed == {
        "message.response-id:missing", "_sort", "_summary", "_total", "_format", "_pretty"
    }  # fmt: skip


def test_summaries_of_messages_are_not_made() -> None:
    """Promise 3: what came is given whole."""
    assert [warning.id for warning in search(("_summary", "true")).warnings] == ["no-summary"]
    assert search(("_summary", "false")).warnings == ()
