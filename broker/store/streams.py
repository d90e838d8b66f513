"""Streams: whose turn it is. Decided by the writer, whose transactions come one after the other.

What waits behind another of its stream is due in the far future, so that no lane is ever handed it. Whatever ends a
delivery makes the next one due in the same transaction: a crash finds the stream before it or after it.
"""

from __future__ import annotations

from broker.core.delivery import State
from broker.store import BEHIND, Released
from broker.store.rows import micros
from broker.store.transaction import Transaction

FAR = micros(BEHIND)
REFUSES = "hold"  # Policy.on_refused


def join(tx: Transaction, stream: bytes, position: int) -> tuple[int, bool]:
    """The turn of who comes last now, and whether it has to wait for it."""
    row = tx.db.execute(
        "SELECT turn FROM delivery WHERE stream = ? AND state = 0 ORDER BY turn DESC LIMIT 1", (stream,)
    ).fetchone()
    if row is None:
        return position, _is_held(tx, stream)
    return max(position, row[0] + 1), True


def advance(tx: Transaction, stream: bytes) -> None:
    """Something of the stream has ended: whose turn it is now is due at once, unless it is already, or it is held."""
    row = tx.db.execute(
        "SELECT position, number, due, lane, key FROM delivery WHERE stream = ? AND state = 0 ORDER BY turn LIMIT 1",
        (stream,),
    ).fetchone()
    if row is None or row[2] < FAR or _is_held(tx, stream):
        return
    tx.db.execute("UPDATE delivery SET due = ? WHERE position = ? AND number = ?", (tx.now, row[0], row[1]))
    tx.released.append((row[3], row[4]))


def ended(tx: Transaction, stream: bytes, position: int, number: int, state: State, on_refused: str) -> None:
    """A delivery of the stream has ended so; a dead one holds the stream where its rule says so."""
    if state is State.DEAD and on_refused == REFUSES:
        tx.db.execute("INSERT OR IGNORE INTO stream_hold VALUES (?, ?, ?, ?)", (stream, position, number, tx.now))
    advance(tx, stream)


def let_go(tx: Transaction, stream: bytes, position: int, number: int) -> None:
    """This dead letter holds its stream no longer."""
    tx.db.execute(
        "DELETE FROM stream_hold WHERE stream = ? AND position = ? AND number = ?", (stream, position, number)
    )


def resume(tx: Transaction, stream: bytes) -> Released:
    """The stream goes on past all that is dead in it."""
    tx.db.execute("DELETE FROM stream_hold WHERE stream = ?", (stream,))
    advance(tx, stream)
    return Released(queues=tx.take_released())


def _is_held(tx: Transaction, stream: bytes) -> bool:
    return tx.db.execute("SELECT 1 FROM stream_hold WHERE stream = ? LIMIT 1", (stream,)).fetchone() is not None
