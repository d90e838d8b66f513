"""What the embedded store writes, operation by operation, inside the transaction of a group.

Each function is one operation of the contract: it comes as a whole, or raises and leaves nothing of itself behind
once the writer has rolled back.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

import msgspec

from broker.core import message as messages
from broker.core.delivery import GIVEN_UP, AnswerState, Event, State, Step, story
from broker.core.fhir.header import Header
from broker.core.message import Fate
from broker.core.policy import Policy
from broker.store import Change, Claimed, Copy, Kept, NewDelivery, NewMessage, Note, Settled, Settlement
from broker.store.claims import Claims, pack
from broker.store.rows import (
    DELIVERY,
    Policies,
    decode_outcome,
    decode_steps,
    delivery_of,
    encode_outcome,
    encode_policy,
    encode_steps,
    id_digest,
    micros,
    moment,
    source_digest,
)

KNOWN_POLICIES = 4_096
KNOWN_MAILBOXES = 50_000  # remembered numbers; beyond, the memory is emptied rather than grown


class Transaction:
    """The writer's connection with what it remembers between groups."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db
        high = db.execute("SELECT value FROM meta WHERE name = 'high'").fetchone()
        last = db.execute("SELECT max(position) FROM message").fetchone()[0]
        self.last = max(last or 0, int(high[0]) if high else 0)
        self.now = 0  # microseconds; the commit's time, set by the writer for each group
        self.logged = 0  # bytes that the group adds to the log beyond what its operations usually do, about
        self.held_after = 0  # where retention goes on looking at what it had to keep
        self.claims = Claims(db)
        self.forget()

    def forget(self) -> None:
        """After a rollback nothing that was learned in the group can be trusted."""
        self.policies = Policies(self.db)
        self._policy_ids: dict[int, tuple[Policy, int]] = {}
        self._mailbox_ids: dict[str, int] = {}

    def policy_id(self, policy: Policy) -> int:
        """Policies are the configuration's own objects: known by which object it is, not by all that it says."""
        known = self._policy_ids.get(id(policy))
        if known is not None:
            return known[1]
        value = encode_policy(policy)
        self.db.execute("INSERT OR IGNORE INTO policy (value) VALUES (?)", (value,))
        number = int(self.db.execute("SELECT id FROM policy WHERE value = ?", (value,)).fetchone()[0])
        if len(self._policy_ids) >= KNOWN_POLICIES:
            self._policy_ids.clear()
        self._policy_ids[id(policy)] = (policy, number)  # held, so that the number of the object is not given anew
        return number

    def mailbox_id(self, key: str, name: str) -> int:
        number = self._mailbox_ids.get(key)
        if number is None:
            self.db.execute("INSERT OR IGNORE INTO mailbox (key, name) VALUES (?, ?)", (key, name or key))
            number = self.db.execute("SELECT id FROM mailbox WHERE key = ?", (key,)).fetchone()[0]
            if len(self._mailbox_ids) >= KNOWN_MAILBOXES:
                self._mailbox_ids.clear()
            self._mailbox_ids[key] = number
        return int(number)


INSERT_MESSAGE = (
    "INSERT INTO message (position, accepted, fate, answers, answers_number, event, source, quoted, media, format,"
    " release, digest, about, claims, file, body) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
)
INSERT_DELIVERY = (
    "INSERT INTO delivery (position, number, destination, key, address, lane, state, due, expiry, accepted, policy,"
    " rule, fixed, mailbox, answer, answer_by, ended) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
)


