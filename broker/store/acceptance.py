"""Acceptance: a message with its deliveries and mail comes into the store as a whole, or not at all.

Like every operation of the contract, each function here runs inside the transaction of a group, and leaves nothing of
itself behind once the writer has rolled back.
"""

from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec

from broker.core import message as messages
from broker.core.delivery import GIVEN_UP, AnswerState, Event, State, Step, story
from broker.core.ledger import NEGATIVE
from broker.core.message import Fate
from broker.store import BEHIND, Copy, Kept, NewDelivery, NewMessage, streams
from broker.store.claims import pack
from broker.store.rows import (
    decode_outcome,
    decode_steps,
    encode_steps,
    id_digest,
    micros,
    moment,
    source_digest,
)
from broker.store.transaction import Transaction

INSERT_MESSAGE = (
    "INSERT INTO message (position, accepted, fate, answers, answers_number, event, source, quoted, media, format,"
    " release, digest, about, claims, file, body, negative) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
)
INSERT_DELIVERY = (
    "INSERT INTO delivery (position, number, destination, key, address, lane, state, due, expiry, accepted, policy,"
    " rule, fixed, mailbox, answer, answer_by, ended, priority, stream, turn, source)"
    " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
)
INSERT_MAIL = "INSERT OR IGNORE INTO mail (mailbox, position, unread_by) VALUES (?,?,?)"


def accept(
    tx: Transaction, new: NewMessage, file: str | None, *, answered: Callable[[int], bool] | None = None
) -> Kept | Copy:
    """Claims the identity and writes message, deliveries and mail; a lost claim writes nothing.

    `answered`: notes for the position of a response what it answers, and says whether that was open.
    """
    position = tx.last + 1
    source = source_digest(new.source_key)
    rows = []
    for unique in (new.identity, new.exclusive):
        if unique is not None:
            id = id_digest(unique)
            first = tx.claims.owner(id, source, careful=tx.careful)
            if first is not None:
                return Copy(position=first, exclusive=unique is new.exclusive)
            rows.append((id, source, 0, position))
    if new.quotes:
        rows += [(id_digest(quote), source, position, position) for quote in new.quotes]
    tx.last = position
    tx.claims.enter(rows)
    if answered is None:
        open_until_now = new.answers is not None and _answer(tx, new.answers, position, final=new.final)
    else:
        open_until_now = answered(position)
    message, header = new.message, new.message.header
    link = header.response
    fate = message.fate if open_until_now or message.fate is not Fate.ANSWER else Fate.DOUBLE
    tx.add(
        INSERT_MESSAGE,
        (
            position, tx.now, fate, *(new.answers or (new.reports_on, None)), str(header.event), new.source_key,
            None if link is None else str(link.identifier),
            message.media_type, str(header.format), str(header.release), new.digest, messages.encode(message),
            pack(rows), file, None if file else new.body,
            None if link is None or link.code not in NEGATIVE else link.code,
        ),
    )  # fmt: skip
    numbers, behind = _add(tx, position, new.deliveries, {}, source)
    released = tx.take_released() if tx.released else ()
    return Kept(position=position, numbers=numbers, answered=open_until_now, behind=behind, released=released)


def _answer(tx: Transaction, answers: tuple[int, int], position: int, *, final: bool) -> bool:
    """The response is here: the delivery has its answer, and if it still waits, it needs no further attempt.

    Where others are to follow, the answer stays open, and the delivery shows the latest.
    """
    was_open = tx.db.execute(
        "UPDATE delivery SET answer = ?, answered_by = ? WHERE position = ? AND number = ? AND answer = ?",
        (AnswerState.ANSWERED if final else AnswerState.OPEN, position, *answers, AnswerState.OPEN),
    ).rowcount
    if not was_open:
        return False
    row = tx.db.execute(
        "SELECT state, steps, stream FROM delivery WHERE position = ? AND number = ?", answers
    ).fetchone()
    if row[0] == State.WAITING:
        steps = story(decode_steps(row[1]) if row[1] else (), Step(at=moment(tx.now), what=Event.ANSWERED.value))
        tx.db.execute(
            "UPDATE delivery SET state = ?, ended = ?, steps = ? WHERE position = ? AND number = ?",
            (State.DONE, tx.now, encode_steps(steps), *answers),
        )
        if row[2] is not None:
            streams.advance(tx, row[2])
    return True


