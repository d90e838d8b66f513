"""A million deliveries that wait for a week: the daemon looks at the clock, and not at them."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flow_post import B, Opened, Post, message, policy

from broker.channel import Deferred
from broker.store import sqlite_file as embedded
from broker.store.rows import micros
from broker.store.writer import Writer

DOWN = Deferred(note="refused connection", of_peer=True, left=False)
WEEK = timedelta(days=7)


class Work:
    """What readers do, in instructions of SQLite's machine, and what the store is asked and told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps = 0
        self.asked: Counter[str] = Counter()
        connect, read, submit = embedded.connect, embedded.SqliteFile._read, Writer.submit

        def counting(path: Path) -> sqlite3.Connection:
            db = connect(path)
            db.set_progress_handler(self._step, 1)
            return db

        async def counted(store: Any, function: Any, *arguments: Any) -> Any:
            self.asked[function.__name__] += 1
            return await read(store, function, *arguments)

        def told(writer: Writer, operation: Any, *arguments: Any, **more: Any) -> Any:
            self.asked[getattr(operation, "func", operation).__name__] += 1
            return submit(writer, operation, *arguments, **more)

        monkeypatch.setattr(embedded, "connect", counting)
        monkeypatch.setattr(embedded.SqliteFile, "_read", counted)
        monkeypatch.setattr(Writer, "submit", told)

    def done(self) -> tuple[int, int]:
        del self.asked["resume"]  # the test's own, to know when all is written
        done = self.steps, self.asked.total()
        self.steps = 0
        self.asked.clear()
        return done

    def _step(self) -> int:
        self.steps += 1
        return 0


async def fill(path: Path, post: Post, count: int) -> None:
    """So many more deliveries to A, due after the week, and to be given up later still."""
    due = micros(post.now + WEEK + timedelta(days=1))
    with closing(sqlite3.connect(path)) as db, db:
        columns = [row[1] for row in db.execute("PRAGMA table_info(delivery)")]
        other = {"position": "position + 1000 + i", "due": f"{due} + i", "expiry": f"{due} + 86400000000 + i"}
        db.execute(
            "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
            f" INSERT INTO delivery ({', '.join(columns)})"
            f" SELECT {', '.join(other.get(column, column) for column in columns)} FROM delivery, n WHERE position = 1",
            (count,),
        )


async def _an_hour(opened: Opened, work: Work, path: Path, count: int) -> tuple[int, int]:
    """What an hour of a dead destination costs; then the week passes, and what is new elsewhere goes at once."""
    defaults = policy(retry={"give_up": 3 * WEEK}, sync={"expects": "nothing"})
    post = await opened(path=path, defaults=defaults)
    post.script.says("test://a/in", DOWN)
    for n in range(10):
        await post.send(message(f"b{n}", f"m{n}"), asynchronous=True)
    await post.rest()
    await post.stop()
    await fill(path, post, count)

    post = await opened(path=path, now=post.now, defaults=defaults)
    post.script.says("test://a/in", DOWN)
    await post.rest()
    work.done()
    for _ in range(60):
        await post.later(minutes=1)
    cost = work.done()
    for _ in range(7):
        await post.later(days=1)
    assert post.delivering.lanes["test://a"].waiting == 0
    await post.send(message("new", "new", to=(B,)), asynchronous=True)
    await post.rest()
    assert len(post.script.to("test://b/in")) == 1
    await post.stop()
    return cost


@pytest.mark.slow
async def test_million_that_wait_for_a_week_cost_no_more_than_a_thousand(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    costs = {}
    for count in (1_000, 1_000_000):
        with monkeypatch.context() as patched:
            costs[count] = await _an_hour(opened, Work(patched), tmp_path / f"{count}.db", count)
    (few, looks), (many, looks_of_many) = costs[1_000], costs[1_000_000]
    assert many <= few * 1.2, costs
    assert looks_of_many <= looks * 1.2, costs
    assert (many / 60, looks_of_many / 60) < (5000, 12), "instructions and questions of a minute"
