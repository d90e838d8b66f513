"""Subscriptions, events and their numbers in the embedded store (`store.telling` says what is promised).

An event that thousands hear of is numbered by three statements, whoever hears: a number is what the subscription's
counter comes to inside the transaction, so that none is left out or given twice, whatever ends the process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from broker.core.subscription.life import Life
from broker.core.subscription.notification import Kind
from broker.core.subscription.subscription import Subscription
from broker.core.subscription.topic import Interaction
from broker.store import Copy, Kept, NewMessage
from broker.store.acceptance import accept
from broker.store.reader import Reader
from broker.store.rows import micros, moment
from broker.store.telling import Heard, NewEvent, Notice, Subscribed
from broker.store.transaction import Transaction

encode = msgspec.json.Encoder().encode
decode_subscription = msgspec.json.Decoder(Subscription).decode
decode_life = msgspec.json.Decoder(Life).decode
decode_notice = msgspec.json.Decoder(Notice).decode
decode_places = msgspec.json.Decoder(tuple[int, ...]).decode

SUBSCRIBED = (
    "SELECT s.key, s.written, s.life, s.owner, s.version, s.changed, c.number, s.sent, s.notice"
    " FROM subscription s JOIN counted c ON c.key = s.key"
)
HEARERS = "(SELECT value FROM json_each(?))"
LOGGED = 24  # bytes that a number adds to the log, about, where many are given at once

# -- writing


def subscribe(
    tx: Transaction, *, subscription: Subscription, life: Life, owner: str, at: int, most: int
) -> Subscribed | None:
    if tx.db.execute("SELECT count(*) FROM subscription").fetchone()[0] >= most:
        return None
    key = tx.db.execute(
        "INSERT INTO subscription (id, owner, version, changed, written, life) VALUES (?, ?, 1, ?, ?, ?)",
        (subscription.id, owner, at, encode(subscription), encode(life)),
    ).lastrowid
    tx.db.execute("INSERT INTO counted (key, number) VALUES (?, 0)", (key,))
    return _one(tx, key)


def rewrite(
    tx: Transaction, *, key: int, subscription: Subscription, life: Life, version: int, at: int
) -> Subscribed | None:
    changed = tx.db.execute(
        "UPDATE subscription SET id = ?, version = version + 1, changed = ?, written = ?, life = ?"
        " WHERE key = ? AND version = ?",
        (subscription.id, at, encode(subscription), encode(life), key, version),
    ).rowcount
    return _one(tx, key) if changed else None


def unsubscribe(tx: Transaction, *, key: int) -> bool:
    """What it heard can be read no longer; the rows, of which there may be millions, go with their messages."""
    tx.db.execute("DELETE FROM counted WHERE key = ?", (key,))
    return bool(tx.db.execute("DELETE FROM subscription WHERE key = ?", (key,)).rowcount)


def told(tx: Transaction) -> int:
    """Noted the first time: were we to crash before anything is told, what came meanwhile would be passed over."""
    row = tx.db.execute("SELECT value FROM meta WHERE name = 'told'").fetchone()
    if row is not None:
        return int(row[0])
    _note_told(tx, tx.last)
    return tx.last


def _note_told(tx: Transaction, upto: int) -> None:
    tx.db.execute("INSERT OR REPLACE INTO meta VALUES ('told', ?)", (str(upto),))


def tell(tx: Transaction, *, upto: int, events: Sequence[NewEvent]) -> dict[int, int]:
    row = tx.db.execute("SELECT value FROM meta WHERE name = 'told'").fetchone()
    if row is not None and upto <= int(row[0]):
        return {}
    _note_told(tx, upto)
    hearers: set[int] = set()
    for event in events:
        if event.hearers and _tell(tx, event):
            hearers.update(event.hearers)
    if not hearers:
        return {}
    rows = tx.db.execute(f"SELECT key, number FROM counted WHERE key IN {HEARERS}", (encode(sorted(hearers)),))
    return dict(rows.fetchall())


def _tell(tx: Transaction, new: NewEvent) -> bool:
    """Whether anybody is left to hear of it."""
    keys = encode(new.hearers)
    heard = tx.db.execute(f"UPDATE counted SET number = number + 1 WHERE key IN {HEARERS}", (keys,)).rowcount
    if not heard:
        return False
    event = tx.db.execute(
        "INSERT INTO event (position, at, topic, places, interaction, relayed) VALUES (?, ?, ?, ?, ?, ?)",
        (
            new.position, micros(new.at), new.topic, encode(new.places).decode(),
            None if new.interaction is None else new.interaction.value, new.relayed,
        ),
    ).lastrowid  # fmt: skip
    tx.db.execute(
        f"INSERT INTO heard (key, number, event) SELECT key, number, ? FROM counted WHERE key IN {HEARERS}",
        (event, keys),
    )
    tx.logged += heard * LOGGED
    return True


def notice(
    tx: Transaction, new: NewMessage, file: str | None, *, key: int, kind: Kind, first: int, last: int
) -> Kept | Copy | None:
    row = tx.db.execute("SELECT notice FROM subscription WHERE key = ?", (key,)).fetchone()
    if row is None or row[0] is not None:
        return None
    kept = accept(tx, new, file)
    if isinstance(kept, Kept):
        tx.own += 1
        about = Notice(position=kept.position, number=kept.numbers[0], kind=kind, first=first, last=last)
        tx.db.execute("UPDATE subscription SET notice = ? WHERE key = ?", (encode(about), key))
    return kept


def move(tx: Transaction, *, key: int, life: Life, sent: int | None, ended: int | None) -> Subscribed | None:
    row = tx.db.execute("SELECT notice FROM subscription WHERE key = ?", (key,)).fetchone()
    if row is None:
        return None
    under_way = row[0]
    if under_way is not None and decode_notice(under_way).position == ended:
        under_way = None
    tx.db.execute(
        "UPDATE subscription SET life = ?, sent = coalesce(?, sent), notice = ? WHERE key = ?",
        (encode(life), sent, under_way, key),
    )
    return _one(tx, key)


def _one(tx: Transaction, key: int | None) -> Subscribed:
    return _subscribed_of(tx.db.execute(f"{SUBSCRIBED} WHERE s.key = ?", (key,)).fetchone())


def _subscribed_of(row: Sequence[Any]) -> Subscribed:
    return Subscribed(
        key=row[0],
        subscription=decode_subscription(row[1]),
        life=decode_life(row[2]),
        owner=row[3],
        version=row[4],
        changed=moment(row[5]),
        counted=row[6],
        sent=row[7],
        notice=None if row[8] is None else decode_notice(row[8]),
    )


# -- reading


def subscribed(reader: Reader) -> tuple[Subscribed, ...]:
    return tuple([_subscribed_of(row) for row in reader.db.execute(f"{SUBSCRIBED} ORDER BY s.key")])


# A subscription that is gone has heard of nothing, although its rows may still be there.
HEARD = (
    "SELECT h.number, e.position, e.at, e.topic, e.places, e.interaction, e.relayed FROM subscription s"
    " CROSS JOIN heard h ON h.key = s.key CROSS JOIN event e ON e.id = h.event"
    " WHERE s.key = ? AND h.number BETWEEN ? AND ? ORDER BY h.number LIMIT ?"
)
HEARD_BETWEEN = (
    "SELECT min(h.number), max(h.number) FROM subscription s"
    " CROSS JOIN heard h ON h.key = s.key CROSS JOIN event e ON e.id = h.event"
    " WHERE s.key = :key AND (:since IS NULL OR e.at >= :since) AND (:until IS NULL OR e.at <= :until)"
)


def heard(reader: Reader, key: int, since: int, until: int, limit: int) -> tuple[Heard, ...]:
    return tuple([
        Heard(
            number=number, position=position, at=moment(at), topic=topic, places=decode_places(places),
            interaction=None if interaction is None else Interaction(interaction), relayed=bool(relayed),
        )
        for number, position, at, topic, places, interaction, relayed in reader.db.execute(
            HEARD, (key, since, until, limit)
        )
    ])  # fmt: skip


def heard_between(reader: Reader, key: int, since: int | None, until: int | None) -> tuple[int, int] | None:
    values = {"key": key, "since": since, "until": until}
    lowest, highest = reader.db.execute(HEARD_BETWEEN, values).fetchone()
    return None if lowest is None else (lowest, highest)