def accept(tx: Transaction, new: NewMessage, file: str | None) -> Kept | Copy:
    """Claims the identity and writes message, deliveries and mail; a lost claim writes nothing."""
    position = tx.last + 1
    source = source_digest(new.source_key)
    rows = []
    for unique in (new.identity, new.exclusive):
        if unique is not None:
            id = id_digest(unique)
            first = tx.claims.owner(id, source)
            if first is not None:
                return Copy(position=first, exclusive=unique is new.exclusive)
            rows.append((id, source, 0, position))
    rows += [(id_digest(quote), source, position, position) for quote in new.quotes]
    tx.last = position
    tx.claims.enter(rows)
    answered = new.answers is not None and _close_answer(tx, new.answers, position)
    message, header = new.message, new.message.header
    fate = message.fate if answered or message.fate is not Fate.ANSWER else Fate.DOUBLE
    tx.db.execute(
        INSERT_MESSAGE,
        (
            position, tx.now, fate, *(new.answers or (new.reports_on, None)), str(header.event), new.source_key,
            _quoted(header),
            message.media_type, header.format.value, header.release.value, new.digest, messages.encode(message),
            pack(rows), file, None if file else new.body,
        ),
    )  # fmt: skip
    numbers = _add(tx, position, new.deliveries, {})
    return Kept(position=position, numbers=numbers, answered=answered)


def _quoted(header: Header) -> str | None:
    return str(header.response.identifier) if header.response else None


def _close_answer(tx: Transaction, answers: tuple[int, int], position: int) -> bool:
    """The response is here: the delivery has its answer, and if it still waits, it needs no further attempt."""
    closed = tx.db.execute(
        "UPDATE delivery SET answer = ?, answered_by = ? WHERE position = ? AND number = ? AND answer = ?",
        (AnswerState.ANSWERED, position, *answers, AnswerState.OPEN),
    ).rowcount
    if not closed:
        return False
    row = tx.db.execute("SELECT state, steps FROM delivery WHERE position = ? AND number = ?", answers).fetchone()
    if row[0] == State.WAITING:
        steps = story(decode_steps(row[1]) if row[1] else (), Step(at=moment(tx.now), what=Event.ANSWERED.value))
        tx.db.execute(
            "UPDATE delivery SET state = ?, ended = ?, steps = ? WHERE position = ? AND number = ?",
            (State.DONE, tx.now, encode_steps(steps), *answers),
        )
    return True


def add(
    tx: Transaction, position: int, deliveries: Sequence[NewDelivery], whole: tuple[bytes, bytes] | None = None
) -> tuple[int, ...]:
    """Writes deliveries of a message, leaving out destinations that it has already (the unit of effect, M-20).

    Returns their numbers in the order given; 0 for one that was there. `whole` is a copy's body and digest, for a
    message whose own body retention has taken away.
    """
    taken, withdrawn = {}, {}
    for key, number, state, outcome, response in tx.db.execute(
        "SELECT key, number, state, outcome, answered_by FROM delivery WHERE position = ?", (position,)
    ).fetchall():
        taken[key] = number
        # what was given up for time may be asked for again; what is withdrawn with an outcome was dropped for good
        if (
            (state == State.WITHDRAWN and outcome is None)
            or (state == State.DEAD and _was_given_up(outcome))
            or (state == State.DONE and response is not None and _asks_for_a_resend(tx, response))
        ):
            withdrawn[key] = number
    asked = {new.key for new in deliveries}
    if whole is not None and not (asked <= taken.keys() - withdrawn.keys() or _has_body(tx, position, *whole)):
        return (0,) * len(deliveries)
    numbers = _add(tx, position, deliveries, taken)
    return tuple([
        _revive(tx, position, withdrawn[new.key], new) if new.key in withdrawn else number
        for new, number in zip(deliveries, numbers, strict=True)
    ])  # fmt: skip


def _asks_for_a_resend(tx: Transaction, response: int) -> bool:
    """M-32: `transient-error` means wait and resend, so that the resend is more than a copy."""
    row = tx.db.execute(
        "SELECT json_extract(about, '$.header.response.code') FROM message WHERE position = ?", (response,)
    ).fetchone()
    return row is not None and row[0] == "transient-error"


