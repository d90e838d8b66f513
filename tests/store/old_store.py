"""A store file as an older release left it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

VERSION_2 = Path(__file__).with_name("version-2.sql")


def of_version_2(path: Path) -> Path:
    """Two messages under b1 and b2; both wait to be carried to urn:a, the first stands in a mailbox too."""
    with closing(sqlite3.connect(path)) as db:
        db.executescript(VERSION_2.read_text())
    return path


def as_version_5(db: sqlite3.Connection) -> None:
    """Takes from a store of today what version 6 brought."""
    for table in ("subscription", "counter", "event", "heard", "mark", "notice"):
        db.execute(f"DROP TABLE {table}")
    db.execute("PRAGMA user_version = 5")
