"""What is written into the tables in memory: each operation of the contract, done at its commit."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

import msgspec

from broker.core.delivery import GIVEN_UP, AnswerState, Event, Outcome, State, Step, story
from broker.core.message import Fate
from broker.store import (
    BEHIND,
    Change,
    Copy,
    Delivery,
    NewDelivery,
    NewMessage,
    Note,
    Released,
    Settled,
    Settlement,
    Stored,
    Withdrawn,
)
from broker.store import Kept as Receipt
from broker.store.ledger import RefusedAs
from broker.store.tables import Box, Kept, Name, Row, Tables, bare

# -- acceptance


def accept(tables: Tables, new: NewMessage) -> Receipt | Copy:
    """Claims the identity and writes message, deliveries and mail; a lost claim writes nothing."""
    claims = [(new.source_key, bare(one)) for one in (new.identity, new.exclusive) if one is not None]
    for claim in claims:
        first = tables.claims.get(claim)
        if first is not None:
            return Copy(position=first, exclusive=new.exclusive is not None and claim[1] == bare(new.exclusive))
    position = tables.last = tables.last + 1
    tables.claims.update(dict.fromkeys(claims, position))
    quotes = tuple(dict.fromkeys([id for _, id in claims] + [bare(quote) for quote in new.quotes]))
    for id in quotes:
        tables.quoted.setdefault(id, []).append(position)
    is_open = new.answers is not None and _answer(tables, new.answers, position, final=new.final)
    message = new.message
    if message.fate is Fate.ANSWER and not is_open:
        message = msgspec.structs.replace(message, fate=Fate.DOUBLE)
    stored = Stored(
        position=position, accepted=tables.now, message=message, body_kept=True,
        answers=new.answers or (None if new.reports_on is None else (new.reports_on, 0)),
    )  # fmt: skip
    tables.messages[position] = Kept(stored=stored, new=new, body=new.body, claims=claims, quotes=quotes)
    if stored.answers is not None:
        tables.answers.setdefault(stored.answers[0], []).append(position)
    numbers, behind = _add(tables, position, new.deliveries, {})
    return Receipt(position=position, numbers=numbers, answered=is_open, behind=behind, released=tables.take_released())


def _answer(tables: Tables, answers: Name, position: int, *, final: bool) -> bool:
    """The response is here: the delivery has its answer, and if it still waits, it needs no further attempt.

    Where others are to follow, the answer stays open, and the delivery shows the latest.
    """
    row = tables.row(*answers)
    if row is None or row.delivery.answer is not AnswerState.OPEN:
        return False
    tables.change(row, answer=AnswerState.ANSWERED if final else AnswerState.OPEN, answered_by=position)
    if row.delivery.state is State.WAITING:
        steps = story(row.delivery.steps, Step(at=tables.now, what=Event.ANSWERED.value))
        tables.change(row, state=State.DONE, ended=tables.now, steps=steps)
        if row.stream is not None:
            tables.advance(row.stream)
    return True


def add(tables: Tables, position: int, deliveries: Sequence[NewDelivery], whole: tuple[bytes, bytes] | None) -> Receipt:
    """Writes deliveries of a message, leaving out destinations that it has already (the unit of effect, M-20)."""
    rows = {row.delivery.key: row for row in tables.of(position)}
    again = {key: row for key, row in rows.items() if _may_be_asked_for_again(tables, row.delivery)}
    asked = {new.key for new in deliveries}
    if whole is not None and not (asked <= rows.keys() - again.keys() or _has_body(tables, position, *whole)):
        return Receipt(position=position, numbers=(0,) * len(deliveries))
    added, behind = _add(tables, position, deliveries, {key: row.delivery.number for key, row in rows.items()})
    numbers = list(added)
    for place, new in enumerate(deliveries):
        if new.key in again:
            numbers[place] = again[new.key].delivery.number
            if _revive(tables, again[new.key], new):
                behind += (numbers[place],)
    return Receipt(position=position, numbers=tuple(numbers), behind=behind, released=tables.take_released())


def _may_be_asked_for_again(tables: Tables, delivery: Delivery) -> bool:
    """What was withdrawn or given up for time, and what was answered with a call for a resend (M-32)."""
    if delivery.state is State.WITHDRAWN:
        return delivery.outcome is None  # with an outcome it was dropped for good
    if delivery.state is State.DEAD:
        problem = delivery.outcome.problem if delivery.outcome is not None else None
        return problem is not None and problem.id == GIVEN_UP
    if delivery.state is State.DONE and delivery.answered_by is not None:
        response = tables.messages.get(delivery.answered_by)
        link = response.stored.message.header.response if response is not None else None
        return link is not None and link.code == "transient-error"
    return False


def _has_body(tables: Tables, position: int, body: bytes, digest: bytes) -> bool:
    """Whether there is a body to carry; where retention has taken it away, the same bytes put it back."""
    kept = tables.messages.get(position)
    if kept is None or kept.body is not None:
        return kept is not None
    if kept.new.digest != digest:
        return False
    kept.body, kept.stored = body, msgspec.structs.replace(kept.stored, body_kept=True)
    return True


def _revive(tables: Tables, row: Row, new: NewDelivery) -> bool:
    """A copy asks anew for what had been withdrawn or given up; says whether it has to wait."""
    position, number = row.name
    tables.remove(row)
    if row.stream is not None:
        tables.let_go(row)
    waits = _insert(tables, position, number, new)
    if row.stream is not None:
        tables.advance(row.stream)
    steps = story(row.delivery.steps, Step(at=tables.now, what=Event.REDRIVEN.value, note="a copy"))
    tables.rows[position][number].delivery.steps = steps
    return waits


def _add(
    tables: Tables, position: int, deliveries: Sequence[NewDelivery], taken: dict[str, int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The numbers of all, and of those that have to wait for others of their stream."""
    numbers, behind = [], []
    for delivery in deliveries:
        if delivery.key in taken:
            numbers.append(0)
            continue
        number = taken[delivery.key] = len(taken) + 1
        numbers.append(number)
        if _insert(tables, position, number, delivery):
            behind.append(number)
    return tuple(numbers), tuple(behind)


