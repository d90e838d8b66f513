"""Changes: what becomes of deliveries that are kept, each operation inside the transaction of a group."""

from collections.abc import Collection, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import msgspec

from broker.core.delivery import AnswerState, Event, Outcome, State, Step, story
from broker.store import Change, Copy, NewMessage, Released, Settled, Settlement, Withdrawn, streams
from broker.store.acceptance import accept, put_into
from broker.store.rows import (
    decode_steps,
    encode_outcome,
    encode_steps,
    micros,
)
from broker.store.transaction import Transaction

UPDATE_FIRST = (
    "UPDATE delivery SET state = ?1, attempts = ?2, has_left = ?3, steps = ?4, ended = ?5, outcome = ?6,"
    " answer = CASE WHEN answer = 1 THEN coalesce(?7, answer) ELSE answer END,"
    " address = coalesce(?8, address), lane = coalesce(?9, lane), due = coalesce(?12, due)"
    " WHERE position = ?10 AND number = ?11 AND state = 0 AND attempts = 0 AND steps IS NULL AND stream IS NULL"
)

UPDATE_ANSWERED = (
    "UPDATE delivery SET state = ?1, attempts = ?2, has_left = ?3, steps = ?4, ended = ?5, outcome = ?6,"
    " answer = 2, answered_by = ?7, address = coalesce(?8, address), lane = coalesce(?9, lane)"
    " WHERE position = ?10 AND number = ?11 AND state = 0 AND attempts = 0 AND steps IS NULL AND stream IS NULL"
    " AND answer = 1"
)


def settle(tx: Transaction, settlement: Settlement, file: str | None) -> Settled:
    comes, what = settlement.comes, settlement.change
    if (
        comes is not None
        and what.first
        and comes.answers == (what.position, *what.numbers)
        and comes.final
        and not tx.careful
    ):
        came = accept(tx, comes, file, answered=partial(_answered_at_once, tx, what))
        if not isinstance(came, Copy):
            return Settled(changed=1, came=came)
    changed = change(tx, what)
    released = tx.take_released() if tx.released else ()
    if comes is None or (not changed and (comes.reports_on is not None or not _exists(tx, what))):
        return Settled(changed=changed, released=released)
    came = accept(tx, comes, file)
    if isinstance(came, Copy) and comes.answers is not None and not _answers_same(tx, came.position, comes.answers):
        # a receiver that answers everybody with the same ids has still answered this request
        came = accept(tx, msgspec.structs.replace(comes, identity=None), file)
    return Settled(changed=changed, came=came, released=released)


def _exists(tx: Transaction, what: Change) -> bool:
    """Not where its message could not be kept after all, and had set out before that was known."""
    return tx.db.execute("SELECT 1 FROM message WHERE position = ?", (what.position,)).fetchone() is not None


def _answers_same(tx: Transaction, position: int, answers: tuple[int, int]) -> bool:
    row = tx.db.execute("SELECT answers, answers_number FROM message WHERE position = ?", (position,)).fetchone()
    return row is not None and tuple(row) == answers


def change(tx: Transaction, what: Change) -> int:
    """Moves deliveries that wait to their new state; those that ended meanwhile stay as they are."""
    changed = 0
    for number in what.numbers:
        if what.first and _changed_at_once(tx, what, number):
            changed += 1
            continue
        row = tx.db.execute(
            "SELECT state, attempts, has_left, steps, answer, policy, destination, stream FROM delivery"
            " WHERE position = ? AND number = ?",
            (what.position, number),
        ).fetchone()
        if row is None or row[0] != State.WAITING:
            continue
        _write_change(tx, what, number, row)
        changed += 1
    return changed


def _changed_at_once(tx: Transaction, what: Change, number: int) -> bool:
    """The ordinary case in one statement: the first attempt's end, in no order; nothing has to be read first.

    Also where that went wrong: what a sick destination adds to a group holds the healthy ones' messages up.
    """
    due = None if what.due is None else micros(what.due)
    return tx.change(UPDATE_FIRST, (*_first_end(tx, what, number, what.answer), due))


def _answered_at_once(tx: Transaction, what: Change, response: int) -> bool:
    """The same where its response came with it."""
    return tx.change(UPDATE_ANSWERED, _first_end(tx, what, what.numbers[0], response))


