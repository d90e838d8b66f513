"""What is read from the tables in memory; what is handed out is its reader's own."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from broker.core.delivery import AnswerState, State
from broker.core.message import encode
from broker.store import (
    BEHIND,
    Counts,
    DeadLetter,
    Delivery,
    Filter,
    MailboxEntry,
    MailboxPage,
    MailboxStatus,
    Note,
    Open,
    Place,
    Stored,
    Stream,
)
from broker.store.tables import Kept, Name, Row, Tables, bare, shown


def stored(tables: Tables, position: int) -> Stored | None:
    kept = tables.messages.get(position)
    return None if kept is None else kept.stored


def body(tables: Tables, position: int) -> bytes | None:
    kept = tables.messages.get(position)
    return None if kept is None else kept.body


def load(tables: Tables, positions: Sequence[int], largest: int) -> dict[int, tuple[Stored, bytes | None]]:
    """Messages with their bodies; None for a body larger than `largest` bytes, which is read when it is needed."""
    return {
        position: (kept.stored, kept.body if kept.stored.message.size <= largest else None)
        for position in positions
        if (kept := tables.messages.get(position)) is not None
    }


def deliveries(tables: Tables, position: int) -> tuple[Delivery, ...]:
    return shown(tables.of(position))


def notes(tables: Tables, position: int) -> tuple[Note, ...]:
    return tuple(tables.notes.get(position, ()))


def answers_to(tables: Tables, position: int) -> tuple[Stored, ...]:
    return tuple([tables.messages[one].stored for one in tables.answers.get(position, ())])


def mail_of(tables: Tables, position: int) -> tuple[tuple[str, datetime | None, str | None], ...]:
    """The mailboxes that a message is in, with who read it first and when."""
    boxes = [tables.boxes[row.mailbox] for row in tables.of(position) if row.mailbox is not None]
    return tuple([(box.name, box.mail[position].read_at, box.mail[position].reader)
                  for box in boxes if position in box.mail])  # fmt: skip


def find(tables: Tables, ids: Sequence[str], limit: int) -> tuple[int, ...]:
    """Positions of the messages that carry one of these ids, newest first."""
    found = {position for id in ids for position in tables.quoted.get(bare(id), ())}
    return tuple(sorted(found, reverse=True)[:limit])


def quoted(tables: Tables, ids: Sequence[str], limit: int) -> tuple[Open, ...]:
    """Messages that a response may mean, newest first, with their deliveries: whoever asks decides."""
    return tuple([
        Open(stored=tables.messages[position].stored, deliveries=deliveries(tables, position))
        for position in find(tables, ids, limit)
    ])  # fmt: skip


def expired(tables: Tables, now: datetime, limit: int) -> tuple[Delivery, ...]:
    rows = [row for row in tables.waiting() if row.delivery.expiry <= now]
    return shown(sorted(rows, key=lambda row: (row.delivery.expiry, row.name))[:limit])


def unanswered(tables: Tables, now: datetime, limit: int) -> tuple[Delivery, ...]:
    """Deliveries whose answer time is over; those that still wait to be carried first come to their own end."""
    rows: list[tuple[datetime, Name, Row]] = []
    for some in tables.rows.values():
        for row in some.values():
            one = row.delivery
            if one.answer is AnswerState.OPEN and one.state is not State.WAITING and one.answer_by is not None:
                rows.append((one.answer_by, row.name, row))
    return shown([row for answer_by, _, row in sorted(rows, key=lambda one: one[:2]) if answer_by <= now][:limit])


def unread_mail(tables: Tables, now: datetime, limit: int) -> tuple[tuple[str, int], ...]:
    found = [
        (key, position)
        for key, box in tables.boxes.items()
        for position, mail in box.mail.items()
        if mail.unread_by is not None and mail.unread_by <= now
    ]
    return tuple(found[:limit])


def dead(tables: Tables, limit: int, after: int) -> tuple[DeadLetter, ...]:
    found = [
        DeadLetter(stored=tables.messages[position].stored, delivery=shown([row])[0])
        for position in sorted(tables.messages)
        if position > after
        for row in tables.of(position)
        if row.delivery.state is State.DEAD
    ]
    return tuple(found[:limit])


def counts(tables: Tables) -> Counts:
    rows = [row.delivery for some in tables.rows.values() for row in some.values()]
    waiting = [one for one in rows if one.state is State.WAITING]
    return Counts(
        messages=max(tables.messages, default=0),
        waiting=len(waiting),
        dead=sum(one.state is State.DEAD for one in rows),
        open_answers=sum(one.answer is AnswerState.OPEN for one in rows),
        oldest_due=min([one.due for one in waiting if one.lane and one.due < BEHIND], default=None),
        held_streams=len(tables.stream_holds),
    )


# -- streams


def places(tables: Tables, position: int) -> tuple[Place, ...]:
    """Of the deliveries of a message that wait in a stream, or hold one."""
    found = []
    for row in tables.of(position):
        if row.stream is None:
            continue
        holders = _holders(tables, row.stream)
        if row.delivery.state is State.WAITING:
            before = sorted(one.turn for one in tables.streams[row.stream].values() if one.turn < row.turn)
            turns = {one.turn: one.delivery.position for one in tables.streams[row.stream].values()}
            found.append(
                Place(
                    number=row.delivery.number, behind=turns[before[-1]] if before else None, ahead=len(before),
                    held_by=tuple(dict.fromkeys(holder for holder, _, _ in holders)),
                )
            )  # fmt: skip
        elif row.name in tables.stream_holds.get(row.stream, {}):
            found.append(Place(number=row.delivery.number, holds=True))
    return tuple(found)


def streams(tables: Tables, limit: int) -> tuple[Stream, ...]:
    """Those that are held, the longest first among the rest; a stream of one that nothing holds is no matter."""
    held = sorted(tables.stream_holds, key=lambda stream: min(tables.stream_holds[stream].values()))
    long = [stream for stream, rows in tables.streams.items() if len(rows) > 1 and stream not in held]
    long.sort(key=lambda stream: -len(tables.streams[stream]))
    return tuple([_stream(tables, stream) for stream in (*held[:limit], *long)[:limit]])


def _stream(tables: Tables, stream: bytes) -> Stream:
    rows = tables.streams.get(stream, {})
    head = min(rows.values(), key=lambda row: row.turn, default=None)
    return Stream(waiting=len(rows), head=None if head is None else head.name, held_by=_holders(tables, stream))


def _holders(tables: Tables, stream: bytes) -> tuple[tuple[int, int, datetime], ...]:
    holders = tables.stream_holds.get(stream, {})
    return tuple(sorted([(*name, since) for name, since in holders.items()], key=lambda one: (one[2], one[0])))


# -- mailboxes


def read(
    tables: Tables, mailbox: str | None, after: int, limit: int, wanted: Filter, newest_first: bool, max_bytes: int
) -> MailboxPage:
    """A page of a mailbox, or of all of them (None), oldest first unless asked otherwise."""
    after = after if after or not newest_first else 1 << 62
    there = _positions(tables, mailbox)
    end = max(tables.messages if mailbox is None else there, default=0)
    entries: list[MailboxEntry] = []
    size, more, reached = 0, False, after
    for position in sorted(there, reverse=newest_first):
        kept = tables.messages[position]
        if not (position < after if newest_first else position > after) or not _is_wanted(kept, wanted):
            continue
        assert kept.body is not None
        size += len(kept.body)
        if len(entries) == limit or (entries and size > max_bytes):
            more = True
            break
        reached = position
        message = kept.stored.message
        entries.append(
            MailboxEntry(
                position=position, accepted=kept.stored.accepted, media_type=message.media_type,
                format=message.header.format, release=message.header.release, body=kept.body, about=encode(message),
            )
        )  # fmt: skip
    if not more and not newest_first:  # what did not fit need not be looked through again
        reached = max(reached, end)
    first_left = None if newest_first else _first_left(tables, mailbox, after)
    return MailboxPage(entries=tuple(entries), reached=reached, more=more, first_left=first_left)


def _positions(tables: Tables, mailbox: str | None) -> list[int]:
    if mailbox is None:
        return [position for position in tables.messages if any(row.mailbox is not None for row in tables.of(position))]
    box = tables.boxes.get(mailbox)
    return [] if box is None else [position for position in box.mail if position in tables.messages]


def _first_left(tables: Tables, mailbox: str | None, after: int) -> int | None:
    """The first position left, where retention has taken away what followed `after`."""
    box = None if mailbox is None else tables.boxes.get(mailbox)
    if box is None or after == 0 or after >= box.removed:
        return None
    return min([position for position in box.mail if position > box.removed], default=box.removed + 1)


def count(tables: Tables, mailbox: str | None, wanted: Filter) -> int:
    return sum(_is_wanted(tables.messages[position], wanted) for position in _positions(tables, mailbox))


def _is_wanted(kept: Kept, wanted: Filter) -> bool:
    if kept.body is None:
        return False
    header, accepted = kept.stored.message.header, kept.stored.accepted
    event, link, identifier = str(header.event), header.response, header.bundle_identifier
    quotes = None if link is None else str(link.identifier)
    named = set() if identifier is None else {identifier.value, f"{identifier.system}|{identifier.value}"}
    return (
        (not wanted.event or any(event == one or event.endswith(f"|{one}") for one in wanted.event))
        and (not wanted.source or kept.new.source_key in wanted.source)
        and (not wanted.response_id or quotes in wanted.response_id)
        and (wanted.response_missing is None or wanted.response_missing is (link is None))
        and (not wanted.identifier or not named.isdisjoint(wanted.identifier))
        and (not wanted.response_code or (link is not None and link.code in wanted.response_code))
        and (wanted.since is None or accepted >= wanted.since)
        and (wanted.until is None or accepted < wanted.until)
    )


def mailboxes(tables: Tables) -> tuple[MailboxStatus, ...]:
    return tuple([
        MailboxStatus(
            endpoint=box.name, messages=len(box.mail), last=max(box.mail),
            unread=sum(mail.read_at is None for mail in box.mail.values()),
        )
        for box in sorted(tables.boxes.values(), key=lambda box: box.name)
        if box.mail
    ])  # fmt: skip
