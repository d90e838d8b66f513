"""The receipt ledger in the embedded store: sums and lines over steps of positions, and the tally of refusals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

from broker.core.delivery import AnswerState, State
from broker.core.ledger import Mark, is_astray
from broker.store.ledger import Line, Page, Refused, RefusedAs, Span, Sum, marked
from broker.store.reader import Reader
from broker.store.rows import decode_outcome, moment
from broker.store.transaction import Transaction

EPOCH_DAY = date(1970, 1, 1)
KINDS_A_DAY = 20_000  # different refusals that are told apart: what strangers make up must not fill the store
# The source of rows that an older release wrote stands in their message only.
SOURCE = "coalesce(d.source, (SELECT m.source FROM message m WHERE m.position = d.position))"
EXPECTS = "d.answer_by IS NOT NULL"
OVERDUE = f"(d.answer = {AnswerState.OPEN:d} AND d.answer_by <= :now)"
# What we tell subscribers is nothing that anybody sent.
IN_SPAN = (
    "d.position > :after AND d.position <= :last AND d.position NOT IN"
    " (SELECT n.position FROM notice n WHERE n.position > :after AND n.position <= :last)"
)
# The one response that closed it: others to the same delivery are no further receipts.
CLOSED_BY = (
    "d.position = r.answers AND d.number = r.answers_number AND d.answered_by = r.position"
    f" AND d.answer = {AnswerState.ANSWERED:d}"
)
NEGATIVES = "r.negative IS NOT NULL AND r.answers > :after AND r.answers <= :last"

SUMS = (
    f"SELECT {SOURCE}, d.state, d.answer, {EXPECTS}, {OVERDUE}, count(*), min(d.position) FROM delivery d"
    f" WHERE {IN_SPAN} AND (d.state <> {State.DEAD:d} OR d.answer = {AnswerState.ANSWERED:d}) GROUP BY 1, 2, 3, 4, 5"
)
GIVEN_UP = (
    f"SELECT {SOURCE}, {EXPECTS}, json_extract(d.outcome, '$.problem.id'), json_extract(d.outcome, '$.problem.code'),"
    f" count(*), min(d.position) FROM delivery d WHERE d.state = {State.DEAD:d} AND {IN_SPAN}"
    f" AND d.answer <> {AnswerState.ANSWERED:d} GROUP BY 1, 2, 3, 4"
)
NEGATIVE = (
    f"SELECT {SOURCE}, {EXPECTS}, r.negative, count(*), min(d.position) FROM message r CROSS JOIN delivery d"
    f" ON {CLOSED_BY} WHERE {NEGATIVES} GROUP BY 1, 2, 3"
)
LINES = (
    f"SELECT d.position, d.number, d.accepted, m.source, d.destination, m.event, d.state, d.answer, {EXPECTS},"
    f" {OVERDUE}, d.answer_by, d.answered_by, d.outcome,"
    " (SELECT r.negative FROM message r WHERE r.position = d.answered_by)"
    f" FROM delivery d CROSS JOIN message m ON m.position = d.position WHERE {IN_SPAN}"
    f" AND (d.answer IN ({AnswerState.OPEN:d}, {AnswerState.MISSING:d})"
    f" OR (d.state = {State.DEAD:d} AND d.answer <> {AnswerState.ANSWERED:d})"
    f" OR d.answered_by IN (SELECT r.position FROM message r WHERE {NEGATIVES}))"
    " ORDER BY d.position, d.number LIMIT :limit"
)


def span(reader: Reader, begins: int, ends: int) -> Span:
    """The positions that were accepted in a period: positions grow with time, so that a few looks find its bounds."""
    first, last = reader.db.execute("SELECT min(position), max(position) FROM message").fetchone()
    if first is None:
        return Span(after=0, last=0)
    return Span(after=_before(reader, begins, first, last), last=_before(reader, ends, first, last))


def _before(reader: Reader, instant: int, low: int, high: int) -> int:
    """The last position that was accepted before an instant."""
    sql = "SELECT position, accepted FROM message WHERE position >= ? ORDER BY position LIMIT 1"
    while low <= high:
        middle = (low + high) // 2
        position, accepted = reader.db.execute(sql, (middle,)).fetchone()
        if accepted < instant:
            low = position + 1
        else:
            high = middle - 1
    return low - 1


def sums(reader: Reader, span: Span, now: int) -> tuple[Sum, ...]:
    names = _Names(reader)
    values = {"after": span.after, "last": span.last, "now": now}
    negative = [
        Sum(source=names.of(source, position), mark=Mark.NEGATIVE, expects=bool(expects), count=count, kind=code)
        for source, expects, code, count, position in reader.db.execute(NEGATIVE, values)
    ]
    given_up = [
        Sum(
            source=names.of(source, position), mark=Mark.UNDELIVERED, expects=bool(expects), count=count,
            kind=id or "", astray=is_astray(code or ""),
        )
        for source, expects, id, code, count, position in reader.db.execute(GIVEN_UP, values)
    ]  # fmt: skip
    said: dict[tuple[str, bool], int] = {}  # of the answered, so many are negative
    for one in negative:
        said[one.source, one.expects] = said.get((one.source, one.expects), 0) + one.count
    rest = []
    for source, state, answer, expects, overdue, count, position in reader.db.execute(SUMS, values):
        name = names.of(source, position)
        found = marked(state, answer, expects=bool(expects), overdue=bool(overdue), negative=None)
        if found is Mark.ANSWERED:
            less = min(said.get((name, bool(expects)), 0), count)
            said[name, bool(expects)] = said.get((name, bool(expects)), 0) - less
            count -= less
        if count:
            rest.append(Sum(source=name, mark=found, expects=bool(expects), count=count))
    return (*rest, *negative, *given_up)


class _Names:
    """Sources by their digest, each looked up once."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._known: dict[bytes, str] = {}

    def of(self, source: bytes | str | None, position: int) -> str:
        if not isinstance(source, bytes):
            return source or ""
        name = self._known.get(source)
        if name is None:
            row = self._reader.db.execute("SELECT source FROM message WHERE position = ?", (position,)).fetchone()
            name = self._known[source] = row[0] if row else ""
        return name


