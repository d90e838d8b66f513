"""What goes once its time is over: bodies, mail, identities, and at last the whole trace of a message.

A walk over the positions, one for each kind, looks at each message when its time has come, for a millisecond in each
transaction, and notes in `meta` how far it is. Whatever may not go yet is entered in `held` and looked at again until
it may: nothing that waits, is unanswered or dead is removed, and what ended late is kept as long, from its end on.
What subscriptions heard of a message goes with its trace, and the trace stays until all of them were told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby

from broker.core.delivery import AnswerState, State
from broker.store import Cutoffs, Removed, telling_sqlite
from broker.store.claims import unpack
from broker.store.rows import micros
from broker.store.transaction import Transaction

LONG = 0.001  # seconds of one transaction: others wait for it, and what it changed is still to be written
AT_ONCE = 16  # messages in one transaction: each changes some pages, which cost most where all of them are in memory
HELD_AT_ONCE = 500  # looks at what is held in a round of steps: many may stay for good (dead letters)
PAGES = 16 << 10  # bytes that a message which is looked at adds to the log, about
DAY = 86_400_000_000  # microseconds
SOON = 3_600_000_000  # microseconds: an end so soon after the acceptance is as good as at once

KINDS = ("body", "mailbox", "identity", "trace")


@dataclass(slots=True)
class _Round:
    """One transaction's worth: how far each walk is, before which instant what goes, and what went."""

    tx: Transaction
    cutoffs: Mapping[str, int]
    reached: dict[str, int]
    claimed: int  # claims up to this position are in their table; of the others, memory still knows
    has_taken: Callable[[float], bool]  # whether this share of the time for a step has passed
    went: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    files: list[str] = field(default_factory=list)


