"""Where the ids that senders made are looked up: identities, unique within a source, and ids that may be quoted.

Digests fall all over a table, so that each of them would cost a page of the log, a hundred times its size. They are
therefore written down twice: beside the message at once, in one short column, and into the table `claim` later, many
at a time and in the table's own order. What is not in the table yet is remembered here, and read back at start.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

YOUNG = 60_000  # claims remembered before they are put into the table: some megabytes, and a second's work at start
AT_ONCE = 300  # claims put into the table in one transaction: in a large table each is a page of the log
ID, SOURCE = 16, 8  # bytes of the digests
ASKED, STEP = 256, 16  # ids looked up in one statement, and what their number is a multiple of

Row = tuple[bytes, bytes, int, int]  # id, source, tie, position


class _Generation:
    """Claims that are in no table yet."""

    __slots__ = ("by_id", "further", "more", "upto")

    def __init__(self) -> None:
        self.by_id: dict[bytes, Row] = {}
        self.more: dict[bytes, list[Row]] = {}  # of an id that several messages carry: the further ones,
        self.further = 0  # and how many they are
        self.upto = 0  # the last position with claims in here that is on disk

    def enter(self, rows: Sequence[Row]) -> None:
        for row in rows:
            if self.by_id.setdefault(row[0], row) is not row:
                self.more.setdefault(row[0], []).append(row)
                self.further += 1

    def take_back(self, row: Row) -> None:
        """What was entered last goes first."""
        id = row[0]
        if id not in self.more:
            del self.by_id[id]
            return
        self.more[id].remove(row)
        self.further -= 1
        if not self.more[id]:
            del self.more[id]

    def of(self, id: bytes) -> list[Row]:
        first = self.by_id.get(id)
        return [] if first is None else [first, *self.more.get(id, ())]

    def owner(self, id: bytes, source: bytes) -> int | None:
        if id not in self.by_id:  # as good as always
            return None
        return next((row[3] for row in self.of(id) if row[1] == source and row[2] == 0), None)

    def count(self) -> int:
        return len(self.by_id) + self.further

    def shelves(self) -> list[list[Row]]:
        """All claims by the first half byte of their ids."""
        shelves: list[list[Row]] = [[] for _ in range(16)]
        for row in self.by_id.values():
            shelves[row[0][0] >> 4].append(row)
        for id, rows in self.more.items():
            shelves[id[0] >> 4] += rows
        return [shelf for shelf in shelves if shelf]


class Claims:
    """Owned by the writer; readers in other threads may ask `remembered`."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._young = _Generation()
        self._old: _Generation | None = None  # being put into the table
        self._shelves: list[list[Row]] = []  # the old ones by how their ids begin: sorting all would hold up the loop
        self._left: list[Row] = []  # of the shelf at hand: in the table's order, put there from the end
        self._put = 0  # of these, with the group at hand
        self._uncommitted: list[Row] = []
        self.supposed: list[tuple[bytes, bytes]] = []  # ids and sources that are taken for new, and not looked up yet
        self._hurried = False
        row = db.execute("SELECT value FROM meta WHERE name = 'claimed'").fetchone()
        after = int(row[0]) if row else 0
        for position, packed in db.execute(
            "SELECT position, claims FROM message WHERE position > ? AND claims IS NOT NULL ORDER BY position", (after,)
        ):
            self._young.enter(unpack(packed, position))
            self._young.upto = position

    # -- asking

    def owner(self, id: bytes, source: bytes, *, careful: bool) -> int | None:
        """The position that holds an identity, as far as is remembered; the table is asked at once, or by `are_new`."""
        position = self._young.owner(id, source)
        if position is None and self._old is not None:
            position = self._old.owner(id, source)
        if position is not None:
            return position
        if not careful:
            self.supposed.append((id, source))
            return None
        row = self._db.execute(
            "SELECT position FROM claim WHERE id = ? AND source = ? AND tie = 0", (id, source)
        ).fetchone()
        return row[0] if row else None

    def are_new(self) -> bool:
        """Whether the table knows none of the identities that are taken for new."""
        supposed, self.supposed = self.supposed, []
        for start in range(0, len(supposed), ASKED):
            some = supposed[start : start + ASKED]
            ids = [id for id, _ in some]
            ids += ids[-1:] * (-len(ids) % STEP)  # few statements, whatever the number
            marks = ",".join("?" * len(ids))
            known = self._db.execute(f"SELECT id, source FROM claim WHERE id IN ({marks}) AND tie = 0", ids).fetchall()
            if known and not set(some).isdisjoint(known):
                return False
        return True

    def remembered(self, id: bytes) -> list[int]:
        """Positions that carry an id and may not be in the table yet; asked before the table, none is missed."""
        found = self._young.of(id)
        old = self._old
        return [row[3] for row in (found if old is None else found + old.of(id))]

    def count(self) -> int:
        """Claims that are remembered."""
        return sum(one.count() for one in (self._young, self._old) if one is not None)

    # -- writing

    def enter(self, rows: Sequence[Row]) -> None:
        self._young.enter(rows)
        self._uncommitted += rows

    def rolled_back(self) -> None:
        for row in reversed(self._uncommitted):
            self._young.take_back(row)
        self._uncommitted = []
        self.supposed = []

    def hurry(self) -> None:
        """Retention has come to what is only remembered: it is put into the table although it is not much."""
        self._hurried = True

    def put_away(self) -> None:
        """Puts some of what is remembered into the table, inside the transaction of a group."""
        if self._old is None:
            return
        some = max(AT_ONCE, 2 * len(self._uncommitted))  # more than the group adds: what is remembered stays bounded
        while len(self._left) < some and self._shelves:
            self._left = sorted(self._shelves.pop()) + self._left
        batch = self._left[-some:]
        self._db.executemany("INSERT OR IGNORE INTO claim (id, source, tie, position) VALUES (?, ?, ?, ?)", batch)
        if len(batch) == len(self._left) and not self._shelves:
            self._db.execute("INSERT OR REPLACE INTO meta VALUES ('claimed', ?)", (str(self._old.upto),))
        self._put = len(batch)

    def committed(self) -> None:
        """The transaction of a group, with what it put away, is on disk."""
        if self._uncommitted:
            self._young.upto = self._uncommitted[-1][3]
            self._uncommitted = []
        if self._old is not None:
            del self._left[len(self._left) - self._put :]
            if not self._left and not self._shelves:
                self._old = None
        elif self._young.count() >= (1 if self._hurried else YOUNG):
            # not before the commit: a rollback takes back from the young
            self._old, self._young, self._hurried = self._young, _Generation(), False
            self._shelves = self._old.shelves()


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