def _was_given_up(outcome: bytes | None) -> bool:
    """Whether it died of time alone: a resend of the same message is what the report invites to."""
    problem = decode_outcome(outcome).problem if outcome is not None else None
    return problem is not None and problem.id == GIVEN_UP


def _has_body(tx: Transaction, position: int, body: bytes, digest: bytes) -> bool:
    """Whether there is a body to carry; where retention has taken it away, the same bytes put it back for a while."""
    row = tx.db.execute(
        "SELECT body IS NOT NULL OR file IS NOT NULL, digest FROM message WHERE position = ?", (position,)
    ).fetchone()
    if row is None or row[0]:
        return row is not None
    if row[1] != digest:
        return False
    tx.db.execute("UPDATE message SET body = ? WHERE position = ?", (body, position))
    tx.db.execute("INSERT OR IGNORE INTO held (position) VALUES (?)", (position,))
    return True


def _revive(tx: Transaction, position: int, number: int, new: NewDelivery) -> int:
    """A copy asks anew for what had been withdrawn before it left, or was given up."""
    where = (position, number)
    kept = tx.db.execute("SELECT steps FROM delivery WHERE position = ? AND number = ?", where).fetchone()[0]
    tx.db.execute("DELETE FROM delivery WHERE position = ? AND number = ?", where)
    _insert(tx, position, number, new)
    steps = story(decode_steps(kept) if kept else (), Step(at=moment(tx.now), what=Event.REDRIVEN.value, note="a copy"))
    tx.db.execute("UPDATE delivery SET steps = ? WHERE position = ? AND number = ?", (encode_steps(steps), *where))
    return number


def _add(tx: Transaction, position: int, deliveries: Sequence[NewDelivery], taken: dict[str, int]) -> tuple[int, ...]:
    numbers = []
    for delivery in deliveries:
        if delivery.key in taken:
            numbers.append(0)
            continue
        number = taken[delivery.key] = len(taken) + 1
        _insert(tx, position, number, delivery)
        numbers.append(number)
    return tuple(numbers)


def _insert(tx: Transaction, position: int, number: int, new: NewDelivery) -> None:
    mailbox = None if new.mailbox is None else tx.mailbox_id(new.mailbox, new.destination)
    tx.db.execute(
        INSERT_DELIVERY,
        (
            position, number, new.destination, new.key, new.address, new.lane, new.state, micros(new.due),
            micros(new.expiry), tx.now, tx.policy_id(new.policy), new.rule, new.fixed, mailbox, new.answer,
            None if new.answer_by is None else micros(new.answer_by), None if new.state is State.WAITING else tx.now,
        ),
    )  # fmt: skip
    if mailbox is not None:
        _put_into(tx, mailbox, position, new.unread_by)


def _put_into(tx: Transaction, mailbox: int, position: int, unread_by: datetime | None) -> None:
    tx.db.execute(
        "INSERT OR IGNORE INTO mail (mailbox, position, unread_by) VALUES (?, ?, ?)",
        (mailbox, position, None if unread_by is None else micros(unread_by)),
    )


def settle(tx: Transaction, settlement: Settlement, file: str | None) -> Settled:
    changed = change(tx, settlement.change)
    comes = settlement.comes
    if comes is None or (comes.reports_on is not None and not changed):
        return Settled(changed=changed)
    came = accept(tx, comes, file)
    if isinstance(came, Copy) and comes.answers is not None and not _answers_same(tx, came.position, comes.answers):
        # a receiver that answers everybody with the same ids has still answered this request
        came = accept(tx, msgspec.structs.replace(comes, identity=None), file)
    return Settled(changed=changed, came=came)


def _answers_same(tx: Transaction, position: int, answers: tuple[int, int]) -> bool:
    row = tx.db.execute("SELECT answers, answers_number FROM message WHERE position = ?", (position,)).fetchone()
    return row is not None and tuple(row) == answers