def _insert(tables: Tables, position: int, number: int, new: NewDelivery) -> bool:
    """Says whether it has to wait for another of its stream."""
    turn, waits = 0, False
    if new.behind is not None:
        new = _follow(tables, new, *new.behind)
    if new.stream is not None:
        turn, waits = tables.join(new.stream, position)
        if waits:  # also what would be in its mailbox already: it is put there in its turn
            new = msgspec.structs.replace(new, due=BEHIND, state=State.WAITING, mailbox=None)
    delivery = Delivery(
        position=position, number=number, destination=new.destination, key=new.key, address=new.address,
        lane=new.lane, state=new.state, due=new.due, expiry=new.expiry, accepted=tables.now, policy=new.policy,
        rule=new.rule, fixed=new.fixed, attempts=0, left=False, answer=new.answer, answer_by=new.answer_by,
        answered_by=None, ended=None if new.state is State.WAITING else tables.now, steps=(), priority=new.priority,
    )  # fmt: skip
    tables.enter(Row(delivery, mailbox=new.mailbox, stream=new.stream, turn=turn))
    if new.mailbox is not None:
        tables.put_into(new.mailbox, new.destination, position, new.unread_by)
    return waits


def _follow(tables: Tables, new: NewDelivery, position: int, number: int) -> NewDelivery:
    """In the stream of what it must not overtake, if that still waits; where that has none, in one of these two."""
    row = tables.row(position, number)
    if row is None or row.delivery.state is not State.WAITING:
        return new
    if row.stream is None:
        tables.remove(row)
        row.stream, row.turn = b"behind:%d:%d" % row.name, position
        tables.enter(row)
    return msgspec.structs.replace(new, stream=row.stream)


# -- the end of an attempt


def settle(tables: Tables, settlement: Settlement) -> Settled:
    comes, what = settlement.comes, settlement.change
    changed = change(tables, what)
    released = tables.take_released()
    if comes is None or (not changed and (comes.reports_on is not None or what.position not in tables.messages)):
        return Settled(changed=changed, released=released)
    came = accept(tables, comes)
    if (
        isinstance(came, Copy)
        and comes.answers is not None
        and tables.messages[came.position].stored.answers != comes.answers
    ):  # a receiver that answers everybody with the same ids has still answered this request
        came = accept(tables, msgspec.structs.replace(comes, identity=None))
    return Settled(changed=changed, came=came, released=released)