def add(
    tx: Transaction, position: int, deliveries: Sequence[NewDelivery], whole: tuple[bytes, bytes] | None = None
) -> Kept:
    """Writes deliveries of a message, leaving out destinations that it has already (the unit of effect, M-20).

    The numbers are 0 for those that were there; each joins its stream at the end. `whole` is a copy's body and digest,
    for a message whose own body retention has taken away.
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
        return Kept(position=position, numbers=(0,) * len(deliveries))
    source = _source_of(tx, position)
    added, behind = _add(tx, position, deliveries, taken, source)
    numbers = list(added)
    for place, new in enumerate(deliveries):
        if new.key in withdrawn:
            numbers[place] = withdrawn[new.key]
            if _revive(tx, position, numbers[place], new, source):
                behind += (numbers[place],)
    return Kept(position=position, numbers=tuple(numbers), behind=behind, released=tx.take_released())


def _source_of(tx: Transaction, position: int) -> bytes | None:
    row = tx.db.execute("SELECT source FROM message WHERE position = ?", (position,)).fetchone()
    return None if row is None else source_digest(row[0])


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


def _revive(tx: Transaction, position: int, number: int, new: NewDelivery, source: bytes | None) -> bool:
    """A copy asks anew for what had been withdrawn before it left, or was given up; says whether it has to wait."""
    where = (position, number)
    kept, stream = tx.db.execute(
        "SELECT steps, stream FROM delivery WHERE position = ? AND number = ?", where
    ).fetchone()
    tx.db.execute("DELETE FROM delivery WHERE position = ? AND number = ?", where)
    if stream is not None:
        streams.let_go(tx, stream, *where)
    waits = _insert(tx, position, number, new, source)
    if stream is not None:
        streams.advance(tx, stream)
    steps = story(decode_steps(kept) if kept else (), Step(at=moment(tx.now), what=Event.REDRIVEN.value, note="a copy"))
    tx.db.execute("UPDATE delivery SET steps = ? WHERE position = ? AND number = ?", (encode_steps(steps), *where))
    return waits


def _add(
    tx: Transaction, position: int, deliveries: Sequence[NewDelivery], taken: dict[str, int], source: bytes | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The numbers of all, and of those that have to wait for others of their stream."""
    numbers: list[int] = []
    behind: tuple[int, ...] = ()
    for delivery in deliveries:
        if delivery.key in taken:
            numbers.append(0)
            continue
        number = taken[delivery.key] = len(taken) + 1
        if _insert(tx, position, number, delivery, source):
            behind += (number,)
        numbers.append(number)
    return tuple(numbers), behind


def _insert(tx: Transaction, position: int, number: int, new: NewDelivery, source: bytes | None) -> bool:
    """Says whether it has to wait for another of its stream."""
    turn, waits = None, False
    if new.behind is not None:
        new = _follow(tx, new, *new.behind)
    if new.stream is not None:
        turn, waits = streams.join(tx, new.stream, position)
        if waits:  # also what would be in its mailbox already: it is put there in its turn
            new = msgspec.structs.replace(new, due=BEHIND, state=State.WAITING, mailbox=None)
    mailbox = None if new.mailbox is None else tx.mailbox_id(new.mailbox, new.destination)
    tx.add(
        INSERT_DELIVERY,
        (
            position, number, new.destination, new.key, new.address, new.lane, new.state, micros(new.due),
            micros(new.expiry), tx.now, tx.policy_id(new.policy), new.rule, new.fixed, mailbox, new.answer,
            None if new.answer_by is None else micros(new.answer_by), None if new.state is State.WAITING else tx.now,
            new.priority, new.stream, turn, source,
        ),
    )  # fmt: skip
    if mailbox is not None:
        put_into(tx, mailbox, position, new.unread_by)
    return waits


def _follow(tx: Transaction, new: NewDelivery, position: int, number: int) -> NewDelivery:
    """In the stream of what it must not overtake, if that still waits; where that has none, in one of these two."""
    where = (position, number)
    row = tx.db.execute("SELECT state, stream FROM delivery WHERE position = ? AND number = ?", where).fetchone()
    if row is None or row[0] != State.WAITING:
        return new
    stream = row[1]
    if stream is None:
        stream = id_digest(f"behind:{position}:{number}")
        tx.db.execute(
            "UPDATE delivery SET stream = ?, turn = ? WHERE position = ? AND number = ?", (stream, position, *where)
        )
    return msgspec.structs.replace(new, stream=stream)


def put_into(tx: Transaction, mailbox: int, position: int, unread_by: datetime | None) -> None:
    tx.add(INSERT_MAIL, (mailbox, position, None if unread_by is None else micros(unread_by)))