def _first_end(tx: Transaction, what: Change, number: int, answer: int | None) -> tuple[Any, ...]:
    return (
        what.state, what.attempted, what.attempted and what.step.left, encode_steps((what.step,)),
        None if what.state is State.WAITING else tx.now,
        None if what.outcome is None else encode_outcome(what.outcome), answer,
        what.address, what.lane, what.position, number,
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
        put_into(tx, mailbox, what.position, what.step.at + tx.policies(row[5]).unread)
    if row[7] is not None and what.state is not State.WAITING:
        streams.ended(tx, row[7], what.position, number, what.state, tx.policies(row[5]).on_refused)


def withdraw(
    tx: Transaction,
    position: int,
    at: datetime,
    why: str,
    under_way: Collection[int],
    outcome: Outcome | None,
    report: NewMessage | None,
) -> Withdrawn:
    """Withdraws the deliveries that wait and of which surely nothing has left; with an outcome, for good."""
    rows = tx.db.execute(
        "SELECT number FROM delivery WHERE position = ? AND state = 0 AND has_left = 0", (position,)
    ).fetchall()
    numbers = tuple([row[0] for row in rows if row[0] not in under_way])
    step = Step(at=at, what=Event.CANCELLED.value, note=why)
    change(tx, Change(position=position, numbers=numbers, state=State.WITHDRAWN, step=step, attempted=False,
                      answer=AnswerState.CLOSED, outcome=outcome))  # fmt: skip
    released = tx.take_released()
    came = accept(tx, report, None) if numbers and report is not None else None
    return Withdrawn(numbers=numbers, released=released, came=came)


def redrive(tx: Transaction, position: int, number: int, at: datetime, expiry: datetime) -> Released | None:
    """A dead letter waits again, due at once; its response is looked for anew, for as long as at first.

    Where a rule asks for order it joins its stream at the end, since others may have gone past it.
    """
    row = tx.db.execute(
        "SELECT steps, policy, stream, lane, key FROM delivery WHERE position = ? AND number = ? AND state = ?",
        (position, number, State.DEAD),
    ).fetchone()
    if row is None:
        return None
    kept, policy, stream, lane, key = row
    note = "" if stream is None else "it joins its stream at the end"
    steps = story(decode_steps(kept) if kept else (), Step(at=at, what=Event.REDRIVEN.value, note=note))
    answer_by = micros(at + tx.policies(policy).answer_within)
    turn = None if stream is None else streams.join(tx, stream, position)[0]
    tx.db.execute(
        "UPDATE delivery SET state = 0, ended = NULL, outcome = NULL, due = ?1, expiry = ?2, steps = ?3,"
        " answer = CASE WHEN answer = ?6 AND answer_by IS NOT NULL THEN ?7 ELSE answer END,"
        " answer_by = CASE WHEN answer_by IS NOT NULL THEN ?8 END, turn = ?9"
        " WHERE position = ?4 AND number = ?5",
        (
            micros(at) if stream is None else streams.FAR, micros(expiry), encode_steps(steps), position, number,
            AnswerState.CLOSED, AnswerState.OPEN, answer_by, turn,
        ),
    )  # fmt: skip
    if stream is None:
        return Released(queues=((lane, key),))
    streams.let_go(tx, stream, position, number)
    streams.advance(tx, stream)
    return Released(queues=tx.take_released())


def drop(tx: Transaction, position: int, number: int, at: datetime, why: str) -> Released | None:
    """A dead letter is given up for good: it leaves the list, its story stays, its stream goes on."""
    stream = _leave(tx, position, number, State.WITHDRAWN, Step(at=at, what="dropped", note=why))
    if stream is None:
        return None
    if stream:
        streams.let_go(tx, stream, position, number)
        streams.advance(tx, stream)
    return Released(queues=tx.take_released())


def resume(tx: Transaction, position: int, number: int, at: datetime) -> Released | None:
    """The stream that a dead letter holds goes on without it; None where it holds none."""
    row = tx.db.execute(
        "SELECT stream FROM stream_hold WHERE position = ? AND number = ?", (position, number)
    ).fetchone()
    if row is None:
        return None
    _leave(tx, position, number, State.DEAD, Step(at=at, what="resumed", note="its stream goes on without it"))
    return streams.resume(tx, row[0])


def _leave(tx: Transaction, position: int, number: int, state: State, step: Step) -> bytes | None:
    """One more step of a dead letter, and its state; returns its stream, empty for none, None if it is not dead."""
    row = tx.db.execute(
        "SELECT steps, stream FROM delivery WHERE position = ? AND number = ? AND state = ?",
        (position, number, State.DEAD),
    ).fetchone()
    if row is None:
        return None
    steps = story(decode_steps(row[0]) if row[0] else (), step)
    tx.db.execute(
        "UPDATE delivery SET state = ?, steps = ? WHERE position = ? AND number = ?",
        (state, encode_steps(steps), position, number),
    )
    return row[1] or b""


def fail_later(
    tx: Transaction, position: int, number: int, state: State, step: Step, outcome: Outcome, report: NewMessage | None
) -> Settled:
    """What had been delivered was not after all; nothing is changed where that was known."""
    row = tx.db.execute(
        "SELECT steps FROM delivery WHERE position = ? AND number = ? AND state = ?", (position, number, State.DONE)
    ).fetchone()
    if row is None:
        return Settled(changed=0)
    tx.db.execute(
        "UPDATE delivery SET state = ?, steps = ?, ended = ?, outcome = ?,"
        " answer = CASE WHEN answer = ? THEN ? ELSE answer END WHERE position = ? AND number = ?",
        (
            state, encode_steps(story(decode_steps(row[0]) if row[0] else (), step)), tx.now, encode_outcome(outcome),
            AnswerState.OPEN, AnswerState.CLOSED, position, number,
        ),
    )  # fmt: skip
    return Settled(changed=1, came=accept(tx, report, None) if report else None)


def missing(tx: Transaction, position: int, number: int, report: NewMessage | None, state: AnswerState) -> Settled:
    """The answer is looked for no longer: its time is over, and the source is told, or nobody wants it any more."""
    changed = tx.db.execute(
        "UPDATE delivery SET answer = ? WHERE position = ? AND number = ? AND answer = ?",
        (state, position, number, AnswerState.OPEN),
    ).rowcount
    return Settled(changed=changed, came=accept(tx, report, None) if changed and report else None)
