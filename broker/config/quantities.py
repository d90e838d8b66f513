"""Durations and sizes as people write them: `250ms 10s 15m 24h 90d`, `500kB 64KiB 32MiB 1GiB`."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from typing import Any

from broker.config.mistake import Wrong

DURATION = r"^(0|\d+(\.\d+)?(ms|s|m|h|d))$"
SIZE = r"^(0|\d+(\.\d+)?(B|kB|MB|GB|TB|KiB|MiB|GiB|TiB))$"

_SECONDS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600), "d": Decimal(86400)}
_BYTES = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_LONGEST = timedelta(days=100 * 365)  # so that no sum of times leaves the calendar
_LARGEST = 2**63 - 1  # what the store's integers hold
_AMOUNT = re.compile(r"(?P<sign>-?)(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[A-Za-z]*)")

_A_DURATION = "must be a duration such as 250ms, 10s, 15m, 24h or 90d"
_A_SIZE = "must be a size such as 500kB, 64KiB, 32MiB or 1GiB"


def duration(value: Any) -> timedelta:
    """Zero or longer; raises `Wrong`."""
    if isinstance(value, timedelta):  # a default
        return value
    number, unit = _amount(value, _A_DURATION)
    if unit not in _SECONDS and number != 0:
        raise Wrong(_A_DURATION, _nearest_duration(number, unit))
    seconds = number * _SECONDS.get(unit, Decimal(0))
    if seconds > _LONGEST // timedelta(seconds=1):
        raise Wrong("must not be longer than a hundred years")
    return timedelta(microseconds=int(seconds * 1_000_000))


def span(value: Any) -> timedelta:
    """A duration that is longer than nothing."""
    if not (length := duration(value)):
        raise Wrong("must be longer than zero")
    return length


def size(value: Any) -> int:
    """Bytes, zero or more; raises `Wrong`."""
    if isinstance(value, int):  # a default
        return value
    number, unit = _amount(value, _A_SIZE)
    if unit not in _BYTES and number != 0:
        raise Wrong(_A_SIZE, _nearest_size(number, unit))
    amount = int(number * _BYTES.get(unit, 0))
    if amount > _LARGEST:
        raise Wrong("must not be larger than 8388607TiB")
    return amount


def written_duration(length: timedelta) -> str:
    """The shortest way to write it."""
    micro = length // timedelta(microseconds=1)
    for unit in ("d", "h", "m", "s"):
        each = int(_SECONDS[unit]) * 1_000_000
        # a day or a minute by itself reads better in the next smaller unit: 24h, 60s
        if micro and micro % each == 0 and (micro > each or unit in "hs"):
            return f"{micro // each}{unit}"
    return f"{micro // 1000}ms" if micro else "0s"


def written_size(amount: int) -> str:
    for unit in ("TiB", "GiB", "MiB", "KiB", "TB", "GB", "MB", "kB"):
        if amount and amount % _BYTES[unit] == 0:
            return f"{amount // _BYTES[unit]}{unit}"
    return f"{amount}B"


def _amount(value: Any, expected: str) -> tuple[Decimal, str]:
    if not isinstance(value, str):
        raise Wrong(expected)
    found = _AMOUNT.fullmatch(value)
    if found is None:
        raise Wrong(expected)
    if found["sign"]:
        raise Wrong("must not be negative")
    unit = found["unit"] if " " not in value and "\t" not in value else f" {found['unit']}"
    return Decimal(found["number"]), unit


def _nearest_duration(number: Decimal, unit: str) -> str:
    word = unit.strip().lower()
    known = {"": "s", "sec": "s", "min": "m", "hour": "h", "day": "d", "millis": "ms", "msec": "ms", **_same(_SECONDS)}
    near = known.get(word) or known.get(word.removesuffix("s"))
    return f"did you mean {number}{near}?" if near else ""


def _nearest_size(number: Decimal, unit: str) -> str:
    word = unit.strip().lower()
    known = {"": "B", "k": "KiB", "m": "MiB", "g": "GiB", "t": "TiB", **{name.lower(): name for name in _BYTES}}
    return f"did you mean {number}{known[word]}?" if word in known else ""


def _same(names: dict[str, Decimal]) -> dict[str, str]:
    return {name: name for name in names}
