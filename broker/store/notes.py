"""What is noted beside a message: who read and acknowledged it, that nobody did, and lines of its story."""

from collections.abc import Sequence
from datetime import datetime

from broker.store import NewMessage, Note, Settled
from broker.store.acceptance import accept
from broker.store.rows import (
    micros,
)
from broker.store.transaction import Transaction


def unread(tx: Transaction, mailbox: str, position: int, report: NewMessage | None) -> Settled:
    """Nobody has read it in time: told once; the mail stays."""
    changed = tx.db.execute(
        "UPDATE mail SET unread_by = NULL WHERE position = ? AND unread_by IS NOT NULL"
        " AND mailbox = (SELECT id FROM mailbox WHERE key = ?)",
        (position, mailbox),
    ).rowcount
    return Settled(changed=changed, came=accept(tx, report, None) if changed and report else None)


def note(tx: Transaction, position: int, what: Note) -> None:
    tx.db.execute(
        "INSERT INTO note (position, at, what, who, text) VALUES (?, ?, ?, ?, ?)",
        (position, micros(what.at), what.what, what.who, what.text),
    )


def mark_read(tx: Transaction, mailbox: str, positions: Sequence[int], reader: str, at: int) -> None:
    """Who read it first, and when; later readers change nothing."""
    tx.db.executemany(
        "UPDATE mail SET read_at = ?, reader = ?, unread_by = NULL WHERE position = ? AND read_at IS NULL"
        " AND mailbox = (SELECT id FROM mailbox WHERE key = ?)",
        [(at, reader, position, mailbox) for position in positions],
    )


def acknowledge_mail(tx: Transaction, mailbox: str, positions: Sequence[int], reader: str, at: datetime) -> int:
    """How many of these are in the mailbox; each counts as read, and its story says by whom, once."""
    found = 0
    for position in positions:
        changed = tx.db.execute(
            "UPDATE mail SET read_at = coalesce(read_at, ?1), reader = coalesce(reader, ?2), unread_by = NULL"
            " WHERE position = ?3 AND mailbox = (SELECT id FROM mailbox WHERE key = ?4)",
            (micros(at), reader, position, mailbox),
        ).rowcount
        if changed and not _has_acknowledged(tx, position, reader):
            note(tx, position, Note(at=at, what="acknowledged", who=reader))
        found += changed
    return found


def _has_acknowledged(tx: Transaction, position: int, reader: str) -> bool:
    sql = "SELECT 1 FROM note WHERE position = ? AND what = 'acknowledged' AND who = ?"
    return tx.db.execute(sql, (position, reader)).fetchone() is not None


def acknowledge(tx: Transaction, position: int, reader: str, at: datetime) -> bool:
    """Whether the message is in a mailbox at all; its mail counts as read."""
    changed = tx.db.execute(
        "UPDATE mail SET read_at = coalesce(read_at, ?1), reader = coalesce(reader, ?2), unread_by = NULL"
        " WHERE position = ?3 AND mailbox IN (SELECT mailbox FROM delivery WHERE position = ?3)",
        (micros(at), reader, position),
    ).rowcount
    if changed:
        note(tx, position, Note(at=at, what="acknowledged", who=reader))
    return bool(changed)
