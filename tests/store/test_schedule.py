"""The schedule in the embedded store: every question is answered by an index, and costs what it hands out."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from store_values import DAY, NOW, delivery, mail, new

from broker.store import reader, schedule
from broker.store.bodies import Bodies
from broker.store.reader import Reader
from broker.store.rows import micros
from broker.store.sqlite import SqliteStore
from broker.store.transaction import Transaction

Open = Callable[[], SqliteStore]
AT, LATER = micros(NOW + DAY), micros(NOW + 2 * DAY)


async def filled(open_store: Open) -> None:
    store = open_store()
    for n in range(5):
        await store.accept(new(f"{n}", delivery("urn:a"), delivery("urn:b", priority=n), mail("urn:box")))
    await store.close()


def plans(db: sqlite3.Connection, work: Callable[[], object]) -> list[str]:
    """How SQLite goes about each statement of some work."""
    statements: list[str] = []
    db.set_trace_callback(statements.append)
    work()
    db.set_trace_callback(None)
    return [
        f"{row[3]} for {statement}"
        for statement in statements
        if statement.lstrip().startswith(("SELECT", "WITH", "UPDATE"))
        for row in db.execute(f"EXPLAIN QUERY PLAN {statement}")
    ]


@pytest.mark.parametrize(
    "question",
    [
        schedule.due,
        schedule.queued,
        lambda asked: reader.expired(asked, AT, 200),
        lambda asked: reader.unanswered(asked, AT, 200),
        lambda asked: reader.unread_mail(asked, AT, 200),
    ],
)
async def test_no_question_of_the_schedule_walks_through_a_table(
    open_store: Open, tmp_path: Path, question: Callable[[Reader], object]
) -> None:
    await filled(open_store)
    with closing(sqlite3.connect(tmp_path / "broker.db")) as db:
        asked = Reader(db, Bodies(tmp_path / "bodies"), Transaction(db).claims)
        found = plans(db, lambda: question(asked))
        assert any("USING INDEX" in line or "USING COVERING INDEX" in line for line in found), found
        assert not [line for line in found if line.startswith(("SCAN delivery", "SCAN d ", "SCAN m ", "SCAN mail"))]


async def test_what_is_handed_out_or_woken_is_found_by_index(open_store: Open, tmp_path: Path) -> None:
    await filled(open_store)
    with closing(sqlite3.connect(tmp_path / "broker.db")) as db:
        tx = Transaction(db)
        found = plans(db, lambda: schedule.claim(tx, "lane", {"urn:a": 2, "urn:b": 2}, AT, AT, LATER))
        found += plans(db, lambda: schedule.wake(tx, "lane", "urn:a", AT, 100, frozenset()))
        assert len(found) > 10
        assert not [line for line in found if "SCAN" in line or "TEMP B-TREE" in line], found


def steps(store: Path, work: Callable[[sqlite3.Connection], object]) -> int:
    """How much SQLite does, in hundreds of its machine's instructions."""
    count = 0

    def more() -> int:
        nonlocal count
        count += 1
        return 0

    with closing(sqlite3.connect(store)) as db:
        work(db)  # once before, so that statements are prepared
        db.set_progress_handler(more, 100)
        work(db)
    return count


@pytest.mark.parametrize("table", [schedule.FIRST_DUE, schedule.NAMES])
async def test_looking_at_the_schedule_costs_as_much_as_there_are_destinations_and_not_what_waits(
    open_store: Open, tmp_path: Path, table: str
) -> None:
    path = tmp_path / "broker.db"
    await filled(open_store)
    few = steps(path, lambda db: db.execute(table).fetchall())
    with closing(sqlite3.connect(path)) as db, db:
        columns = [row[1] for row in db.execute("PRAGMA table_info(delivery)")]
        values = ["position + i" if column == "position" else column for column in columns]
        db.execute(
            "WITH RECURSIVE n (i) AS (VALUES (9) UNION ALL SELECT i + 1 FROM n WHERE i < 50000)"
            f" INSERT INTO delivery ({', '.join(columns)}) SELECT {', '.join(values)} FROM delivery, n"
            " WHERE position = 1"
        )
    many = steps(path, lambda db: db.execute(table).fetchall())
    assert many <= few + 2


async def test_schedule_of_ten_thousand_destinations_is_read_in_a_moment(open_store: Open, tmp_path: Path) -> None:
    await filled(open_store)
    with closing(sqlite3.connect(tmp_path / "broker.db")) as db, db:
        columns = [row[1] for row in db.execute("PRAGMA table_info(delivery)")]
        other = {"position": "position + i", "key": "'urn:oid:1.2.' || i", "due": f"{micros(NOW)} + i"}
        values = [other.get(column, column) for column in columns]
        db.execute(
            "WITH RECURSIVE n (i) AS (VALUES (9) UNION ALL SELECT i + 1 FROM n WHERE i < 10008)"
            f" INSERT INTO delivery ({', '.join(columns)}) SELECT {', '.join(values)} FROM delivery, n"
            " WHERE position = 1 AND number = 1"
        )
    store = open_store()
    found = {one.key: one.due for one in await store.schedule()}
    assert len(found) == 10_002
    assert found["urn:oid:1.2.9"] == NOW + timedelta(microseconds=9)