def change(tables: Tables, what: Change) -> int:
    """Moves deliveries that wait to their new state; those that ended meanwhile stay as they are."""
    changed = 0
    for number in what.numbers:
        row = tables.row(what.position, number)
        if row is None or row.delivery.state is not State.WAITING:
            continue
        changed += 1
        _change(tables, what, row)
    return changed


def _change(tables: Tables, what: Change, row: Row) -> None:
    old = row.delivery
    tables.change(
        row,
        state=what.state,
        attempts=old.attempts + what.attempted,
        left=old.left or (what.attempted and what.step.left),
        steps=story(old.steps, what.step),
        answer=what.answer if what.answer is not None and old.answer is AnswerState.OPEN else old.answer,
        ended=None if what.state is State.WAITING else tables.now,
        outcome=what.outcome,
        due=old.due if what.due is None else what.due,
        address=old.address if what.address is None else what.address,
        lane=old.lane if what.lane is None else what.lane,
    )
    if what.mailbox is not None:
        row.mailbox = what.mailbox
        tables.put_into(what.mailbox, old.destination, what.position, what.step.at + old.policy.unread)
    if row.stream is not None and what.state is not State.WAITING:
        if what.state is State.DEAD and old.policy.on_refused == "hold":
            tables.stream_holds.setdefault(row.stream, {}).setdefault(row.name, tables.now)
        tables.advance(row.stream)


def withdraw(
    tables: Tables,
    position: int,
    at: datetime,
    why: str,
    under_way: Collection[int],
    outcome: Outcome | None,
    report: NewMessage | None,
) -> Withdrawn:
    """Withdraws the deliveries that wait and of which surely nothing has left; with an outcome, for good."""
    numbers = tuple([
        row.delivery.number
        for row in tables.of(position)
        if row.delivery.state is State.WAITING and not row.delivery.left and row.delivery.number not in under_way
    ])  # fmt: skip
    step = Step(at=at, what=Event.CANCELLED.value, note=why)
    change(tables, Change(position=position, numbers=numbers, state=State.WITHDRAWN, step=step, attempted=False,
                          answer=AnswerState.CLOSED, outcome=outcome))  # fmt: skip
    released = tables.take_released()
    came = accept(tables, report) if numbers and report is not None else None
    return Withdrawn(numbers=numbers, released=released, came=came)


# -- what an operator decides of dead letters


def _dead(tables: Tables, position: int, number: int) -> Row | None:
    row = tables.row(position, number)
    return row if row is not None and row.delivery.state is State.DEAD else None


def redrive(tables: Tables, position: int, number: int, at: datetime, expiry: datetime) -> Released | None:
    """A dead letter waits again, at the end of its stream; its response is looked for anew, for as long as at first."""
    row = _dead(tables, position, number)
    if row is None:
        return None
    old = row.delivery
    turn = 0 if row.stream is None else tables.join(row.stream, position)[0]
    note = "" if row.stream is None else "it joins its stream at the end"
    looks = old.answer_by is not None
    row.turn = turn
    tables.change(
        row,
        state=State.WAITING,
        ended=None,
        outcome=None,
        due=at if row.stream is None else BEHIND,
        expiry=expiry,
        steps=story(old.steps, Step(at=at, what=Event.REDRIVEN.value, note=note)),
        answer=AnswerState.OPEN if looks and old.answer is AnswerState.CLOSED else old.answer,
        answer_by=at + old.policy.answer_within if looks else None,
    )
    if row.stream is None:
        return Released(queues=((old.lane, old.key),))
    tables.let_go(row)
    tables.advance(row.stream)
    return Released(queues=tables.take_released())


