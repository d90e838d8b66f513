"""Files as older releases left them: a file of today, taken back step by step."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from broker.store import schema

BACK = {  # from this version to the one before
    3: """
        DROP INDEX delivery_due;
        ALTER TABLE delivery DROP COLUMN priority;
        CREATE INDEX delivery_due ON delivery (lane, due) WHERE state = 0;
        DROP TABLE hold;
    """,
    2: "DROP TABLE held;",
}


def take_back(path: Path, version: int) -> None:
    with closing(sqlite3.connect(path)) as db:
        for step in range(schema.VERSION, version, -1):
            db.executescript(BACK[step])
        db.execute(f"PRAGMA user_version = {version}")


def tables(path: Path) -> set[tuple[str, str, str]]:
    """What is in a file: kind, name and columns of each."""
    with closing(sqlite3.connect(path)) as db:
        found = db.execute("SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'").fetchall()
        return {
            (kind, name, " ".join(str(row[1:]) for row in db.execute(f"PRAGMA {pragma}({name})")))
            for kind, name in found
            for pragma in ("table_xinfo" if kind == "table" else "index_xinfo",)
        }
