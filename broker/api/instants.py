"""What `_lastUpdated` asks for: bounds of the time at which the broker stored a message (M-63, M-64)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from broker.api.parameters import malformed

NAME = "_lastUpdated"
_SIGNS = {">": "gt", ">=": "ge", "<": "lt", "<=": "le", "": "eq"}
_COMPARISONS = frozenset(_SIGNS.values())
_PREFIXED = re.compile(r"(>=|<=|>|<|[a-z]{2})?(.*)", re.DOTALL)
_WRITTEN = re.compile(
    r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:T(\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?(Z|[+-]\d\d:\d\d)?)?)?)?", re.ASCII
)
_LOST_PLUS = re.compile(r"(T[\d:.]+) (\d\d:\d\d)", re.ASCII)
_MICROSECOND = timedelta(microseconds=1)
_END = datetime.max.replace(tzinfo=UTC)


def bounds(values: Sequence[str]) -> tuple[datetime | None, datetime | None]:
    """At or after, and before; None where there is no bound. Several values must all hold."""
    since: datetime | None = None
    until: datetime | None = None
    for value in values:
        low, high = _bounds(value)
        if low is not None:
            since = low if since is None else max(since, low)
        if high is not None:
            until = high if until is None else min(until, high)
    return since, until


def _bounds(value: str) -> tuple[datetime | None, datetime | None]:
    match = _PREFIXED.fullmatch(value.strip())
    assert match is not None
    written = match[1] or ""
    compare = _SIGNS.get(written, written)
    if compare not in _COMPARISONS:
        raise malformed(NAME, "is compared by eq, gt, ge, lt or le, or by > >= < <=; other prefixes are not known here")
    start, end, is_point = _span(match[2])
    match compare:
        case "eq":
            return start, end
        case "gt":
            # Who goes on after the last instant it knows must not lose what was stored within that very second:
            # with a time of day, `gt` is after the point as written, and may give some messages again (M-69).
            return (start + _MICROSECOND if is_point else end), None
        case "ge":
            return start, None
        case "lt":
            return None, start
        case _:
            return None, end


def _span(text: str) -> tuple[datetime, datetime, bool]:
    """The time that a date of any precision means, and whether it is as good as a point; no zone means UTC."""
    match = _WRITTEN.fullmatch(_LOST_PLUS.sub(r"\1+\2", text.strip()))
    if match is None:
        raise _unreadable()
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    micros = (fraction or "").ljust(6, "0")[:6]
    try:
        start = datetime.fromisoformat(
            f"{year}-{month or '01'}-{day or '01'}T{hour or '00'}:{minute or '00'}:{second or '00'}.{micros}"
            f"{(zone or 'Z').replace('Z', '+00:00')}"
        ).astimezone(UTC)
    except (ValueError, OverflowError):
        raise _unreadable() from None
    try:
        end = _end(start, month, day, hour, second, fraction)
    except (ValueError, OverflowError):
        end = _END
    return start, end, second is not None


def _end(
    start: datetime, month: str | None, day: str | None, hour: str | None, second: str | None, fraction: str | None
) -> datetime:
    if fraction is not None:
        return start + timedelta(microseconds=10 ** max(6 - len(fraction), 0))
    if second is not None:
        return start + timedelta(seconds=1)
    if hour is not None:
        return start + timedelta(minutes=1)
    if day is not None:
        return start + timedelta(days=1)
    if month is not None:
        return start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
    return start.replace(year=start.year + 1)


def _unreadable() -> Exception:
    return malformed(
        NAME, "is a date or an instant as in 2026-11-21 or 2026-11-21T08:30:00Z, with a comparison before it"
    )