def drop(tables: Tables, position: int, number: int, at: datetime, why: str) -> Released | None:
    """A dead letter is given up for good: it leaves the list, its story stays, its stream goes on."""
    row = _dead(tables, position, number)
    if row is None:
        return None
    steps = story(row.delivery.steps, Step(at=at, what="dropped", note=why))
    tables.change(row, state=State.WITHDRAWN, steps=steps)
    if row.stream is not None:
        tables.let_go(row)
        tables.advance(row.stream)
    return Released(queues=tables.take_released())


def resume(tables: Tables, position: int, number: int, at: datetime) -> Released | None:
    """The stream that a dead letter holds goes on past all that is dead in it; None where it holds none."""
    row = _dead(tables, position, number)
    if row is None or row.stream is None or row.name not in tables.stream_holds.get(row.stream, {}):
        return None
    step = Step(at=at, what="resumed", note="its stream goes on without it")
    tables.change(row, steps=story(row.delivery.steps, step))
    del tables.stream_holds[row.stream]
    tables.advance(row.stream)
    return Released(queues=tables.take_released())


# -- answers and mail


def fail_later(
    tables: Tables, position: int, number: int, state: State, step: Step, outcome: Outcome, report: NewMessage | None
) -> Settled:
    """What had been delivered was not after all; nothing is changed where that was known."""
    row = tables.row(position, number)
    if row is None or row.delivery.state is not State.DONE:
        return Settled(changed=0)
    old = row.delivery
    answer = AnswerState.CLOSED if old.answer is AnswerState.OPEN else old.answer
    steps = story(old.steps, step)
    tables.change(row, state=state, steps=steps, ended=tables.now, outcome=outcome, answer=answer)
    return Settled(changed=1, came=accept(tables, report) if report else None)


def missing(tables: Tables, position: int, number: int, report: NewMessage | None, state: AnswerState) -> Settled:
    """The answer is looked for no longer: its time is over, and the source is told, or nobody wants it any more."""
    row = tables.row(position, number)
    if row is None or row.delivery.answer is not AnswerState.OPEN:
        return Settled(changed=0)
    tables.change(row, answer=state)
    return Settled(changed=1, came=accept(tables, report) if report else None)


def unread(tables: Tables, mailbox: str, position: int, report: NewMessage | None) -> Settled:
    """Nobody has read it in time: told once; the mail stays."""
    mail = tables.boxes.get(mailbox, Box("")).mail.get(position)
    if mail is None or mail.unread_by is None:
        return Settled(changed=0)
    mail.unread_by = None
    return Settled(changed=1, came=accept(tables, report) if report else None)


def note(tables: Tables, position: int, what: Note) -> None:
    tables.notes.setdefault(position, []).append(what)


def mark_read(tables: Tables, mailbox: str, positions: Sequence[int], reader: str, at: datetime) -> None:
    """Who read it first, and when; later readers change nothing."""
    box = tables.boxes.get(mailbox, Box(""))
    for position in positions:
        mail = box.mail.get(position)
        if mail is not None and mail.read_at is None:
            mail.read(reader, at)


def acknowledge(tables: Tables, position: int, reader: str, at: datetime) -> bool:
    """Whether the message is in a mailbox at all; its mail counts as read."""
    boxes = {row.mailbox for row in tables.of(position) if row.mailbox is not None}
    found = [mail for box in boxes if (mail := tables.boxes[box].mail.get(position)) is not None]
    for mail in found:
        mail.read(reader, at)
    if found:
        note(tables, position, Note(at=at, what="acknowledged", who=reader))
    return bool(found)


def acknowledge_mail(tables: Tables, mailbox: str, positions: Sequence[int], reader: str, at: datetime) -> int:
    """How many of these are in the mailbox; each counts as read, and its story says by whom, once."""
    box, found = tables.boxes.get(mailbox, Box("")), 0
    for position in positions:
        mail = box.mail.get(position)
        if mail is None:
            continue
        found += 1
        mail.read(reader, at)
        if not any(one.what == "acknowledged" and one.who == reader for one in tables.notes.get(position, ())):
            note(tables, position, Note(at=at, what="acknowledged", who=reader))
    return found


def refused(tables: Tables, counts: Mapping[RefusedAs, int]) -> None:
    """Counts what was refused at the door."""
    for what, count in counts.items():
        tables.refused[what] = tables.refused.get(what, 0) + count
