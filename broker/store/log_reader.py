"""The log read in order, for who follows it: what was accepted after a position, but what we wrote ourselves."""

from __future__ import annotations

from broker.core.message import Fate
from broker.store.reader import Reader, body, stored
from broker.store.telling import Logged, LogPage

OURS = (Fate.REPORT, Fate.NOTICE)
LOOKED_AT = 2_000  # messages of one page: where all are ours, it ends without any


def log(reader: Reader, after: int, limit: int, largest: int, most: int) -> LogPage:
    """A page ends where the log was seen to end: what is committed later has a higher position.

    The fate stands before the body in its row, and is read without it, so that what is ours costs no more than a look.
    While its rows are being read, all that is read shows one state of the store.
    """
    rows = reader.db.execute("SELECT position, fate FROM message WHERE position > ? ORDER BY position", (after,))
    entries: list[Logged] = []
    reached, left = after, most
    for looked, (position, fate) in enumerate(rows):
        if fate not in OURS:
            entry = _entry(reader, position, largest) if len(entries) < limit else None
            left -= len(entry.body or b"") if entry is not None else 0
            if entry is None or (left < 0 and entries):
                break
            entries.append(entry)
        elif looked >= LOOKED_AT:
            break
        reached = position
    else:
        return LogPage(entries=tuple(entries), reached=reached, more=False)
    return LogPage(entries=tuple(entries), reached=reached, more=True)


def _entry(reader: Reader, position: int, largest: int) -> Logged | None:
    found = stored(reader, position)
    if found is None:
        return None
    content = body(reader, position) if found.message.size <= largest else None
    return Logged(position=position, accepted=found.accepted, message=found.message, body=content)