def retain(tx: Transaction, older: Cutoffs) -> tuple[Removed, list[str]]:
    """One step; also returns the files of bodies, which go after the commit."""
    round = _Round(
        tx=tx,
        cutoffs={kind: micros(getattr(older, kind)) for kind in KINDS},
        reached={kind: _meta(tx, f"retained-{kind}") for kind in KINDS},
        claimed=_meta(tx, "claimed"),
        has_taken=_timer(),
    )
    if tx.held_looks < HELD_AT_ONCE:
        _look_at_held(round)
    left = AT_ONCE
    for kinds in _walks(round):
        left = _walk(round, kinds, left)
        if not left:
            break
    more = not left or tx.held_looks < HELD_AT_ONCE
    if not more:
        tx.db.execute("DELETE FROM refusal WHERE day < ?", (round.cutoffs["trace"] // DAY,))
        # the next round goes on with what is held where this one stopped
        tx.held_looks = 0
    return Removed(**round.went, more=more), round.files


def _timer() -> Callable[[float], bool]:
    """Says whether a share of the time that a step may take has passed."""
    start = time.perf_counter()
    return lambda share: time.perf_counter() - start >= share * LONG


def _meta(tx: Transaction, name: str) -> int:
    row = tx.db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return int(row[0]) if row else 0


def _walks(round: _Round) -> Iterator[list[str]]:
    """Kinds that are kept equally long, and have come equally far, go together."""
    where = {kind: (round.reached[kind], round.cutoffs[kind]) for kind in KINDS}
    for _, kinds in groupby(sorted(KINDS, key=where.__getitem__), key=where.__getitem__):
        yield list(kinds)


def _walk(round: _Round, kinds: list[str], limit: int) -> int:
    """Goes on over at most `limit` messages, up to the first that is too young.

    Returns what is left of the limit: nothing once the time is over, which is asked after the first message.
    """
    db, now, cutoff = round.tx.db, round.tx.now, round.cutoffs[kinds[0]]
    rows = db.execute(
        "SELECT position, accepted FROM message WHERE position > ? ORDER BY position LIMIT ?",
        (round.reached[kinds[0]], limit),
    ).fetchall()
    looked = 0
    for position, accepted in rows:
        if cutoff < accepted <= now:  # one of the future was written by a clock that has been set back: it is held
            break
        looked += 1
        round.reached.update(dict.fromkeys(kinds, position))
        if not _look(round, position):
            db.execute("INSERT OR IGNORE INTO held (position) VALUES (?)", (position,))
        if round.has_taken(1.0):
            limit = looked
            break
    if looked:
        db.executemany(
            "INSERT OR REPLACE INTO meta VALUES (?, ?)",
            [(f"retained-{kind}", str(round.reached[kind])) for kind in kinds],
        )
        round.tx.logged += looked * PAGES
    return limit - looked


def _look_at_held(round: _Round) -> None:
    """Some of what is held, from where the last step stopped, for half of the time."""
    tx = round.tx
    limit = min(AT_ONCE, HELD_AT_ONCE - tx.held_looks)
    rows = tx.db.execute(
        "SELECT position FROM held WHERE position > ? ORDER BY position LIMIT ?", (tx.held_after, limit)
    ).fetchall()
    looked, free = 0, []
    for (position,) in rows:
        if looked and round.has_taken(0.5):
            break
        looked += 1
        if _look(round, position):
            free.append((position,))
    if looked == len(rows) < limit:  # that was the last of them
        tx.held_after, tx.held_looks = 0, HELD_AT_ONCE
    else:
        tx.held_after, tx.held_looks = rows[looked - 1][0], tx.held_looks + looked
    tx.db.executemany("DELETE FROM held WHERE position = ?", free)
    tx.logged += len(free) * PAGES


def _look(round: _Round, position: int) -> bool:
    """Removes of one message what may go; False where something will have to be looked at again."""
    db = round.tx.db
    row = db.execute(
        "SELECT accepted, claims, file, body IS NOT NULL FROM message WHERE position = ?", (position,)
    ).fetchone()
    if row is None:
        return telling_sqlite.forget(round.tx, position)
    accepted, claims, file, inside = row
    deliveries = db.execute(
        "SELECT d.state, d.answer, coalesce(d.ended, 0), m.mailbox, m.unread_by FROM delivery d"
        " LEFT JOIN mail m ON m.mailbox = d.mailbox AND m.position = d.position WHERE d.position = ?",
        (position,),
    ).fetchall()
    if any(_is_open(*delivery) for delivery in deliveries):
        return False
    since = max(accepted, *(ended - SOON for _, _, ended, _, _ in deliveries)) if deliveries else accepted
    due = {kind for kind in KINDS if since <= round.cutoffs[kind]}
    mailboxes = {mailbox for _, _, _, mailbox, _ in deliveries if mailbox is not None}
    if mailboxes and "mailbox" in due:
        _take_out(round, position, mailboxes)
        mailboxes = set()
    if (inside or file) and "body" in due and not mailboxes:
        _empty(round, position, file)
        file, inside = None, False
    if claims and "identity" in due:
        if position > round.claimed:  # memory would go on knowing them
            round.tx.claims.hurry()
            return False
        _forget(round, position, claims)
        claims = None
    if "trace" in due and not (mailboxes or file or inside or claims):
        if not telling_sqlite.forget(round.tx, position):
            return False
        _remove(round, position)
        return True
    return all(kind in due for kind in KINDS if position <= round.reached[kind])


def _is_open(state: int, answer: int, _ended: int, _mailbox: int | None, unread_by: int | None) -> bool:
    """It waits, is dead, or somebody is still to be told of it."""
    return state in (State.WAITING, State.DEAD) or answer == AnswerState.OPEN or unread_by is not None


def _take_out(round: _Round, position: int, mailboxes: set[int]) -> None:
    """A reader that stands before it hears of that (410)."""
    db = round.tx.db
    for mailbox in mailboxes:
        db.execute("DELETE FROM mail WHERE mailbox = ? AND position = ?", (mailbox, position))
        db.execute("UPDATE mailbox SET removed = max(removed, ?) WHERE id = ?", (position, mailbox))
    round.went["mailbox"] += len(mailboxes)


def _empty(round: _Round, position: int, file: str | None) -> None:
    round.tx.db.execute("UPDATE message SET body = NULL, file = NULL WHERE position = ?", (position,))
    round.went["body"] += 1
    if file:
        round.files.append(file)


def _forget(round: _Round, position: int, claims: bytes) -> None:
    """A copy is no longer recognised, a response no longer matched."""
    db = round.tx.db
    db.executemany(
        "DELETE FROM claim WHERE id = ? AND source = ? AND tie = ? AND position = ?", unpack(claims, position)
    )
    db.execute("UPDATE message SET claims = NULL WHERE position = ?", (position,))
    round.went["identity"] += 1


def _remove(round: _Round, position: int) -> None:
    tx = round.tx
    for table in ("message", "delivery", "note", "notice"):
        tx.db.execute(f"DELETE FROM {table} WHERE position = ?", (position,))
    if not round.went["trace"]:  # once a transaction; from here on the table alone would let positions be given twice
        tx.db.execute("INSERT OR REPLACE INTO meta VALUES ('high', ?)", (str(tx.last),))
    round.went["trace"] += 1