def lines(reader: Reader, span: Span, now: int, limit: int) -> Page:
    """Whole messages only, since a page goes on after a position: the limit may be passed by those of one message."""
    values = {"after": span.after, "last": span.last, "now": now}
    while True:
        found = [_line(row) for row in reader.db.execute(LINES, {**values, "limit": limit + 1})]
        if len(found) <= limit:
            return Page(lines=tuple(found), reached=span.last)
        whole = tuple(one for one in found if one.position < found[-1].position)
        if whole:
            return Page(lines=whole, reached=whole[-1].position)
        limit *= 2


def _line(row: Sequence[Any]) -> Line:
    position, number, accepted, source, destination, event, state, answer, expects, overdue, by, response = row[:12]
    outcome = decode_outcome(row[12]) if row[12] is not None else None
    problem = outcome.problem if outcome is not None else None
    found = marked(state, answer, expects=bool(expects), overdue=bool(overdue), negative=row[13])
    given_up = problem if found is Mark.UNDELIVERED else None
    return Line(
        position=position, number=number, accepted=moment(accepted), source=source, destination=destination,
        event=event, mark=found, expects=bool(expects), answer_by=None if by is None else moment(by),
        answered_by=response, kind=given_up.id if given_up is not None else row[13] if found is Mark.NEGATIVE else "",
        astray=given_up is not None and is_astray(given_up.code),
        text="" if given_up is None else given_up.text,
        said=outcome.body if outcome is not None and given_up is not None else None,
    )  # fmt: skip


# -- what was refused at the door


def refused(tx: Transaction, counts: Mapping[RefusedAs, int]) -> None:
    """Adds to the days' tally; beyond a bound a day's further kinds are counted without their names."""
    for what, count in counts.items():
        day = (what.day - EPOCH_DAY).days
        key = (day, what.source, what.party, what.error, what.code, what.destination)
        if _add(tx, key, count):
            continue
        kinds = tx.db.execute("SELECT count(*) FROM refusal WHERE day = ?", (day,)).fetchone()[0]
        if kinds >= KINDS_A_DAY:
            key = (day, "", what.party, what.error, what.code, "")
            if _add(tx, key, count):
                continue
        tx.db.execute("INSERT INTO refusal VALUES (?, ?, ?, ?, ?, ?, ?)", (*key, count))


def _add(tx: Transaction, key: tuple[Any, ...], count: int) -> bool:
    changed = tx.db.execute(
        "UPDATE refusal SET count = count + ? WHERE day = ? AND source = ? AND party = ? AND error = ? AND code = ?"
        " AND destination = ?",
        (count, *key),
    ).rowcount
    return bool(changed)


def refusals(reader: Reader, first: date, last: date, limit: int) -> tuple[Refused, ...]:
    rows = reader.db.execute(
        "SELECT day, source, party, error, code, destination, count FROM refusal WHERE day BETWEEN ? AND ?"
        " ORDER BY day, source, error LIMIT ?",
        ((first - EPOCH_DAY).days, (last - EPOCH_DAY).days, limit),
    )
    return tuple(
        Refused(
            what=RefusedAs(
                day=EPOCH_DAY + timedelta(days=day), source=source, party=party, error=error, code=code,
                destination=destination,
            ),
            count=count,
        )
        for day, source, party, error, code, destination, count in rows
    )  # fmt: skip
