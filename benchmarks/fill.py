"""Makes many stored messages out of few: multiplies what a broker has kept and settled, row by row, until there are N.

The rows are the broker's own, with their bodies, deliveries, mail and steps; each copy has a position and claims of its
own, so that every index is as large as it would be. Only for a store that no broker has open. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import time
from pathlib import Path

from broker.core.delivery import AnswerState
from broker.store.claims import ID, Row, pack, unpack
from broker.store.schema import VERSION

ELSEWHERE = {"claim"}  # made anew from the claims that stand beside each message
POINTING = {"answers", "answered_by"}  # columns that hold another message's position
CACHE = 512 << 10  # KiB


class Multiplier:
    """One store, and the rows in it that are copied."""

    def __init__(self, path: Path) -> None:
        self.db = sqlite3.connect(path, isolation_level=None)
        version = self.db.execute("PRAGMA user_version").fetchone()[0]
        if version != VERSION:
            raise SystemExit(f"{path} is a store of version {version}, this broker's are of version {VERSION}")
        # Not durable until the end: it is made anew if the machine goes down meanwhile.
        for setting in (
            "locking_mode = EXCLUSIVE",
            "journal_mode = OFF",
            "synchronous = OFF",
            f"cache_size = -{CACHE}",
        ):
            self.db.execute(f"PRAGMA {setting}")
        self.claims: list[Row] = []
        self.db.create_function("fresh_claims", 2, self.fresh_claims)
        waiting = self.db.execute("SELECT count(*) FROM delivery WHERE state = 0").fetchone()[0]
        if waiting:
            raise SystemExit(f"{path} has {waiting} deliveries that wait; what is copied must have ended")
        # A past: the answer times are over, and nobody looks for these answers any more.
        over = (AnswerState.MISSING, AnswerState.OPEN)
        self.db.execute("UPDATE delivery SET answer = ? WHERE answer = ?", over)
        self.first, self.last, self.count = self.db.execute(
            "SELECT min(position), max(position), count(*) FROM message"
        ).fetchone()
        self.statements = [self.statement(table) for table in self.tables()]

    def fresh_claims(self, packed: bytes | None, position: int) -> bytes | None:
        """As many ids as the message had, of the same source, that no other message has."""
        if packed is None:
            return None
        rows = [(os.urandom(ID), source, tie and position, position) for _, source, tie, _ in unpack(packed, position)]
        self.claims += rows
        return pack(rows)

    def tables(self) -> list[str]:
        named = self.db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return [name for (name,) in named if name not in ELSEWHERE and "position" in self.columns(name)]

    def columns(self, table: str) -> list[str]:
        return [column[1] for column in self.db.execute(f"PRAGMA table_info({table})")]

    def statement(self, table: str) -> str:
        values = {column: column for column in self.columns(table)}
        values |= {column: f"{column} + :step" for column in values.keys() & {"position", *POINTING}}
        if "claims" in values:
            values["claims"] = "fresh_claims(claims, position + :step)"
        return (
            f"INSERT INTO {table} ({', '.join(values)}) SELECT {', '.join(values.values())} FROM {table}"
            " WHERE position BETWEEN :first AND :last ORDER BY position"
        )

    def copy(self, step: int, most: int) -> None:
        """The rows once more, `step` positions further on; of the last copy only the first `most`."""
        last = self.last
        if most < self.count:
            last = self.db.execute(
                "SELECT position FROM message ORDER BY position LIMIT 1 OFFSET ?", (most - 1,)
            ).fetchone()[0]
        self.db.execute("BEGIN")
        for statement in self.statements:
            self.db.execute(statement, {"step": step, "first": self.first, "last": last})
        self.claims.sort()  # in the table's own order, as the broker puts them there
        self.db.executemany("INSERT INTO claim (id, source, tie, position) VALUES (?, ?, ?, ?)", self.claims)
        self.claims.clear()
        self.db.execute("COMMIT")

    def until(self, total: int) -> None:
        held, width = self.count, self.last - self.first + 1
        step = width
        while held < total:
            self.copy(step, total - held)
            held, step = held + self.count, step + width

    def close(self) -> None:
        """The claims of the copies are in their table; the broker reads no message's again at its start."""
        last = self.db.execute("SELECT max(position) FROM message").fetchone()[0]
        mine = [
            row
            for position, packed in self.db.execute(
                "SELECT position, claims FROM message WHERE position <= ? AND claims IS NOT NULL", (self.last,)
            )
            for row in unpack(packed, position)
        ]
        self.db.execute("BEGIN")
        self.db.executemany("INSERT OR IGNORE INTO claim (id, source, tie, position) VALUES (?, ?, ?, ?)", mine)
        self.db.execute("INSERT OR REPLACE INTO meta VALUES ('claimed', ?)", (str(last),))
        self.db.execute("COMMIT")
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.close()


def sync(path: Path) -> None:
    """On disk before anything is measured, so that the disk has nothing else to do then."""
    descriptor = os.open(path, os.O_RDWR)
    os.fsync(descriptor)
    os.close(descriptor)


def forget(path: Path) -> None:
    """What the system remembers of the file is dropped: the next to read it asks the disk."""
    sync(path)
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--db", type=Path, required=True)
    parser.add_argument("--n", type=int, default=1_000_000)
    options = parser.parse_args()
    if not options.db.is_file():
        raise SystemExit(f"{options.db} is no store: run the broker on it first")
    began = time.monotonic()
    try:
        multiplier = Multiplier(options.db)
    except sqlite3.OperationalError as error:
        raise SystemExit(f"{options.db}: {error}; stop the broker that has it open") from None
    multiplier.until(options.n)
    multiplier.close()
    sync(options.db)
    with sqlite3.connect(options.db) as db:
        stored = db.execute("SELECT count(*) FROM message").fetchone()[0]
    seconds = time.monotonic() - began
    print(json.dumps({"stored": stored, "seconds": seconds, "bytes": options.db.stat().st_size}))


if __name__ == "__main__":
    main()
