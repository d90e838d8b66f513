"""Where the ids that senders made are looked up: identities, unique within a source, and ids that may be quoted.

Digests fall all over a table, so that each of them would cost a page of the log, a hundred times its size. They are
therefore written down twice: beside the message at once, in one short column, and into the table `claim` later, many
at a time and in the table's own order. What is not in the table yet is remembered here, and read back at start.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

YOUNG = 30_000  # claims remembered before they are put into the table: some megabytes, and a second's work at start
AT_ONCE = 3_000  # claims put into the table in one transaction, so that no commit takes long
ID, SOURCE = 16, 8  # bytes of the digests

Row = tuple[bytes, bytes, int, int]  # id, source, tie, position


class _Generation:
    """Claims that are in no table yet."""

    __slots__ = ("by_id", "owners", "rows", "upto")

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.owners: dict[bytes, int] = {}  # id and source of an identity: position
        self.by_id: dict[bytes, list[int]] = {}  # id: positions
        self.upto = 0  # the last position with claims in here

    def enter(self, row: Row) -> None:
        id, source, tie, position = row
        self.rows.append(row)
        self.upto = max(self.upto, position)
        self.by_id.setdefault(id, []).append(position)
        if tie == 0:
            self.owners[id + source] = position

    def take_back(self, row: Row) -> None:
        id, source, tie, position = row
        self.rows.remove(row)
        self.by_id[id].remove(position)
        if not self.by_id[id]:
            del self.by_id[id]
        if tie == 0:
            del self.owners[id + source]


class Claims:
    """Owned by the writer; readers in other threads may ask `remembered`."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._young = _Generation()
        self._old: _Generation | None = None  # being put into the table, from its end
        self._uncommitted: list[Row] = []
        self._hurried = False
        row = db.execute("SELECT value FROM meta WHERE name = 'claimed'").fetchone()
        after = int(row[0]) if row else 0
        for position, packed in db.execute(
            "SELECT position, claims FROM message WHERE position > ? AND claims IS NOT NULL", (after,)
        ):
            for claim in unpack(packed, position):
                self._young.enter(claim)

    # -- asking

    def owner(self, id: bytes, source: bytes) -> int | None:
        """The position that holds an identity."""
        key = id + source
        position = self._young.owners.get(key)
        if position is None and self._old is not None:
            position = self._old.owners.get(key)
        if position is None:
            row = self._db.execute(
                "SELECT position FROM claim WHERE id = ? AND source = ? AND tie = 0", (id, source)
            ).fetchone()
            position = row[0] if row else None
        return position

    def remembered(self, id: bytes) -> list[int]:
        """Positions that carry an id and may not be in the table yet; asked before the table, none is missed."""
        found = list(self._young.by_id.get(id, ()))
        old = self._old
        return found if old is None else found + list(old.by_id.get(id, ()))

    # -- writing

    def enter(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._young.enter(row)
        self._uncommitted += rows

    def committed(self) -> None:
        self._uncommitted = []

    def rolled_back(self) -> None:
        for row in self._uncommitted:
            self._young.take_back(row)
        self._uncommitted = []

    def hurry(self) -> None:
        """Retention has come to what is only remembered: it is put into the table although it is not much."""
        self._hurried = True

    def put_away(self) -> None:
        """Puts some of what is remembered into the table, inside the transaction of a group."""
        if self._old is None:
            return
        batch = self._old.rows[-AT_ONCE:]
        self._db.executemany("INSERT OR IGNORE INTO claim (id, source, tie, position) VALUES (?, ?, ?, ?)", batch)
        if len(self._old.rows) <= AT_ONCE:
            self._db.execute("INSERT OR REPLACE INTO meta VALUES ('claimed', ?)", (str(self._old.upto),))

    def put_away_committed(self) -> None:
        """The transaction of `put_away` is on disk."""
        if self._old is not None:
            del self._old.rows[-AT_ONCE:]
            if not self._old.rows:
                self._old = None
        elif len(self._young.rows) >= (1 if self._hurried else YOUNG):
            # not before the commit: a rollback takes back from the young
            self._old, self._young = self._young, _Generation()
            self._hurried = False
            self._old.rows.sort()


def pack(rows: Sequence[Row]) -> bytes | None:
    """Claims of one message, all of one source, as its column holds them."""
    if not rows:
        return None
    return rows[0][1] + b"".join([(b"\1" if tie else b"\0") + id for id, _, tie, _ in rows])


def unpack(packed: bytes, position: int) -> list[Row]:
    source = packed[:SOURCE]
    return [
        (packed[at + 1 : at + 1 + ID], source, position if packed[at] else 0, position)
        for at in range(SOURCE, len(packed), ID + 1)
    ]
