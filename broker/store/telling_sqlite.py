"""Subscriptions, events and their numbers in the embedded store (`store.telling` says what is promised).

An event is numbered by the same few statements, however many hear of it: a number is what the subscription's counter
comes to inside the transaction, so that none is left out or given twice, whatever ends the process.
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
    "SELECT s.key, s.written, s.life, s.owner, s.version, s.changed, c.counted, c.sent, s.notice"
    " FROM subscription s JOIN counter c ON c.key = s.key"
)
HEARERS = "(SELECT value FROM json_each(?))"
STRIDE = 64  # numbers from one mark to the next; each subscription's stand elsewhere, so that no event meets them all
MARKED = f"(key + number) % {STRIDE} = 0"
FORGOTTEN = 1_000  # heard rows that retention takes in one look at a message
LOGGED = 128  # bytes that a number adds to the log, about, where many are given at once

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
    tx.db.execute("INSERT INTO counter (key) VALUES (?)", (key,))
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
    for table in ("counter", "mark"):
        tx.db.execute(f"DELETE FROM {table} WHERE key = ?", (key,))
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
    retained = tx.db.execute("SELECT value FROM meta WHERE name = 'retained-trace'").fetchone()
    for event in events:
        if event.hearers and _tell(tx, event):
            hearers.update(event.hearers)
            if retained is not None and event.position <= int(retained[0]):  # retention has been here, and comes again
                tx.db.execute("INSERT OR IGNORE INTO held (position) VALUES (?)", (event.position,))
    if not hearers:
        return {}
    rows = tx.db.execute(f"SELECT key, counted FROM counter WHERE key IN {HEARERS}", (encode(sorted(hearers)),))
    return dict(rows.fetchall())


def _tell(tx: Transaction, new: NewEvent) -> bool:
    """Whether anybody is left to hear of it."""
    event = tx.db.execute(
        "INSERT INTO event (position, at, topic, places, interaction, relayed) VALUES (?, ?, ?, ?, ?, ?)",
        (
            new.position, micros(new.at), new.topic, encode(new.places).decode(),
            None if new.interaction is None else new.interaction.value, new.relayed,
        ),
    ).lastrowid  # fmt: skip
    keys = encode(new.hearers)
    heard = tx.db.execute(
        "INSERT INTO heard (event, key, number, previous) SELECT ?, key, counted + 1, event FROM counter"
        f" WHERE key IN {HEARERS}",
        (event, keys),
    ).rowcount
    if not heard:
        tx.db.execute("DELETE FROM event WHERE id = ?", (event,))
        return False
    tx.db.execute(f"UPDATE counter SET counted = counted + 1, event = ? WHERE key IN {HEARERS}", (event, keys))
    tx.db.execute(
        f"INSERT INTO mark (key, number, event) SELECT key, number, event FROM heard WHERE event = ? AND {MARKED}",
        (event,),
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
        tx.db.execute("INSERT INTO notice (position) VALUES (?)", (kept.position,))
        about = Notice(position=kept.position, number=kept.numbers[0], kind=kind, first=first, last=last)
        tx.db.execute("UPDATE subscription SET notice = ? WHERE key = ?", (encode(about), key))
    return kept


def move(tx: Transaction, *, key: int, life: Life | None, sent: int | None, ended: int | None) -> Subscribed | None:
    row = tx.db.execute("SELECT notice FROM subscription WHERE key = ?", (key,)).fetchone()
    if row is None:
        return None
    under_way = row[0]
    if under_way is not None and decode_notice(under_way).position == ended:
        under_way = None
    tx.db.execute(
        "UPDATE subscription SET life = coalesce(?, life), notice = ? WHERE key = ?",
        (None if life is None else encode(life), under_way, key),
    )
    if sent is not None:
        tx.db.execute("UPDATE counter SET sent = ? WHERE key = ?", (sent, key))
    return _one(tx, key)


def forget(tx: Transaction, position: int) -> bool:
    """The time of a message is over: its events go, but for who is still to be told; False where something is left."""
    left = False
    for (event,) in tx.db.execute("SELECT id FROM event WHERE position = ?", (position,)).fetchall():
        rows = tx.db.execute(
            "SELECT event, key, number FROM heard h WHERE event = ? AND NOT EXISTS"
            " (SELECT 1 FROM counter c WHERE c.key = h.key AND c.sent < h.number) LIMIT ?",
            (event, FORGOTTEN),
        ).fetchall()
        tx.db.executemany("DELETE FROM heard WHERE event = ? AND key = ?", [row[:2] for row in rows])
        marked = [row[1:] for row in rows if (row[1] + row[2]) % STRIDE == 0]
        tx.db.executemany("DELETE FROM mark WHERE key = ? AND number = ?", marked)
        if tx.db.execute("SELECT 1 FROM heard WHERE event = ? LIMIT 1", (event,)).fetchone():
            left = True
        else:
            tx.db.execute("DELETE FROM event WHERE id = ?", (event,))
    return not left


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


# From one event back over those that a subscription heard of before; it ends where retention has taken the next.
CHAIN = (
    "WITH RECURSIVE chain (number, event, previous) AS ("
    " SELECT number, event, previous FROM heard WHERE event = :start AND key = :key"
    " UNION ALL SELECT h.number, h.event, h.previous FROM chain c"
    " CROSS JOIN heard h ON h.event = c.previous AND h.key = :key WHERE c.number > :since)"
)
HEARD = (
    f"{CHAIN} SELECT c.number, e.position, e.at, e.topic, e.places, e.interaction, e.relayed FROM chain c"
    " CROSS JOIN event e ON e.id = c.event"
)
HEARD_BETWEEN = (
    f"{CHAIN} SELECT min(c.number), max(c.number) FROM chain c CROSS JOIN event e ON e.id = c.event"
    " WHERE (:first IS NULL OR e.at >= :first) AND (:last IS NULL OR e.at <= :last)"
)


def heard(reader: Reader, key: int, since: int, until: int, limit: int) -> tuple[Heard, ...]:
    """Found from above, where the chain begins; where it ends too early, retention took what was below."""
    since = max(since, 1)
    while since <= until:
        end = min(until, since + limit - 1)
        start = _start(reader, key, end)
        rows = reader.db.execute(HEARD, {"key": key, "start": start, "since": since}).fetchall() if start else []
        if not rows:
            break
        lowest = rows[-1][0]
        if lowest <= since:
            return tuple([_heard_of(row) for row in reversed(rows) if since <= row[0] <= end])
        since = lowest
    return ()


def _start(reader: Reader, key: int, number: int) -> int | None:
    """The event of a number or of one not far above it; None for who has heard of nothing, or is gone."""
    row = reader.db.execute(
        "SELECT event FROM mark WHERE key = ? AND number >= ? ORDER BY number LIMIT 1", (key, number)
    ).fetchone()
    if row is None:
        row = reader.db.execute("SELECT event FROM counter WHERE key = ?", (key,)).fetchone()
    return None if row is None else row[0]


def _heard_of(row: Sequence[Any]) -> Heard:
    number, position, at, topic, places, interaction, relayed = row
    return Heard(
        number=number, position=position, at=moment(at), topic=topic, places=decode_places(places),
        interaction=None if interaction is None else Interaction(interaction), relayed=bool(relayed),
    )  # fmt: skip


def heard_between(reader: Reader, key: int, first: int | None, last: int | None) -> tuple[int, int] | None:
    """All that it heard is looked at, since what happened later may have been told earlier."""
    row = reader.db.execute("SELECT event FROM counter WHERE key = ?", (key,)).fetchone()
    values = {"key": key, "start": row and row[0], "since": 0, "first": first, "last": last}
    lowest, highest = reader.db.execute(HEARD_BETWEEN, values).fetchone()
    return None if lowest is None else (lowest, highest)