def change(tx: Transaction, what: Change) -> int:
    """Moves deliveries that wait to their new state; those that ended meanwhile stay as they are."""
    changed = 0
    for number in what.numbers:
        if what.state is State.DONE and what.mailbox is None and _done_at_once(tx, what, number):
            changed += 1
            continue
        row = tx.db.execute(
            "SELECT state, attempts, has_left, steps, answer, policy, destination FROM delivery"
            " WHERE position = ? AND number = ?",
            (what.position, number),
        ).fetchone()
        if row is None or row[0] != State.WAITING:
            continue
        _write_change(tx, what, number, row)
        changed += 1
    return changed


def _done_at_once(tx: Transaction, what: Change, number: int) -> bool:
    """The ordinary case in one statement: delivered by its first attempt, so that nothing has to be read first."""
    return bool(
        tx.db.execute(
            "UPDATE delivery SET state = ?1, attempts = ?2, has_left = ?3, steps = ?4, ended = ?5, outcome = ?6,"
            " answer = CASE WHEN answer = 1 THEN coalesce(?7, answer) ELSE answer END,"
            " address = coalesce(?8, address), lane = coalesce(?9, lane)"
            " WHERE position = ?10 AND number = ?11 AND state = 0 AND attempts = 0 AND steps IS NULL",
            (
                what.state, what.attempted, what.attempted and what.step.left, encode_steps((what.step,)), tx.now,
                None if what.outcome is None else encode_outcome(what.outcome), what.answer,
                what.address, what.lane, what.position, number,
            ),
        ).rowcount
    )  # fmt: skip


def _write_change(tx: Transaction, what: Change, number: int, row: Sequence[Any]) -> None:
    steps = story(decode_steps(row[3]) if row[3] else (), what.step)
    answer = what.answer if what.answer is not None and row[4] == AnswerState.OPEN else row[4]
    tx.db.execute(
        "UPDATE delivery SET state = ?, attempts = ?, has_left = ?, steps = ?, answer = ?, ended = ?, outcome = ?,"
        " due = coalesce(?, due), address = coalesce(?, address), lane = coalesce(?, lane)"
        " WHERE position = ? AND number = ?",
        (
            what.state, row[1] + what.attempted, row[2] or (what.attempted and what.step.left), encode_steps(steps),
            answer, None if what.state is State.WAITING else tx.now,
            None if what.outcome is None else encode_outcome(what.outcome),
            None if what.due is None else micros(what.due),
            what.address, what.lane, what.position, number,
        ),
    )  # fmt: skip
    if what.mailbox is not None:
        mailbox = tx.mailbox_id(what.mailbox, row[6])
        tx.db.execute(
            "UPDATE delivery SET mailbox = ? WHERE position = ? AND number = ?", (mailbox, what.position, number)
        )
        _put_into(tx, mailbox, what.position, what.step.at + tx.policies(row[5]).unread)


def claim(tx: Transaction, lane: str, now: int, fresh: int, until: int, limit: int) -> Claimed:
    """Hands out what is due in a lane, and what was never tried and is due by `fresh`.

    Until `until` it is not due again, so that a crash is no retry storm.
    """
    due = "lane = ? AND state = 0 AND due <= ? AND (due <= ? OR attempts = 0)"
    rows = tx.db.execute(
        f"SELECT {DELIVERY} FROM delivery WHERE {due} ORDER BY due, position, number LIMIT ?", (lane, fresh, now, limit)
    ).fetchall()
    if len(rows) == limit:  # what shares an address leaves together, so that a message is not cut in two (M-55)
        taken = {row[1] for row in rows if row[0] == rows[-1][0]}
        rest = tx.db.execute(
            f"SELECT {DELIVERY} FROM delivery WHERE {due} AND position = ?", (lane, fresh, now, rows[-1][0])
        )
        rows += [row for row in rest if row[1] not in taken]
    tx.db.executemany(
        "UPDATE delivery SET due = ? WHERE position = ? AND number = ?", [(until, row[0], row[1]) for row in rows]
    )
    next_due = tx.db.execute("SELECT min(due) FROM delivery WHERE lane = ? AND state = 0", (lane,)).fetchone()[0]
    return Claimed(
        deliveries=tuple(delivery_of(row, tx.policies) for row in rows),
        next_due=None if next_due is None else moment(next_due),
    )


