"""Counting what waits in the embedded store: by index alone, in nobody's way, and as often as it is worth."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import pytest
from store_values import NOW, delivery, mail, new

from broker.store import Waiting, tally
from broker.store.reader import Reader
from broker.store.sqlite import SqliteStore
from broker.store.tally import Tally

Open = Callable[[], SqliteStore]
T = TypeVar("T")
STEPS = 20  # instructions of SQLite's machine for an entry; a look at its row would be as many again


async def filled(open_store: Open, path: Path, count: int) -> SqliteStore:
    """So many more that wait in two lanes, as many that are dead, and all their answers looked for."""
    store = open_store()
    await store.accept(new("one", delivery("urn:a", lane="first"), delivery("urn:b", lane="second"), mail("urn:box")))
    with closing(sqlite3.connect(path)) as db, db:
        columns = [row[1] for row in db.execute("PRAGMA table_info(delivery)")]
        for state, step in ((0, 10), (2, 100_000)):
            other = {"position": f"{step} + i", "state": f"{state}", "answer": "1", "answer_by": "accepted"}
            db.execute(
                "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
                f" INSERT INTO delivery ({', '.join(columns)})"
                f" SELECT {', '.join(other.get(column, column) for column in columns)} FROM delivery, n"
                " WHERE position = 1 AND number = 1 + i % 2",
                (count,),
            )
    return store


def lanes(found: tuple[Waiting, ...]) -> dict[str, int]:
    return {one.lane: one.count for one in found}


@pytest.mark.parametrize("count", [tally.BY_LANE, tally.DEAD, tally.UNANSWERED])
async def test_a_count_reads_an_index_and_no_row(open_store: Open, tmp_path: Path, count: str) -> None:
    await filled(open_store, tmp_path / "broker.db", 1_000)
    with closing(sqlite3.connect(tmp_path / "broker.db")) as db:
        assert [row[3].split("delivery USING ")[-1][:24] for row in db.execute(f"EXPLAIN QUERY PLAN {count}")] == [
            "COVERING INDEX delivery_"
        ]
        steps = [0]

        def step() -> int:
            steps[0] += 1
            return 0

        db.set_progress_handler(step, 1)
        db.execute(count).fetchall()
        assert steps[0] < STEPS * 2_000


async def test_counts_say_what_there_is(open_store: Open, tmp_path: Path) -> None:
    store = await filled(open_store, tmp_path / "broker.db", 40)
    counts = await store.counts()
    assert (counts.waiting, counts.dead, counts.open_answers) == (42, 40, 80)
    found = await store.lanes()
    assert lanes(found) == {"first": 21, "second": 21}
    assert {one.oldest for one in found} == {NOW}
    assert {one.due for one in found} == {counts.oldest_due}


async def test_no_reader_waits_for_a_count(open_store: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, count = threading.Event(), tally.waiting

    def long(reader: Reader) -> tuple[Waiting, ...]:
        assert go_on.wait(20)
        return count(reader)

    monkeypatch.setattr(tally, "waiting", long)
    store = await filled(open_store, tmp_path / "broker.db", 1)
    counting = [asyncio.ensure_future(store.lanes()) for _ in range(5)]
    try:
        async with asyncio.timeout(10):
            for position in range(20):
                await store.stored(position)
        assert not any(one.done() for one in counting)
    finally:
        go_on.set()
    assert [lanes(one) for one in await asyncio.gather(*counting)] == [{"first": 1, "second": 2}] * 5


async def test_a_count_of_many_is_good_for_a_while_and_one_of_few_for_none(
    open_store: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally, "MANY", 50)
    store = await filled(open_store, tmp_path / "broker.db", 100)
    clock, asked, took = [0.0], [0], 0.5

    def read(function: Callable[[Reader], T], /) -> Awaitable[T]:
        asked[0] += 1
        clock[0] += took
        return store._read(function)

    counted = Tally(read, clock=lambda: clock[0])
    before = lanes(await counted.lanes())
    await store.accept(new("two", delivery("urn:a", lane="first")))
    clock[0] = took * tally.AGE - 0.1
    assert lanes(await counted.lanes()) == before
    assert asked == [1], "it is as it was, and nothing was read for it"
    clock[0] += 0.2
    assert lanes(await counted.lanes()) == before | {"first": before["first"] + 1}

    with closing(sqlite3.connect(tmp_path / "broker.db")) as db, db:
        db.execute("DELETE FROM delivery WHERE position BETWEEN 10 AND 1000")
    clock[0] += 1_000
    assert lanes(await counted.lanes()) == {"first": 2, "second": 1}
    await store.accept(new("three", delivery("urn:a", lane="first")))
    assert lanes(await counted.lanes()) == {"first": 3, "second": 1}
