"""Dates, numbers and quantities as ranges, and how searches compare ranges (FHIR search, prefixes)."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

_DATE = re.compile(
    r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(\.\d+)?)?(Z|[+-]\d\d:\d\d)?)?)?)?", re.ASCII
)
_EARLIEST, _LATEST = -(10.0**18), 10.0**18


class Bounds(msgspec.Struct, frozen=True):
    """From `low` until just before `high`: seconds of UTC, or a number with its precision."""

    low: float
    high: float


def _within(found: Bounds, asked: Bounds) -> bool:
    return asked.low <= found.low and found.high <= asked.high


# `ap` (about) is left out: of a date it depends on the time of asking.
PREFIXES: dict[str, Callable[[Bounds, Bounds], bool]] = {
    "eq": _within,
    "ne": lambda found, asked: not _within(found, asked),
    "gt": lambda found, asked: found.high > asked.high,
    "lt": lambda found, asked: found.low < asked.low,
    "ge": lambda found, asked: found.high > asked.high or _within(found, asked),
    "le": lambda found, asked: found.low < asked.low or _within(found, asked),
    "sa": lambda found, asked: found.low >= asked.high,
    "eb": lambda found, asked: found.high <= asked.low,
}


def date_bounds(value: Any) -> Bounds | None:
    """The time that a date, dateTime, instant or Period takes; None for anything else. Without an offset it is UTC."""
    if isinstance(value, dict):
        if not ("start" in value or "end" in value):
            return None
        start, end = date_bounds(value.get("start")), date_bounds(value.get("end"))
        return Bounds(_EARLIEST if start is None else start.low, _LATEST if end is None else end.high)
    match = _DATE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    try:
        return _range(match)
    except (ValueError, OverflowError):
        return None


def _range(match: re.Match[str]) -> Bounds:
    year, month, day, hour, minute, second, fraction, offset = match.groups()
    if hour is None:
        low = datetime(int(year), int(month or 1), int(day or 1), tzinfo=UTC)
        if day:
            high = low + timedelta(days=1)
        elif month:
            high = (low + timedelta(days=31)).replace(day=1)
        else:
            high = low.replace(year=low.year + 1)
        return Bounds(low.timestamp(), high.timestamp())
    text = f"{year}-{month}-{day}T{hour}:{minute}:{second or '00'}{fraction or ''}{offset or 'Z'}"
    at = datetime.fromisoformat(text).timestamp()
    return Bounds(at, at + (10.0 ** (1 - len(fraction)) if fraction else 1.0 if second else 60.0))


def number_bounds(value: Any) -> Bounds | None:
    """A number with half of its last digit to either side, as searches take it; of a Quantity its value."""
    if isinstance(value, dict):
        return number_bounds(value.get("value"))
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return None
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int) or abs(exponent) > 100:  # NaN, Infinity
        return None
    half = Decimal(5).scaleb(min(exponent, 0) - 1)
    return Bounds(float(number - half), float(number + half))
