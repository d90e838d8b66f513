"""Retention in memory: what goes once its time is over, in one step (store.retention says what, and why)."""

from __future__ import annotations

from datetime import timedelta

import msgspec

from broker.core.delivery import AnswerState, State
from broker.store import Cutoffs, Removed
from broker.store.tables import Kept, Row, Tables

SOON = timedelta(hours=1)  # an end so soon after the acceptance is as good as at once


def retain(tables: Tables, older: Cutoffs) -> Removed:
    went = {"body": 0, "mailbox": 0, "identity": 0, "trace": 0}
    for position, kept in tuple(tables.messages.items()):
        rows = list(tables.of(position))
        if not any(_is_open(tables, row) for row in rows):
            _look(tables, kept, rows, older, went)
    return Removed(**went, more=False)


def _is_open(tables: Tables, row: Row) -> bool:
    """It waits, is dead, or somebody is still to be told of it."""
    one = row.delivery
    if one.state in (State.WAITING, State.DEAD) or one.answer is AnswerState.OPEN:
        return True
    mail = tables.boxes[row.mailbox].mail.get(one.position) if row.mailbox is not None else None
    return mail is not None and mail.unread_by is not None


def _look(tables: Tables, kept: Kept, rows: list[Row], older: Cutoffs, went: dict[str, int]) -> None:
    position = kept.stored.position
    ends = [row.delivery.ended - SOON for row in rows if row.delivery.ended is not None]
    since = max([kept.stored.accepted, *ends])
    boxes = [tables.boxes[row.mailbox] for row in rows if row.mailbox is not None]
    boxes = [box for box in boxes if position in box.mail]
    if boxes and since <= older.mailbox:
        for box in boxes:
            del box.mail[position]
            box.removed = max(box.removed, position)
        went["mailbox"] += len(boxes)
        boxes = []
    if kept.body is not None and since <= older.body and not boxes:
        kept.body, kept.stored = None, msgspec.structs.replace(kept.stored, body_kept=False)
        went["body"] += 1
    if (kept.claims or kept.quotes) and since <= older.identity:
        _forget(tables, kept)
        went["identity"] += 1
    if since <= older.trace and not (boxes or kept.body is not None or kept.claims or kept.quotes):
        for row in rows:
            tables.remove(row)
        tables.notes.pop(position, None)
        if kept.stored.answers is not None:
            tables.answers[kept.stored.answers[0]].remove(position)
        del tables.messages[position]
        went["trace"] += 1


def _forget(tables: Tables, kept: Kept) -> None:
    """A copy is no longer recognised, a response no longer matched."""
    for claim in kept.claims:
        tables.claims.pop(claim, None)
    for id in kept.quotes:
        tables.quoted[id].remove(kept.stored.position)
    kept.claims, kept.quotes = [], ()
