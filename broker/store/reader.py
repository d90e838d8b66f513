"""What is read from the embedded store: each function runs on a reader's own connection, in a reader's thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from broker.core.delivery import AnswerState, State
from broker.core.fhir.header import Format, Release
from broker.store import (
    DeadLetter,
    Delivery,
    Filter,
    MailboxEntry,
    MailboxPage,
    MailboxStatus,
    Note,
    Open,
    Stored,
)
from broker.store.bodies import Bodies
from broker.store.claims import Claims
from broker.store.rows import DELIVERY, STORED, Policies, delivery_of, id_digest, micros, moment, stored_of


class Reader:
    """One connection that only reads, with what it remembers."""

    def __init__(self, db: sqlite3.Connection, bodies: Bodies, claims: Claims) -> None:
        self.db = db
        self.bodies = bodies
        self.claims = claims
        self.policies = Policies(db)
        db.execute("PRAGMA query_only = 1")
        db.execute("PRAGMA cache_size = -8192")  # a large backlog that is counted fills it, on each connection


def stored(reader: Reader, position: int) -> Stored | None:
    row = reader.db.execute(f"SELECT {STORED} FROM message WHERE position = ?", (position,)).fetchone()
    return None if row is None else stored_of(row)


def body(reader: Reader, position: int) -> bytes | None:
    row = reader.db.execute("SELECT body, file FROM message WHERE position = ?", (position,)).fetchone()
    return None if row is None else _body(reader, row[0], row[1])


def load(reader: Reader, positions: Sequence[int], largest: int) -> dict[int, tuple[Stored, bytes | None]]:
    """Messages with their bodies; None for a body larger than `largest` bytes, which is read when it is needed."""
    loaded = {}
    for position in positions:
        message = stored(reader, position)
        if message is not None:
            loaded[position] = (message, body(reader, position) if message.message.size <= largest else None)
    return loaded


def _body(reader: Reader, inside: bytes | None, file: str | None) -> bytes | None:
    return reader.bodies.read(file) if file else inside


def deliveries(reader: Reader, position: int) -> tuple[Delivery, ...]:
    rows = reader.db.execute(f"SELECT {DELIVERY} FROM delivery WHERE position = ? ORDER BY number", (position,))
    return tuple(delivery_of(row, reader.policies) for row in rows)


def notes(reader: Reader, position: int) -> tuple[Note, ...]:
    rows = reader.db.execute("SELECT at, what, who, text FROM note WHERE position = ? ORDER BY rowid", (position,))
    return tuple(Note(at=moment(at), what=what, who=who, text=text) for at, what, who, text in rows)


def answers_to(reader: Reader, position: int) -> tuple[Stored, ...]:
    rows = reader.db.execute(f"SELECT {STORED} FROM message WHERE answers = ? ORDER BY position", (position,))
    return tuple(stored_of(row) for row in rows)


def find(reader: Reader, ids: Sequence[str], limit: int) -> tuple[int, ...]:
    """Positions of the messages that carry one of these ids, newest first."""
    found: set[int] = set()
    for text in ids:
        found.update(reader.claims.remembered(id_digest(text)))
        rows = reader.db.execute(
            "SELECT position FROM claim WHERE id = ? ORDER BY position DESC LIMIT ?", (id_digest(text), limit)
        )
        found.update(row[0] for row in rows)
    return tuple(sorted(found, reverse=True)[:limit])


def quoted(reader: Reader, ids: Sequence[str], limit: int) -> tuple[Open, ...]:
    """Messages that a response may mean, newest first, with their deliveries: whoever asks decides."""
    result = []
    for position in find(reader, ids, limit):
        message = stored(reader, position)
        if message is not None:
            result.append(Open(stored=message, deliveries=deliveries(reader, position)))
    return tuple(result)


def expired(reader: Reader, now: int, limit: int) -> tuple[Delivery, ...]:
    rows = reader.db.execute(
        f"SELECT {DELIVERY} FROM delivery WHERE state = 0 AND expiry <= ? ORDER BY expiry LIMIT ?", (now, limit)
    )
    return tuple(delivery_of(row, reader.policies) for row in rows)


def unanswered(reader: Reader, now: int, limit: int) -> tuple[Delivery, ...]:
    """Deliveries whose answer time is over; those that still wait to be carried first come to their own end."""
    rows = reader.db.execute(
        f"SELECT {DELIVERY} FROM delivery WHERE answer = {AnswerState.OPEN:d} AND answer_by <= ?"
        f" AND state <> {State.WAITING:d} ORDER BY answer_by LIMIT ?",
        (now, limit),
    )
    return tuple(delivery_of(row, reader.policies) for row in rows)


def unread_mail(reader: Reader, now: int, limit: int) -> tuple[tuple[str, int], ...]:
    rows = reader.db.execute(
        "SELECT b.key, m.position FROM mail m JOIN mailbox b ON b.id = m.mailbox"
        " WHERE m.unread_by IS NOT NULL AND m.unread_by <= ? LIMIT ?",
        (now, limit),
    )
    return tuple((key, position) for key, position in rows)


def read(
    reader: Reader, mailbox: str | None, after: int, limit: int, wanted: Filter, newest_first: bool, max_bytes: int
) -> MailboxPage:
    """A page of a mailbox, or of all of them (None), oldest first unless asked otherwise."""
    tables, where, values = _where(mailbox, wanted)
    order, bound = ("DESC", "<") if newest_first else ("ASC", ">")
    at = "m.position" if mailbox is None else "l.position"
    after = after if after or not newest_first else 1 << 62
    end = _end(reader, mailbox)
    rows = reader.db.execute(
        f"SELECT m.position, m.accepted, m.media, m.format, m.release, m.body, m.file, m.about FROM {tables}"
        f" WHERE {at} {bound} ? AND {where} AND (m.body IS NOT NULL OR m.file IS NOT NULL)"
        f" ORDER BY {at} {order} LIMIT ?",
        (after, *values, limit + 1),
    )
    entries: list[MailboxEntry] = []
    size, more, reached = 0, False, after
    for row in rows:
        content = _body(reader, row[5], row[6])
        if content is None:
            continue
        size += len(content)
        if len(entries) == limit or (entries and size > max_bytes):
            more = True
            break
        reached = row[0]
        entries.append(
            MailboxEntry(
                position=row[0], accepted=moment(row[1]), media_type=row[2], format=Format(row[3]),
                release=Release(row[4]), body=content, about=row[7],
            )
        )  # fmt: skip
    if not more and not newest_first:  # what did not fit need not be looked through again
        reached = max(reached, end)
    return MailboxPage(
        entries=tuple(entries), reached=reached, more=more, first_left=_gone(reader, mailbox, after, newest_first)
    )


def _end(reader: Reader, mailbox: str | None) -> int:
    """The last position of a mailbox, asked before a page is read: nothing that the page did not see lies below."""
    if mailbox is None:
        sql, values = "SELECT max(position) FROM message", tuple[str, ...]()
    else:
        sql = "SELECT max(position) FROM mail WHERE mailbox = (SELECT id FROM mailbox WHERE key = ?)"
        values = (mailbox,)
    return int(reader.db.execute(sql, values).fetchone()[0] or 0)


def _gone(reader: Reader, mailbox: str | None, after: int, newest_first: bool) -> int | None:
    """The first position left, where retention has taken away what followed `after`."""
    if mailbox is None or newest_first or after == 0:
        return None
    row = reader.db.execute("SELECT id, removed FROM mailbox WHERE key = ?", (mailbox,)).fetchone()
    if row is None or after >= row[1]:
        return None
    first = reader.db.execute(
        "SELECT min(position) FROM mail WHERE mailbox = ? AND position > ?", (row[0], row[1])
    ).fetchone()[0]
    return int(first) if first is not None else int(row[1]) + 1


def count(reader: Reader, mailbox: str | None, wanted: Filter) -> int:
    tables, where, values = _where(mailbox, wanted)
    kept = "(m.body IS NOT NULL OR m.file IS NOT NULL)"
    row = reader.db.execute(f"SELECT count(*) FROM {tables} WHERE {where} AND {kept}", values).fetchone()
    return int(row[0])


def _where(mailbox: str | None, wanted: Filter) -> tuple[str, str, list[Any]]:
    """The tables and the condition on `message m` that a filter means, with its values."""
    values: list[Any] = []
    if mailbox is None:
        tables = "message m"
        terms = ["EXISTS (SELECT 1 FROM delivery d WHERE d.position = m.position AND d.mailbox IS NOT NULL)"]
    else:
        tables = "mail l CROSS JOIN message m ON m.position = l.position"  # CROSS: the mailbox leads, not the messages
        terms = ["l.mailbox = (SELECT id FROM mailbox WHERE key = ?)"]
        values.append(mailbox)
    if wanted.event:
        one = "m.event = ? OR m.event LIKE '%|' || ? ESCAPE '\\'"  # a code alone matches it in any system
        terms.append("(" + " OR ".join([one] * len(wanted.event)) + ")")
        for event in wanted.event:
            values += [event, _like(event)]
    for column, texts in (("source", wanted.source), ("quoted", wanted.response_id)):
        if texts:
            terms.append(f"m.{column} IN ({', '.join('?' * len(texts))})")
            values += texts
    if wanted.response_missing is not None:
        terms.append(f"m.quoted IS {'' if wanted.response_missing else 'NOT '}NULL")
    if wanted.identifier:
        system, value = (f"json_extract(m.about, '$.header.bundle_identifier.{part}')" for part in ("system", "value"))
        one = f"{value} = ? OR {system} || '|' || {value} = ?"
        terms.append("(" + " OR ".join([one] * len(wanted.identifier)) + ")")
        values += [text for text in wanted.identifier for _ in range(2)]
    if wanted.response_code:
        codes = ", ".join("?" * len(wanted.response_code))
        terms.append(f"json_extract(m.about, '$.header.response.code') IN ({codes})")
        values += wanted.response_code
    for bound, instant in ((">=", wanted.since), ("<", wanted.until)):
        if instant is not None:
            terms.append(f"m.accepted {bound} ?")
            values.append(micros(instant))
    return tables, " AND ".join(terms), values


def _like(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def mailboxes(reader: Reader) -> tuple[MailboxStatus, ...]:
    rows = reader.db.execute(
        "SELECT b.name, count(*), sum(m.read_at IS NULL), max(m.position)"
        " FROM mail m JOIN mailbox b ON b.id = m.mailbox GROUP BY m.mailbox ORDER BY b.name"
    )
    return tuple(MailboxStatus(endpoint=name, messages=n, unread=unread, last=last) for name, n, unread, last in rows)


def mail_of(reader: Reader, position: int) -> tuple[tuple[str, datetime | None, str | None], ...]:
    """The mailboxes that a message is in, with who read it first and when."""
    rows = reader.db.execute(
        "SELECT b.name, m.read_at, m.reader FROM delivery d CROSS JOIN mail m ON m.mailbox = d.mailbox"
        " AND m.position = d.position JOIN mailbox b ON b.id = m.mailbox WHERE d.position = ?",
        (position,),
    )
    return tuple((name, None if at is None else moment(at), who) for name, at, who in rows)


def dead(reader: Reader, limit: int, after: int) -> tuple[DeadLetter, ...]:
    rows = reader.db.execute(
        f"SELECT {DELIVERY} FROM delivery WHERE state = {State.DEAD:d} AND position > ? ORDER BY position LIMIT ?",
        (after, limit),
    ).fetchall()
    letters = []
    for row in rows:
        delivery = delivery_of(row, reader.policies)
        message = stored(reader, delivery.position)
        if message is not None:
            letters.append(DeadLetter(stored=message, delivery=delivery))
    return tuple(letters)
