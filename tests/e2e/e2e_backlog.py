"""A backlog made in no time: what one message left in the store of a stopped daemon, so many times over."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path


def multiply(store: Path, count: int) -> None:
    """Message 1 with its delivery, `count` times more; all due by now, waiting for the same destination."""
    with closing(sqlite3.connect(store)) as db, db:
        for table in ("message", "delivery"):
            columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
            # the claims of what came so long ago have been put into their table, and are not read at the start
            other = {"position": "position + i", "claims": "NULL"}
            values = [other.get(column, column) for column in columns]
            db.execute(
                "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
                f" INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(values)} FROM {table}, n"
                " WHERE position = 1",
                (count,),
            )


def waiting(store: Path) -> int:
    with closing(sqlite3.connect(store)) as db:
        return int(db.execute("SELECT count(*) FROM delivery WHERE state = 0").fetchone()[0])
