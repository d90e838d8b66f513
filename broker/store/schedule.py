"""The schedule: what waits, by lane and destination, and which lanes are held.

Its index is (lane, key, priority, due, state) of what waits: a destination's rows are never read to find another's, and
which lanes and destinations there are is found by stepping from one to the next, however much waits for each. (The
state says nothing there that is not known; `schema` says what it is for.)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from broker.core.hold import Hold
from broker.core.turns import share
from broker.store import Claimed, Due, Queued, streams
from broker.store.reader import Reader
from broker.store.rows import DELIVERY, delivery_of, micros, moment
from broker.store.transaction import Transaction

# Each `min` is one look at the index, so that this costs as much as there are destinations, and not what waits there.
DESTINATIONS = """
WITH RECURSIVE
lanes (lane) AS (
    SELECT min(lane) FROM delivery WHERE state = 0
    UNION ALL
    SELECT (SELECT min(d.lane) FROM delivery d WHERE d.state = 0 AND d.lane > lanes.lane) FROM lanes
    WHERE lanes.lane IS NOT NULL
),
destinations (lane, key) AS (
    SELECT lane, (SELECT min(d.key) FROM delivery d WHERE d.state = 0 AND d.lane = lanes.lane) FROM lanes
    WHERE lane IS NOT NULL
    UNION ALL
    SELECT lane, (
        SELECT min(d.key) FROM delivery d WHERE d.state = 0 AND d.lane = at.lane AND d.key > at.key
    ) FROM destinations at WHERE at.key IS NOT NULL
)"""
LEVELS = f"""{DESTINATIONS},
levels (lane, key, priority) AS (
    SELECT lane, key, (
        SELECT min(d.priority) FROM delivery d WHERE d.state = 0 AND d.lane = at.lane AND d.key = at.key
    ) FROM destinations at WHERE key IS NOT NULL
    UNION ALL
    SELECT lane, key, (
        SELECT min(d.priority) FROM delivery d
        WHERE d.state = 0 AND d.lane = at.lane AND d.key = at.key AND d.priority > at.priority
    ) FROM levels at WHERE at.priority IS NOT NULL
)"""
FIRST_DUE = f"""{LEVELS}
SELECT lane, key, min((
    SELECT min(d.due) FROM delivery d
    WHERE d.state = 0 AND d.lane = at.lane AND d.key = at.key AND d.priority = at.priority
)) FROM levels at WHERE priority IS NOT NULL GROUP BY lane, key"""
NAMES = f"""{DESTINATIONS}
SELECT lane, key, (
    SELECT d.destination FROM delivery d WHERE d.state = 0 AND d.lane = at.lane AND d.key = at.key LIMIT 1
) FROM destinations at WHERE key IS NOT NULL"""


def due(reader: Reader) -> tuple[Due, ...]:
    """Every destination for which something waits, and when the first of it is due."""
    return tuple(Due(lane=lane, key=key, due=moment(first)) for lane, key, first in reader.db.execute(FIRST_DUE))


def queued(reader: Reader) -> tuple[Queued, ...]:
    """Every destination for which something waits, by name; what names none is left out."""
    return tuple(Queued(lane=lane, key=key, name=name) for lane, key, name in reader.db.execute(NAMES) if name)


# -- what is handed out


def claim(tx: Transaction, lane: str, wanted: Mapping[str, int], now: int, fresh: int, until: int) -> Claimed:
    """Hands out what is due for these destinations, so much for each, and what was never tried and is due by `fresh`.

    Until `until` it is not due again, so that a crash is no retry storm.
    """
    taken: dict[tuple[int, int], Any] = {}
    for key, limit in wanted.items():
        for row in _due(tx, lane, key, limit, now, fresh):
            taken[row[0], row[1]] = row
    for row in _companions(tx, lane, list(taken.values()), now, fresh):
        taken.setdefault((row[0], row[1]), row)
    tx.db.executemany(
        "UPDATE delivery SET due = ? WHERE position = ? AND number = ?", [(until, *name) for name in taken]
    )
    next_due = {}
    for key in wanted:
        dues = [_first_due(tx, lane, key, level) for level in _levels(tx, lane, key)]
        if dues:
            next_due[key] = moment(min(dues))
    return Claimed(deliveries=tuple(delivery_of(row, tx.policies) for row in taken.values()), next_due=next_due)


def _levels(tx: Transaction, lane: str, key: str) -> list[int]:
    """The priorities of what waits there, highest first; nearly always the one."""
    levels: list[int] = []
    below = 1 << 30
    while True:
        level = tx.db.execute(
            "SELECT max(priority) FROM delivery WHERE lane = ? AND key = ? AND state = 0 AND priority < ?",
            (lane, key, below),
        ).fetchone()[0]
        if level is None:
            return levels
        levels.append(level)
        below = level


def _due(tx: Transaction, lane: str, key: str, limit: int, now: int, fresh: int) -> list[Any]:
    """The higher priorities first, with some room left to the lower; what is due together as it was accepted.

    That is the order of the index, behind the due time: asked for by name, SQLite would sort for it.
    """
    rows: list[Any] = []
    levels = _levels(tx, lane, key)
    for level in levels:
        room = share(limit - len(rows), lower=level != levels[-1])
        rows += tx.db.execute(
            f"SELECT {DELIVERY} FROM delivery WHERE lane = ? AND key = ? AND priority = ? AND state = 0 AND due <= ?"
            " AND (due <= ? OR attempts = 0) ORDER BY due LIMIT ?",
            (lane, key, level, fresh, now, room),
        ).fetchall()
        if len(rows) >= limit:
            break
    return rows


def _companions(tx: Transaction, lane: str, rows: list[Any], now: int, fresh: int) -> list[Any]:
    """What shares message and address with what is handed out leaves together with it (M-55)."""
    together = {(row[0], row[4]) for row in rows}
    return [
        row
        for position in sorted({row[0] for row in rows})
        for row in tx.db.execute(
            f"SELECT {DELIVERY} FROM delivery WHERE position = ? AND lane = ? AND state = 0 AND due <= ?"
            " AND (due <= ? OR attempts = 0) ORDER BY number",
            (position, lane, fresh, now),
        )
        if (row[0], row[4]) in together
    ]


def _first_due(tx: Transaction, lane: str, key: str, level: int) -> int:
    first = tx.db.execute(
        "SELECT min(due) FROM delivery WHERE lane = ? AND key = ? AND priority = ? AND state = 0", (lane, key, level)
    ).fetchone()[0]
    return int(first)


def wake(tx: Transaction, lane: str, key: str, due: int, limit: int, but: Collection[tuple[int, int]]) -> int:
    """Some of what waits for a destination whose name changed is due now, in the lane of no peer.

    The old one's may be closed. There its address is looked up, and it joins the lane of the peer that it has now.
    What is in memory (`but`) looks it up by itself, an address that a rule gives is not looked up at all, and what
    waits behind another of its stream goes on waiting.
    """
    names = tx.db.execute(
        "SELECT position, number FROM delivery WHERE lane = ?1 AND key = ?2 AND state = 0 AND fixed = 0"
        " AND (lane <> '' OR (due > ?3 AND due <> ?5)) LIMIT ?4",
        (lane, key, due, limit + len(but), streams.FAR),
    ).fetchall()
    names = [name for name in names if tuple(name) not in but][:limit]
    tx.db.executemany(
        "UPDATE delivery SET due = CASE WHEN due = ? THEN due ELSE min(due, ?) END, lane = ''"
        " WHERE position = ? AND number = ?",
        [(streams.FAR, due, *name) for name in names],
    )
    return len(names)


# -- holds


def hold(tx: Transaction, what: Hold) -> None:
    tx.db.execute(
        "INSERT OR REPLACE INTO hold (lane, reason, begins, ends, ordered) VALUES (?, ?, ?, ?, ?)",
        (what.lane, what.reason, micros(what.begins), None if what.ends is None else micros(what.ends),
         micros(what.ordered)),
    )  # fmt: skip


def resume(tx: Transaction, lane: str) -> bool:
    return bool(tx.db.execute("DELETE FROM hold WHERE lane = ?", (lane,)).rowcount)


def holds(reader: Reader) -> tuple[Hold, ...]:
    rows = reader.db.execute("SELECT lane, reason, begins, ends, ordered FROM hold ORDER BY lane")
    return tuple(
        Hold(lane=lane, reason=reason, begins=moment(begins), ends=None if ends is None else moment(ends),
             ordered=moment(ordered))
        for lane, reason, begins, ends, ordered in rows
    )  # fmt: skip
