"""What is read of streams: where a delivery stands in its own, and which of them stand still or are long."""

from __future__ import annotations

from broker.core.delivery import State
from broker.store import Place, Stream
from broker.store.reader import Reader
from broker.store.rows import moment


def places(reader: Reader, position: int) -> tuple[Place, ...]:
    """Of the deliveries of a message that wait in a stream, or hold one."""
    rows = reader.db.execute(
        "SELECT number, stream, turn, state FROM delivery WHERE position = ? AND stream IS NOT NULL ORDER BY number",
        (position,),
    ).fetchall()
    found = []
    for number, stream, turn, state in rows:
        holders = _holders(reader, stream)
        holds = (position, number) in [(holder, its) for holder, its, _ in holders]
        if state == State.WAITING:
            before = reader.db.execute(
                "SELECT position FROM delivery WHERE stream = ? AND state = 0 AND turn < ? ORDER BY turn DESC LIMIT 1",
                (stream, turn),
            ).fetchone()
            ahead = reader.db.execute(
                "SELECT count(*) FROM delivery WHERE stream = ? AND state = 0 AND turn < ?", (stream, turn)
            ).fetchone()[0]
            held_by = tuple(dict.fromkeys(holder for holder, _, _ in holders))
            found.append(Place(number=number, behind=before and before[0], ahead=ahead, held_by=held_by))
        elif holds:
            found.append(Place(number=number, holds=True))
    return tuple(found)


def streams(reader: Reader, limit: int) -> tuple[Stream, ...]:
    """Those that are held, the longest first among the rest; a stream of one that nothing holds is no matter."""
    held = reader.db.execute(
        "SELECT h.stream, (SELECT count(*) FROM delivery d WHERE d.stream = h.stream AND d.state = 0)"
        " FROM stream_hold h GROUP BY h.stream ORDER BY min(h.since) LIMIT ?",
        (limit,),
    ).fetchall()
    known = {stream for stream, _ in held}
    long = reader.db.execute(
        "SELECT stream, count(*) AS n FROM delivery WHERE stream IS NOT NULL AND state = 0"
        " GROUP BY stream HAVING n > 1 ORDER BY n DESC LIMIT ?",
        (limit,),
    ).fetchall()
    rows = (held + [row for row in long if row[0] not in known])[:limit]
    return tuple(_stream(reader, stream, waiting) for stream, waiting in rows)


def _stream(reader: Reader, stream: bytes, waiting: int) -> Stream:
    head = reader.db.execute(
        "SELECT position, number FROM delivery WHERE stream = ? AND state = 0 ORDER BY turn LIMIT 1", (stream,)
    ).fetchone()
    held_by = tuple((position, number, moment(since)) for position, number, since in _holders(reader, stream))
    return Stream(waiting=waiting, head=head, held_by=held_by)


def _holders(reader: Reader, stream: bytes) -> list[tuple[int, int, int]]:
    return reader.db.execute(
        "SELECT position, number, since FROM stream_hold WHERE stream = ? ORDER BY since, position", (stream,)
    ).fetchall()
