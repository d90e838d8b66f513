"""The receipt ledger in the store: sums and lines over a period, and the tally of what was refused."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path

import pytest
from old_store import as_version_5, of_version_2
from store_values import DAY, NOW, delivery, ended, expecting, header, new, quoting, settlement

from broker.core.delivery import AnswerState, Outcome, State
from broker.core.ledger import Mark
from broker.core.message import Fate
from broker.core.outcome import Problem
from broker.store import Cutoffs, Kept, Settlement, ledger_sqlite
from broker.store.ledger import RefusedAs, Span
from broker.store.sqlite import SqliteStore

ASTRAY = Problem(code="not-found", id="refused-by-receiver", text="nobody is here")


class Clock:
    now = NOW


@pytest.fixture
async def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path, clock: Clock):  # type: ignore[no-untyped-def]
    opened = SqliteStore(tmp_path / "broker.db", now=lambda: clock.now)
    yield opened
    await opened.close()


async def kept(store: SqliteStore, identity: str, *deliveries: object, **more: object) -> int:
    found = await store.accept(new(identity, *deliveries, **more))  # type: ignore[arg-type]
    assert isinstance(found, Kept)
    return found.position


async def answer(store: SqliteStore, position: int, code: str) -> int:
    about = header(bundle_id=f"r{position}", response=quoting("m", code))
    return await kept(
        store, f"r{position}", delivery("urn:s"), about=about, source="urn:d", answers=(position, 1), fate=Fate.ANSWER
    )


async def everything(store: SqliteStore) -> dict[tuple[str, Mark, str], int]:
    span = await store.span(NOW - DAY, NOW + 30 * DAY)
    return {(one.source, one.mark, one.kind): one.count for one in await store.sums(span, NOW + timedelta(hours=1))}


async def test_sums_say_how_every_delivery_of_a_source_stands(store: SqliteStore) -> None:
    good = await kept(store, "b1", expecting())
    await store.settle(settlement(good))
    await answer(store, good, "ok")
    bad = await kept(store, "b2", expecting())
    await store.settle(settlement(bad))
    await answer(store, bad, "fatal-error")
    await kept(store, "b3", expecting(), source="urn:t")
    late = await kept(store, "b4", expecting())
    await store.missing(late, 1, NOW, None)
    gone = await kept(store, "b5", expecting())
    await store.settle(
        Settlement(change=ended(gone, state=State.DEAD, answer=AnswerState.CLOSED, outcome=Outcome(problem=ASTRAY)))
    )
    silent = await kept(store, "b6", expecting())
    await store.settle(settlement(silent, answer=AnswerState.CLOSED))
    assert await everything(store) == {
        ("urn:s", Mark.ANSWERED, ""): 1,
        ("urn:s", Mark.NEGATIVE, "fatal-error"): 1,
        ("urn:t", Mark.OPEN, ""): 1,
        ("urn:s", Mark.MISSING, ""): 1,
        ("urn:s", Mark.UNDELIVERED, "refused-by-receiver"): 1,
        ("urn:s", Mark.SILENT, ""): 1,
        ("urn:d", Mark.CARRIED, ""): 2,
    }


async def test_answer_time_that_is_over_is_missing_before_any_sweep(store: SqliteStore) -> None:
    await kept(store, "b1", expecting())
    span = await store.span(NOW - DAY, NOW + DAY)
    assert [one.mark for one in await store.sums(span, NOW + DAY - timedelta(seconds=1))] == [Mark.OPEN]
    assert [one.mark for one in await store.sums(span, NOW + DAY)] == [Mark.MISSING]
    assert [one.mark for one in (await store.lines(span, NOW + DAY, 9)).lines] == [Mark.MISSING]


async def test_lines_are_what_has_no_good_receipt_page_by_page(store: SqliteStore) -> None:
    good = await kept(store, "b1", expecting())
    await store.settle(settlement(good))
    await answer(store, good, "ok")
    bad = await kept(store, "b2", expecting())
    await store.settle(settlement(bad))
    response = await answer(store, bad, "transient-error")
    two = await kept(store, "b3", expecting("urn:d"), expecting("urn:e"))
    gone = await kept(store, "b4", delivery())
    await store.settle(Settlement(change=ended(gone, state=State.DEAD, outcome=Outcome(problem=ASTRAY))))
    span = await store.span(NOW - DAY, NOW + DAY)
    first = await store.lines(span, NOW, 2)
    assert [(one.position, one.mark, one.kind, one.answered_by) for one in first.lines] == [
        (bad, Mark.NEGATIVE, "transient-error", response)
    ]
    second = await store.lines(Span(after=first.reached, last=span.last), NOW, 1)
    assert [(one.position, one.number, one.mark) for one in second.lines] == [(two, 1, Mark.OPEN), (two, 2, Mark.OPEN)]
    (third,) = (await store.lines(Span(after=second.reached, last=span.last), NOW, 1)).lines
    assert (third.position, third.mark, third.kind, third.astray) == (
        gone, Mark.UNDELIVERED, "refused-by-receiver", True,
    )  # fmt: skip
    assert (third.source, third.destination, third.text) == ("urn:s", "urn:d", "nobody is here")


async def test_second_negative_response_counts_once(store: SqliteStore) -> None:
    asked = await kept(store, "b1", expecting())
    await store.settle(settlement(asked))
    await answer(store, asked, "fatal-error")
    about = header(bundle_id="again", response=quoting("m", "fatal-error"))
    await kept(store, "again", delivery("urn:s"), about=about, source="urn:d", answers=(asked, 1))
    found = await everything(store)
    assert found["urn:s", Mark.NEGATIVE, "fatal-error"] == 1
    assert ("urn:s", Mark.ANSWERED, "") not in found


async def test_period_is_found_by_time_although_positions_have_gaps(store: SqliteStore, clock: Clock) -> None:
    positions = []
    for day in range(10):
        clock.now = NOW + day * DAY
        positions.append(await kept(store, f"b{day}", expecting()))
    span = await store.span(NOW + 3 * DAY, NOW + 5 * DAY)
    assert (span.after, span.last) == (positions[2], positions[4])
    assert await store.span(NOW - 9 * DAY, NOW - 8 * DAY) == Span(after=0, last=0)
    beyond = await store.span(NOW + 20 * DAY, NOW + 30 * DAY)
    assert beyond.after == beyond.last == positions[-1]


async def test_copy_that_is_carried_again_stays_with_its_source(store: SqliteStore) -> None:
    position = await kept(store, "b1", expecting())
    await store.withdraw(position, NOW, "no", ())
    await store.add(position, (expecting(), expecting("urn:e")))
    assert await everything(store) == {("urn:s", Mark.OPEN, ""): 2}


async def test_rows_of_an_older_release_are_found_by_their_messages(tmp_path: Path) -> None:
    old = of_version_2(tmp_path / "old.db")
    store = SqliteStore(old)
    try:
        span = await store.span(NOW - 9999 * DAY, NOW + 9999 * DAY)
        found = await store.sums(span, NOW)
        sources = {row[0] for row in closing_rows(old, "SELECT source FROM message")}
        assert {one.source for one in found} == sources
        assert sum(one.count for one in found) == len(closing_rows(old, "SELECT 1 FROM delivery"))
    finally:
        await store.close()


async def test_negative_responses_of_version_4_are_known_after_the_upgrade(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    store = SqliteStore(path, now=lambda: NOW)
    for number, code in enumerate(("ok", "fatal-error", "transient-error")):
        asked = await kept(store, f"b{number}", expecting())
        await store.settle(settlement(asked))
        await answer(store, asked, code)
    before = await everything(store)
    await store.close()
    with closing(sqlite3.connect(path)) as db, db:
        as_version_4(db)
    store = SqliteStore(path, now=lambda: NOW)
    try:
        assert await everything(store) == before
        assert before["urn:s", Mark.NEGATIVE, "fatal-error"] == 1
    finally:
        await store.close()


def as_version_4(db: sqlite3.Connection) -> None:
    """Takes away what version 5 has brought."""
    as_version_5(db)
    db.execute("DROP INDEX message_negative")
    db.execute("ALTER TABLE message DROP COLUMN negative")
    db.execute("ALTER TABLE delivery DROP COLUMN source")
    db.execute("DROP TABLE refusal")
    db.execute("PRAGMA user_version = 4")


def closing_rows(path: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(sql).fetchall()


# -- what was refused


def refused_as(**more: object) -> RefusedAs:
    values: dict[str, object] = {
        "day": NOW.date(), "source": "urn:s", "party": "north", "error": "unknown-destination", "code": "not-found",
        "destination": "urn:nobody",
    }  # fmt: skip
    return RefusedAs(**values | more)  # type: ignore[arg-type]


async def test_refusals_of_a_day_are_added_up_and_outlive_a_restart(tmp_path: Path) -> None:
    for _ in range(2):
        store = SqliteStore(tmp_path / "broker.db", now=lambda: NOW)
        await store.refused({refused_as(): 2, refused_as(error="too-large", code="too-long", destination=""): 1})
        found = await store.refusals(NOW.date(), NOW.date(), 99)
        await store.close()
    assert {(one.what.error, one.what.destination): one.count for one in found} == {
        ("unknown-destination", "urn:nobody"): 4,
        ("too-large", ""): 2,
    }


async def test_what_strangers_make_up_is_counted_without_its_names_beyond_a_bound(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_sqlite, "KINDS_A_DAY", 3)
    await store.refused({refused_as(destination=f"urn:{n}"): 1 for n in range(10)})
    found = await store.refusals(NOW.date(), NOW.date(), 99)
    assert sum(one.count for one in found) == 10
    assert len(found) == 4
    assert [one.count for one in found if not one.what.source] == [7]


async def test_days_outside_the_period_are_not_counted(store: SqliteStore) -> None:
    today = NOW.date()
    await store.refused({refused_as(day=today - timedelta(days=n)): 1 for n in range(4)})
    found = await store.refusals(today - timedelta(days=2), today - timedelta(days=1), 99)
    assert [one.what.day for one in found] == [date(2026, 11, 19), date(2026, 11, 20)]


async def test_refusals_are_kept_as_long_as_traces(store: SqliteStore) -> None:
    await store.refused({refused_as(day=NOW.date() - timedelta(days=n)): 1 for n in (1, 400, 402)})
    ages = dict.fromkeys(("body", "mailbox", "identity", "trace"), NOW - 401 * DAY)
    await store.retain(Cutoffs(**ages))
    found = await store.refusals(NOW.date() - timedelta(days=999), NOW.date(), 99)
    assert sorted((NOW.date() - one.what.day).days for one in found) == [1, 400]