def withdraw(tx: Transaction, position: int, at: datetime, why: str, under_way: Collection[int]) -> list[int]:
    """Withdraws the deliveries that wait and of which surely nothing has left; returns their numbers."""
    rows = tx.db.execute(
        "SELECT number FROM delivery WHERE position = ? AND state = 0 AND has_left = 0", (position,)
    ).fetchall()
    numbers = [row[0] for row in rows if row[0] not in under_way]
    step = Step(at=at, what=Event.CANCELLED.value, note=why)
    change(tx, Change(position=position, numbers=tuple(numbers), state=State.WITHDRAWN, step=step, attempted=False,
                      answer=AnswerState.CLOSED))  # fmt: skip
    return numbers


def redrive(tx: Transaction, position: int, number: int, at: datetime, expiry: datetime) -> bool:
    """A dead letter waits again, due at once; its response is looked for anew, for as long as at first."""
    row = tx.db.execute(
        "SELECT steps, policy FROM delivery WHERE position = ? AND number = ? AND state = ?",
        (position, number, State.DEAD),
    ).fetchone()
    if row is None:
        return False
    steps = story(decode_steps(row[0]) if row[0] else (), Step(at=at, what=Event.REDRIVEN.value))
    answer_by = micros(at + tx.policies(row[1]).answer_within)
    tx.db.execute(
        "UPDATE delivery SET state = 0, ended = NULL, outcome = NULL, due = ?1, expiry = ?2, steps = ?3,"
        " answer = CASE WHEN answer = ?6 AND answer_by IS NOT NULL THEN ?7 ELSE answer END,"
        " answer_by = CASE WHEN answer_by IS NOT NULL THEN ?8 END"
        " WHERE position = ?4 AND number = ?5",
        (
            micros(at), micros(expiry), encode_steps(steps), position, number, AnswerState.CLOSED, AnswerState.OPEN,
            answer_by,
        ),
    )  # fmt: skip
    return True


def drop(tx: Transaction, position: int, number: int, at: datetime, why: str) -> bool:
    """A dead letter is given up for good: it leaves the list, its story stays."""
    row = tx.db.execute(
        "SELECT steps FROM delivery WHERE position = ? AND number = ? AND state = ?", (position, number, State.DEAD)
    ).fetchone()
    if row is None:
        return False
    steps = story(decode_steps(row[0]) if row[0] else (), Step(at=at, what="dropped", note=why))
    tx.db.execute(
        "UPDATE delivery SET state = ?, steps = ? WHERE position = ? AND number = ?",
        (State.WITHDRAWN, encode_steps(steps), position, number),
    )
    return True


def wake(tx: Transaction, names: Sequence[tuple[int, int]], due: int) -> int:
    """What waits for a name that changed is due now, in the lane of no peer: the old one's may be closed.

    There its address is looked up, and it joins the lane of the peer that it has now.
    """
    tx.db.executemany(
        "UPDATE delivery SET due = min(due, ?1), lane = '' WHERE position = ?2 AND number = ?3 AND state = 0",
        [(due, position, number) for position, number in names],
    )
    return len(names)


def missing(tx: Transaction, position: int, number: int, report: NewMessage | None) -> Settled:
    """The answer time is over: the answer is looked for no longer, and the source is told."""
    changed = tx.db.execute(
        "UPDATE delivery SET answer = ? WHERE position = ? AND number = ? AND answer = ?",
        (AnswerState.MISSING, position, number, AnswerState.OPEN),
    ).rowcount
    return Settled(changed=changed, came=accept(tx, report, None) if changed and report else None)


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
