"""The log read in order, for who follows it: what was accepted after a position, but what we wrote ourselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from broker.core.fhir.header import Format
from broker.core.message import Fate
from broker.store.reader import Reader
from broker.store.rows import moment
from broker.store.telling import Logged, LogPage

OURS = (Fate.REPORT, Fate.NOTICE)
LOOKED_AT = 2_000  # messages of one page: where all are ours, it ends without any
# The body is the last of a row and may be long: where it is not wanted, SQLite does not even look for it.
ROWS = (
    "SELECT position, fate, accepted, event, format, about, file,"
    f" CASE WHEN fate IN ({', '.join(str(int(fate)) for fate in OURS)}) OR length(body) > ? THEN NULL ELSE body END"
    " FROM message WHERE position > ? ORDER BY position"
)


def log(reader: Reader, after: int, limit: int, largest: int, most: int) -> LogPage:
    """A page ends where the log was seen to end: what is committed later has a higher position.

    While its rows are being read, all that is read shows one state of the store.
    """
    entries: list[Logged] = []
    reached, left = after, most
    for looked, row in enumerate(reader.db.execute(ROWS, (largest, after))):
        if row[1] not in OURS:
            entry = _entry(reader, row, largest) if len(entries) < limit else None
            left -= len(entry.body or b"") if entry is not None else 0
            if entry is None or (left < 0 and entries):
                break
            entries.append(entry)
        elif looked >= LOOKED_AT:
            break
        reached = row[0]
    else:
        return LogPage(entries=tuple(entries), reached=reached, more=False)
    return LogPage(entries=tuple(entries), reached=reached, more=True)


def newest(reader: Reader) -> int:
    """The position that the log ends with now."""
    return int(reader.db.execute("SELECT coalesce(max(position), 0) FROM message").fetchone()[0])


def _entry(reader: Reader, row: Sequence[Any], largest: int) -> Logged:
    position, fate, accepted, event, format, about, file, body = row
    entry = Logged(
        position=position, fate=fate, accepted=moment(accepted), event=event, format=Format(format), about=about,
        body=body,
    )  # fmt: skip
    if file is not None and entry.message.size <= largest:
        return msgspec.structs.replace(entry, body=reader.bodies.read(file))
    return entry
